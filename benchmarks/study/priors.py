"""The prior of each method on the training set of a run: scored once, then fused or made a control.

Scores are kept without the texts (`scores/<sample>/<source>-<hash>.parquet`: a digest of each text, the
prior and its provenance), so that they can be committed and no language model is asked again.
"""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from datasets import Dataset

from benchmarks.study.samples import load_texts, short_hash, training_texts
from benchmarks.study.settings import BASELINE, CEILING, DERIVED, RIVALS, SEQUENCE, Run, StudySettings
from benchmarks.study.train import reference_model, training_settings
from hf_cap.data import read_parquet
from hf_cap.errors import DataError
from hf_cap.lm.base import LMSettings
from hf_cap.priors.base import source_class
from hf_cap.priors.classifier import ClassifierSource
from hf_cap.priors.fusion import Method, fuse_priors
from hf_cap.priors.keywords import CONTROLS, KeywordsPrior, with_control
from hf_cap.priors.language_model import SIGNS, LanguageModelSource
from hf_cap.schema import LABEL, PROVENANCE, TEXT, WORDS, check_prior, prior_column
from hf_cap.utils import atomic_path, fingerprint
from hf_cap.words import word_strings

HYBRIDS: dict[str, Method] = {"hybrid_mean": "mean", "hybrid_max": "max"}


def sources_of(settings: StudySettings, method: str) -> tuple[str, ...]:
    """The prior sources that a method is made from; none for `none`."""
    if method in (BASELINE, SEQUENCE, *DERIVED, *RIVALS):
        return ()
    if method == "shuffled":
        return sources_of(settings, settings.control_of)
    if method in HYBRIDS:
        return settings.hybrid
    return ("word_length",) if method in CONTROLS else (method,)


def check_methods(settings: StudySettings) -> None:
    """Check that every method can be made, before anything is trained.

    Raises:
        ConfigError: there is no such source.
    """
    for method in settings.methods:
        for source in sources_of(settings, method):
            if source != CEILING:
                source_class(source)


def explains_classifier(source: str) -> bool:
    """Whether a source explains a trained classifier."""
    return source != CEILING and issubclass(source_class(source), ClassifierSource)


def source_options(settings: StudySettings, source: str) -> dict[str, Any]:
    """The settings of `extraction` that a source has; those under its own name win."""
    if source == CEILING:
        return {}
    cls = source_class(source)
    known = {item.name for item in fields(cls)}
    if issubclass(cls, LanguageModelSource):
        known |= {item.name for item in fields(LMSettings)}
    shared = {name: value for name, value in settings.extraction.items() if name in known}
    return shared | dict(settings.extraction.get(source, {}))


def prior_facts(settings: StudySettings, run: Run) -> dict[str, Any]:
    """What decides the prior of a run, given its texts."""
    if not sources_of(settings, run.method):
        return {}
    sources = sources_of(settings, run.method)
    facts: dict[str, Any] = {source: _facts(settings, run, source) for source in sources}
    if run.method == "shuffled":
        facts["control_of"] = settings.control_of
    return {**facts, "sign": settings.sign, "normalisation": settings.normalisation}


def _facts(settings: StudySettings, run: Run, source: str) -> dict[str, Any]:
    facts = source_options(settings, source)
    if explains_classifier(source):
        facts["reference"] = {**training_settings(settings, replace(run, method=BASELINE)), "seed": 0}
    return facts


def with_prior(settings: StudySettings, run: Run) -> Dataset:
    """The training set of a run with the column `prior` of its method; without one for `none`."""
    texts = training_texts(settings, run)
    if not sources_of(settings, run.method):
        return texts
    sources = sources_of(settings, run.method)
    for source in sources:
        scores = source_scores(settings, run, source)
        kept = [None if row is None else [*map(SIGNS[settings.sign], row)] for row in scores]  # type: ignore[index]
        texts = texts.add_column(prior_column(source), kept)
    words = [word_strings(text, settings.word_pattern) for text in texts[TEXT]]
    base = settings.control_of if run.method == "shuffled" else run.method
    fused = fuse_priors(
        texts.add_column(WORDS, words),
        sources,
        method=HYBRIDS.get(base, "mean"),
        normalisation=settings.normalisation,
    )
    control = run.method if run.method in CONTROLS else None
    return fused if control is None else with_control(fused, control, seed=run.draw)


def source_scores(settings: StudySettings, run: Run, source: str) -> list[list[float] | None]:
    """Scores of a source for the training set of a run, computed once per sample.

    Raises:
        DataError: the stored scores belong to other texts.
        PriorError: they belong to other words.
    """
    texts = training_texts(settings, run)
    if source == CEILING:
        return oracle_scores(settings, run, texts)
    stamp = short_hash([load_texts(settings, run.dataset).digest, _facts(settings, run, source)])
    folder = Path(settings.output_dir) / "scores" / run.sample_folder
    file = folder / f"{source}-{stamp}.parquet"
    if not file.exists():
        _write_scores(file, _make_source(settings, run, source), texts)
    stored = read_parquet(file)
    if stored["digest"][:] != [fingerprint(text) for text in texts[TEXT]]:
        raise DataError(
            f"The scores in {str(file)!r} belong to other texts than the {len(texts)} of this sample. "
            "Remove the file to compute them again."
        )
    scores: list[list[float] | None] = stored[prior_column(source)][:]
    for row, (prior, text) in enumerate(zip(scores, texts[TEXT], strict=True)):
        words = word_strings(text, settings.word_pattern)
        check_prior(prior, words, column=prior_column(source), row=row)
    return scores


def _make_source(settings: StudySettings, run: Run, source: str) -> Any:
    cls, options = source_class(source), source_options(settings, source)
    if issubclass(cls, LanguageModelSource):
        names = {item.name for item in fields(LMSettings)}
        model = {name: options.pop(name) for name in names if name in options}
        # every score is kept: which of them count is decided when a method's prior is made
        options |= {"model": LMSettings(**model), "sign": "signed"}
    if explains_classifier(source):
        options["classifier"] = reference_model(settings, run)
    texts = training_texts(settings, run)
    return cls.from_dataset(texts, word_pattern=settings.word_pattern, **options)


def _write_scores(file: Path, source: Any, texts: Dataset) -> None:
    scored = texts.map(source, batched=True, batch_size=64, load_from_cache_file=False)
    columns = scored.select_columns([prior_column(source.name), PROVENANCE])
    with atomic_path(file) as path:
        columns.add_column("digest", [fingerprint(text) for text in texts[TEXT]]).to_parquet(str(path))


def oracle_scores(settings: StudySettings, run: Run, texts: Dataset) -> list[list[float] | None]:
    """Log-odds of each word for the gold label in the whole training split: a ceiling."""
    source = KeywordsPrior.from_dataset(
        load_texts(settings, run.dataset).train, statistic="log_odds", word_pattern=settings.word_pattern
    )
    scored = source(texts.select_columns([TEXT, LABEL])[:])
    return list(scored[prior_column(source.name)])


def with_oracle(settings: StudySettings, run: Run, texts: Dataset) -> Dataset:
    """Texts with the column `prior_oracle`, to compare explanations with."""
    return texts.add_column(prior_column(CEILING), oracle_scores(settings, run, texts))
