"""The prior of each method on the training set of a cell: extracted once, then fused or made a control."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from datasets import Dataset

from benchmarks.study.bench import Bench
from benchmarks.study.choices import training_settings
from benchmarks.study.claims import claim
from benchmarks.study.scores import scores_file, with_scores, write_scores
from benchmarks.study.students import reference_cell, reference_model
from benchmarks.study.texts import (
    data_folder,
    kept,
    load_texts,
    of_words,
    short_hash,
    training_texts,
)
from hf_cap.data import load_splits, save_splits
from hf_cap.errors import ConfigError
from hf_cap.evaluation.results import BASELINE, CEILING, Cell
from hf_cap.lm.base import LMSettings
from hf_cap.priors.base import source_class
from hf_cap.priors.classifier import ClassifierSource
from hf_cap.priors.extract import Busy, extract_priors, help_extraction
from hf_cap.priors.fusion import METHODS, fuse_priors
from hf_cap.priors.keywords import CONTROLS, KeywordsPrior, with_control
from hf_cap.priors.language_model import SIGNS
from hf_cap.priors.prompts import ExtractionSettings
from hf_cap.schema import (
    CONTROL_PRIORS,
    LABEL,
    PROVENANCE,
    TEXT,
    WORDS,
    add_provenance,
    prior_column,
    read_provenance,
)

_logger = logging.getLogger(__name__)

_SPLIT = "train"
HYBRIDS = {f"hybrid_{how}": how for how in METHODS}
_WITHOUT_SCORES = "word_length"
"""What the controls that look at no score are made from: it scores every word."""


def sources_of(bench: Bench, method: str) -> tuple[str, ...]:
    """The prior sources that a method is made from; none for `none`."""
    if method == BASELINE:
        return ()
    if method == "shuffled":
        return sources_of(bench, bench.settings.control_of)
    if method in HYBRIDS:
        return bench.settings.hybrid
    return (_WITHOUT_SCORES,) if method in CONTROLS else (method,)


def check_methods(bench: Bench) -> None:
    """See that every method can be made, before anything is trained for one of them.

    Raises:
        ConfigError: a method, or a source of a hybrid, does not exist, or `control_of` has no scores.
    """
    settings = bench.settings
    if settings.control_of in (BASELINE, *CONTROL_PRIORS):
        raise ConfigError(
            f"`control_of` is {settings.control_of!r}, which has no scores to shuffle. Name a method with a "
            "prior, such as 'cap'."
        )
    for method in settings.methods:
        for source in sources_of(bench, method):
            if source != CEILING:
                source_class(source)


def explained_sources(bench: Bench, methods: Iterable[str]) -> set[str]:
    """The sources of some methods that explain a reference classifier."""
    sources = {source for method in methods for source in sources_of(bench, method)}
    return {source for source in sources if _explains(source)}


def prior_facts(bench: Bench, cell: Cell) -> dict[str, Any]:
    """What decides the prior of a cell, given its texts."""
    if cell.method == BASELINE:
        return {}
    sources = sources_of(bench, cell.method)
    facts: dict[str, Any] = {source: _source_facts(bench, cell, source) for source in sources}
    if cell.method == "shuffled":
        facts["control_of"] = bench.settings.control_of
    return {**facts, "sign": bench.settings.sign, "normalisation": bench.settings.normalisation}


def with_prior(bench: Bench, cell: Cell) -> Dataset:
    """The training set of a cell with the column `prior` of its method; without one for `none`.

    Raises:
        Busy: another process is making what is needed.
        ConfigError: there is no such method.
    """
    settings = bench.settings
    if cell.method == BASELINE:
        return training_texts(settings, cell)
    sources = sources_of(bench, cell.method)
    data = _joined([scored(bench, cell, source) for source in sources], sources)
    base = settings.control_of if cell.method == "shuffled" else cell.method
    fused = fuse_priors(
        data.map(_with_sign, batched=True, fn_kwargs={"sign": settings.sign, "sources": sources}),
        sources,
        method=HYBRIDS.get(base, "mean"),
        normalisation=settings.normalisation,
    )
    control = next((name for name in CONTROLS if name == cell.method), None)
    return fused if control is None else with_control(fused, control, seed=cell.draw)


def scored(bench: Bench, cell: Cell, source: str) -> Dataset:
    """The training set of a cell's regime and draw with the column of one source, extracted once.

    Where only its scores are there, they are put beside the texts again.

    Raises:
        Busy: another process is extracting it.
        ConfigError: there is no such source.
        DataError: the scores that are there are of other texts.
        PriorError: they are of other words.
    """
    settings = bench.settings
    texts = training_texts(settings, cell)
    facts = _source_facts(bench, cell, source)
    name = f"{source}-{short_hash([load_texts(settings, cell.dataset).digest, facts])}"
    target = data_folder(settings, cell) / "priors" / name
    if source == CEILING:
        return kept(settings.room, target, lambda: oracle(bench, cell, texts))
    file = scores_file(settings, cell, name)
    if not target.exists():
        _make(bench, cell, source, texts, file, target)
    data = load_splits(target)[_SPLIT]
    if not file.exists():
        write_scores(file, data, source)
    return data


def _make(
    bench: Bench, cell: Cell, source: str, texts: Dataset, scores: Path, target: Path
) -> None:
    """Write the texts with the column of a source to `target`: scores that are there, else extracted ones.

    Raises:
        Busy: another process does, and nothing is left to help with.
    """
    room = bench.settings.room
    if scores.exists():
        with claim(room, target):
            if not target.exists():
                found = with_scores(scores, texts, source, bench.settings.word_pattern)
                save_splits({_SPLIT: found}, target)
        return
    reference = reference_model(bench, cell) if _explains(source) else None
    made = bench.make_source(source, texts, reference)
    extraction = {_SPLIT: texts}, [made], target, ExtractionSettings(chunk_size=16)
    try:
        with claim(room, target):
            if not target.exists():
                extract_priors(*extraction, shared=True)
    except Busy:
        if helped := help_extraction(*extraction):
            _logger.info("%s: helped another process with %d texts.", source, helped)
        raise


def oracle(bench: Bench, cell: Cell, texts: Dataset) -> Dataset:
    """Texts with the prior `oracle`: log-odds of each word for the gold label in the whole training split."""
    source = KeywordsPrior.from_dataset(
        load_texts(bench.settings, cell.dataset).train,
        statistic="log_odds",
        word_pattern=bench.settings.word_pattern,
    )
    made = source(texts.select_columns([TEXT, LABEL])[:])
    columns = {WORDS: made[WORDS], prior_column(CEILING): made[prior_column(source.name)]}
    columns[PROVENANCE] = [
        add_provenance(None, CEILING, read_provenance(cell)[source.name])
        for cell in made[PROVENANCE]
    ]
    for name, values in columns.items():
        texts = texts.add_column(name, values)
    return texts


def _explains(source: str) -> bool:
    return source != CEILING and issubclass(source_class(source), ClassifierSource)


def _source_facts(bench: Bench, cell: Cell, source: str) -> dict[str, Any]:
    """Those of the extraction's settings that a source has, and how its reference is trained."""
    if source == CEILING:
        return of_words(bench.settings)
    names = {item.name for item in fields(source_class(source))}
    if "model" in names:
        names |= {item.name for item in fields(LMSettings)}
    facts: dict[str, Any] = {
        name: value for name, value in bench.settings.extraction.items() if name in names
    }
    if _explains(source):
        wanted = reference_cell(cell)
        facts["reference"] = {**training_settings(bench, wanted), "seed": wanted.seed}
    return facts


def _joined(parts: Sequence[Dataset], sources: Sequence[str]) -> Dataset:
    """One data set with the columns of several over the same texts."""
    whole, *others = parts
    for other in others:
        for name in (n for n in other.column_names if n not in whole.column_names):
            whole = whole.add_column(name, other[name][:], feature=other.features[name])
    cells = [
        {source: read_provenance(cell)[source] for source, cell in zip(sources, row, strict=True)}
        for row in zip(*(part[PROVENANCE] for part in parts), strict=True)
    ]
    merged = [_cell(facts) for facts in cells]
    return whole.remove_columns(PROVENANCE).add_column(PROVENANCE, merged)


def _cell(facts: Mapping[str, Mapping[str, Any]]) -> str | None:
    cell = None
    for source, entry in facts.items():
        cell = add_provenance(cell, source, entry)
    return cell


def _with_sign(
    batch: Mapping[str, list[Any]], sign: str, sources: Sequence[str]
) -> dict[str, list[Any]]:
    kept_part = SIGNS[sign]  # type: ignore[index]
    return {
        prior_column(source): [
            None if scores is None else [kept_part(score) for score in scores]
            for scores in batch[prior_column(source)]
        ]
        for source in sources
    }
