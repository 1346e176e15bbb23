"""What an extraction did, and how good the language model's own answers were."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hf_cap.lm.base import LMStatistics
from hf_cap.priors.base import Source
from hf_cap.schema import LABEL, diagnostic_column

if TYPE_CHECKING:
    from datasets import Dataset


class ZeroShot(NamedTuple):
    """Share of texts whose gold label the language model itself would have answered, in [0, 1].

    Attributes:
        raw: By the highest log-probability.
        calibrated: The same after subtracting each label's mean over the texts, its liking for some
            labels whatever the text says.
    """

    raw: float
    calibrated: float


def zero_shot(label_scores: Sequence[Sequence[float]], labels: Sequence[int]) -> ZeroShot:
    """Zero-shot accuracy from `(texts, labels)` log-probabilities, for at least one text."""
    scores = np.array(label_scores, dtype=np.float64)
    both = (scores, scores - scores.mean(0))
    return ZeroShot(*(float((values.argmax(1) == labels).mean()) for values in both))


@dataclass(frozen=True)
class ExtractionSummary:
    """What an extraction did.

    Attributes:
        texts: Texts that have priors now, over all splits.
        seconds: Wall time.
        statistics: Work of the language models, over all processes.
        cut: Source to the number of texts that were longer than its language model reads.
        zero_shot: Source to the accuracy of its language model, where label scores were kept.
    """

    texts: int
    seconds: float
    statistics: LMStatistics
    cut: Mapping[str, int]
    zero_shot: Mapping[str, ZeroShot]

    def __str__(self) -> str:
        """A few lines for the end of a run."""
        did = self.statistics
        lines = [f"{self.texts} texts in {self.seconds:.0f} s"]
        if did.queries:
            lines += [
                f"{did.queries:,} scores asked for, {did.stored:,} found in the store, "
                f"{did.distinct:,} different ones scored",
                f"{did.tokens_computed:,} tokens computed ({did.tokens_per_second:,.0f} per second) "
                f"instead of {did.naive_tokens:,}",
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


def summarize_extraction(
    made: "Mapping[str, Dataset]",
    sources: Sequence[Source],
    seconds: float,
    statistics: LMStatistics,
) -> ExtractionSummary:
    """What an extraction did, from the splits that it made and the work of the language models."""

    def columns(what: str) -> dict[str, list[Any]]:
        names = {source.name: diagnostic_column(source.name, what) for source in sources}
        return {
            source: [cell for data in made.values() for cell in data[name]]
            for source, name in names.items()
            if all(name in data.column_names for data in made.values())
        }

    gold = [label for data in made.values() for label in data[LABEL]]
    return ExtractionSummary(
        texts=len(gold),
        seconds=seconds,
        statistics=statistics,
        cut={name: sum(cut > 0 for cut in cuts) for name, cuts in columns("cut").items()},
        zero_shot={name: zero_shot(rows, gold) for name, rows in columns("label_scores").items()},
    )
