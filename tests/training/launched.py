"""Trains a tiny classifier in however many processes it is launched in: a test's program.

torchrun -m tests.training.launched FOLDER [--fsdp] [--summed] [--exact FAMILY] [setting=value ...]
"""

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from torch.distributed.tensor import DTensor

from tests.launching import fail_with_group
from tests.tiny import roberta_classifier
from tests.training.cases import exact_classifier, sparse_trainer, summed_loss, trainer

FSDP: dict[str, Any] = {
    "fsdp": True,
    "fsdp_config": {"version": 2, "transformer_layer_cls_to_wrap": ["RobertaLayer"]},
}


def shard_on_cpu() -> None:
    """Accelerate shards only beside an accelerator, though all of its FSDP2 code runs on a CPU too."""
    state, begin = PartialState._shared_state, AcceleratorState.__init__

    def pretend(self: AcceleratorState, *args: Any, **kwargs: Any) -> None:
        if state["distributed_type"] == DistributedType.MULTI_CPU:
            state["distributed_type"] = DistributedType.MULTI_GPU
        begin(self, *args, **kwargs)

    AcceleratorState.__init__ = pretend


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--fsdp", action="store_true", help="FSDP2 instead of DDP")
    parser.add_argument("--summed", action="store_true", help="a task loss over all processes")
    parser.add_argument("--exact", metavar="FAMILY", help="in float64")
    parser.add_argument("--sparse", action="store_true", help="adapters, a layer at a time")
    parser.add_argument("--gpu", action="store_true", help="a GPU a process")
    parser.add_argument("settings", nargs="*", help="name=JSON value")
    given = parser.parse_intermixed_args()
    options = {name: json.loads(value) for name, value in (s.split("=", 1) for s in given.settings)}
    if given.fsdp:
        options |= FSDP
        if not given.gpu:
            shard_on_cpu()
    if not given.gpu:
        options |= {"ddp_backend": "gloo"}
    if "deepspeed" not in options:  # it has groups of its own
        fail_with_group()
    options = {"max_steps": 2, "seed": 7, "use_cpu": not given.gpu, **options}
    if given.sparse:
        subject = sparse_trainer(given.folder, **options)
    else:
        subject = trainer(
            given.folder,
            model=partial(exact_classifier, given.exact) if given.exact else roberta_classifier,
            compute_loss_func=summed_loss if given.summed else None,
            **options,
        )
    subject.train()
    sharded = any(isinstance(p, DTensor) for p in subject.model_wrapped.parameters())
    if sharded != given.fsdp:
        raise SystemExit(f"sharded: {sharded}")
    if subject.is_deepspeed_enabled != ("deepspeed" in options):
        raise SystemExit(f"deepspeed: {subject.is_deepspeed_enabled}")
    subject.accelerator.wait_for_everyone()
    if given.sparse:
        own = torch.cat([p.detach().flatten() for p in subject.model.parameters()])
        if len(subject.accelerator.gather(own[None]).unique(dim=0)) > 1:
            raise SystemExit("the processes have other weights")
    state = subject.accelerator.get_state_dict(subject.model_wrapped)
    if subject.is_world_process_zero():
        torch.save({name: value.clone() for name, value in state.items()}, given.folder / "w.pt")


if __name__ == "__main__":
    main()
