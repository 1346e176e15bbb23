"""The facts on the card of a prior data set."""

from collections.abc import Mapping
from itertools import islice
from typing import Any

from datasets import Dataset, DatasetDict

from ..cards import ConfigurationFacts, ExampleFacts, PriorCardFacts
from ..cards.run import prior_facts
from ..cards.safety import public_id, public_name, public_text
from ..data import label_names
from ..schema import LABEL, PRIOR, TEXT
from ..words import WORD_PATTERN, word_strings
from .prior_data import HYBRID, configs_metadata, info_metadata, made_by
from .settings import PriorCard


def prior_card_facts(
    found: Mapping[str, DatasetDict],
    options: PriorCard,
    audit: Mapping[str, Any] | None = None,
) -> PriorCardFacts:
    """The facts of the configurations `found`, whose default is the first.

    Args:
        found: From `configurations`.
        options: Names, licence, language, number of examples.
        audit: Figures of `hf-cap audit`; numbers in nested groups are named `group: figure`.
    """
    default = next(iter(found.values()))
    first = next(iter(default.values()))
    made = [facts for name in found if (facts := made_by(found[name], _source(name)))]
    commands = dict.fromkeys(facts["command"] for facts in made if facts.get("command"))
    return PriorCardFacts(
        name=options.repo_id.split("/")[-1],
        repo_id=options.repo_id,
        source_dataset=public_name(options.source_dataset),
        source_on_hub=public_id(options.source_dataset) is not None,
        language=options.language,
        license=options.license,
        labels=tuple(label_names(first)),
        splits={split: len(data) for split, data in default.items()},
        configurations=tuple(
            _configuration(name, splits, default=splits is default)
            for name, splits in found.items()
        ),
        configs=configs_metadata(found),
        dataset_info=info_metadata(found),
        examples={
            name: _examples(next(iter(splits.values())), _pattern(splits, name), options.examples)
            for name, splits in found.items()
        },
        audit=dict(_flat(audit or {})),
        command=public_text(options.command or "\n".join(commands)) or None,
        versions={k: v for facts in made for k, v in (facts.get("versions") or {}).items()},
    )


def _source(configuration: str) -> str:
    return PRIOR if configuration == HYBRID else configuration


def _configuration(name: str, splits: DatasetDict, *, default: bool) -> ConfigurationFacts:
    (made,) = prior_facts({_source(name): made_by(splits, _source(name))})
    first = next(iter(splits.values()))
    priors = [prior for data in splits.values() for prior in data[PRIOR]]
    return ConfigurationFacts(
        name=name,
        default=default,
        prior=made,
        columns={column: _kind(feature) for column, feature in first.features.items()},
        with_prior=sum(prior is not None for prior in priors),
        rows=len(priors),
    )


def _kind(feature: Any) -> str:
    """The type of a column in a few words."""
    if hasattr(feature, "names"):
        return f"label, {len(feature.names)} classes"
    inner = getattr(feature, "feature", None)
    return (
        f"list of {_kind(inner)}" if inner is not None else str(getattr(feature, "dtype", feature))
    )


def _pattern(splits: DatasetDict, name: str) -> str:
    return str(made_by(splits, _source(name)).get("word_pattern", WORD_PATTERN))


def _examples(data: Dataset, pattern: str, count: int) -> tuple[ExampleFacts, ...]:
    labels = label_names(data)
    rows = (row for row in data.select_columns([TEXT, LABEL, PRIOR]) if row[PRIOR])
    return tuple(
        ExampleFacts(
            label=labels[row[LABEL]],
            words=tuple(word_strings(row[TEXT], pattern)),
            scores=tuple(row[PRIOR]),
        )
        for row in islice(rows, count)
    )


def _flat(figures: Mapping[str, Any], group: str = "") -> list[tuple[str, float]]:
    """The numbers of a nested mapping, named by the way to them."""
    found: list[tuple[str, float]] = []
    for name, value in figures.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{group}{name}: ")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found.append((group + name, value))
    return found
