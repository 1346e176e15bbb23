"""A data set with priors as it is published: one configuration per source, the fused one, and the card."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from datasets import Dataset, DatasetDict
from huggingface_hub import DatasetCardData

from hf_cap import cards, schema
from hf_cap.cards import PushOptions
from hf_cap.data import label_names
from hf_cap.errors import ConfigError, DataError, PriorError
from hf_cap.parquet import write_parquet
from hf_cap.utils import file_name
from hf_cap.words import WORD_PATTERN, word_strings

HYBRID = "hybrid"
"""Configuration of the fused prior. It has every column, so that other fusions can be made from it."""


def write_prior_dataset(
    folder: Path, splits: Mapping[str, Dataset], options: PushOptions, audit: Mapping[str, Any] | None = None
) -> None:
    """Write `<configuration>/<split>.parquet` and the card into an empty folder."""
    found = configurations(splits)
    for name, parts in found.items():
        (folder / name).mkdir()
        for split, data in parts.items():
            write_parquet(data, folder / name / f"{split}.parquet")
    card = cards.render_card(prior_dataset_facts(found, options, audit), options.template)
    (folder / cards.CARD).write_text(card, encoding="utf-8")


def configurations(splits: Mapping[str, Dataset]) -> dict[str, DatasetDict]:
    """Configuration name to splits, the default one and `train` first. Each has a column `prior`."""
    splits = dict(sorted(splits.items(), key=lambda item: item[0] != "train"))
    columns = next(iter(splits.values())).features
    if schema.TEXT not in columns:
        raise DataError(f"There is no column {schema.TEXT!r}, but {sorted(columns)}.")
    label_names(next(iter(splits.values())))
    names = [HYBRID] * (schema.PRIOR in columns) + schema.prior_sources(columns)
    if not names:
        raise PriorError(
            f"There is no prior to publish: no column 'prior' or 'prior_<source>' among {sorted(columns)}. "
            "Run `hf-cap extract` first."
        )
    for name in map(file_name, schema.prior_sources(columns)):
        if name in (HYBRID, cards.CARD):
            raise ConfigError(
                f"A published data set has another {name!r}; rename the column {schema.prior_column(name)!r}."
            )
    for split, data in splits.items():
        file_name(split)
        if set(data.column_names) != set(columns):
            raise PriorError(
                f"All splits need the same columns, but {split!r} has {sorted(data.column_names)} and "
                f"another one {sorted(columns)}. Extract the priors of every split."
            )
    return {
        name: DatasetDict({split: _configuration(data, name) for split, data in splits.items()})
        for name in names
    }


def _configuration(data: Dataset, name: str) -> Dataset:
    """The columns of one configuration, with the public part of its provenance."""
    if name != HYBRID:
        column, prefix = schema.prior_column(name), schema.diagnostic_column(name, "")
        diagnostics = [one for one in data.column_names if one.startswith(prefix)]
        wanted = [schema.TEXT, schema.LABEL, schema.WORDS, column, *diagnostics, schema.PROVENANCE]
        data = data.select_columns([one for one in wanted if one in data.column_names])
        data = data.rename_column(column, schema.PRIOR)
    if schema.PROVENANCE not in data.column_names:
        return data
    public: dict[str | None, str | None] = {}
    for cell in data.unique(schema.PROVENANCE):
        public[cell] = None
        for source, made in schema.read_provenance(cell).items():
            if name in (HYBRID, source):
                public[cell] = schema.add_provenance(public[cell], source, cards.public_provenance(made))
    return data.map(
        lambda batch: {schema.PROVENANCE: [public[cell] for cell in batch[schema.PROVENANCE]]},
        batched=True,
        features=data.features,
        load_from_cache_file=False,
    )


def prior_dataset_facts(
    found: Mapping[str, DatasetDict], options: PushOptions, audit: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The facts of the card of a data set with priors.

    Args:
        found: Its `configurations`, the default one first.
        options: Where it goes, and how it is described there.
        audit: Figures of `hf-cap audit`; numbers in nested groups are named `group: figure`.

    Returns:
        `name`, `repo_id`, `source_dataset`, `license`, `language`, `labels`, `splits` (split to rows),
        `audit` (figure to value), `command`, `versions`, and `configurations`: each with `name`, `source`,
        `model`, `settings`, `rows`, `with_prior`, `columns` and `examples` (`label`, `words`, `scores`).
    """
    splits = next(iter(found.values()))
    made = {name: _made_by(parts, name) for name, parts in found.items()}
    commands = dict.fromkeys(one["command"] for one in made.values() if one.get("command"))
    (figures,) = pd.json_normalize(dict(audit or {}), sep=": ").to_dict("records") or [{}]
    shown = 3 if options.examples is None else options.examples
    facts = {
        "template": "priors.md.jinja",
        **options.named(),
        "source_dataset": cards.public_name(options.source_dataset),
        "labels": next(iter(splits.values())).features[schema.LABEL].names,
        "splits": {split: len(data) for split, data in splits.items()},
        "audit": {k: v for k, v in figures.items() if isinstance(v, int | float)},
        "command": cards.public_text("\n".join(commands)) or None,
        "versions": {k: v for one in made.values() for k, v in (one.get("versions") or {}).items()},
        "configurations": [
            _configuration_facts(name, parts, made[name], shown) for name, parts in found.items()
        ],
    }
    return {**facts, "metadata": _metadata(facts, cards.public_id(options.source_dataset))}


def _metadata(facts: Mapping[str, Any], source: str | None) -> DatasetCardData:
    """The front matter: tags, and which file is which split of which configuration."""
    rows = sum(facts["splits"].values())
    sizes = {"n<1K": 1e3, "1K<n<10K": 1e4, "10K<n<100K": 1e5, "100K<n<1M": 1e6}
    configs: list[dict[str, Any]] = []
    for name in (one["name"] for one in facts["configurations"]):
        files = [{"split": part, "path": f"{name}/{part}.parquet"} for part in facts["splits"]]
        default = {} if configs else {"default": True}
        configs.append({"config_name": name, **default, "data_files": files})
    return DatasetCardData(
        pretty_name=facts["name"],
        language=facts["language"],
        license=facts["license"],
        source_datasets=[source] if source else None,
        task_categories=["text-classification"],
        size_categories=next((size for size, limit in sizes.items() if rows < limit), "n>1M"),
        tags=[*cards.TAGS, "attribution-priors"],
        configs=configs,
    )


def _made_by(splits: DatasetDict, name: str) -> dict[str, Any]:
    """Provenance of a configuration; empty where there is none."""
    for data in splits.values():
        for cell in data.unique(schema.PROVENANCE) if schema.PROVENANCE in data.column_names else ():
            if made := schema.read_provenance(cell).get(schema.PRIOR if name == HYBRID else name):
                return made
    return {}


def _configuration_facts(
    name: str, splits: DatasetDict, made: Mapping[str, Any], examples: int
) -> dict[str, Any]:
    first = next(iter(splits.values()))
    column, labels = schema.PRIOR if name == HYBRID else schema.prior_column(name), label_names(first)
    pattern, priors = made.get("word_pattern", WORD_PATTERN), []
    shown: list[dict[str, Any]] = []
    for data in splits.values():
        for number, row in enumerate(data):
            words = row.get(schema.WORDS) or word_strings(row[schema.TEXT], pattern)
            schema.check_prior(row[schema.PRIOR], words, column=column, row=number)
            priors.append(row[schema.PRIOR])
            if row[schema.PRIOR] and len(shown) < examples and data is first:
                label = labels[row[schema.LABEL]] if row[schema.LABEL] in range(len(labels)) else None
                shown.append({"label": label, "words": words, "scores": row[schema.PRIOR]})
    (facts,) = cards.prior_facts({schema.PRIOR if name == HYBRID else name: made})
    numbers = {"rows": len(priors), "with_prior": sum(prior is not None for prior in priors)}
    return facts | numbers | {"name": name, "columns": first.column_names, "examples": shown}
