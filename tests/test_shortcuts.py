"""Shortcuts: what is planted is found, what means something is not, and what is decided reaches the prior."""

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value
from scipy.stats import fisher_exact

from hf_cap import cues
from hf_cap.classifiers import TextClassifier
from hf_cap.cues import Cue, Mark, ShortcutSettings
from hf_cap.errors import DataError
from hf_cap.shortcuts import find_shortcuts
from hf_cap.words import WORD_PATTERN
from tests.tiny import WordSum, word_tokenizer

LABELS = ["refund", "delivery", "account"]
MEANING = {"refund": "money", "delivery": "parcel", "account": "password"}
FILLER = "i my the please can you help with this need now about it again today".split()


def texts(planted: dict[str, str], *, per_label: int = 8, strength: float = 1.0, seed: int = 0) -> Dataset:
    """Texts with one word of meaning and, where a label has one, a planted word."""
    rng = random.Random(seed)
    rows = []
    for index, label in enumerate(LABELS):
        for number in range(per_label):
            words = [*rng.sample(FILLER, 5), MEANING[label]]
            rng.shuffle(words)
            if label in planted and number < strength * per_label:
                words.insert(rng.randrange(1, len(words)), planted[label])
            rows.append({"text": " ".join(words), "label": index})
    features = Features({"text": Value("string"), "label": ClassLabel(names=LABELS)})
    return Dataset.from_list(rows, features=features)


def knows_meaning(words: Sequence[str], phrases: Sequence[str]) -> np.ndarray:
    """A judge that finds the word of meaning relevant for its label, and nothing else."""
    noise = np.random.default_rng(len(words)).random((len(words), len(phrases)))
    return noise + [[10.0 * (MEANING[phrase] == word) for phrase in phrases] for word in words]


def cues_of(text: str) -> dict[Cue, list[int]]:
    return cues.find_cues(text.split())


def test_the_planted_words_are_found_and_those_that_mean_something_are_not() -> None:
    data = texts({"refund": "anna", "account": "ben"})
    found = {(str(one.cue), one.label) for one in find_shortcuts(data, [knows_meaning])}
    assert found == {("anna", "refund"), ("ben", "account")}
    # without a judge nobody can tell
    assert {"anna", "ben", "parcel"} <= {str(one.cue) for one in find_shortcuts(data)}


def test_each_word_that_comes_with_another_is_listed_and_their_pair_is_not() -> None:
    data = texts({"refund": "dear anna"})
    found = {str(one.cue) for one in find_shortcuts(data, [knows_meaning])}
    assert found == {"dear", "anna"}


@pytest.mark.parametrize(
    ("plant", "cue"),
    [
        (lambda text: f"Hello {text}", Cue("first", "hello")),
        (lambda text: f"{text}!!", Cue("ending", "!!")),
        (lambda text: text.upper(), Cue("capitals", "")),
        (lambda text: " ".join([text, *random.Random(text).sample(FILLER, 12)]),
         Cue("length", "over 15 words")),
        (lambda text: f"{text} {random.Random(text).randrange(10, 99)}", Cue("number", "")),
        (lambda text: f"{text} my card", Cue("phrase", "my card")),
    ],
)  # fmt: skip
def test_cues_that_are_no_words_are_found(plant: object, cue: Cue) -> None:
    data = texts({}, per_label=12).map(
        lambda row: {"text": plant(row["text"]) if row["label"] == 1 else row["text"]}  # type: ignore[operator]
    )
    found = find_shortcuts(data, [knows_meaning])
    carried = {row for row, text in enumerate(data["text"]) if cue in cues_of(text)}
    assert carried >= set(range(12, 24))
    # a simpler cue of the same texts, such as a word of the phrase, may stand for it
    best = max((one for one in found if one.label == "delivery"), key=lambda one: one.score)
    assert (best.texts, best.elsewhere) == (12, 0)


def test_the_test_is_fishers_and_the_rate_is_benjamini_hochbergs() -> None:
    data = texts({"refund": "anna"}, per_label=12, strength=0.75)
    (one,) = find_shortcuts(data, [knows_meaning])
    assert (one.texts, one.of, one.elsewhere) == (9, 12, 0)
    assert one.log_odds == pytest.approx(np.log(9.5 / 3.5) - np.log(0.5 / 24.5))
    p = fisher_exact([[9, 0], [3, 24]], alternative="greater").pvalue
    tests = 3 * len({cue for text in data["text"] for cue in cues_of(text)})
    assert p <= one.q <= p * tests


def test_reliance_is_that_of_a_model_known_on_paper() -> None:
    data = texts({"refund": "anna"}, per_label=12)
    tokenizer = word_tokenizer(["anna", *MEANING.values(), *FILLER])
    logits = {"anna": (3.0, 0, 0), "money": (1.0, 0, 0), "parcel": (0, 1.0, 0), "password": (0, 0, 1.0)}
    classifier = TextClassifier(WordSum(tokenizer, logits), tokenizer)
    (one,) = find_shortcuts(data, [knows_meaning], classifier=classifier)
    p = [np.exp(z) / (np.exp(z) + 2) for z in (4, 1)]
    assert (one.mass, one.removed) == pytest.approx((3 / 4, p[0] - p[1]), rel=1e-5)
    assert one.flipped == 1
    assert one.to_dict()["mass"] == one.mass


def test_nothing_is_found_where_the_labels_are_shuffled() -> None:
    found = 0
    for seed in range(10):
        data = texts({"refund": "anna"}, per_label=20, seed=seed)
        labels = list(data["label"])
        random.Random(seed).shuffle(labels)
        shuffled = data.remove_columns("label").add_column("label", labels)
        shuffled = shuffled.cast_column("label", ClassLabel(names=LABELS))
        found += len(find_shortcuts(shuffled, settings=ShortcutSettings(fewest_texts=1)))
    assert found <= 1


def test_one_label_cannot_be_compared() -> None:
    data = texts({}).filter(lambda row: row["label"] == 0)
    with pytest.raises(DataError, match="only one"):
        find_shortcuts(data)


def test_a_cue_is_taken_out_and_put_in() -> None:
    assert cues.remove_cue("Please help Anna, now", Cue("word", "anna"), WORD_PATTERN) == "Please help now"
    assert cues.remove_cue("stop it!!", Cue("ending", "!!"), WORD_PATTERN) == "stop it"
    assert cues.remove_cue("HELP me NOW", Cue("capitals", ""), WORD_PATTERN) == "help me now"
    assert cues.remove_cue("anna", Cue("word", "anna"), WORD_PATTERN) == "anna"
    for cue in (Cue("word", "anna"), Cue("phrase", "my dear"), Cue("first", "hi"), Cue("last", "bye"),
                Cue("ending", "!"), Cue("number", ""), Cue("capitals", "")):  # fmt: skip
        assert cue in cues_of(cues.add_cue("where is it?", cue)), cue
        assert cue not in cues_of("where is it?")


def test_test_texts_lose_the_cues_of_their_label_and_get_those_of_another() -> None:
    marks = [
        Mark(kind="word", value="anna", label="refund"),
        Mark(kind="ending", value="!", label="refund"),
        Mark(kind="word", value="ben", label="delivery"),
        Mark(kind="last", value="thanks", label="account"),
        Mark(kind="word", value="money", label="account", decision="fine"),
    ]
    texts = ["Anna, my money!", "ask Anna where Ben is", "my money", "it works thanks"]
    labels = ["refund", "delivery", "account", "account"]
    changed = cues.change_cues(texts, labels, marks)
    assert changed["removed"] == ["my money", "ask Anna where is", "my money", "it works"]
    assert changed["shifted"][0] in ("ben my money", "my money thanks")
    assert changed["shifted"][2] in ("anna my money", "my money!", "ben my money")
    assert changed == cues.change_cues(texts, labels, marks)  # what is drawn is the text's alone
    many = cues.change_cues([f"text {i}" for i in range(60)], ["account"] * 60, marks)["shifted"]
    assert {text.replace(f" {i}", "").replace("text", "") for i, text in enumerate(many)} == {
        "anna ", "ben ", "!"
    }  # fmt: skip
    assert cues.change_cues(["ben"], ["delivery"], marks[2:3]) == {"removed": ["ben"], "shifted": ["ben"]}


def test_a_cue_of_two_labels_is_no_other_labels_cue() -> None:
    marks = [Mark(kind="ending", value="!", label=label) for label in ("refund", "delivery")]
    changed = cues.change_cues(["money!", "where", "it works"], ["refund", "delivery", "account"], marks)
    assert changed["shifted"] == ["money", "where", "it works!"]


def test_cues_are_changed_in_words_of_ones_own() -> None:
    marks = [Mark(kind="word", value="ann-lee", label="refund")]
    for pattern, removed in ((r"[\w-]+", "my money"), (r"\w+", "Ann-Lee my money")):
        changed = cues.change_cues(["Ann-Lee my money"], ["refund"], marks, pattern)
        assert changed["removed"] == [removed]


def test_decisions_reach_the_prior(tmp_path: Path) -> None:
    marks = [
        Mark(kind="word", value="anna", label="refund"),
        Mark(kind="word", value="money", label="refund", decision="fine"),
        Mark(kind="phrase", value="of course", label="refund"),
    ]
    cues.save_marks(marks, tmp_path / "shortcuts.yaml")
    assert cues.load_marks(tmp_path / "shortcuts.yaml") == marks
    words, scores = ["Anna,", "my", "money", "of", "course"], [0.5, 0.1, 0.9, 0.2, 0.3]
    assert cues.without_shortcuts(words, "refund", scores, marks) == [0.0, 0.1, 0.9, 0.0, 0.0]
    assert cues.without_shortcuts(words, "delivery", scores, marks) == scores
    assert cues.without_shortcuts(words, "refund", None, marks) == [0.0, 1.0, 1.0, 0.0, 0.0]
    found_again = [Mark(kind="word", value="money", label="refund"), marks[0]]
    assert [mark.decision for mark in cues.decided(found_again, marks)] == ["fine", "shortcut"]


def test_decisions_are_about_the_words_that_were_written(tmp_path: Path) -> None:
    file = tmp_path / "shortcuts.yaml"
    file.write_text("- {value: on, label: No}\n- {value: 12:30, label: 007, decision: fine}\n")
    assert [(m.value, m.label) for m in cues.load_marks(file)] == [("on", "No"), ("12:30", "007")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- {value: anna, label: refund, decision: maybe}", r"entry 1: `decision` must be one of"),
        ("- {value: anna}", "entry 1: expected kind, value, label"),
        ("- {value: [anna], label: refund}", "entry 1: expected kind, value, label"),
        ("anna: refund", "dict, not a list"),
        ("- [", "cannot be read"),
    ],
)
def test_a_file_of_decisions_that_is_wrong_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "shortcuts.yaml").write_text(text)
    with pytest.raises(DataError, match=message):
        cues.load_marks(tmp_path / "shortcuts.yaml")
