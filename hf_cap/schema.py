"""Columns of the data sets that pass from stage to stage: the one place where they are named.

    text, label ── extract ──> + words, prior_<source>, <source>_<diagnostic>, provenance
                ── fuse ─────> + prior
                ── train ────> reads text, label, prior

A prior is one list of floats per text, one score per word, positive = evidence for the gold label.
Null (or an absent value) means that the text has no prior: it then takes part in the task loss alone.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, fields
from numbers import Real
from typing import Any, Literal

from hf_cap.errors import ConfigError, ModelError, PriorError
from hf_cap.utils import fingerprint, option, settings_class
from hf_cap.words import WORD_PATTERN, check_pattern, word_strings

TEXT = "text"
LABEL = "label"
WORDS = "words"
PRIOR = "prior"
PROVENANCE = "provenance"
ORIGINAL, CHANGED = "original", "changed"
"""Of an attacked text: the text as it was, and whether the attack changed it."""
VERSION_OF = "version_of"
"""Text that a training text is a version of: each epoch draws one of those with the same; null for others."""
_PRIOR_PREFIX = "prior_"

CONTROL_PRIORS = ("shuffled", "uniform", "random", "word_length")
"""Priors without information about the label, which a real one has to beat."""


def prior_column(source: str) -> str:
    """Column that holds the prior of `source`, such as `prior_cap`."""
    return _PRIOR_PREFIX + source


def diagnostic_column(source: str, what: str) -> str:
    """Column that holds a diagnostic of `source`, e.g. `cap_r2`."""
    return f"{source}_{what}"


def prior_sources(features: Mapping[str, Any]) -> list[str]:
    """Sources with prior columns among the `features`; one of single values (`prior_weight`) is none."""
    return [
        name.removeprefix(_PRIOR_PREFIX)
        for name, feature in features.items()
        # a list has no dtype, and null is a column in which no text has a prior
        if name.startswith(_PRIOR_PREFIX) and getattr(feature, "dtype", "null") == "null"
    ]


def find_prior_column(columns: Iterable[str] | Mapping[str, Any], wanted: str | None = None) -> str:
    """The prior column to train with: `wanted`, else `prior`, else the only `prior_<source>`.

    `columns` are names, or the `features` of a data set, whose columns of single values do not count.
    """
    names = list(columns)
    features = columns if isinstance(columns, Mapping) else dict.fromkeys(names)
    found = [PRIOR] if PRIOR in names else list(map(prior_column, prior_sources(features)))
    if wanted is None and len(found) > 1:
        raise PriorError(
            f"There are several priors, {found}. Fuse them into one column {PRIOR!r} with "
            "`hf_cap.fuse_priors` or `hf-cap fuse`, or name the one to train with."
        )
    column = wanted or (found[0] if found else PRIOR)
    if column not in names:
        raise PriorError(
            f"There is no prior column {column!r}; found {names}. Add priors with `hf-cap extract`, "
            "name their column, or train without alignment: `alignment_weight=0`."
        )
    return column


def check_prior(prior: Any, words: Sequence[str], *, column: str = PRIOR, row: int | None = None) -> None:
    """Raise `PriorError` unless a prior has one finite score per word, or is `None`."""
    where = f"Column {column!r}" + ("" if row is None else f", row {row}")
    if prior is not None and (isinstance(prior, str) or not hasattr(prior, "__len__")):
        raise PriorError(f"{where}: the prior is {prior!r:.80}, not a list with a score per word.")
    if prior is not None and len(prior) != len(words):
        raise PriorError(
            f"{where}: {len(prior)} scores for {len(words)} words {list(words)[:8]!r}...; extract the "
            "prior again, or with the same `word_pattern`."
        )
    for index, score in enumerate(prior or ()):
        if not isinstance(score, Real) or not math.isfinite(score):
            raise PriorError(
                f"{where}: the score of word {index} ({words[index]!r}) is {score!r}. Scores must be "
                "finite; set the whole prior to null for a text that has none."
            )


def check_words(
    text: str, words: Sequence[str], *, pattern: str = WORD_PATTERN, row: int | None = None
) -> None:
    """Raise `PriorError` unless stored words are those that `pattern` finds in the text."""
    expected = word_strings(text, pattern)
    if list(words) != expected:
        raise PriorError(
            f"Row {row}: the prior was made for the words {list(words)[:8]!r}, but word_pattern={pattern!r} "
            f"finds {expected[:8]!r}. Use the pattern that the prior was made with, or extract it again."
        )


def check_found(text: str, words: Sequence[str], *, row: int | None = None) -> None:
    """Raise `PriorError` unless stored words follow each other in the text, whatever pattern found them."""
    place = 0
    for word in words:
        found = text.find(word, place) if isinstance(word, str) else -1
        if found < 0:
            raise PriorError(
                f"Row {row}: the word {word!r} that the prior was made for is not where it should be in the "
                f"text {text[:80]!r}; extract the prior again."
            )
        place = found + len(word)


# --- Provenance: source name (`prior` for the fusion) to the facts of how its column was made.

Provenance = dict[str, dict[str, Any]]


def read_provenance(text: str | None) -> Provenance:
    """Provenance of a row from its `provenance` cell; empty where there is none."""
    with suppress(ValueError, TypeError, RecursionError):
        facts = json.loads(text) if text else {}
        if isinstance(facts, dict) and all(isinstance(made, dict) for made in facts.values()):
            return facts
    raise PriorError(f"A cell of the column {PROVENANCE!r} is damaged: {text!r:.100}. Remove the column.")


def add_provenance(text: str | None, source: str, facts: Mapping[str, Any]) -> str:
    """The `provenance` cell `text` with the facts of one more source, as sorted JSON.

    A cell per row, unlike metadata of the file, survives parquet, the Hub, `map` and `concatenate`.
    """
    return json.dumps({**read_provenance(text), source: dict(facts)}, sort_keys=True)


def check_label_space(cells: Iterable[str | None], labels: Sequence[str], *, column: str = PRIOR) -> None:
    """Raise `PriorError` if the `provenance` cells name another label space than `labels`, in this order."""
    source, here = column.removeprefix(_PRIOR_PREFIX), fingerprint(*labels)
    made = {read_provenance(cell).get(source, {}).get("label_space", here) for cell in set(cells)}
    if other := made - {here}:
        raise PriorError(
            f"Column {column!r} was made for the label space {sorted(other)[0]!r}, but that of the "
            f"data set is {here!r}: {len(labels)} labels, {list(labels)[:8]!r}... in this order. "
            "Extract the prior again, or give the data the `ClassLabel` that it was made with."
        )


# --- How a classifier's words are attributed: stored in its configuration, beside the weights.

AttributionMethod = Literal["integrated_gradients", "expected_gradients", "input_x_gradient"]
Quadrature = Literal["midpoint", "gauss_legendre", "gauss_radau"]
AttributionTarget = Literal["gold", "contrast"]

CONFIG_KEY = "hf_cap"  # entry of `config.json`
CALIBRATION = "calibration"
"""Entry of `config.json` with the temperature and label sets of a calibrated classifier."""


@settings_class
class AttributionSettings:
    """Arguments of `attribute_words` that belong to a model."""

    method: AttributionMethod = "integrated_gradients"
    rule: Quadrature = "midpoint"
    target: AttributionTarget = "gold"
    word_pattern: str = option(WORD_PATTERN, check=check_pattern)
    max_length: int | None = option(None, at_least=1)

    @classmethod
    def of_alignment(cls, options: Mapping[str, Any]) -> "AttributionSettings":
        """The attribution that an alignment used, from the options of its configuration."""
        names = {"method": "method", "rule": "quadrature", "target": "target"}
        found = {ours: options.get(f"attribution_{theirs}") for ours, theirs in names.items()}
        found |= {name: options.get(name) for name in ("word_pattern", "max_length")}
        return cls(**{name: value for name, value in found.items() if value is not None})

    @classmethod
    def read(cls, config: Any) -> "AttributionSettings":
        """What is stored in a model's configuration, the defaults where nothing is."""
        stored = getattr(config, CONFIG_KEY, None)
        stored = stored if isinstance(stored, dict) else {}
        try:
            return cls(**{f.name: stored[f.name] for f in fields(cls) if f.name in stored})
        except (ConfigError, TypeError) as error:
            raise ModelError(
                f"The entry {CONFIG_KEY!r} of the model's configuration cannot be used: "
                f"{str(error).rstrip('.')}. Save the model again, or remove the entry."
            ) from error

    def entry(self) -> dict[str, dict[str, Any]]:
        """What to add to a model's configuration."""
        return {CONFIG_KEY: asdict(self)}
