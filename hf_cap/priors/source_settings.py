"""Settings of fusion, and of priors without a language model. Imports neither torch nor transformers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ..options import check_choices, check_range, documented, option, required
from ..schema import LABEL, TEXT
from ..words import WORD_PATTERN

Normalisation = Literal["l2", "max_abs", "min_max", "softmax", "none"]
How = Literal["mean", "max"]
Statistic = Literal["chi_squared", "tfidf", "log_odds"]
Control = Literal["uniform", "random", "shuffled"]
RationaleUnit = Literal["characters", "words", "flags"]


@documented
@dataclass(frozen=True, kw_only=True)
class FusionSettings:
    """How several priors become one."""

    sources: tuple[str, ...] = option(
        (), "Sources to fuse, in the columns prior_<source>; all that there are by default."
    )
    how: How = option("mean", "Mean or (signed) maximum over the sources, word by word.")
    normalisation: Normalisation = option(
        "l2", "Puts each source on one scale over the words of a text, before fusing."
    )
    weights: Mapping[str, float] = option(
        help="Source to weight, at least 0; 1 where it is not named. Only ratios matter.",
        factory=dict,
    )
    certainty: Mapping[str, str] = option(
        help="Source to the diagnostic column (such as cap_r2) that multiplies its weight on each text.",
        factory=dict,
    )

    def __post_init__(self) -> None:
        check_choices(self)


@documented
@dataclass(frozen=True, kw_only=True)
class RowOptions:
    """Where a source finds its texts and labels, and what a word is."""

    word_pattern: str = option(
        WORD_PATTERN, "Regular expression of a word, the unit that gets a score."
    )
    text_column: str = option(TEXT, "Column that holds the texts.")
    label_column: str = option(
        LABEL, "Column that holds the gold labels, as names or class indices."
    )


@documented
@dataclass(frozen=True, kw_only=True)
class ReferenceSettings:
    """The classifier that a source explains: best one trained on the same split without alignment."""

    classifier: str = required(
        "Sequence classifier with the label space of the data: a folder written by `hf-cap train` or "
        "`save_pretrained`, or a Hub id."
    )
    revision: str | None = option(None, "Branch, tag or commit of a classifier on the Hub.")
    trust_remote_code: bool = option(False, "Run code that comes with the classifier.")


@documented
@dataclass(frozen=True, kw_only=True)
class IntegratedGradientsSettings:
    """Settings of the source `integrated_gradients`."""

    steps: int = option(50, "Points on the path from the baseline to the text, at least 1.")

    def __post_init__(self) -> None:
        check_range(self, "steps", at_least=1)


@documented
@dataclass(frozen=True, kw_only=True)
class LimeSettings:
    """Settings of the source `lime`."""

    samples: int = option(
        500,
        "Perturbed texts a text, at least 2. Enough for texts of up to about 20 words; the library's own "
        "default of 5,000 is for long documents.",
    )
    replacement: str = option("", "What stands in for a word that is taken out; empty deletes it.")
    seed: int = option(0, "Determines, together with the text, which words are taken out.")

    def __post_init__(self) -> None:
        check_range(self, "samples", at_least=2)


@documented
@dataclass(frozen=True, kw_only=True)
class ShapSettings:
    """Settings of the source `shap`."""

    evaluations: int = option(500, "Most perturbed texts a text, at least 2 a word.")
    replacement: str = option("", "What stands in for a word that is taken out; empty deletes it.")

    def __post_init__(self) -> None:
        check_range(self, "evaluations", at_least=2)


@documented
@dataclass(frozen=True, kw_only=True)
class KeywordSettings:
    """Settings of the source `keywords`."""

    statistic: Statistic = option(
        "chi_squared",
        "What ties a word to a label: the signed root of chi-squared, the TF-IDF weight, or log-odds.",
    )
    word_list: tuple[str, ...] = option(
        (), "Words that matter whatever the label; given, nothing is counted."
    )

    def __post_init__(self) -> None:
        check_choices(self)


@documented
@dataclass(frozen=True, kw_only=True)
class RationaleSettings:
    """Settings of the source `rationale`."""

    rationale_column: str = option("rationale", "Column with what people marked in each text.")
    rationale_unit: RationaleUnit = option(
        "characters",
        "How it is marked: half-open ranges [start, end) of characters or of words, or one flag a word.",
    )

    def __post_init__(self) -> None:
        check_choices(self)


@documented
@dataclass(frozen=True, kw_only=True)
class AuditSettings:
    """Settings of the audit of priors."""

    top_k: int = option(3, "Highest words of a text that are compared between two sources.")
    keywords: int = option(10, "Keywords of a class: its words with the highest mean prior.")
    pairs: int = option(15, "Pairs of classes with the most shared keywords that are reported.")
    word_pattern: str | None = option(
        None,
        "Regular expression of a word in the reference data; by default the one of the priors.",
    )

    def __post_init__(self) -> None:
        check_range(self, "top_k", "keywords", "pairs", at_least=1)
