"""Train the adapters of a few layers at a time, drawn by an importance that is learned meanwhile."""

import re
from typing import Any

import torch
from accelerate.utils import reduce
from datasets import Dataset
from torch import Tensor, nn
from transformers import TrainerCallback

from hf_cap.classifiers import evaluation_mode
from hf_cap.errors import ConfigError, import_extra
from hf_cap.training.collator import take_priors
from hf_cap.training.examples import EXAMPLE_WEIGHT
from hf_cap.utils import check_range, generator

_NUMBER = re.compile(r"\.\d+(?=\.)")
_RATE, _ROUNDS, _SUPPRESSED = 10.0, 3, 0.25
"""Those of the paper's code; a power of two, so that a scale comes back to the bit."""


class ImportanceCallback(TrainerCallback):
    """On each step only some layers' LoRA adapters are trained; the others stay as they are, to the bit.

    Importance-aware sparse tuning (IST, "Layer-wise Importance Matters", EMNLP Findings 2024): layers are
    drawn with probabilities in proportion to sigmoid(importance). Every few steps the adapters of random
    halves of the layers are weakened; layers whose weakening raises the loss gain importance. The head and
    all else that is trained is left alone. Draws depend on the seed and the step, so all processes agree;
    with one process, no gradient is computed for the others.

        trainer = CAPTrainer(model, args, train_dataset=data, peft_config=LoraConfig(...))
        trainer.add_callback(ImportanceCallback(trainer.train_dataset, trainer.data_collator))

    Args:
        dataset: Encoded texts with labels, to compare losses on.
        collator: Makes a batch of its rows.
        fraction: Part of the layers that are trained on a step, at least one; in (0, 1].
        every: Steps from one update of the importance to the next; at least 1.
        rows: Texts per comparison; at least 1.

    Raises:
        ConfigError: a number is out of its range, or (when training begins) the model has no adapters in two
            layers, or its weights are spread by FSDP or DeepSpeed.
    """

    def __init__(
        self, dataset: Dataset, collator: Any, *, fraction: float = 0.25, every: int = 10, rows: int = 16
    ) -> None:
        self.dataset, self.collator = dataset, collator
        self.fraction, self.every, self.rows = fraction, every, rows
        check_range(self, "fraction", above=0, at_most=1)
        check_range(self, "every", "rows", at_least=1)
        self.layers: dict[str, list[Any]] = {}
        self.importance = torch.zeros(0)
        """Per layer, in the order of `layers`, whose keys are names of PEFT's."""
        self._frozen: list[nn.Parameter] = []
        self._trained: list[list[nn.Parameter]] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Find the layers with adapters."""
        if args.fsdp or args.deepspeed:
            raise ConfigError(
                "Sparse tuning weakens adapters in passes of its own, which FSDP and DeepSpeed do not allow; "
                "train without them, or without `ImportanceCallback`."
            )
        self.layers = adapter_layers(kwargs["model"])
        if len(self.layers) < 2:
            raise ConfigError(
                f"Sparse tuning chooses among layers with LoRA adapters, got {list(self.layers)}; give "
                "`peft_config=LoraConfig(...)` with targets in two layers or more."
            )
        self.importance = torch.zeros(len(self.layers))
        self._trained = [
            [p for module in modules for p in module.parameters() if p.requires_grad]
            for modules in self.layers.values()
        ]

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Learn the importance where it is time, and draw the layers of this step."""
        step = state.global_step
        if step and step % self.every == 0:
            self._learn(kwargs["model"], args.seed, step)
        count = max(1, int(self.fraction * len(self.layers)))
        chosen = self._draw(self.importance, count, (args.seed, step))
        self._frozen = [p for at, own in enumerate(self._trained) if not chosen[at] for p in own]
        if args.world_size == 1:  # DistributedDataParallel waits for every gradient
            self._let_train()
            for parameter in self._frozen:
                parameter.requires_grad_(False)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Leave the other layers out of the step: no gradient, no decay, no momentum."""
        for parameter in self._frozen:
            parameter.grad = None

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Make all adapters trainable again."""
        self._let_train()

    def _let_train(self) -> None:
        for parameter in (p for own in self._trained for p in own):
            parameter.requires_grad_(True)

    def _draw(self, scores: Tensor, count: int, key: tuple[int, ...]) -> Tensor:
        """Which layers are drawn, without replacement, with probabilities sigmoid(score); as booleans."""
        rng = generator("layers", *key)
        p = scores.double().sigmoid().numpy()
        chosen = torch.zeros(len(scores), dtype=torch.bool)
        chosen[rng.choice(len(p), count, replace=False, p=p / p.sum())] = True
        return chosen

    @torch.no_grad()
    def _learn(self, model: nn.Module, seed: int, step: int) -> None:
        half = max(1, len(self.layers) // 2)
        rows = generator("rows", seed, step).integers(len(self.dataset), size=self.rows)
        batch, _ = take_priors(self.collator([self.dataset[int(row)] for row in rows]))
        device = next(model.parameters()).device
        batch = {n: value.to(device) for n, value in batch.items() if n != EXAMPLE_WEIGHT}
        weak = [self._draw(-self.importance, half, (seed, step, n)) for n in range(_ROUNDS)]
        with evaluation_mode(model):
            losses = torch.stack([self._loss(model, batch, chosen) for chosen in weak])
        losses = reduce(losses, "mean").cpu()
        self.importance = updated(self.importance, torch.stack(weak), losses)

    def _loss(self, model: nn.Module, batch: dict[str, Tensor], weak: Tensor) -> Tensor:
        """Loss of a batch with the adapters of some layers at a quarter of their scale."""
        groups = zip(self.layers.values(), weak, strict=True)
        modules = [module for own, chosen in groups if chosen for module in own]
        for module in modules:
            module.scale_layer(_SUPPRESSED)
        try:
            loss: Tensor = model(**batch).loss.float()
        finally:
            for module in modules:
                module.unscale_layer(_SUPPRESSED)
        return loss


def adapter_layers(model: nn.Module) -> dict[str, list[Any]]:
    """PEFT's LoRA modules by layer: by their names up to the first number, such as `...layer.3`."""
    lora = import_extra("peft", "Sparse tuning needs", "peft.tuners.lora")
    layers: dict[str, list[Any]] = {}
    for name, module in model.named_modules():
        number = _NUMBER.search(name)
        if number and isinstance(module, lora.LoraLayer):
            layers.setdefault(name[: number.end()], []).append(module)
    return layers


def updated(importance: Tensor, weak: Tensor, losses: Tensor) -> Tensor:
    """Importances `(layers,)` after rounds in which the layers `weak`, `(rounds, layers)`, were weakened.

    The reward of a round is exp(−loss) less the mean; a layer loses what its rounds were rewarded with, times
    p (1 − p) for p = sigmoid(importance), and so gains where the loss was high.
    """
    reward = (-losses).exp()
    p = importance.sigmoid()
    return importance - _RATE * p * (1 - p) * ((reward - reward.mean())[:, None] * weak).sum(0)
