"""Task and alignment gradient under FSDP2 on two processes against the bare model's: a test's program."""

import sys

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard

from hf_cap.training.gradient import finite_difference
from tests.tiny import roberta_classifier
from tests.training.cases import text_batch
from tests.training.test_gradient import loss_for, points_for


def gradients(*, sharded: bool) -> dict[str, torch.Tensor]:
    model = roberta_classifier().train()
    if sharded:
        for layer in model.roberta.encoder.layer:
            fully_shard(layer)
        fully_shard(model)
    batch, priors = text_batch()
    task = model(**batch.inputs, labels=batch.labels).loss
    align, _ = finite_difference(model, batch, points_for(batch), loss_for(priors))
    (task + align).backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {name: g.full_tensor() if hasattr(g, "full_tensor") else g for name, g in found.items()}


def main() -> None:
    dist.init_process_group("gloo")
    one, two = gradients(sharded=False), gradients(sharded=True)
    dist.destroy_process_group()
    if one.keys() != two.keys():
        sys.exit(f"no gradient at {one.keys() ^ two.keys()}")
    worst = max(
        float((one[name] - two[name]).norm() / one[name].norm().clamp_min(1e-3)) for name in one
    )
    if worst > 1e-3:
        sys.exit(f"relative difference {worst}")


if __name__ == "__main__":
    main()
