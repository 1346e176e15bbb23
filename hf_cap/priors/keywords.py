"""Sources without a model: `keywords`, `word_length` and `rationale`, and the control priors."""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeVar, get_args

from hf_cap.errors import ConfigError, PriorError
from hf_cap.priors.base import LEARNED, Batch, Row, Source, SourceResult
from hf_cap.schema import PRIOR, PROVENANCE, TEXT, add_provenance
from hf_cap.utils import choose, option, settings_class, text_seed
from hf_cap.words import WordCounts, count_words, fold, log_odds, phi, tfidf

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

Statistic = Literal["chi_squared", "tfidf", "log_odds"]
RationaleUnit = Literal["characters", "words", "flags"]
Control = Literal["uniform", "random", "shuffled"]

STATISTICS: Mapping[Statistic, Callable[[WordCounts, str], list[float]]] = {
    "chi_squared": phi,
    "tfidf": tfidf,
    "log_odds": log_odds,
}


@settings_class
class KeywordsPrior(Source):
    """Scores each word by its association with the gold label in the training data.

    `chi_squared` is the signed root of that statistic over the number of texts (Yang & Pedersen 1997).
    With a `word_list` each listed word scores 1 and every other 0, whatever the label.

    Attributes:
        table: Folded word to its score for each label; `from_dataset` counts it.
    """

    name: ClassVar[str] = "keywords"

    statistic: Statistic = option("chi_squared", "Association of a word with a label.")
    word_list: tuple[str, ...] = option((), "Words that matter whatever the label; none is counted.")
    table: Mapping[str, Sequence[float]] = field(default_factory=dict, metadata=LEARNED)

    @classmethod
    def from_dataset(cls, dataset: "Dataset", **options: Any) -> Self:
        """The source for a training split, whose words are counted unless there is a `word_list`."""
        source = super().from_dataset(dataset, **options)
        if source.word_list:
            return source
        rows = source.read_rows(dataset[:])
        texts, labels = [row.text for row in rows], [row.label for row in rows]
        counts = count_words(texts, labels, len(source.labels), source.word_pattern)
        statistic = STATISTICS[source.statistic]
        return replace(source, table={word: statistic(counts, word) for word in counts.words})

    def score_words(self, rows: Sequence[Row]) -> SourceResult:
        """Score the words of some rows; unknown words get 0."""
        table = self.table
        if self.word_list:
            table = {fold(word): [1.0] * len(self.labels) for word in self.word_list}
        if not table:
            raise ConfigError(
                "KeywordsPrior has no words. Use `KeywordsPrior.from_dataset(train)` or a `word_list`."
            )
        unknown = [0.0] * len(self.labels)
        return SourceResult(
            [[table.get(fold(word), unknown)[row.label] for word in row.words] for row in rows]
        )


@settings_class
class WordLengthPrior(Source):
    """Scores each word by its length in characters, whatever the label: a control."""

    name: ClassVar[str] = "word_length"

    def score_words(self, rows: Sequence[Row]) -> SourceResult:
        """Score the words of some rows."""
        return SourceResult([[end - start for start, end in row.spans] for row in rows])


@settings_class
class RationalePrior(Source):
    """Scores each word by how far people marked it: 1 for a whole word, 0 for an unmarked one.

    With character ranges a word that is marked in part gets the share of its characters. A null or
    empty rationale gives zeros, which fusion leaves out. In a csv file a rationale is written as JSON.
    """

    name: ClassVar[str] = "rationale"

    rationale_column: str = option("rationale", "Column with what people marked in each text.")
    rationale_unit: RationaleUnit = option(
        "characters",
        "Lists of ranges [start, end) of `characters` or of `words`, or one number per word (`flags`).",
    )

    def __call__(self, batch: Batch) -> dict[str, Sequence[Any]]:
        """As for every source; a rationale that does not fit its text is a `PriorError`."""
        rows = self.read_rows(batch)
        self.check_column(batch, "rationale_column")
        marks = zip(rows, batch[self.rationale_column], strict=True)
        return self.columns(batch, rows, SourceResult([self._scores(*pair) for pair in marks]))

    def _scores(self, row: Row, mark: Any) -> list[float]:
        words, unit = len(row.spans), self.rationale_unit
        try:
            marks = [] if mark is None else _marks(mark, unit)
        except ValueError as error:
            form = "[1, 0, 1]" if unit == "flags" else "[[0, 5], [9, 12]]"
            raise PriorError(
                f"The rationale {mark!r:.60} of {row.text!r:.60} is no list of {unit} such as {form}; see "
                "`rationale_unit` for the other forms."
            ) from error
        if not marks:
            return [0.0] * words
        if unit == "flags":
            if len(marks) != words:
                raise PriorError(
                    f"A rationale has {len(marks)} flags for the {words} words of {row.text!r:.80}. "
                    "Give one per word, or the `word_pattern` of the words that were marked."
                )
            return list(map(float, marks))
        marked = [0.0] * (words if unit == "words" else len(row.text))
        for start, end in marks:
            if not 0 <= start < end <= len(marked):
                raise PriorError(
                    f"The rationale range [{start}, {end}) lies outside the {len(marked)} {unit} of "
                    f"the text {row.text!r:.80}. Ranges are half-open and count {unit} from 0."
                )
            marked[start:end] = [1.0] * (end - start)
        if unit == "words":
            return marked
        return [sum(marked[start:end]) / (end - start) for start, end in row.spans]


def _marks(mark: Any, unit: RationaleUnit) -> list[Any]:
    """A rationale, perhaps as JSON, if it is a list of flags in [0, 1] or of ranges; else `ValueError`."""

    def fits(one: Any) -> bool:
        if unit == "flags":
            return isinstance(one, int | float) and 0 <= one <= 1
        return isinstance(one, list | tuple) and [type(place) for place in one] == [int, int]

    marks = json.loads(mark) if isinstance(mark, str) else mark
    if not isinstance(marks, list | tuple) or not all(map(fits, marks)):
        raise ValueError
    return list(marks)


# --- Controls: priors that carry no information about the label, to compare a real one with.


CONTROLS: tuple[Control, ...] = get_args(Control)


def control_scores(control: Control, scores: Sequence[float], text: str, seed: int) -> list[float]:
    """Scores that know nothing of the label; text and seed determine what is random.

    `uniform` is 1 for every word, `random` uniform in [0, 1) for each, `shuffled` the scores of the
    text in random order: the same distribution, on the wrong words.
    """
    draw = random.Random(text_seed(seed, text))
    if control == "shuffled":
        return draw.sample(list(scores), len(scores))
    return [draw.random() if control == "random" else 1.0 for _ in scores]


Splits = TypeVar("Splits", "Dataset", "DatasetDict")


def with_control(dataset: Splits, control: Control, *, seed: int = 0) -> Splits:
    """Replace the priors of a data set, or of its splits, by a control; null stays null.

    `control` is one of those of `control_scores`, any other a `ConfigError`; `seed` and the text determine
    what is random.
    """
    choose(dict.fromkeys(CONTROLS), control, "control")
    facts = {"control": control, "seed": seed, "column": PRIOR}

    def replace_prior(batch: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
        pairs = zip(batch[PRIOR], batch[TEXT], strict=True)
        scores = [prior and control_scores(control, prior, text, seed) for prior, text in pairs]
        cells = batch.get(PROVENANCE) or [None] * len(scores)
        made = [add_provenance(cell, "control", facts) for cell in cells]
        return {PRIOR: scores, PROVENANCE: made}

    return dataset.map(replace_prior, batched=True, desc=f"Control {control}")
