"""Columns of the data sets that pass from stage to stage: the one place where they are named.

    text, label ── extract ──> + words, prior_<source>, <source>_<diagnostic>, provenance
                ── fuse ─────> + prior
                ── train ────> reads text, label, prior

A prior is one list of floats a text, one score a word, positive = evidence for the gold label. Null
(or an absent value) means that the text has no prior: it then takes part in the task loss alone.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from hashlib import blake2b
from typing import Any, Literal

from hf_cap.errors import PriorError
from hf_cap.words import WORD_PATTERN, word_strings

TEXT = "text"
LABEL = "label"
WORDS = "words"
PRIOR = "prior"
PROVENANCE = "provenance"
_PRIOR_PREFIX = "prior_"

CONTROL_PRIORS = ("shuffled", "uniform", "random", "word_length")
"""Priors without information about the label, which a real one has to beat."""

Provenance = dict[str, dict[str, Any]]
"""Source name (`cap`, `lime`, ..., or `prior` for the fusion) to the facts of how its column was made."""


def prior_column(source: str) -> str:
    """Column that holds the prior of `source`, e.g. `prior_cap`."""
    return _PRIOR_PREFIX + source


def diagnostic_column(source: str, what: str) -> str:
    """Column that holds a diagnostic of `source`, e.g. `cap_r2`."""
    return f"{source}_{what}"


def check_prior(
    prior: Sequence[float] | None,
    words: Sequence[str],
    *,
    column: str = PRIOR,
    row: int | None = None,
) -> None:
    """Refuse a prior that cannot belong to the words beside it.

    Raises:
        PriorError: its length is not the number of words, or a score is NaN or infinite.
    """
    if prior is None:
        return
    where = f"Column {column!r}" + ("" if row is None else f", row {row}")
    if len(prior) != len(words):
        raise PriorError(
            f"{where}: {len(prior)} scores for {len(words)} words {list(words)[:8]!r}... A prior has "
            "one score a word; extract it again, or with the same `word_pattern`."
        )
    for index, score in enumerate(prior):
        if score is None or not math.isfinite(score):
            raise PriorError(
                f"{where}: the score of word {index} ({words[index]!r}) is {score!r}. Scores must be "
                "finite numbers; set the whole prior to null for a text that has none."
            )


def digest(*parts: str) -> str:
    """Short hash of some strings, for provenance."""
    return blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def read_provenance(text: str | None) -> Provenance:
    """Provenance of a row from its `provenance` cell; empty where there is none."""
    return json.loads(text) if text else {}


def add_provenance(text: str | None, source: str, facts: Mapping[str, Any]) -> str:
    """The `provenance` cell `text` with the facts of one more source, as sorted JSON.

    A cell a row, rather than metadata of the file, survives parquet, the Hub, `map` and `concatenate`.
    """
    return json.dumps({**read_provenance(text), source: dict(facts)}, sort_keys=True)


def check_words(
    text: str, words: Sequence[str], *, pattern: str = WORD_PATTERN, row: int | None = None
) -> None:
    """Refuse stored words that `pattern` would not give for this text.

    Raises:
        PriorError: the prior was made with another word splitter.
    """
    expected = word_strings(text, pattern)
    if list(words) != expected:
        raise PriorError(
            f"Row {row}: the prior was made for the words {list(words)[:8]!r}, but word_pattern="
            f"{pattern!r} splits the text into {expected[:8]!r}. Use the pattern that the prior was "
            "made with."
        )


def check_label_space(
    cells: Iterable[str | None], labels: Sequence[str], *, column: str = PRIOR
) -> None:
    """Refuse a prior whose provenance names another label space.

    Args:
        cells: The `provenance` cells of the data set; those that say nothing of the column pass.
        labels: The label space of the data set, in order.
        column: The prior column.

    Raises:
        PriorError: the prior was made for other labels, or for labels in another order.
    """
    source = PRIOR if column == PRIOR else column.removeprefix(_PRIOR_PREFIX)
    here = digest(*labels)
    made = {read_provenance(cell).get(source, {}).get("label_space", here) for cell in set(cells)}
    if other := made - {here}:
        raise PriorError(
            f"Column {column!r} was made for the label space {sorted(other)[0]!r}, but that of the data set "
            f"is {here!r}: {len(labels)} labels, {list(labels)[:8]!r}... in this order. Extract the prior "
            "again for this data set, or give it the `ClassLabel` that the prior was made with."
        )


# --- How a classifier's words are attributed, kept in its configuration so that it travels with the weights.


AttributionMethod = Literal["integrated_gradients", "expected_gradients", "input_x_gradient"]
Quadrature = Literal["midpoint", "gauss_legendre", "gauss_radau"]
AttributionTarget = Literal["gold", "contrast"]

CONFIG_KEY = "hf_cap"
"""Entry of `config.json`."""


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """Arguments of `attribute_words` that belong to a model. Their meaning is told there."""

    method: str = "integrated_gradients"
    rule: str = "midpoint"
    target: str = "gold"
    word_pattern: str = WORD_PATTERN
    max_length: int | None = None

    @classmethod
    def of_alignment(cls, options: Mapping[str, Any]) -> "Explanation":
        """The attribution that an alignment used, from its settings (names as in `AlignmentOptions`)."""
        named = {
            "method": options.get("attribution_method"),
            "rule": options.get("attribution_quadrature"),
            "target": options.get("attribution_target"),
            "word_pattern": options.get("word_pattern"),
            "max_length": options.get("max_length"),
        }
        return cls(**{name: value for name, value in named.items() if value is not None})

    @classmethod
    def read(cls, config: Any) -> "Explanation":
        """What is stored in a model's configuration, the defaults where nothing is."""
        stored = getattr(config, CONFIG_KEY, None) or {}
        return cls(**{f.name: stored[f.name] for f in fields(cls) if f.name in stored})

    def entry(self) -> dict[str, dict[str, Any]]:
        """What to add to a model's configuration."""
        return {CONFIG_KEY: asdict(self)}
