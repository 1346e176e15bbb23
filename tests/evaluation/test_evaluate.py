"""`evaluate_classifier`: known numbers with planted attributions, labels by name, and bad input."""

import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset
from sklearn.metrics import f1_score, recall_score

from hf_cap.errors import ConfigError, DataError, ModelError, PriorError
from hf_cap.evaluation.classifier import Classifier, load_classifier
from hf_cap.evaluation.evaluate import Evaluation, evaluate_classifier, worst_class_accuracy
from hf_cap.evaluation.metrics import ScoredTexts, comprehensiveness, sufficiency
from hf_cap.evaluation.settings import EvaluationSettings
from hf_cap.schema import AttributionSettings
from hf_cap.sentence_encoder import label_config
from hf_cap.training.collator import encode_dataset
from tests.tiny import roberta_classifier, save, word_tokenizer

NAMES = ["card", "loan", "fine"]
TEXTS = [
    "i lost my card", "renew the loan", "pay a late fine", "close account", "where is my new card",
]  # fmt: skip
TOKENIZER = word_tokenizer()
MODEL = roberta_classifier(**label_config(NAMES))


class PlantedAttribution:
    """Scores the word highest whose number is the explained class."""

    def __init__(self) -> None:
        self.asked: list[tuple[list[str], list[int]]] = []

    def __call__(
        self, model: object, tokenizer: object, texts: list[str], targets: list[int], **options: Any
    ) -> list[list[float]]:
        self.asked.append((texts, targets))
        pattern = options.get("word_pattern", r"\S+")
        return [
            [1.5 - abs(i - target) for i in range(len(re.findall(pattern, text)))]
            for text, target in zip(texts, targets, strict=True)
        ]


@pytest.fixture(autouse=True)
def planted(monkeypatch: pytest.MonkeyPatch) -> PlantedAttribution:
    attribute = PlantedAttribution()
    monkeypatch.setattr("hf_cap.evaluation.evaluate.attribute_words", attribute)
    return attribute


def dataset(labels: Sequence[int], **columns: Any) -> Dataset:
    data = Dataset.from_dict({"text": TEXTS, "label": list(labels), **columns})
    return data.cast_column("label", ClassLabel(names=NAMES))


def evaluate(data: Dataset, **settings: Any) -> Evaluation:
    return evaluate_classifier(MODEL, TOKENIZER, data, EvaluationSettings(**settings))


PREDICTED = Classifier(MODEL, TOKENIZER)(TEXTS).argmax(1).tolist()
WRONG = [(label + 1) % 3 for label in PREDICTED]


def test_accuracy_and_macro_f1() -> None:
    gold = [*PREDICTED[:2], *WRONG[2:]]
    found = evaluate(dataset(gold))
    assert (found.texts, found.accuracy, found.labels) == (5, 0.4, tuple(NAMES))
    expected = f1_score(gold, PREDICTED, average="macro", zero_division=0)
    assert found.macro_f1 == pytest.approx(expected)
    recall = recall_score(gold, PREDICTED, average=None, labels=sorted(set(gold)))
    assert found.worst_class_accuracy == pytest.approx(min(recall))
    assert worst_class_accuracy(np.array([0, 0, 1, 1, 2]), np.array([0, 0, 1, 0, 0])) == 0.5


def test_labels_are_matched_by_name_not_by_number() -> None:
    names = [NAMES[label] for label in PREDICTED]
    named = Dataset.from_dict({"text": TEXTS, "label": names})
    assert evaluate(named).accuracy == 1.0
    reordered = ClassLabel(names=["fine", "card", "loan"])
    assert evaluate(named.cast_column("label", reordered)).accuracy == 1.0


def test_an_integer_means_the_same_as_in_training() -> None:
    plain = Dataset.from_dict({"text": TEXTS, "label": PREDICTED})
    assert evaluate(plain).accuracy == 1.0
    trained = encode_dataset(plain, TOKENIZER, {name: at for at, name in enumerate(NAMES)})
    assert trained["labels"][:] == PREDICTED
    for labels in ([True] * 5, [0.0] * 5, [["card"]] * 5, [3] * 5):
        with pytest.raises(DataError, match=r"column 'label' holds|does not have 1 of the"):
            evaluate(Dataset.from_dict({"text": TEXTS, "label": labels}))
    with pytest.raises(DataError, match=r"does not have 1 of the data set's labels: \[-1\]"):
        evaluate(dataset([-1, *PREDICTED[1:]]))


def test_faithfulness_explains_the_predicted_class() -> None:
    found = evaluate(dataset(WRONG))
    attributions = PlantedAttribution()(None, None, TEXTS, PREDICTED)
    predict, scored = Classifier(MODEL, TOKENIZER), ScoredTexts(TEXTS, PREDICTED, attributions)
    assert found.comprehensiveness == pytest.approx(comprehensiveness(predict, scored).mean())
    assert found.sufficiency == pytest.approx(sufficiency(predict, scored).mean())


def test_alignment_explains_the_gold_class_over_the_rows_that_have_a_prior() -> None:
    gold = [PREDICTED[0], *WRONG[1:]]
    attributed = PlantedAttribution()(None, None, TEXTS, gold)
    priors = [attributed[0], [-score for score in attributed[1]], None, [0.0, 0.0], None]
    found = evaluate(dataset(gold, prior=priors))
    assert found.alignment == pytest.approx((1.0 - 1.0) / 2)
    assert found.alignment_texts == 2
    swapped = evaluate(dataset(gold, prior=[attributed[0], attributed[1], None, None, None]))
    assert swapped.alignment == pytest.approx(1.0)


def test_attributions_are_computed_once_and_only_where_they_are_wanted(planted: PlantedAttribution) -> None:
    found = evaluate(dataset(PREDICTED), faithfulness=False)
    assert planted.asked == []
    assert (found.accuracy, found.comprehensiveness, found.alignment) == (1.0, None, None)
    gold = [*PREDICTED[:4], WRONG[4]]
    evaluate(dataset(gold, prior=[[1.0] * len(text.split()) for text in TEXTS]))
    assert planted.asked == [(TEXTS, PREDICTED), (TEXTS[4:], WRONG[4:])]


def test_a_drawn_part_is_explained_and_all_texts_are_counted() -> None:
    whole = evaluate(dataset(PREDICTED), records=True)
    assert (whole.explained_texts, whole.texts) == (5, 5)
    data = dataset([*PREDICTED[:4], WRONG[4]], prior=[[1.0] * len(text.split()) for text in TEXTS])
    part = evaluate(data, explained_texts=2, records=True)
    assert (part.texts, part.accuracy, part.explained_texts, part.alignment_texts) == (5, 0.8, 2, 2)
    rows = [row for row, one in enumerate(part.records) if one.attributions is not None]
    assert [part.records[row].attributions for row in rows] == [
        whole.records[row].attributions for row in rows
    ]
    alone = evaluate(data.select(rows), explained_texts=None)
    assert part.comprehensiveness == pytest.approx(alone.comprehensiveness)
    assert part.alignment == pytest.approx(alone.alignment)

    # which texts are drawn depends on the seed alone, so that models are compared on the same
    def drawn(texts: Dataset, seed: int) -> tuple[str, ...]:
        records = evaluate(texts, explained_texts=2, records=True, seed=seed).records
        return tuple(one.text for one in records if one.attributions)

    of_seed = [drawn(data, seed) for seed in range(6)]
    assert of_seed == [drawn(dataset(WRONG), seed) for seed in range(6)]
    assert len({*of_seed}) > 1
    # of few texts with a prior none is lost to the draw
    rare = dataset(PREDICTED, prior=[None, None, None, None, [1.0] * len(TEXTS[4].split())])
    assert all(evaluate(rare, explained_texts=1, seed=seed).alignment_texts == 1 for seed in range(3))


def test_words_and_length_are_those_of_the_model_unless_others_are_given() -> None:
    model = roberta_classifier(**label_config(NAMES))
    model.config.update(AttributionSettings(word_pattern="[aeiou]", max_length=3).entry())
    shared: Any = {"faithfulness": False, "records": True}
    data = dataset(PREDICTED)
    found = evaluate_classifier(model, TOKENIZER, data, EvaluationSettings(**shared)).records
    assert found[0].words == ("i", "o", "a")
    expected = Classifier(MODEL, TOKENIZER, max_length=3)(TEXTS)
    assert found[0].probabilities == pytest.approx(expected[0])
    shared |= {"word_pattern": r"\S+", "max_length": 64}
    given = evaluate_classifier(model, TOKENIZER, data, EvaluationSettings(**shared)).records
    assert given[0].words == ("i", "lost", "my", "card")
    assert given[0].probabilities == pytest.approx(Classifier(MODEL, TOKENIZER)(TEXTS)[0])


def test_the_soft_metrics_follow_their_settings() -> None:
    data = dataset(WRONG)
    found = evaluate(data, soft=True, soft_samples=4, soft_distance="probability").soft_nc
    assert found == evaluate(data, soft=True).soft_nc
    for changed in ({"soft_samples": 9}, {"soft_distance": "hellinger"}, {"seed": 5}):
        assert evaluate(data, soft=True, **changed).soft_nc != found


def test_batch_size_changes_nothing() -> None:
    data = dataset(WRONG, prior=[[1.0] * len(text.split()) for text in TEXTS])
    first, second = (evaluate(data, soft=True, batch_size=size).to_dict() for size in (32, 3))
    for name, value in first.items():
        assert second[name] == pytest.approx(value, abs=1e-5)


def test_records_hold_what_a_report_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the attribution of the package
    from hf_cap.attribution import attribute_words

    data = dataset(WRONG, prior=[[1.0] * 4, None, None, None, None])
    options: Any = {"attribution_method": "input_x_gradient", "word_pattern": r"\w+"}
    found = evaluate(data, records=True, **options)
    scores = attribute_words(MODEL, TOKENIZER, TEXTS, PREDICTED, method="input_x_gradient")
    for record, expected in zip(found.records, scores, strict=True):
        assert record.attributions == pytest.approx(expected, abs=1e-6)
    record = found.records[0]
    assert record.text == TEXTS[0]
    assert (record.label, record.prediction) == (NAMES[WRONG[0]], NAMES[PREDICTED[0]])
    assert record.words == ("i", "lost", "my", "card")
    assert (record.prior, found.records[1].prior) == ((1.0,) * 4, None)
    assert sum(record.probabilities) == pytest.approx(1.0)
    assert json.loads(json.dumps(found.to_dict()))["records"][0]["prior"] == [1.0] * 4


@pytest.mark.parametrize(
    ("columns", "error", "message"),
    [
        ({"text": ["a"], "label": ["overdraft"]}, DataError,
         r"does not have 1 of .* \['overdraft'\]; its own are \['card'"),
        ({"text": ["a"]}, DataError, r"needs the columns \['label'\]; the data set has"),
        ({"sentence": ["a"], "label": ["card"]}, DataError, r"needs the columns \['text'\]"),
        ({"text": [], "label": []}, DataError, "no rows"),
        ({"text": ["a b"], "label": ["card"], "prior": [[1.0]]}, PriorError, "1 scores for 2 words"),
    ],
)  # fmt: skip
def test_bad_data_is_refused(columns: dict[str, Any], error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        evaluate(Dataset.from_dict(columns))


@pytest.mark.parametrize(
    "wrong", [{"percentages": ()}, {"percentages": (0,)}, {"batch_size": 0}, {"attribution_method": "ig"}]
)
def test_impossible_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="must be"):
        EvaluationSettings(**wrong)


# --- The classifier as a function of texts

MIXED = ["i lost my card", "renew", "", "please cancel the old loan with the late fine", "renew"]


def classifier(**options: Any) -> Classifier:
    return Classifier(roberta_classifier(), word_tokenizer(), **options)


@pytest.mark.parametrize("side", ["right", "left"])
def test_masks_reach_the_right_tokens(side: str) -> None:
    tested = classifier()
    tested.tokenizer.padding_side = side
    texts = ["i lost my card", "renew"]
    ones = [np.ones((len(row), 16)) for row in tested.offsets(texts)]
    np.testing.assert_allclose(tested.masked(texts, ones), tested(texts), atol=1e-6)
    ones[0][2] = 0.0  # the second word of the first text, after <s>
    changed = tested.masked(texts, ones)
    alone = tested.masked(texts[:1], ones[:1])
    np.testing.assert_allclose(changed[0], alone[0], atol=1e-6)
    np.testing.assert_allclose(changed[1], tested(texts)[1], atol=1e-6)
    assert np.abs(changed[0] - tested(texts)[0]).max() > 1e-3
    assert not tested.model.get_input_embeddings()._forward_hooks


def test_long_texts_are_cut_with_one_counting_warning(caplog: pytest.LogCaptureFixture) -> None:
    tested = classifier(max_length=5)
    with caplog.at_level(logging.WARNING):
        cut = tested(["a b c d e f", "renew my card please", "renew"])
    assert [record.getMessage() for record in caplog.records] == [
        "2 of 3 texts are longer than 5 tokens and are truncated"
    ]
    np.testing.assert_allclose(cut[1], tested(["renew my card"])[0], atol=1e-6)


def test_a_classifier_loads_from_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tested = classifier()
    loaded = load_classifier(save(tested.model, tmp_path), None)
    np.testing.assert_allclose(loaded(MIXED), tested(MIXED), atol=1e-6)
    with torch.no_grad():
        logits = tested.model(**tested.tokenizer(MIXED[:1], return_tensors="pt")).logits
    np.testing.assert_allclose(tested(MIXED)[:1], logits.softmax(-1), atol=1e-6)
    with pytest.raises(ModelError, match="needs its tokenizer"):
        load_classifier(tested.model, None)
    with pytest.raises(ModelError, match="no model folder"):
        load_classifier("/nowhere/at/all", None)
    monkeypatch.setattr(type(tested.tokenizer), "is_fast", False)
    with pytest.raises(ModelError, match="does not give"):
        tested.offsets(["a"])
