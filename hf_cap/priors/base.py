"""Prior sources: their base class, the rows that they score, and the table of their names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self, TypeVar

from hf_cap.errors import ConfigError, DataError
from hf_cap.schema import LABEL, PROVENANCE, TEXT, WORDS, add_provenance, diagnostic_column, prior_column
from hf_cap.utils import check_settings, choose, fingerprint, load_object, option, settings_class, versions
from hf_cap.words import WORD_PATTERN, Span, check_pattern, split_words

if TYPE_CHECKING:
    from datasets import Dataset

Batch = Mapping[str, Sequence[Any]]
"""Columns of some rows, as `Dataset.map(batched=True)` passes them."""

LEARNED = MappingProxyType({"learned": True})
"""Metadata of a field whose value comes from a data set; provenance keeps only a digest of it."""


@dataclass(frozen=True)
class Row:
    """One labelled text: as it stands in the data set, its words (at least one), its gold label."""

    text: str
    spans: tuple[Span, ...]
    label: int

    @property
    def words(self) -> list[str]:
        """The words as strings."""
        return [self.text[start:end] for start, end in self.spans]

    def first_words(self, count: int) -> "Row":
        """The row without what follows its first `count` words."""
        if count == len(self.spans):
            return self
        return Row(self.text[: self.spans[count - 1].end], self.spans[:count], self.label)


class SourceResult(NamedTuple):
    """Word scores of some rows."""

    scores: Sequence[Sequence[float]]
    """One list per row, one score per word; positive = evidence for the gold label."""
    diagnostics: Mapping[str, Sequence[Any]] = {}  # name of a diagnostic to its value for each row
    facts: Mapping[str, Any] = {}
    """More facts for the provenance, such as the model that was explained."""


@settings_class
class Source:
    """A prior source: a map function for `Dataset.map(batched=True)`.

    A subclass is a frozen dataclass with a `name` and `score_words`. Fields with a help text are
    its settings. `Dataset.map` hashes the fields into its cache key.

    Attributes:
        labels: The label space, in the order of the class indices.
    """

    name: ClassVar[str]  # the prior is the column `prior_<name>`

    word_pattern: str = option(
        WORD_PATTERN, "Regular expression of a word, the unit of a score.", check=check_pattern
    )
    text_column: str = option(TEXT, "Column with the texts.")
    label_column: str = option(LABEL, "Column with the gold labels, as names or class indices.")
    labels: tuple[str, ...] = field(metadata=LEARNED)

    @classmethod
    def from_dataset(cls, dataset: "Dataset", **options: Any) -> Self:
        """The source with these settings for the label space of a training split (a `ClassLabel`)."""
        from hf_cap.data import label_names

        labels = label_names(dataset, options.get("label_column", LABEL), at_least=2)
        return cls(labels=tuple(labels), **options)

    def score_words(self, rows: Sequence[Row]) -> SourceResult:
        """Score the words of some rows. The scores of a row depend on no other row."""
        raise NotImplementedError

    def __call__(self, batch: Batch) -> dict[str, Sequence[Any]]:
        """Add `words`, `prior_<name>`, the diagnostics `<name>_<what>` and `provenance` to a batch.

        Raises:
            DataError: a column is missing, a text has no words, a label is outside the label space,
                or the batch is a single row.
        """
        rows = self.read_rows(batch)
        return self.columns(batch, rows, self.score_words(rows))

    def read_rows(self, batch: Batch, first: int = 0) -> list[Row]:
        """Read the rows of a batch, with the checks that `__call__` promises; errors count from `first`."""
        for setting in ("text_column", "label_column"):
            self.check_column(batch, setting)
        if isinstance(batch[self.text_column], str):
            raise DataError("A source takes batches, and got one row: `dataset.map(source, batched=True)`.")
        index = {label: position for position, label in enumerate(self.labels)}
        cells = zip(batch[self.text_column], batch[self.label_column], strict=True)
        return [self._read_row(number, *cell, index) for number, cell in enumerate(cells, first)]

    def check_column(self, batch: Batch, setting: str) -> None:
        """Raise a `DataError` where a batch lacks the column that a setting names."""
        if (column := getattr(self, setting)) not in batch:
            found = sorted(batch)
            raise DataError(f"There is no column {column!r}; found {found}. Set `{setting}`.")

    def _read_row(self, number: int, text: Any, label: Any, index: Mapping[str, int]) -> Row:
        spans = tuple(split_words(text, self.word_pattern)) if isinstance(text, str) else ()
        if not spans:
            raise DataError(
                f"Row {number}: the text is {text!r}, in which word_pattern={self.word_pattern!r} "
                "finds no words. Remove the row."
            )
        position = index.get(label, -1) if isinstance(label, str) else label
        if type(position) is not int or not 0 <= position < len(index):
            raise DataError(
                f"Row {number} ({text!r:.60}): the label {label!r} is not in the label space of "
                f"{len(index)} labels ({', '.join(list(index)[:5])}, ...). Correct the row or `labels`."
            )
        return Row(text, spans, position)

    def columns(self, batch: Batch, rows: Sequence[Row], result: SourceResult) -> dict[str, Sequence[Any]]:
        """The batch with the columns of a result for its rows."""
        cells = batch.get(PROVENANCE) or [None] * len(rows)
        facts = {**self.facts, **result.facts}
        with_facts = {cell: add_provenance(cell, self.name, facts) for cell in set(cells)}
        columns = {diagnostic_column(self.name, k): list(v) for k, v in result.diagnostics.items()}
        return {
            **batch,
            WORDS: [row.words for row in rows],
            prior_column(self.name): [list(map(float, scores)) for scores in result.scores],
            **columns,
            PROVENANCE: [with_facts[cell] for cell in cells],
        }

    @property
    def learned(self) -> dict[str, Any]:
        """The fields whose values come from a data set."""
        names = [item.name for item in fields(self) if item.metadata == LEARNED]
        return {name: getattr(self, name) for name in names}

    @property
    def facts(self) -> dict[str, Any]:
        """How the column is made, for provenance. No date: equal work gives equal columns."""
        settings = {item.name: getattr(self, item.name) for item in fields(self)}
        settings |= {name: fingerprint(repr(value)) for name, value in self.learned.items()}
        del settings["labels"]
        settings |= {"source": self.name, "label_space": fingerprint(*self.labels)}
        return {**settings, "versions": versions()}


SOURCES: dict[str, str | type[Source]] = {
    "cap": "hf_cap.priors.cap:CAPPrior",
    "channel": "hf_cap.priors.channel:ChannelPrior",
    "integrated_gradients": "hf_cap.priors.classifier:IntegratedGradientsPrior",
    "keywords": "hf_cap.priors.keywords:KeywordsPrior",
    "lexicon": "hf_cap.priors.channel:LexiconPrior",
    "lime": "hf_cap.priors.classifier:LimePrior",
    "llm_gradient": "hf_cap.priors.rivals:LLMGradientPrior",
    "occlusion": "hf_cap.priors.classifier:OcclusionPrior",
    "rationale": "hf_cap.priors.keywords:RationalePrior",
    "reagent": "hf_cap.priors.rivals:ReAGentPrior",
    "shap": "hf_cap.priors.classifier:ShapPrior",
    "word_length": "hf_cap.priors.keywords:WordLengthPrior",
}
"""Name of a source to its class, as `module:Class` where it is not loaded yet."""

S = TypeVar("S", bound=type[Source])


def register_source(cls: S) -> S:
    """Make a source class known under its `name`, which none of hf_cap has; usable as a decorator."""
    name = getattr(cls, "name", None)
    if not (isinstance(cls, type) and issubclass(cls, Source) and name):
        raise ConfigError(f"A source derives from `Source` and has a `name`; got {cls!r}.")
    if isinstance(SOURCES.get(name), str):
        raise ConfigError(f"hf_cap has a source {name!r} already; give yours another `name`.")
    SOURCES[name] = cls
    return cls


def source_class(name: str) -> type[Source]:
    """The class that a name in `SOURCES` or `module:Class` stands for, or a `ConfigError`."""
    place: Any = name if ":" in name else choose(SOURCES, name, "prior source")
    cls = load_object(place) if isinstance(place, str) else place
    if not (isinstance(cls, type) and issubclass(cls, Source)):
        raise ConfigError(f"{name!r} is no prior source: {cls!r} does not derive from `Source`.")
    return cls


# --- Settings of the stages, beside those of the sources; their modules are heavy.


@settings_class
class ExtractionSettings:
    """How the stage `extract` goes through a data set. Changes no score."""

    splits: tuple[str, ...] = option(
        ("train",), "Splits whose texts get priors. `hf-cap extract` reads and writes no others."
    )
    batch_size: int = option(
        32,
        "Texts that are scored together, at least 1; the first four go alone, for an estimate.",
        at_least=1,
    )
    progress: bool = option(True, "Show a progress bar.")

    def __post_init__(self) -> None:
        check_settings(self)
        if not self.splits:
            raise ConfigError("`splits` is empty; name one or more.")


@settings_class
class AuditSettings:
    """Settings of the audit of priors."""

    top_k: int = option(3, "Highest words of a text that are compared between two sources.", at_least=1)
    keywords: int = option(10, "Keywords of a class: its words with the highest mean prior.", at_least=1)
    pairs: int = option(15, "Pairs of classes with the most shared keywords that are reported.", at_least=1)
    word_pattern: str | None = option(
        None,
        "Regular expression of a word in the reference data; by default the one of the priors.",
        check=check_pattern,
    )
