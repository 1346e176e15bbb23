"""From the record of a training run to the facts on the card of its model."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from .facts import EvaluationFacts, ExampleFacts, LogFacts, ModelCardFacts, PriorFacts
from .safety import public_id, public_name, public_settings, public_text

RUN_FILE = "run.json"
"""Record of a training run, in the folder of its model."""
EVALUATIONS = "evaluation"
"""Folder beside it, with one JSON a test set."""
_TOLD_ELSEWHERE = {"model", "dataset", "train_split", "eval_split", "seed", "model_revision"}
_NOT_SETTINGS = {"source", "model", "revision", "scorer", "versions", "labels", "command"}


def model_facts(
    run: Mapping[str, Any],
    *,
    name: str,
    adapter: bool = False,
    repo_id: str | None = None,
    evaluations: Mapping[str, Mapping[str, Any]] | None = None,
    records: Iterable[Mapping[str, Any]] = (),
    license: str | None = None,
    language: str | None = None,
) -> ModelCardFacts:
    """The facts of a model's card. What the record does not say stays unknown; local paths stay here.

    Args:
        run: Content of `run.json`, or as much of it as there is.
        name: Name of the model.
        adapter: Whether the weights are those of a PEFT adapter alone.
        repo_id: Where it will be on the Hub.
        evaluations: Name of a result to the content of `evaluation/<name>.json`.
        records: Evaluated texts to show as examples, as in `evaluation/<name>.parquet`.
        license: Licence of the model, as the Hub spells it.
        language: Language of the texts, as the Hub spells it.
    """
    data = run.get("data") or {}
    alignment = run.get("alignment") or {}
    settings = {
        key: value
        for key, value in public_settings(run.get("settings") or {}).items()
        if key not in _TOLD_ELSEWHERE and key not in alignment
    }
    command = run.get("command")
    return ModelCardFacts(
        name=name,
        repo_id=repo_id,
        base_model=public_id(run.get("model")),
        adapter=adapter,
        dataset=public_name(data.get("dataset")),
        dataset_on_hub=public_id(data.get("dataset")) is not None,
        train_split=data.get("train_split"),
        train_rows=data.get("rows"),
        labels=tuple(data.get("labels") or ()),
        language=language,
        license=license,
        priors=tuple(prior for made in data.get("provenance") or () for prior in prior_facts(made)),
        alignment={k: v for k, v in public_settings(alignment).items() if v is not None},
        settings=settings,
        seed=run.get("seed"),
        history=log_facts(run.get("history") or ()),
        evaluations=tuple(
            _known(EvaluationFacts, {**numbers, "name": split})
            for split, numbers in sorted((evaluations or {}).items())
        ),
        examples=tuple(map(_example, records)),
        versions=run.get("versions") or {},
        command=public_text(command) if command else None,
    )


def prior_facts(provenance: Mapping[str, Mapping[str, Any]]) -> tuple[PriorFacts, ...]:
    """How the priors of some sources were made, from a `provenance` cell that was read."""
    return tuple(
        PriorFacts(
            source=source,
            model=_maker(facts),
            settings={
                key: value
                for key, value in public_settings(facts).items()
                if key not in _NOT_SETTINGS and value not in (None, [], {})
            },
        )
        for source, facts in provenance.items()
    )


def log_facts(history: Sequence[Mapping[str, Any]]) -> tuple[LogFacts, ...]:
    """The lines of a `log_history` that tell a training loss."""
    return tuple(_known(LogFacts, line) for line in history if "loss" in line and "step" in line)


def _maker(facts: Mapping[str, Any]) -> str | None:
    """The model that made a prior; "none" where it is known that there was none."""
    return public_name(facts["model"]) if "model" in facts else "none" if facts else None


def _example(record: Mapping[str, Any]) -> ExampleFacts:
    scores = record.get("attributions")
    return ExampleFacts(
        label=str(record["prediction"]),
        gold=str(record["label"]),
        words=tuple(record["words"]),
        scores=None if scores is None else tuple(scores),
    )


def _known(cls: Any, values: Mapping[str, Any]) -> Any:
    """A facts object from those of the values that are its fields."""
    return cls(**{f.name: values[f.name] for f in fields(cls) if f.name in values})
