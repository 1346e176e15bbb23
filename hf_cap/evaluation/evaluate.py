"""Evaluate a sequence classifier: accuracy, faithfulness of its attributions, agreement with a prior."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hf_cap.errors import ConfigError, DataError
from hf_cap.evaluation.metrics import (
    PERCENTAGES,
    SOFT_SAMPLES,
    FloatArray,
    ScoredTexts,
    SoftDistance,
    comprehensiveness,
    cosine,
    soft_nc,
    soft_ns,
    sufficiency,
)
from hf_cap.schema import LABEL, PRIOR, TEXT, AttributionMethod, check_prior
from hf_cap.utils import check_choices, check_range, documented, option
from hf_cap.words import WORD_PATTERN, word_strings

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from hf_cap.evaluation.classifier import Classifier

WordScores: TypeAlias = list[list[float]]
Explain: TypeAlias = Callable[[list[str], list[int]], WordScores]
"""Texts and classes to word attributions."""
Prior: TypeAlias = Sequence[float] | None


@documented
@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """What `evaluate_classifier` measures, and how."""

    faithfulness: bool = option(
        True, "Measure comprehensiveness and sufficiency: one attribution and some passes per text."
    )
    percentages: tuple[int, ...] = option(
        PERCENTAGES,
        "Sizes of the rationale in percent of the words, in (0, 100]; the metrics are their mean.",
    )
    soft: bool = option(False, "Measure Soft-NC and Soft-NS too.")
    soft_samples: int = option(
        SOFT_SAMPLES, "Random embedding masks per text for the soft metrics; at least 1."
    )
    soft_distance: SoftDistance = option(
        "probability",
        "What soft erasure moves: `probability` of the predicted class (arXiv 2305.10496) or the "
        "`hellinger` distance of the whole output (arXiv 2402.00794).",
    )
    prior_column: str = option(
        PRIOR, "Column with the prior for the alignment; rows without one are left out."
    )
    attribution_method: AttributionMethod = option(
        "integrated_gradients", "Attribution of the classifier that is evaluated."
    )
    attribution_steps: int = option(20, "Path points of Integrated Gradients; at least 1.")
    batch_size: int = option(32, "Texts per forward pass; changes the speed, not the result.")
    max_length: int | None = option(
        None, "Longest input in tokens; by default what tokenizer and model allow."
    )
    word_pattern: str = option(
        WORD_PATTERN, "Regular expression of a word; the one the prior was made with."
    )
    records: bool = option(
        False, "Keep one record per text (prediction, probabilities, attributions)."
    )
    seed: int = option(0, "Seed of the random masks of the soft metrics.")

    def __post_init__(self) -> None:
        check_choices(self)
        check_range(self, "soft_samples", "attribution_steps", "batch_size", at_least=1)
        if not self.percentages or not all(0 < percent <= 100 for percent in self.percentages):
            raise ConfigError(
                f"`percentages` must be whole numbers in (0, 100], got {self.percentages!r}."
            )


@dataclass(frozen=True, slots=True)
class Record:
    """One evaluated text.

    `probabilities` are in the order of the model's labels and sum to 1, `attributions` (of the
    predicted class) and `prior` (of the gold class; `None` where the text has none) are per word.
    """

    text: str
    label: str
    prediction: str
    probabilities: tuple[float, ...]
    words: tuple[str, ...]
    attributions: tuple[float, ...] | None
    prior: tuple[float, ...] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """The results of `evaluate_classifier`. A number that was not measured is `None`.

    Attributes:
        texts: Number of texts.
        accuracy: Share of texts predicted right, in [0, 1].
        macro_f1: Unweighted mean of F1 over the labels that occur as gold or predicted, in [0, 1].
        comprehensiveness: Mean over texts, in [-1, 1]; higher is better.
        sufficiency: Mean over texts, in [-1, 1]; lower is better.
        soft_nc: Mean over the texts where it is defined, in [0, 1]; higher is better.
        soft_ns: Likewise.
        alignment: Mean cosine between the gold class's word attributions and the prior, in [-1, 1].
        alignment_texts: Texts that have a prior which is not all zero.
        labels: Label names in the order of `Record.probabilities`.
        records: One per text, where asked for.
    """

    texts: int
    accuracy: float
    macro_f1: float
    comprehensiveness: float | None = None
    sufficiency: float | None = None
    soft_nc: float | None = None
    soft_ns: float | None = None
    alignment: float | None = None
    alignment_texts: int = 0
    labels: tuple[str, ...] = ()
    records: tuple[Record, ...] = dataclasses.field(default=(), repr=False)

    def to_dict(self) -> dict[str, Any]:
        """The numbers and records as plain JSON values."""
        return dataclasses.asdict(self)


def evaluate_classifier(
    model: "PreTrainedModel | str",
    tokenizer: "PreTrainedTokenizerBase | str | None",
    dataset: "Dataset",
    settings: EvaluationSettings | None = None,
) -> Evaluation:
    """Evaluate a sequence classifier on labelled texts.

    Faithfulness explains the *predicted* class, alignment the *gold* one, as in training.

    Args:
        model: A loaded model, or a folder, Hub id or `embedded/...` name.
        tokenizer: Its tokenizer or where that is; `None` for the one beside the model.
        dataset: Columns `text` and `label` (a `ClassLabel`, or label names), and perhaps a prior.
        settings: What to measure; the defaults of `EvaluationSettings` if not given.

    Raises:
        DataError: a column is missing, there is no row, or a label is not one of the model's.
        PriorError: a prior does not fit its text.
        ModelError: the model or tokenizer cannot be loaded or used.
    """
    from sklearn.metrics import f1_score

    from hf_cap.evaluation.classifier import load_classifier

    settings = settings or EvaluationSettings()
    classifier = load_classifier(
        model, tokenizer, batch_size=settings.batch_size, max_length=settings.max_length
    )
    gold, texts = _gold_labels(dataset, classifier.labels), list(dataset[TEXT])
    priors, explain = _priors(dataset, texts, settings), _explainer(classifier, settings)
    probabilities = classifier(texts)
    predicted = probabilities.argmax(axis=1)
    measured: dict[str, Any] = {}
    attributions: WordScores = []
    if settings.faithfulness or settings.soft or settings.records:
        attributions = explain(texts, predicted.tolist())
        scored = ScoredTexts(texts, predicted.tolist(), attributions, settings.word_pattern)
        measured |= _faithfulness(classifier, scored, settings)
    right = set(np.flatnonzero(predicted == gold)) if attributions else set()
    measured |= _alignment(explain, texts, gold, {row: attributions[row] for row in right}, priors)
    if settings.records:
        measured["records"] = tuple(
            Record(
                text,
                classifier.labels[gold[row]],
                classifier.labels[predicted[row]],
                tuple(probabilities[row].tolist()),
                tuple(word_strings(text, settings.word_pattern)),
                tuple(attributions[row]),
                None if priors[row] is None else tuple(priors[row]),
            )
            for row, text in enumerate(texts)
        )
    return Evaluation(
        texts=len(texts),
        accuracy=float(np.mean(predicted == gold)),
        macro_f1=float(f1_score(gold, predicted, average="macro", zero_division=0.0)),
        labels=tuple(classifier.labels),
        **measured,
    )


def _gold_labels(dataset: "Dataset", labels: Sequence[str]) -> NDArray[np.intp]:
    """Gold label of each row as an index into the model's `labels`, matched by name."""
    from datasets import ClassLabel

    if missing := {TEXT, LABEL} - set(dataset.column_names):
        raise DataError(
            f"Evaluation needs the columns {sorted(missing)}; the data set has {dataset.column_names}."
        )
    if len(dataset) == 0:
        raise DataError("The data set to evaluate on has no rows.")
    feature = dataset.features[LABEL]
    by_number = isinstance(feature, ClassLabel)
    names = [feature.names[i] if by_number else str(i) for i in dataset[LABEL]]
    space = feature.names if by_number else list(dict.fromkeys(names))
    if unknown := [name for name in space if name not in labels]:
        raise DataError(
            f"The model does not have {len(unknown)} of the data set's {len(space)} labels: "
            f"{unknown[:5]!r}; its own are {list(labels)[:5]!r}... Set `id2label` of the model's config, "
            "or evaluate on data with its labels."
        )
    return np.array([labels.index(name) for name in names], dtype=np.intp)


def _priors(dataset: "Dataset", texts: Sequence[str], settings: EvaluationSettings) -> list[Prior]:
    """The prior of each row; `None` where there is none, or it is all zero."""
    column = settings.prior_column
    if column not in dataset.column_names:
        return [None] * len(texts)
    priors: list[Prior] = list(dataset[column])
    for row, (text, prior) in enumerate(zip(texts, priors, strict=True)):
        check_prior(prior, word_strings(text, settings.word_pattern), column=column, row=row)
    return [prior if prior is not None and any(prior) else None for prior in priors]


def _explainer(classifier: "Classifier", settings: EvaluationSettings) -> Explain:
    from hf_cap.attribution import attribute_words

    return partial(
        attribute_words,
        classifier.model,
        classifier.tokenizer,
        method=settings.attribution_method,
        steps=settings.attribution_steps,
        batch_size=settings.batch_size,
        word_pattern=settings.word_pattern,
        max_length=classifier.max_length,
    )


def _faithfulness(
    classifier: "Classifier", scored: ScoredTexts, settings: EvaluationSettings
) -> dict[str, float | None]:
    values: dict[str, FloatArray] = {}
    if settings.faithfulness:
        values["comprehensiveness"] = comprehensiveness(classifier, scored, settings.percentages)
        values["sufficiency"] = sufficiency(classifier, scored, settings.percentages)
    if settings.soft:
        soft = (settings.soft_samples, settings.soft_distance, settings.seed)
        values["soft_nc"] = soft_nc(classifier, scored, *soft)
        values["soft_ns"] = soft_ns(classifier, scored, *soft)
    return {name: mean_defined(value) for name, value in values.items()}


def mean_defined(values: FloatArray) -> float | None:
    """Mean over the values that are not NaN; `None` where there is none."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else None


def _alignment(
    explain: Explain,
    texts: Sequence[str],
    gold: NDArray[np.intp],
    known: Mapping[int, Sequence[float]],
    priors: Sequence[Prior],
) -> dict[str, Any]:
    """Mean cosine with the prior; `known` are the gold class's attributions that exist already."""
    references = {row: prior for row, prior in enumerate(priors) if prior is not None}
    if not references:
        return {}
    scores = dict(known)
    if missing := [row for row in references if row not in scores]:
        found = explain([texts[row] for row in missing], gold[missing].tolist())
        scores.update(zip(missing, found, strict=True))
    cosines = [cosine(scores[row], prior) for row, prior in references.items()]
    return {"alignment": float(np.mean(cosines)), "alignment_texts": len(references)}
