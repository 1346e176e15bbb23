"""Sources that explain a classifier: against the libraries, against definitions, and their errors."""

import itertools
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import LayerIntegratedGradients
from datasets import ClassLabel, Dataset, Features, Value
from lime.lime_text import LimeTextExplainer
from numpy.typing import NDArray
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from hf_cap.classifiers import Encoded, TextClassifier
from hf_cap.errors import ConfigError, MissingExtra, ModelError
from hf_cap.priors.classifier import ClassifierSource, IntegratedGradientsPrior, OcclusionPrior
from hf_cap.priors.explainers import LimePrior, ShapPrior, _word_tree
from hf_cap.utils import text_seed
from hf_cap.words import keep_words, split_words
from tests.priors.conftest import LABELS
from tests.tiny import roberta_classifier, word_tokenizer

# shap 0.51 itself calls Colormap.set_bad and its like, which matplotlib 3.11 is going to deprecate
pytestmark = pytest.mark.filterwarnings("ignore:The set_.* function:PendingDeprecationWarning")
needs_shap = pytest.mark.skipif(find_spec("shap") is None, reason="shap is not installed")

TEXTS = ["please renew my  book", "card lost!", "pay", "i need to pay the fine, now"]
GOLD = ["renew", "lost", "pay", "pay"]
OUTPUT = {"pay": 0, "renew": 1, "lost": 2}
SOURCES = [
    (IntegratedGradientsPrior, {}),
    (LimePrior, {"samples": 40}),
    (OcclusionPrior, {}),
    pytest.param(ShapPrior, {}, marks=needs_shap),
]


def made(source: ClassifierSource, texts: Sequence[str] = TEXTS, gold: Sequence[Any] = GOLD) -> Any:
    """The columns of a source for some texts."""
    return source({"text": texts, "label": gold})


def open_source(folder: str, labels: tuple[str, ...] = LABELS) -> OcclusionPrior:
    return OcclusionPrior(labels=labels, classifier=folder)


@pytest.mark.parametrize(("cls", "options"), SOURCES)
def test_the_scores_of_a_text_depend_on_neither_batch_nor_order(
    reference: str, cls: type[ClassifierSource], options: dict[str, Any]
) -> None:
    source = cls(labels=LABELS, classifier=reference, **options)
    column = f"prior_{source.name}"
    together = made(source)[column]
    assert [len(scores) for scores in together] == [len(text.split()) for text in TEXTS]
    for text, gold, scores in zip(TEXTS, GOLD, together, strict=True):
        assert made(source, [text], [gold])[column][0] == pytest.approx(scores, abs=1e-5)
    for scores, again in zip(
        together[::-1], made(source, TEXTS[::-1], GOLD[::-1])[column], strict=True
    ):
        assert again == pytest.approx(scores, abs=1e-5)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda **o: IntegratedGradientsPrior(steps=0, **o), "`steps` must be at least 1, got 0"),
        (lambda **o: LimePrior(samples=1, **o), "`samples` must be at least 2, got 1"),
        (lambda **o: ShapPrior(evaluations=1, **o), "`evaluations` must be at least 2, got 1"),
    ],
)
def test_too_little_work_is_refused(
    reference: str, build: Callable[..., ClassifierSource], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        build(labels=LABELS, classifier=reference)


@pytest.mark.parametrize(("module", "cls"), [("lime.lime_text", LimePrior), ("shap", ShapPrior)])
def test_without_the_package_the_error_names_the_extra(
    reference: str, module: str, cls: type[ClassifierSource], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=rf"pip install 'hf-cap\[{cls.name}\]'"):
        made(cls(labels=LABELS, classifier=reference))


# --- The classifier


PREDICTED = [
    "renew my book please",
    "card lost",
    "",
    "renew my book please",
    "i need to pay the fine now",
]


def test_log_probabilities_are_the_models_own_in_the_order_of_the_datas_labels(
    reference: str,
) -> None:
    found = open_source(reference).open().log_probs(PREDICTED)
    model = AutoModelForSequenceClassification.from_pretrained(reference)
    tokenizer = AutoTokenizer.from_pretrained(reference)
    with torch.no_grad():
        for text, row in zip(PREDICTED, found, strict=True):
            logits = model(**tokenizer(text, return_tensors="pt")).logits[0]
            expected = logits.log_softmax(-1)[[1, 2, 0]]  # pay, renew, lost -> renew, lost, pay
            torch.testing.assert_close(row, expected, rtol=1e-5, atol=1e-6)


def test_each_distinct_text_is_computed_once(
    reference: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[str] = []
    encode = TextClassifier.encode

    def counted(self: TextClassifier, texts: Sequence[str], **options: bool) -> list[Encoded]:
        encoded.extend(texts)
        return encode(self, texts, **options)

    monkeypatch.setattr(TextClassifier, "encode", counted)
    open_source(reference).open().log_probs(["a", "b", "a", "a"])
    assert encoded == ["a", "b"]


def test_texts_beyond_the_limit_are_cut(reference: str) -> None:
    opened = open_source(reference).open()
    classifier = opened.text_classifier
    assert classifier.max_length == 64
    long = "book " * 100
    (encoded,) = classifier.encode([long])
    assert len(encoded["input_ids"]) == 64
    assert torch.equal(opened.log_probs([long])[0], opened.log_probs(["book " * 62])[0])


def test_other_labels_are_refused_by_name(reference: str) -> None:
    with pytest.raises(ModelError, match=r"lacks \['hold'\] and has \['pay'\] besides"):
        open_source(reference, ("renew", "lost", "hold")).open()


def test_a_classifier_that_does_not_exist_is_refused_when_the_source_is_made() -> None:
    with pytest.raises(ModelError, match=r"There is no model folder '\./nowhere'"):
        open_source("./nowhere")


def test_a_folder_without_a_classifier_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be loaded"):
        open_source(str(tmp_path)).open()


def test_a_classifier_trained_again_in_the_same_folder_is_another_source(
    reference: str, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(reference, folder)
    before = open_source(str(folder))
    assert open_source(str(folder)) == before
    unopened = OcclusionPrior(labels=LABELS[::-1], classifier=str(folder))
    old = before.open().log_probs(["lost"])
    names = {0: "pay", 1: "renew", 2: "lost"}
    roberta_classifier(3, seed=7, id2label=names).save_pretrained(folder)
    after = open_source(str(folder))
    assert after != before
    assert not torch.equal(after.open().log_probs(["lost"]), old)
    with pytest.raises(ModelError, match="changed on disk after the prior source was created"):
        unopened.open()


def test_a_slow_tokenizer_is_refused(
    tmp_path: Path, reference: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(word_tokenizer()), "is_fast", False)
    folder = tmp_path / "model"
    shutil.copytree(reference, folder)
    with pytest.raises(ModelError, match="does not give"):
        open_source(str(folder)).open()


def test_the_settings_of_a_source_hold_no_model(reference: str) -> None:
    source = open_source(reference)
    source.open()
    assert isinstance(source, ClassifierSource)
    assert all(isinstance(value, str | tuple | bool | None) for value in vars(source).values())


# --- Integrated gradients


def gradients(reference: str, **options: Any) -> IntegratedGradientsPrior:
    return IntegratedGradientsPrior(labels=LABELS, classifier=reference, **options)


def captum_scores(reference: str, text: str, gold: str) -> list[float]:
    """Word scores by captum, one example at a time."""
    model = AutoModelForSequenceClassification.from_pretrained(reference).eval()
    tokenizer = AutoTokenizer.from_pretrained(reference)
    encoded = tokenizer(text, return_tensors="pt", return_offsets_mapping=True)
    ids, offsets = encoded["input_ids"], encoded["offset_mapping"][0].tolist()
    special = torch.tensor([[first == last for first, last in offsets]])
    baseline = torch.where(special, ids, tokenizer.pad_token_id)
    gradients = LayerIntegratedGradients(
        lambda ids: model(input_ids=ids).logits, model.get_input_embeddings()
    )
    token_scores = gradients.attribute(ids, baselines=baseline, target=OUTPUT[gold], n_steps=50)
    scores = []
    for start, end in split_words(text):
        inside = [start <= first < end and last > first for first, last in offsets]
        scores.append(token_scores[0].sum(-1)[torch.tensor(inside)].sum().item())
    return scores


def test_scores_are_captums(reference: str) -> None:
    found = made(gradients(reference))["prior_integrated_gradients"]
    for text, gold, scores in zip(TEXTS, GOLD, found, strict=True):
        assert scores == pytest.approx(captum_scores(reference, text, gold), abs=1e-5)


def test_the_gap_is_what_the_scores_fail_to_add_up_to(reference: str) -> None:
    coarse = gradients(reference, steps=1)({"text": TEXTS, "label": GOLD})
    fine = gradients(reference, steps=50)({"text": TEXTS, "label": GOLD})
    for few, many, few_scores, many_scores in zip(
        coarse["integrated_gradients_gap"],
        fine["integrated_gradients_gap"],
        coarse["prior_integrated_gradients"],
        fine["prior_integrated_gradients"],
        strict=True,
    ):
        assert abs(many) < 1e-4
        assert few - many == pytest.approx(sum(few_scores) - sum(many_scores), abs=1e-5)


def test_the_gap_measures_against_the_true_baseline(reference: str) -> None:
    """RoBERTa numbers the positions by what is padding, so pad ids are not the baseline's forward pass."""
    model = AutoModelForSequenceClassification.from_pretrained(reference).eval()
    tokenizer = AutoTokenizer.from_pretrained(reference)
    ids = tokenizer("card lost", return_tensors="pt")["input_ids"]
    embed = model.get_input_embeddings()
    replaced = embed(torch.tensor([[0, 1, 1, 2]])).detach()
    handle = embed.register_forward_hook(lambda module, inputs, output: replaced)
    with torch.no_grad():
        baseline = model(input_ids=ids).logits[0, 2].item()
        handle.remove()
        whole = model(input_ids=ids).logits[0, 2].item()
    made = gradients(reference, steps=2)({"text": ["card lost"], "label": ["lost"]})
    expected = sum(made["prior_integrated_gradients"][0]) - (whole - baseline)
    assert made["integrated_gradients_gap"][0] == pytest.approx(expected, abs=1e-5)


def test_a_tokenizer_that_pads_on_the_left_changes_nothing(
    reference: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TextClassifier, "tokens_per_pass", 100_000)
    names = {0: "pay", 1: "renew", 2: "lost"}
    roberta_classifier(3, id2label=names).save_pretrained(tmp_path)
    word_tokenizer().save_pretrained(tmp_path)
    batch = {"text": TEXTS, "label": GOLD}
    left = gradients(str(tmp_path))
    left.open().text_classifier.tokenizer.padding_side = "left"
    for expected, found in zip(
        left({"text": TEXTS[:1], "label": GOLD[:1]})["prior_integrated_gradients"],
        left(batch)["prior_integrated_gradients"][:1],
        strict=True,
    ):
        assert found == pytest.approx(expected, abs=1e-5)


def test_words_beyond_the_limit_score_zero(reference: str) -> None:
    made = gradients(reference, steps=2)({"text": ["book " * 70], "label": ["pay"]})
    scores = made["prior_integrated_gradients"][0]
    assert len(scores) == 70
    assert all(scores[:62])
    assert not any(scores[62:])


# --- LIME


def lime(reference: str, **options: Any) -> LimePrior:
    return LimePrior(labels=LABELS, classifier=reference, **{"samples": 40, **options})


@pytest.mark.parametrize("replacement", ["", "UNKWORDZ"])
def test_scores_are_the_librarys_own_for_one_example_at_a_time(
    reference: str, replacement: str
) -> None:
    prior = lime(reference, replacement=replacement, seed=3)
    made = prior({"text": TEXTS, "label": GOLD})
    classifier = prior.open()

    def predict(texts: list[str]) -> NDArray[np.float64]:
        probs: NDArray[np.float64] = classifier.log_probs(texts).double().exp().numpy()
        return probs

    for row, (text, gold) in enumerate(zip(TEXTS, GOLD, strict=True)):
        explainer = LimeTextExplainer(
            bow=False,
            split_expression=str.split,
            mask_string=replacement,
            random_state=text_seed(3, text),
        )
        label = LABELS.index(gold)
        words = len(text.split())
        explained = explainer.explain_instance(
            text, predict, labels=(label,), num_features=words, num_samples=40
        )
        weights = dict(explained.as_map()[label])
        assert made["prior_lime"][row] == pytest.approx(
            [weights[word] for word in range(words)], abs=1e-6
        )
        assert made["lime_r2"][row] == pytest.approx(explained.score, abs=1e-5)


def test_repeated_words_are_features_of_their_own(reference: str) -> None:
    scores = lime(reference)({"text": ["pay pay pay"], "label": ["pay"]})["prior_lime"][0]
    assert len(set(scores)) == 3


def test_the_seed_determines_the_perturbations(reference: str) -> None:
    batch = {"text": TEXTS[:1], "label": GOLD[:1]}
    first = lime(reference, seed=1)(batch)["prior_lime"]
    assert lime(reference, seed=1)(batch)["prior_lime"] == first
    assert lime(reference, seed=2)(batch)["prior_lime"] != first


# --- Occlusion


@pytest.mark.parametrize(
    ("text", "gold", "shortened"),
    [
        (
            "please renew  my book",
            0,
            ["renew  my book", "please  my book", "please renew  book", "please renew  my"],
        ),
        ("pay", 2, [""]),
        ("pay my pay", 2, ["my pay", "pay pay", "pay my"]),
    ],
)
def test_a_word_scores_what_its_absence_costs(
    reference: str, text: str, gold: int, shortened: list[str]
) -> None:
    found = made(open_source(reference), [text], [gold])
    whole, *without = open_source(reference).open().log_probs([text, *shortened])[:, gold].tolist()
    assert found["prior_occlusion"][0] == pytest.approx([whole - one for one in without], abs=1e-6)
    assert found["occlusion_log_prob"][0] == pytest.approx(whole, abs=1e-6)


def test_it_maps_over_a_data_set_with_names_words_and_provenance(reference: str) -> None:
    features = Features({"text": Value("string"), "label": ClassLabel(names=list(LABELS))})
    data = Dataset.from_dict({"text": TEXTS, "label": [0, 1, 2, 2]}, features)
    prior = OcclusionPrior.from_dataset(data, classifier=reference)
    assert prior.labels == LABELS
    mapped = data.map(prior, batched=True, batch_size=2)
    assert mapped.column_names == [
        "text",
        "label",
        "words",
        "prior_occlusion",
        "occlusion_log_prob",
        "provenance",
    ]
    assert mapped["words"][0] == ["please", "renew", "my", "book"]
    facts = json.loads(mapped["provenance"][0])["occlusion"]
    assert facts["classifier"] == reference
    assert facts["identity"] == prior.open().identity
    assert facts["word_pattern"] == r"\S+"
    assert "labels" not in facts


# --- SHAP


def test_the_tree_joins_halves_of_the_text() -> None:
    assert _word_tree(5).tolist() == [
        [0, 1, 2 / 5, 2],
        [5, 2, 3 / 5, 3],
        [3, 4, 2 / 5, 2],
        [6, 7, 1.0, 5],
    ]
    assert _word_tree(1).shape == (0, 4)


@needs_shap
def test_scores_add_up_to_what_all_words_together_change(reference: str) -> None:
    prior = ShapPrior(labels=LABELS, classifier=reference)
    made = prior({"text": TEXTS, "label": GOLD})["prior_shap"]
    for text, gold, scores in zip(TEXTS, GOLD, made, strict=True):
        log_probs = prior.open().log_probs([text, ""])[:, LABELS.index(gold)].tolist()
        assert len(scores) == len(text.split())
        assert sum(scores) == pytest.approx(log_probs[0] - log_probs[1], abs=1e-5)


@needs_shap
def test_scores_are_the_mean_over_the_orders_that_the_tree_allows(reference: str) -> None:
    """The definition of an Owen value, by brute force: each half comes whole, in either order."""
    prior = ShapPrior(labels=LABELS, classifier=reference)
    text, gold = "please renew my book", 0
    spans = split_words(text)

    def value(words: tuple[int, ...]) -> float:
        kept = keep_words(text, spans, [word in words for word in range(4)])
        return prior.open().log_probs([kept])[0, gold].item()

    orders = [
        order
        for order in itertools.permutations(range(4))
        if {order[0], order[1]} in ({0, 1}, {2, 3})
    ]
    expected = np.zeros(4)
    for order in orders:
        for place, word in enumerate(order):
            expected[word] += value(order[: place + 1]) - value(order[:place])
    made = prior({"text": [text], "label": [gold]})["prior_shap"][0]
    assert made == pytest.approx((expected / len(orders)).tolist(), abs=1e-5)
