import json
import logging
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from datasets import Dataset
from datasets.fingerprint import Hasher
from transformers import pipeline

from hf_cap.errors import DataError, ExtractError, ModelError
from hf_cap.lm import cpu
from hf_cap.lm.base import (
    LanguageModel,
    LMRuntime,
    LMSettings,
    MockLanguageModel,
    Query,
    Scored,
    using_runtime,
)
from hf_cap.lm.local import LocalLanguageModel
from hf_cap.lm.open import open_language_model
from hf_cap.priors import cap, prompts
from hf_cap.priors.cap import CAPPrior, agreement, choose_dtype
from hf_cap.utils import fingerprint
from hf_cap.workflow import make_sources
from tests.priors.conftest import labelled
from tests.tiny import byte_tokenizer, llama, save

LABELS = ("lost_card", "pay_fine", "renew_book")
TEXTS = [
    "please renew my book", "I lost the blue library card that you gave me on Monday, sorry", "pay",
    "fine please", "where do I renew", "my fine is wrong",
]  # fmt: skip
GOLD = [2, 0, 1, 1, 2, 1]
CUE_MEANS = (2 / 6, 3 / 6, 3 / 6)
"""Cue words per text: lost, card; pay, fine, fine; renew, book, renew."""
PENALTY = 1e-8
"""Next to none; the masks of two words leave one direction to it alone, and rounding / 1e-9 would be seen."""
CUES = {"lost card": ("lost", "card"), "pay fine": ("pay", "fine"), "renew book": ("renew", "book")}


def dataset(texts: Sequence[str] = TEXTS, labels: Sequence[int] = GOLD) -> Dataset:
    return labelled(texts, labels, LABELS)


def asked_text(prompt: str) -> str:
    return prompt.rpartition("Message: ")[2].removesuffix("\nCategory:")


def cue_score(prompt: str, answer: str) -> list[float]:
    """Two tokens; the first gains 3 nats a cue word of the label, on top of a bias for long labels."""
    words = asked_text(prompt).replace(",", " ").split()
    hits = sum(word in CUES[answer.strip()] for word in words)
    return [-30.0 + 3 * hits + len(answer), -1.0]


def prior(**options: Any) -> CAPPrior:
    model = options.pop("model", None) or MockLanguageModel(cue_score)
    return CAPPrior(labels=LABELS, model=model, **{"penalty": PENALTY, "sign": "signed", **options})


def added(source: CAPPrior, texts: Sequence[str] = TEXTS, labels: Sequence[Any] = GOLD) -> Any:
    return source({"text": list(texts), "label": list(labels)})


def test_prior_is_the_weight_of_each_word() -> None:
    made = added(prior())
    np.testing.assert_allclose(made["prior_cap"][0], [0, 3, 0, 3], atol=1e-6)
    cues = {"lost", "card"}
    expected = [3.0 * (word in cues) for word in map(str, made["words"][1])]
    np.testing.assert_allclose(made["prior_cap"][1], expected, atol=1e-6)
    assert made["prior_cap"][2] == [1.0]
    np.testing.assert_allclose(made["prior_cap"][3], [1.5, -1.5], atol=1e-6)
    assert [made["cap_masks"][row] for row in (0, 2, 3)] == [10, 0, 2]
    assert 50 < made["cap_masks"][1] <= 100
    assert made["cap_r2"][0] == pytest.approx(1)
    assert made["cap_r2"][2] is None
    assert [len(p) for p in made["cap_std"]] == [len(w) for w in made["words"]]
    by_name = added(prior(), labels=[LABELS[label] for label in GOLD])
    assert by_name["prior_cap"] == made["prior_cap"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"sign": "positive"}, [1.5, 0]),
        ({"sign": "signed"}, [1.5, -1.5]),
        ({"sign": "absolute"}, [1.5, 1.5]),
        ({"score": "mean_log_prob"}, [0.75, -0.75]),
    ],
)
def test_sign_and_mean(options: dict[str, Any], expected: list[float]) -> None:
    made = added(prior(**options), ["fine please"], [1])
    np.testing.assert_allclose(made["prior_cap"][0], expected, atol=1e-6)


def noise_score(prompt: str, answer: str) -> float:
    return -30.0 + int(fingerprint(asked_text(prompt)), 16) / 2**64 * len(asked_text(prompt))


LONG = TEXTS[1]


@pytest.mark.parametrize("design", ["iid", "balanced"])
def test_a_text_is_asked_about_until_its_scores_are_known(design: Any) -> None:
    options = {"target_std": 0.5, "design": design}
    made = added(prior(**options), [LONG, "pay", LONG], [0, 1, 0])
    expected = [3.0 * (word in {"lost", "card"}) for word in made["words"][0]]
    np.testing.assert_allclose(made["prior_cap"][0], expected, atol=1e-6)
    assert 20 <= made["cap_masks"][0] <= 28  # an additive model: the first round of twice the words
    assert made["cap_masks"][1] == 0
    noisy = added(prior(**options, model=MockLanguageModel(noise_score)), [LONG], [0])
    everything = prior(design=design, model=MockLanguageModel(noise_score))
    assert noisy["cap_masks"][0] > 80
    assert noisy["prior_cap"] == added(everything, [LONG], [0])["prior_cap"]


def test_planned_masks_are_asked_one_by_one_and_short_texts_whole() -> None:
    short = "the card is lost"
    made = added(prior(design="planned", n=35), [LONG, short], [0, 0])
    expected = [3.0 * (word in {"lost", "card"}) for word in made["words"][0]]
    np.testing.assert_allclose(made["prior_cap"][0], expected, atol=0.15)
    assert made["cap_masks"] == [35, 10]
    assert made["cap_r2"][0] > 0.99
    assert made["prior_cap"][1] == added(prior(n=35), [short], [0])["prior_cap"][0]
    early = added(prior(design="planned", n=100, target_std=0.3), [LONG, LONG], [0, 0])
    assert 20 <= early["cap_masks"][0] == early["cap_masks"][1] < 60
    np.testing.assert_allclose(early["prior_cap"][0], expected, atol=0.3)


def test_what_is_asked_for_a_target_depends_on_the_text_alone() -> None:
    """Texts of several numbers of rounds: alone and in a batch the same questions and scores."""
    texts = [LONG, *TEXTS, LONG.upper(), LONG.replace("blue ", "")]
    labels = [0, *GOLD, 0, 0]
    together = MockLanguageModel(noise_score)
    options: dict[str, Any] = {"target_std": 9.0, "design": "balanced", "n": 300}
    made = added(prior(model=together, **options), texts, labels)
    asked: list[Query] = []
    for row, (text, label) in enumerate(zip(texts, labels, strict=True)):
        model = MockLanguageModel(noise_score)
        alone = added(prior(model=model, **options), [text], [label])
        np.testing.assert_allclose(made["prior_cap"][row], alone["prior_cap"][0], atol=1e-9)
        assert made["cap_masks"][row] == alone["cap_masks"][0]
        asked += model.calls
    assert sorted(asked) == sorted(together.calls)
    assert len({made["cap_masks"][row] for row in (0, 7, 8)}) > 1
    target = np.array([math.hypot(*std) / math.sqrt(len(std)) for std in made["cap_std"]])
    assert (target[np.array(made["cap_masks"]) > 28] < 9.0).all()


def test_contrast_takes_off_what_rivals_gain_as_well() -> None:
    # `lost` speaks for lost_card and, in this model, for its one strongest rival just as much
    def score(prompt: str, answer: str) -> float:
        words = asked_text(prompt).split()
        base = {" lost card": -5.0, " pay fine": -6.0, " renew book": -50.0}[answer]
        lost = 2.0 * ("lost" in words and answer != " renew book")
        return base + lost + ("card" in words and answer == " lost card")

    source = prior(score="contrast", rivals=1, model=MockLanguageModel(score))
    made = added(source, ["I lost my card"], [0])
    np.testing.assert_allclose(made["prior_cap"][0], [0, 0, 0, 1], atol=1e-6)


def test_contrast_weighs_rivals_without_what_they_get_whatever_the_text_says() -> None:
    def score(bias: float, prompt: str, answer: str) -> float:
        words = asked_text(prompt).split()
        rivals = 2.0 * ("lost" in words and answer == " pay fine")
        return -5.0 + rivals + bias * (answer == " renew book")

    asked = ["I lost my card"], [0]
    fair, biased = (
        prior(model=MockLanguageModel(partial(score, bias)), score="contrast", offsets=(0, 0, bias))
        for bias in (0.0, 40.0)
    )
    made = added(biased, *asked)["prior_cap"][0]
    assert made[1] < -0.5  # the word speaks for a rival
    np.testing.assert_allclose(made, added(fair, *asked)["prior_cap"][0], atol=1e-6)


def test_calibration_chooses_rivals_by_what_the_text_says() -> None:
    # `renew book` is favoured by 40 nats whatever the text says
    def score(prompt: str, answer: str) -> float:
        return cue_score(prompt, answer)[0] + 40 * (answer == " renew book")

    model = MockLanguageModel(score)
    calibrated = CAPPrior.from_dataset(dataset(), model=model, score="contrast", rivals=1, demonstrations=0)
    lost, pay, renew = calibrated.offsets
    assert pay - lost == pytest.approx(3 * (CUE_MEANS[1] - CUE_MEANS[0]) - 1)
    assert renew - lost == pytest.approx(3 * (CUE_MEANS[2] - CUE_MEANS[0]) + 1 + 40)
    model.calls.clear()
    calibrated({"text": ["lost fine now gone"], "label": [0]})
    rivals = {query.answer for query in model.calls[len(LABELS) :]} - {" lost card"}
    assert rivals == {" pay fine"}
    off = {"score": "contrast", "calibration_texts": 0}
    assert CAPPrior.from_dataset(dataset(), model=model, **off).offsets == ()


def test_label_scores_and_rank() -> None:
    made = added(prior(keep_label_scores=True))
    scores = made["cap_label_scores"][0]
    assert scores == [-31.0 + 10, -31.0 + 9, -31.0 + 11 + 6]
    # `pay` scores -31 + 9 for the label of 8 letters, and one cue; the longer label only -31 + 11
    assert made["cap_rank"] == [1, 1, 1, 1, 1, 1]
    assert added(prior(keep_label_scores=True), ["my book"], [0])["cap_rank"] == [2]
    assert "cap_rank" not in added(prior())


def test_replaced_words_leave_their_place() -> None:
    model = MockLanguageModel(cue_score)
    added(prior(model=model, masking="replace", replacement="___"), ["lost it"], [0])
    texts = {asked_text(query.prefix + query.body) for query in model.calls}
    assert texts == {"___ it", "lost ___"}


def test_too_few_perturbations_are_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    data = dataset(["w " * 8, "w " * 4, "w " * 3], [0, 0, 0])
    source = CAPPrior.from_dataset(data, model=MockLanguageModel(cue_score), chat=False, n=8)
    (few,) = [r.getMessage() for r in caplog.records if "perturbations" in r.getMessage()]
    assert few.startswith("1 of 3 texts have more than 4 words")
    assert "Use n=16" in few
    caplog.clear()
    source(data[:])
    CAPPrior.from_dataset(data, model=MockLanguageModel(cue_score), chat=False, n=16)
    assert "perturbations" not in caplog.text


def test_every_text_is_scored_without_itself_among_the_demonstrations() -> None:
    model = MockLanguageModel(cue_score)
    data = dataset([*TEXTS, "LOST  card", "lost card"], [*GOLD, 0, 0])
    CAPPrior.from_dataset(data, model=model, n=5)({"text": ["my pin"], "label": [0]})
    assert not [query for query in model.calls if "Category:" in query.prefix], "none by default"
    made = CAPPrior.from_dataset(data, model=model, n=5, demonstrations=1)
    assert all(len(part) == 3 for part in made.demonstration_sets)
    for text, label in zip(data["text"], data["label"], strict=True):
        model.calls.clear()
        made({"text": [text], "label": [label]})
        shown = " ".join(" ".join({query.prefix for query in model.calls}).casefold().split())
        assert f"message: {' '.join(text.casefold().split())} category" not in shown
    model.calls.clear()
    made({"text": data["text"][:], "label": data["label"][:]})
    assert len({query.prefix for query in model.calls}) == 2  # one of each set


def key(**options: Any) -> str:
    return str(Hasher.hash(CAPPrior(labels=LABELS, **options)))


def test_settings_are_the_cache_key() -> None:
    assert key(n=100) == key() != key(n=99)
    with using_runtime(LMRuntime(device="cpu")):
        on_cpu = key()
    with using_runtime(LMRuntime(device="mps")):  # another number format changes scores
        assert key() != on_cpu == key(model=LMSettings(dtype="float32"))
    one, same, other = (LocalLanguageModel(llama(seed=seed), byte_tokenizer()) for seed in (0, 0, 1))
    CAPPrior(labels=LABELS, model=one)({"text": ["pay it"], "label": [1]})  # counts are no state
    assert key(model=one) == key(model=same) != key(model=other)


@pytest.mark.parametrize("setting", ["template", "model"])
def test_what_a_setting_only_names_is_part_of_the_cache_key(setting: str, tmp_path: Path) -> None:
    own, folder = tmp_path / "own.yaml", tmp_path / "model"
    text = (Path(prompts.__file__).parent / "templates" / "cap.yaml").read_text()
    own.write_text(text)
    llama().save_pretrained(folder)
    options: dict[str, Any] = {setting: str(own if setting == "template" else folder)}
    source, before = CAPPrior(labels=LABELS, **options), key(**options)
    assert key(**options) == before
    own.write_text(text.replace("Name the", "Say the"))
    llama(seed=1).save_pretrained(folder)
    assert key(**options) != before
    with pytest.raises(ModelError, match="changed on disk after the prior source was created"):
        source.open()


@pytest.mark.parametrize("kind", ["pipeline", "model and tokenizer", "folder"])
def test_a_loaded_pipeline_is_used_inside_map(kind: str, tmp_path: Path) -> None:
    model, tokenizer = llama(), byte_tokenizer()
    given: Any = (model, tokenizer)
    if kind == "pipeline":
        given = pipeline("text-generation", model=model, tokenizer=tokenizer, device="cpu")
    elif kind == "folder":
        given = save(model, tmp_path)
    data = dataset()
    with using_runtime(LMRuntime(device="cpu", store="none")):
        made = data.map(CAPPrior.from_dataset(data, model=given, n=9), batched=True)
        direct = LocalLanguageModel(llama(), byte_tokenizer())
        expected = CAPPrior.from_dataset(data, model=direct, n=9)(data[:])
    assert made["prior_cap"][:] == expected["prior_cap"]


class Narrow(MockLanguageModel):
    """Reads prompts of at most `room` bytes after the prefix, and refuses others."""

    def __init__(self, room: int, function: Any = cue_score) -> None:
        super().__init__(function)
        self.room = room

    def excess(self, query: Query) -> int:
        return len((query.body + query.answer).encode()) - self.room

    def log_probs(self, queries: Sequence[Query], on_result: Any = None) -> list[Scored]:
        assert all(self.excess(query) <= 0 for query in queries), "the language model refuses it"
        return super().log_probs(queries)


def test_words_that_do_not_fit_get_no_score(caplog: pytest.LogCaptureFixture) -> None:
    text = "lost card " + "and so on " * 5
    full = len(" lost card and\nCategory: renew book")
    made = added(prior(model=Narrow(full)), [text, "pay now"], [0, 1])
    assert made["cap_cut"] == [len(text.split()) - 3, 0]
    assert len(made["prior_cap"][0]) == len(made["cap_std"][0]) == len(made["words"][0])
    assert made["prior_cap"][0][3:] == [0.0] * made["cap_cut"][0]
    assert made["prior_cap"][0][0] > 0
    assert "1 of 2 texts are longer" in caplog.text
    with pytest.raises(ModelError, match=r"no room for the word 'x{40}' of 400.*`word_pattern`"):
        added(prior(model=Narrow(100)), ["x" * 400], [0])


def test_the_label_of_most_tokens_must_fit() -> None:
    many = "退款请求我" * 2  # fewer characters than the other label and more bytes
    model = Narrow(60, lambda prompt, answer: -1.0)
    source = CAPPrior(labels=("renew_my_book", many), model=model, keep_label_scores=True, n=5)
    made = source({"text": ["one two three four five six"], "label": [0]})
    assert made["cap_cut"] == [2]
    assert len(f" one two three four\nCategory: {many}".encode()) == 60


@pytest.mark.parametrize(
    "options",
    [
        {"masking": "replace", "replacement": "[MASKED]"},
        {"masking": "replace", "replacement": "…" * 3, "word_pattern": r"\w+"},
    ],
)
def test_perturbed_texts_must_fit_as_well(options: dict[str, Any]) -> None:
    text = "lost card and so on and so forth"
    whole = len(f" {text}\nCategory: renew book")
    made = added(prior(model=Narrow(whole + 3), **options), [text], [0])
    assert made["cap_cut"][0] > 0
    assert len(made["prior_cap"][0]) == len(made["words"][0])
    roomy = added(prior(model=Narrow(whole + 100), **options), [text], [0])
    assert roomy["cap_cut"] == [0]


QUERY, CONTACT = "email_query", "email_querycontact"


@pytest.mark.parametrize(
    "model", [LocalLanguageModel(llama(), byte_tokenizer()), MockLanguageModel(cue_score)]
)
@pytest.mark.parametrize("verbalise", [False, True])
def test_only_labels_that_begin_another_are_ended(model: LanguageModel, verbalise: bool) -> None:
    source = CAPPrior(labels=(QUERY, CONTACT, "mail"), model=model, verbalise=verbalise)
    opened = source.open()
    prompt = opened.prompts[0]
    answers = [opened.query(prompt, "a", label).answer for label in opened.labels]
    end = "<|im_end|>" if isinstance(model, LocalLanguageModel) else "\n\n"
    names = [" ".join(name.split("_")) if verbalise else name for name in source.labels]
    assert answers == [f" {names[0]}{end}", f" {names[1]}", f" {names[2]}"]


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"text_": ["a"], "label": [0]}, r"no column 'text'; found \['label', 'text_'\]"),
        ({"text": ["a"], "intent": [0]}, "no column 'label'"),
        ({"text": ["a b", "  "], "label": [0, 0]}, "Row 1: the text is '  '.* finds no words"),
        ({"text": [None], "label": [0]}, "Row 0: the text is None"),
        ({"text": ["a b"], "label": [3]}, "label 3 is not in the label space of 3"),
        ({"text": ["a b"], "label": [-1]}, "label -1"),
        ({"text": ["a b"], "label": ["nonsense"]}, "label 'nonsense'"),
        ({"text": ["a b"], "label": [None]}, "label None"),
    ],
)
def test_bad_rows_are_refused_before_any_scoring(batch: dict[str, list[Any]], message: str) -> None:
    model = MockLanguageModel(cue_score)
    with pytest.raises(DataError, match=message):
        prior(model=model)(batch)
    assert model.calls == []


def test_scores_that_are_not_finite_stop_the_run() -> None:
    with pytest.raises(ExtractError):
        added(prior(model=MockLanguageModel(lambda prompt, answer: -math.inf)))


# --- bfloat16 on a CPU


MANY = [f"{one} my {other} card" for one in ("renew", "lost", "pay") for other in "abcdefghijklmno"]
OPTIONS = {"n": 6}


@pytest.fixture
def data() -> Dataset:
    return labelled(MANY, [index % 3 for index in range(len(MANY))])


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Pretends a ratio of speeds."""

    def pretend(ratio: float) -> None:
        monkeypatch.setattr(cap, "bfloat16_speedup", lambda: ratio)

    return pretend


def saved(folder: Path, shift: float) -> str:
    """A model whose embeddings share an offset; beside 512 bfloat16 cannot tell tokens apart."""
    model = llama()
    with torch.no_grad():
        model.get_input_embeddings().get_parameter("weight").add_(shift)
    return save(model, folder)


def test_agreement_is_the_mean_cosine() -> None:
    assert agreement([[3, 4], [1, 0]], [[6, 8], [1, 1]]) == pytest.approx((1 + math.sqrt(0.5)) / 2)
    assert agreement([[0, 0], [0, 1]], [[0, 0], [0, 0]]) == 0.5
    assert agreement([[1, 0]], [[-1, 0]]) == -1


@pytest.mark.parametrize(("shift", "expected"), [(0.0, "bfloat16"), (512.0, "float32")])
def test_priors_that_disagree_keep_float32(
    tmp_path: Path,
    data: Dataset,
    fast: Callable[[float], None],
    caplog: pytest.LogCaptureFixture,
    shift: float,
    expected: str,
) -> None:
    fast(3.0)
    model = saved(tmp_path / "model", shift)
    runtime = LMRuntime(device="cpu", store=str(tmp_path / "scores.sqlite"))
    with using_runtime(runtime), caplog.at_level(logging.INFO, "hf_cap.priors.cap"):
        (source,) = make_sources(["cap"], data, {"cap": OPTIONS}, model=model)
        found: Any = source
        batch = source(data[:2])
        assert open_language_model(found.model).fingerprint.split("|")[2] == expected
    facts = json.loads(batch["provenance"][0])["cap"]
    assert found.model.dtype == expected
    assert facts["fingerprint"].split("|")[2] == expected
    (line,) = [record.getMessage() for record in caplog.records if "mean cosine" in record.message]
    assert line.startswith(f"The language model runs in {expected}: ")


@pytest.mark.parametrize(
    ("ratio", "settings", "rows"),
    [
        (1.4, LMSettings(), 45),
        (3.0, LMSettings(), 39),
        (3.0, LMSettings(dtype="float32"), 45),
        (3.0, LMSettings(base_url="http://localhost:8000/v1"), 45),
        (3.0, MockLanguageModel(lambda prompt, answer: 0.0), 45),
    ],
)
def test_nothing_is_checked_where_nothing_is_gained_or_open(
    data: Dataset, fast: Callable[[float], None], ratio: float, settings: Any, rows: int
) -> None:
    fast(ratio)
    with using_runtime(LMRuntime(device="cpu", store=None)):
        assert choose_dtype(settings, data.select(range(rows)), OPTIONS) is settings


def test_the_speeds_are_measured_once_with_the_products_of_scoring(monkeypatch: pytest.MonkeyPatch) -> None:
    multiply = Mock(side_effect=cpu._multiply)
    monkeypatch.setattr(cpu, "_multiply", multiply)
    monkeypatch.setattr(cpu, "mkl_is_slow", lambda: True)
    cap.bfloat16_speedup.cache_clear()
    assert cap.bfloat16_speedup() == cap.bfloat16_speedup() > 0
    assert {call.args[0].weight.dtype for call in multiply.call_args_list} == {torch.float32}
    assert multiply.call_count == 15
    cap.bfloat16_speedup.cache_clear()  # other tests measure the machine as it is


def test_sources_that_are_only_checked_ask_no_language_model(data: Dataset) -> None:
    model = MockLanguageModel(lambda prompt, answer: -float(len(answer)))
    groups: Any = {"cap": {"score": "contrast"}, "prompt": {"demonstrations": 0, "chat": False}}
    made = make_sources(["lexicon", "cap"], data, groups, learns=False, model=model)
    assert [source.name for source in made] == ["lexicon", "cap"]
    assert model.calls == []
    make_sources(["lexicon", "cap"], data, groups, model=model)
    assert model.calls
