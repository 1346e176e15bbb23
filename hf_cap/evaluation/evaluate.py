"""Evaluate a sequence classifier: accuracy, faithfulness of its attributions, agreement with a prior."""

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray
from sklearn.metrics import f1_score
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_cap.attribution import attribute_words
from hf_cap.classifiers import warn_unknown
from hf_cap.evaluation import metrics
from hf_cap.evaluation.calibration import Calibration, confidence_scores
from hf_cap.evaluation.classifier import Classifier, gold_labels, load_classifier
from hf_cap.evaluation.concepts import concept_audit
from hf_cap.evaluation.settings import EvaluationSettings
from hf_cap.schema import TEXT, check_prior
from hf_cap.words import check_units, word_strings

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Record:
    """One evaluated text.

    `probabilities` are in the order of the model's labels and sum to 1, `attributions` (of the predicted
    class; `None` where the text was not explained) and `prior` (of the gold class; `None` where it has none)
    are per word.
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
    """The results of `evaluate_classifier`: means over texts; `None` where not measured.

    Accuracy, macro-F1 (over the labels that occur as gold or predicted), the accuracy on the texts of the
    worst gold label, Soft-NC and Soft-NS (over the texts where they are defined) lie in [0, 1],
    comprehensiveness, sufficiency and alignment (cosine of the gold class's attributions and the prior, over
    `alignment_texts` whose prior is not all zero) in [-1, 1]. Higher is better, but for sufficiency.
    Faithfulness is over the `explained_texts` of all `texts`.

    Confidence is that of the probabilities with the model's `temperature` (1 where it was not calibrated),
    faithfulness that of those without. NLL (nats, at least 0), Brier score (in [0, 2]) and ECE (expected
    calibration error, in [0, 1]) are better lower. `accuracy_at_50` is the accuracy on the surest 50 % of
    the texts. Of a calibrated model's label sets, `set_coverage` is the part that holds the gold label,
    `set_size` the mean number of labels. `concepts` is what `concept_audit` found.
    """

    texts: int
    accuracy: float
    macro_f1: float
    nll: float
    brier: float
    ece: float
    accuracy_at_50: float
    accuracy_at_80: float
    accuracy_at_90: float
    temperature: float = 1.0
    worst_class_accuracy: float | None = None
    set_coverage: float | None = None
    set_size: float | None = None
    comprehensiveness: float | None = None
    sufficiency: float | None = None
    soft_nc: float | None = None
    soft_ns: float | None = None
    alignment: float | None = None
    alignment_texts: int = 0
    explained_texts: int = 0
    labels: tuple[str, ...] = ()
    concepts: dict[str, Any] | None = dataclasses.field(default=None, repr=False)
    records: tuple[Record, ...] = dataclasses.field(default=(), repr=False)

    def to_dict(self) -> dict[str, Any]:
        """The numbers and records as plain JSON values."""
        return dataclasses.asdict(self)


def evaluate_classifier(
    model: PreTrainedModel | str,
    tokenizer: PreTrainedTokenizerBase | str | None,
    dataset: Dataset,
    settings: EvaluationSettings | None = None,
) -> Evaluation:
    """Evaluate a sequence classifier on labelled texts.

    Faithfulness explains the *predicted* class, alignment the *gold* one, as in training.

    Args:
        model: A loaded model, or a folder, Hub id or `embedded/...` name.
        tokenizer: Its tokenizer or where that is; `None` for the one beside the model.
        dataset: Columns `text` and `label` (see `hf_cap.data.label_ids`), and perhaps a prior.

    Raises:
        DataError: a column is missing, there is no row, or a label is not one of the model's.
        PriorError: a prior does not fit its text.
        ModelError: concepts are asked for, and the model's last layer is not linear in one vector.
    """
    settings = settings or EvaluationSettings()
    names = ("batch_size", "max_length", "word_pattern")
    how = {name: getattr(settings, name) for name in names}
    classifier = load_classifier(model, tokenizer, **how)
    gold = gold_labels(dataset, classifier.labels)
    calibration = Calibration.read(classifier.model.config)
    priors, texts = _priors(dataset, settings.prior_column, classifier.word_pattern), dataset[TEXT][:]
    check_units(texts, classifier.word_pattern, "evaluation")
    tokens = classifier.tokenizer(texts, verbose=False)["input_ids"]
    warn_unknown(classifier.tokenizer, tokens, "evaluation")
    probabilities = calibration.probabilities(classifier.logits(texts))
    predicted, count = probabilities.argmax(axis=1), settings.concepts
    found = concept_audit(classifier, texts, gold.tolist(), count) if count else None
    return Evaluation(
        texts=len(gold),
        accuracy=float(np.mean(predicted == gold)),
        macro_f1=float(f1_score(gold, predicted, average="macro", zero_division=0.0)),
        worst_class_accuracy=worst_class_accuracy(predicted, gold),
        labels=tuple(classifier.labels),
        concepts=found,
        **_confidence(calibration, probabilities, gold),
        **_explained(classifier, texts, gold.tolist(), probabilities, priors, settings),
    )


def _confidence(
    calibration: Calibration, probabilities: metrics.FloatArray, gold: NDArray[np.intp]
) -> dict[str, Any]:
    """How far the probabilities can be used, and the label sets of a calibrated model."""
    scores: dict[str, Any] = confidence_scores(probabilities, gold)
    if sets := calibration.label_sets(probabilities):
        held = [label in labels for labels, label in zip(sets, gold, strict=True)]
        scores |= {"set_coverage": float(np.mean(held))}
        scores |= {"set_size": float(np.mean([len(labels) for labels in sets]))}
    return {"temperature": calibration.temperature, **scores}


def _priors(dataset: Dataset, column: str, pattern: str) -> list[list[float] | None]:
    """The prior of each row; `None` where there is none, or it is all zero."""
    if column not in dataset.column_names:
        return [None] * len(dataset)
    priors = list(dataset[column])
    for row, (text, prior) in enumerate(zip(dataset[TEXT], priors, strict=True)):
        check_prior(prior, word_strings(text, pattern), column=column, row=row)
    return [prior if prior is not None and any(prior) else None for prior in priors]


def _explained(
    classifier: Classifier,
    texts: list[str],
    gold: list[int],
    probabilities: metrics.FloatArray,
    priors: list[list[float] | None],
    settings: EvaluationSettings,
) -> dict[str, Any]:
    """What needs attributions: faithfulness of the predicted class, alignment of the gold, records."""
    known, pattern = dict[tuple[int, int], list[float]](), classifier.word_pattern

    def explain(pairs: list[tuple[int, int]]) -> list[list[float]]:
        """Word attributions for texts and classes, given by their numbers."""
        if missing := [pair for pair in pairs if pair not in known]:
            found = attribute_words(
                classifier.model,
                classifier.tokenizer,
                [texts[row] for row, _ in missing],
                [target for _, target in missing],
                method=settings.attribution_method,
                steps=settings.attribution_steps,
                batch_size=settings.batch_size,
                word_pattern=pattern,
                max_length=classifier.max_length,
            )
            known.update(zip(missing, found, strict=True))
        return [known[pair] for pair in pairs]

    measured: dict[str, Any] = {}
    predicted = probabilities.argmax(axis=1).tolist()
    scores: dict[int, list[float]] = {}
    of_predicted, most = settings.faithfulness or settings.soft or settings.records, settings.explained_texts
    if most and most < len(texts) and (of_predicted or any(priors)):
        _logger.info("Explaining at most %d of %d texts (explained_texts)", most, len(texts))
    if of_predicted:
        rows = _drawn(range(len(texts)), settings)
        scores = dict(zip(rows, explain([(row, predicted[row]) for row in rows]), strict=True))
        chosen = [texts[row] for row in rows], [predicted[row] for row in rows]
        scored = metrics.ScoredTexts(*chosen, list(scores.values()), pattern)
        measured |= {"explained_texts": len(rows), **_faithfulness(classifier, scored, settings)}
    if references := {row: prior for row, prior in enumerate(priors) if prior}:
        rows = _drawn([*references], settings)
        of_gold = explain([(row, gold[row]) for row in rows])
        cosines = [metrics.cosine(one, references[row]) for one, row in zip(of_gold, rows, strict=True)]
        measured |= {"alignment": float(np.mean(cosines)), "alignment_texts": len(cosines)}
    if settings.records:
        names, records = classifier.labels, []
        for row, (text, prior) in enumerate(zip(texts, priors, strict=True)):
            gold_name, predicted_name = names[gold[row]], names[predicted[row]]
            shares, words = probabilities[row].tolist(), word_strings(text, pattern)
            found = tuple(scores[row]) if row in scores else None
            per_word = tuple(words), found, tuple(prior) if prior else None
            records.append(Record(text, gold_name, predicted_name, tuple(shares), *per_word))
        measured["records"] = tuple(records)
    return measured


def _drawn(rows: Sequence[int], settings: EvaluationSettings) -> list[int]:
    """The rows to explain: all, or `explained_texts` of them, the same for each model."""
    most = settings.explained_texts
    if most is None or len(rows) <= most:
        return list(rows)
    return sorted(np.random.default_rng(settings.seed).choice(rows, most, replace=False).tolist())


def _faithfulness(
    classifier: Classifier, scored: metrics.ScoredTexts, settings: EvaluationSettings
) -> dict[str, float | None]:
    values: dict[str, metrics.FloatArray] = {}
    if settings.faithfulness:
        for hard in (metrics.comprehensiveness, metrics.sufficiency):
            values[hard.__name__] = hard(classifier, scored, settings.percentages)
    if settings.soft:
        options = (settings.soft_samples, settings.soft_distance, settings.seed)
        for soft in (metrics.soft_nc, metrics.soft_ns):
            values[soft.__name__] = soft(classifier, scored, *options)
    return {name: mean_defined(value) for name, value in values.items()}


def worst_class_accuracy(predicted: NDArray[np.intp], gold: NDArray[np.intp]) -> float:
    """Least over the gold labels of the share of its texts that are predicted right, in [0, 1]."""
    return min(float((predicted[gold == label] == label).mean()) for label in np.unique(gold))


def mean_defined(values: metrics.FloatArray) -> float | None:
    """Mean over the values that are not NaN; `None` where there is none."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else None
