"""A data set with prior columns as the configurations that are published: one a source, and the fused one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, DatasetInfo
from huggingface_hub import metadata_load

from ..cards.safety import public_name, public_settings
from ..data import load_splits, prior_sources, read_parquet
from ..errors import DataError, PriorError
from ..schema import (
    LABEL,
    PRIOR,
    PROVENANCE,
    TEXT,
    WORDS,
    add_provenance,
    diagnostic_column,
    prior_column,
    read_provenance,
)

HYBRID = "hybrid"
"""Configuration of the fused prior. It has every column, so that other fusions can be made from it."""


def configurations(splits: Mapping[str, Dataset]) -> dict[str, DatasetDict]:
    """Configuration name to splits, the default one and the split `train` first. Each has a column `prior`.

    Raises:
        PriorError: there is no prior column, or the splits have different columns.
    """
    splits = dict(sorted(splits.items(), key=lambda item: item[0] != "train"))
    columns = next(iter(splits.values())).features
    for split, data in splits.items():
        if set(data.column_names) != set(columns):
            raise PriorError(
                f"All splits of a prior data set have the same columns, but {split!r} has "
                f"{sorted(data.column_names)} and another one {sorted(columns)}. "
                "Extract the priors of every split."
            )
    sources = prior_sources(columns)
    if PRIOR not in columns and not sources:
        raise PriorError(
            f"There is no prior to publish: no column 'prior' or 'prior_<source>' among {sorted(columns)}. "
            "Run `hf-cap extract` first."
        )
    found = {}
    if PRIOR in columns:
        found[HYBRID] = DatasetDict({name: _public(data) for name, data in splits.items()})
    for source in sources:
        found[source] = DatasetDict(
            {name: _of_source(data, source) for name, data in splits.items()}
        )
    return found


def write_configurations(found: Mapping[str, DatasetDict], folder: Path) -> None:
    """Write `<configuration>/<split>.parquet`."""
    for name, splits in found.items():
        (folder / name).mkdir(parents=True)
        for split, data in splits.items():
            data.to_parquet(str(folder / name / f"{split}.parquet"))


def read_configuration(folder: Path, name: str | None = None) -> DatasetDict:
    """Splits of one configuration of a staged folder, as its files are now.

    Args:
        folder: The folder; one without a card holds one file a split, and no configurations.
        name: The configuration; the default one if not given.

    Raises:
        DataError: there is no such configuration.
    """
    card = folder / "README.md"
    configs = ((metadata_load(card) or {}) if card.exists() else {}).get("configs", [])
    if not configs and name is None:
        return load_splits(folder)
    chosen = [
        one
        for one in configs
        if (one.get("default") if name is None else one["config_name"] == name)
    ]
    if not chosen:
        raise DataError(
            f"The folder {str(folder)!r} has no configuration {name!r}; it has "
            f"{[one['config_name'] for one in configs]}."
        )
    files = {part["split"]: folder / part["path"] for part in chosen[0]["data_files"]}
    return DatasetDict({split: read_parquet(file) for split, file in files.items()})


def configs_metadata(found: Mapping[str, DatasetDict]) -> tuple[dict[str, Any], ...]:
    """The `configs` entry of the card: which file is which split of which configuration."""
    default = next(iter(found))
    return tuple(
        {
            "config_name": name,
            **({"default": True} if name == default else {}),
            "data_files": [{"split": s, "path": f"{name}/{s}.parquet"} for s in splits],
        }
        for name, splits in found.items()
    )


def info_metadata(found: Mapping[str, DatasetDict]) -> tuple[dict[str, Any], ...]:
    """The `dataset_info` entry of the card: the typed features of each configuration."""
    features = {name: next(iter(splits.values())).features for name, splits in found.items()}
    return tuple(
        {"config_name": name, **DatasetInfo(features=kinds)._to_yaml_dict()}
        for name, kinds in features.items()
    )


def made_by(splits: Mapping[str, Dataset], source: str) -> dict[str, Any]:
    """Facts of how the prior of a source (or `prior`, the fusion) was made; empty where none tell."""
    for data in splits.values():
        if PROVENANCE in data.column_names:
            for cell in data.unique(PROVENANCE):
                if facts := read_provenance(cell).get(source):
                    return facts
    return {}


def _of_source(data: Dataset, source: str) -> Dataset:
    prefix = diagnostic_column(source, "")
    diagnostics = [column for column in data.column_names if column.startswith(prefix)]
    wanted = [TEXT, LABEL, WORDS, prior_column(source), *diagnostics, PROVENANCE]
    kept = data.select_columns([column for column in wanted if column in data.column_names])
    return _public(kept.rename_column(prior_column(source), PRIOR), (source,))


def _public(data: Dataset, sources: tuple[str, ...] = ()) -> Dataset:
    """The data set with provenance of these sources (of all by default), without local paths."""
    if PROVENANCE not in data.column_names:
        return data
    cells = {cell: _public_cell(cell, sources) for cell in data.unique(PROVENANCE)}
    return data.map(
        lambda batch: {PROVENANCE: [cells[cell] for cell in batch[PROVENANCE]]},
        batched=True,
        features=data.features,
        load_from_cache_file=False,
    )


def _public_cell(cell: str | None, sources: tuple[str, ...]) -> str | None:
    public = None
    for source, facts in read_provenance(cell).items():
        if not sources or source in sources:
            named = {"model": public_name(facts["model"])} if "model" in facts else {}
            public = add_provenance(public, source, {**public_settings(facts), **named})
    return public
