"""Settings of the adaptation of a language model; torch-free, so that `hf-cap adapt --help` is instant."""

from dataclasses import dataclass

from ..options import check_range, documented, option

ALL_LINEAR = "all-linear"


@documented
@dataclass(frozen=True, kw_only=True)
class AdaptationSettings:
    """How low-rank adapters (LoRA, arXiv 2106.09685) are trained into a language model."""

    rank: int = option(8, "Rank of the adapters; at least 1.")
    alpha: int = option(16, "Scale of the adapters: their update is times alpha / rank.")
    dropout: float = option(0.0, "Share of the adapters' inputs that is dropped in training.")
    target_modules: tuple[str, ...] = option(
        (ALL_LINEAR,),
        "Names of the layers that get adapters, such as q_proj v_proj; all-linear means all but the head.",
    )
    learning_rate: float = option(2e-4, "Highest learning rate; it rises first, then falls to 0.")
    warmup: float = option(0.1, "Part of the steps over which the learning rate rises; in [0, 1).")
    weight_decay: float = option(0.0, "Weight decay of AdamW.")
    epochs: float = option(3.0, "Passes over the training texts.")
    max_steps: int = option(-1, "Optimizer steps; if positive it takes the place of `epochs`.")
    batch_size: int = option(
        16,
        "Texts a step. The prompt that they share is computed once a step, so larger is cheaper.",
    )
    gradient_checkpointing: bool = option(
        False, "Compute activations twice, to save memory with a large model."
    )
    seed: int = option(
        0, "Seed of the adapters, of the order and choice of texts, and of the masks."
    )

    def __post_init__(self) -> None:
        check_range(self, "rank", "batch_size", at_least=1)
        check_range(self, "alpha", "learning_rate", "epochs", above=0)
        check_range(self, "dropout", "warmup", at_least=0, below=1)
