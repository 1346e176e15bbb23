"""Settings of `evaluate_classifier`; torch-free, so that `hf-cap evaluate --help` is instant."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np
from datasets import ClassLabel, Dataset
from numpy.typing import NDArray
from sklearn.metrics import f1_score
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_cap.attribution import attribute_words
from hf_cap.errors import ConfigError, DataError
from hf_cap.evaluation.metrics import (
    Classifier,
    FloatArray,
    SoftDistance,
    comprehensiveness,
    cosine,
    load_classifier,
    soft_nc,
    soft_ns,
    sufficiency,
)
from hf_cap.schema import LABEL, PRIOR, TEXT, AttributionMethod, check_prior
from hf_cap.utils import check_choices, check_range, documented, option
from hf_cap.words import WORD_PATTERN, word_strings

"""How far soft erasure moves the output; `soft.DISTANCES` holds one function for each."""


@documented
@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """What `evaluate_classifier` measures, and how."""

    faithfulness: bool = option(
        True,
        "Measure comprehensiveness and sufficiency; costs one attribution and a few passes a text.",
    )
    percentages: tuple[int, ...] = option(
        (1, 5, 10, 20, 50),
        "Sizes of the rationale in percent of the words, in (0, 100]; the metrics are the mean over them.",
    )
    soft: bool = option(False, "Measure Soft-NC and Soft-NS too.")
    soft_samples: int = option(4, "Random embedding masks a text for the soft metrics; at least 1.")
    soft_distance: SoftDistance = option(
        "probability",
        "What soft erasure moves: `probability` of the predicted class (arXiv 2305.10496) or the "
        "`hellinger` distance of the whole output (arXiv 2402.00794).",
    )
    prior_column: str = option(
        PRIOR,
        "Column with the prior for the alignment; rows without one (or a missing column) are left out.",
    )
    attribution_method: AttributionMethod = option(
        "integrated_gradients", "Attribution of the classifier that is evaluated."
    )
    attribution_steps: int = option(20, "Path points of Integrated Gradients; at least 1.")
    batch_size: int = option(32, "Texts a forward pass; changes the speed, not the result.")
    max_length: int | None = option(
        None, "Longest input in tokens; by default what tokenizer and model allow."
    )
    word_pattern: str = option(
        WORD_PATTERN, "Regular expression of a word; the one the prior was made with."
    )
    records: bool = option(
        False, "Keep one record a text (prediction, probabilities, attributions)."
    )
    seed: int = option(0, "Seed of the random masks of the soft metrics.")

    def __post_init__(self) -> None:
        check_choices(self)
        check_range(self, "soft_samples", "attribution_steps", "batch_size", at_least=1)
        if not self.percentages or not all(0 < percent <= 100 for percent in self.percentages):
            raise ConfigError(
                f"`percentages` must be whole numbers above 0 and at most 100, got {self.percentages!r}."
            )


# --- Accuracy under attack, beside the accuracy on the texts as they were.


@dataclass(frozen=True, slots=True)
class Robustness:
    """How a classifier stands up to attacks; every number in [0, 1]."""

    clean_accuracy: float
    """Share of the original texts predicted right. Higher is better."""
    robust_accuracy: float
    """Share of texts of which every attacked version is predicted right. Higher is better."""
    mean_attacked_accuracy: float
    """Mean over texts of the share of attacked versions predicted right. Higher is better."""
    attack_success: float | None
    """Share of the rightly predicted texts that an attack turns. Lower is better; `None`: none right."""


def robustness(
    attacked: Sequence[Sequence[int]], clean: Sequence[int], references: Sequence[int]
) -> Robustness:
    """Compare predictions before and after attacks.

    Args:
        attacked: For each text, the predicted label of each of its attacked versions; at least one.
        clean: Predicted label of each original text.
        references: Gold label of each text.

    Raises:
        DataError: there is no text, a text has no attacked version, or the lists differ in length.
    """
    if not references or not len(attacked) == len(clean) == len(references):
        raise DataError(
            f"Robust accuracy needs one entry a text in each list, got {len(attacked)} attacked, "
            f"{len(clean)} clean predictions and {len(references)} labels."
        )
    if empty := [row for row, versions in enumerate(attacked) if not len(versions)]:
        raise DataError(
            f"{len(empty)} texts have no attacked version, the first is text {empty[0]}; leave them out."
        )
    right = np.array(
        [
            np.mean([label == gold for label in versions])
            for versions, gold in zip(attacked, references, strict=True)
        ]
    )
    clean_right = np.asarray(clean) == np.asarray(references)
    return Robustness(
        clean_accuracy=float(clean_right.mean()),
        robust_accuracy=float((right == 1).mean()),
        mean_attacked_accuracy=float(right.mean()),
        attack_success=float((right[clean_right] < 1).mean()) if clean_right.any() else None,
    )


# --- Evaluate a trained classifier: accuracy, faithfulness of its attributions, agreement with a prior.


Attribute: TypeAlias = Callable[..., list[list[float]]]
"""`attribute(model, tokenizer, texts, targets, *, method, steps, batch_size, word_pattern, max_length)`:
one list a text, one score a word; see `hf_cap.attribution.attribute_words`."""
Prior: TypeAlias = Sequence[float] | None
Labels: TypeAlias = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Record:
    """One evaluated text."""

    text: str
    label: str
    prediction: str
    probabilities: tuple[float, ...]
    """One a label of the model, in its order; they sum to 1."""
    words: tuple[str, ...]
    attributions: tuple[float, ...] | None
    """One a word, for the predicted class; `None` where none was computed."""
    prior: tuple[float, ...] | None
    """One a word, for the gold class; `None` where the text has none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """What `evaluate_classifier` found. A number that was not measured is `None`."""

    primary: ClassVar[str] = "accuracy"

    texts: int
    accuracy: float
    """Share of texts predicted right, in [0, 1]."""
    macro_f1: float
    """Unweighted mean of F1 over the labels that occur as gold or predicted, in [0, 1]."""
    comprehensiveness: float | None = None
    """Mean over texts, in [-1, 1]; higher is better."""
    sufficiency: float | None = None
    """Mean over texts, in [-1, 1]; lower is better."""
    soft_nc: float | None = None
    """Mean over the texts where it is defined, in [0, 1]; higher is better."""
    soft_ns: float | None = None
    """Mean over the texts where it is defined, in [0, 1]; higher is better."""
    alignment: float | None = None
    """Mean cosine between the gold class's word attributions and the prior, in [-1, 1]."""
    alignment_texts: int = 0
    """Texts that have a prior which is not all zero."""
    labels: tuple[str, ...] = ()
    """Label names in the order of `Record.probabilities`."""
    records: tuple[Record, ...] = dataclasses.field(default=(), repr=False)

    @property
    def primary_value(self) -> float:
        """The main number: the accuracy."""
        return float(getattr(self, self.primary))

    def to_dict(self) -> dict[str, Any]:
        """The numbers and records as plain JSON values."""
        return dataclasses.asdict(self)


def evaluate_classifier(
    model: PreTrainedModel | str,
    tokenizer: PreTrainedTokenizerBase | str | None,
    dataset: Dataset,
    *,
    settings: EvaluationSettings | None = None,
    attribute: Attribute | None = None,
) -> Evaluation:
    """Evaluate a sequence classifier on labelled texts.

    Faithfulness explains the *predicted* class, alignment the *gold* one, as in training.

    Args:
        model: A loaded model, or the name of a folder, Hub model or `embedded/...` model.
        tokenizer: Its tokenizer or where that is; `None` for the one in the folder `model`.
        dataset: Columns `text` and `label` (a `ClassLabel`, or label names), and perhaps a prior.
        settings: What to measure; the defaults of `EvaluationSettings` if not given.
        attribute: Gives word attributions; `hf_cap.attribution.attribute_words` if not given.

    Raises:
        DataError: a column is missing, there is no row, or a label is not one of the model's.
        PriorError: a prior does not fit its text.
        ModelError: the model or tokenizer cannot be loaded or used.
    """
    settings = settings or EvaluationSettings()
    classifier = load_classifier(
        model, tokenizer, batch_size=settings.batch_size, max_length=settings.max_length
    )
    gold = gold_labels(dataset, classifier.labels)
    texts = list(dataset[TEXT])
    priors = _priors(dataset, texts, settings)
    probabilities = classifier(texts)
    predicted = probabilities.argmax(axis=1)
    explain = _explainer(classifier, settings, attribute)
    explained = settings.faithfulness or settings.soft or settings.records
    attributions = explain(texts, predicted.tolist()) if explained else None
    return Evaluation(
        texts=len(texts),
        accuracy=float(np.mean(predicted == gold)),
        macro_f1=float(f1_score(gold, predicted, average="macro", zero_division=0.0)),
        **_faithfulness(classifier, texts, predicted.tolist(), attributions, settings),
        **_alignment(explain, texts, gold.tolist(), predicted.tolist(), attributions, priors),
        labels=tuple(classifier.labels),
        records=_records(classifier, texts, gold, probabilities, attributions, priors, settings)
        if settings.records
        else (),
    )


def gold_labels(dataset: Dataset, labels: Sequence[str]) -> Labels:
    """Gold label of each row as an index into the model's `labels`, matched by name.

    Raises:
        DataError: a column is missing, there is no row, or the model does not know a label.
    """
    for column in (TEXT, LABEL):
        if column not in dataset.column_names:
            raise DataError(
                f"Evaluation needs a column {column!r}; the data set has {dataset.column_names}."
            )
    if len(dataset) == 0:
        raise DataError("The data set to evaluate on has no rows.")
    feature = dataset.features[LABEL]
    names = list(dataset[LABEL])
    space = feature.names if isinstance(feature, ClassLabel) else dict.fromkeys(map(str, names))
    unknown = [name for name in space if name not in labels]
    if unknown:
        raise DataError(
            f"The model does not know {len(unknown)} of the data set's {len(space)} labels: {unknown[:5]!r}; "
            f"its own are {list(labels)[:5]!r}... Labels are matched by name: set `id2label` of the model's "
            "config, or evaluate on data with its labels."
        )
    if isinstance(feature, ClassLabel):
        names = [feature.int2str(label) for label in names]
    index = {name: position for position, name in enumerate(labels)}
    return np.array([index[str(name)] for name in names], dtype=np.intp)


def _priors(dataset: Dataset, texts: Sequence[str], settings: EvaluationSettings) -> list[Prior]:
    """The prior of each row; `None` where there is none, or it is all zero and so points nowhere."""
    column = settings.prior_column
    if column not in dataset.column_names:
        return [None] * len(texts)
    priors: list[Prior] = list(dataset[column])
    for row, (text, prior) in enumerate(zip(texts, priors, strict=True)):
        check_prior(prior, word_strings(text, settings.word_pattern), column=column, row=row)
    return [prior if prior is not None and any(prior) else None for prior in priors]


def _explainer(
    classifier: Classifier, settings: EvaluationSettings, attribute: Attribute | None
) -> Callable[[Sequence[str], Sequence[int]], list[list[float]]]:
    """Texts and classes to word attributions of the classifier."""
    explain_words: Attribute = attribute or attribute_words

    def explain(texts: Sequence[str], targets: Sequence[int]) -> list[list[float]]:
        return explain_words(
            classifier.model,
            classifier.tokenizer,
            list(texts),
            list(targets),
            method=settings.attribution_method,
            steps=settings.attribution_steps,
            batch_size=settings.batch_size,
            word_pattern=settings.word_pattern,
            max_length=classifier.max_length,
        )

    return explain


def _faithfulness(
    classifier: Classifier,
    texts: Sequence[str],
    predicted: Sequence[int],
    attributions: list[list[float]] | None,
    settings: EvaluationSettings,
) -> dict[str, Any]:
    found: dict[str, FloatArray] = {}
    if attributions is not None and settings.faithfulness:
        for metric in (comprehensiveness, sufficiency):
            found[metric.__name__] = metric(
                classifier,
                texts,
                predicted,
                attributions,
                percentages=settings.percentages,
                word_pattern=settings.word_pattern,
            )
    if attributions is not None and settings.soft:
        for soft_metric in (soft_nc, soft_ns):
            found[soft_metric.__name__] = soft_metric(
                classifier,
                texts,
                predicted,
                attributions,
                samples=settings.soft_samples,
                distance=settings.soft_distance,
                seed=settings.seed,
                word_pattern=settings.word_pattern,
            )
    return {name: mean_defined(values) for name, values in found.items()}


def mean_defined(values: FloatArray) -> float | None:
    """Mean over the values that are not NaN; `None` where there is none."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else None


def _alignment(
    explain: Callable[[Sequence[str], Sequence[int]], list[list[float]]],
    texts: Sequence[str],
    gold: Sequence[int],
    predicted: Sequence[int],
    attributions: list[list[float]] | None,
    priors: Sequence[Prior],
) -> Mapping[str, Any]:
    """Mean cosine with the prior; attributions of rightly predicted texts are used again."""
    rows = [row for row, prior in enumerate(priors) if prior is not None]
    if not rows:
        return {}
    known = (
        {}
        if attributions is None
        else {row: attributions[row] for row in rows if predicted[row] == gold[row]}
    )
    missing = [row for row in rows if row not in known]
    if missing:
        of_gold = explain([texts[row] for row in missing], [gold[row] for row in missing])
        known.update(zip(missing, of_gold, strict=True))
    cosines = [cosine(known[row], priors[row] or ()) for row in rows]
    return {"alignment": float(np.mean(cosines)), "alignment_texts": len(rows)}


def _records(
    classifier: Classifier,
    texts: Sequence[str],
    gold: Labels,
    probabilities: FloatArray,
    attributions: list[list[float]] | None,
    priors: Sequence[Prior],
    settings: EvaluationSettings,
) -> tuple[Record, ...]:
    return tuple(
        Record(
            text=text,
            label=classifier.labels[gold[row]],
            prediction=classifier.labels[int(probabilities[row].argmax())],
            probabilities=tuple(probabilities[row].tolist()),
            words=tuple(word_strings(text, settings.word_pattern)),
            attributions=None if attributions is None else tuple(attributions[row]),
            prior=None if (prior := priors[row]) is None else tuple(prior),
        )
        for row, text in enumerate(texts)
    )
