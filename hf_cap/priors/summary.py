"""What an extraction did, as a frozen value, and how good the language model's own answers were."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from ..scoring.statistics import ScorerStatistics


@dataclass(frozen=True)
class ZeroShot:
    """Share of texts whose gold label the language model itself would have answered, in [0, 1].

    Attributes:
        raw: By the highest log-probability.
        calibrated: The same after subtracting each label's mean over the texts: what is left when the
            model's liking for some labels, whatever the text says, is taken off (batch calibration).
    """

    raw: float
    calibrated: float


def zero_shot(label_scores: Sequence[Sequence[float]], labels: Sequence[int]) -> ZeroShot:
    """Zero-shot accuracy from the scores of every label.

    Args:
        label_scores: `(texts, labels)`, in nats; at least one text.
        labels: Gold label of each text.
    """
    scores = torch.tensor(label_scores, dtype=torch.float64)
    gold = torch.tensor(labels)
    return ZeroShot(*(_accuracy(values, gold) for values in (scores, scores - scores.mean(0))))


def _accuracy(scores: torch.Tensor, gold: torch.Tensor) -> float:
    return float((scores.argmax(1) == gold).double().mean())


@dataclass(frozen=True)
class ExtractionSummary:
    """What an extraction did.

    Attributes:
        texts: Texts that have priors now, over all splits.
        reused: Texts times sources that an earlier, interrupted run had finished.
        seconds: Wall time.
        statistics: Work of the language model, over all processes.
        cut: Source to the number of texts that were longer than its language model reads.
        zero_shot: Source to the accuracy of its language model, where label scores were kept.
    """

    texts: int
    reused: int
    seconds: float
    statistics: ScorerStatistics
    cut: Mapping[str, int] = field(default_factory=dict)
    zero_shot: Mapping[str, ZeroShot] = field(default_factory=dict)

    def __str__(self) -> str:
        """A few lines for the end of a run."""
        did = self.statistics
        lines = [
            f"{self.texts} texts in {self.seconds:.0f} s"
            + (f"; {self.reused} were finished before" if self.reused else "")
        ]
        if did.queries:
            lines += [
                f"{did.queries:,} scores asked for, {did.stored:,} found in the store, "
                f"{did.distinct:,} different ones scored",
                f"{did.tokens_computed:,} tokens computed ({did.tokens_per_second:,.0f} a second) instead "
                f"of {did.naive_tokens:,}: saved {did.prefix_saved:,} by the shared prefix, "
                f"{did.distinct_saved:,} by repeats, {did.trie_saved:,} by shared beginnings",
                f"the naive way would take about {did.naive_seconds:,.0f} s",
            ]
        lines += [
            f"{source}: {count} texts were cut" for source, count in self.cut.items() if count
        ]
        lines += [
            f"{source}: the language model's own answer is right for {found.raw:.1%} of the texts "
            f"({found.calibrated:.1%} calibrated)"
            for source, found in self.zero_shot.items()
        ]
        return "\n".join(lines)
