"""What the audit app finds, counts, computes, stores and draws; no browser, no gradio."""

import json
import re
import sys
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import transformers

from hf_cap import app
from hf_cap.cues import Cue, Mark, load_marks, save_marks
from hf_cap.errors import ConfigError, DataError, MissingExtra
from hf_cap.pipelines import TASK, register_pipeline
from tests.app.conftest import MARKS
from tests.report.runs import EVIL, HOSTILE


def shown(html: str) -> str:
    """The text of some HTML, as a browser shows it."""
    return unescape(re.sub(r"<[^>]*>", "", html))


# --- What there is.


def test_the_parts_of_a_fit_are_found_and_what_is_given_comes_first(made_once: Path) -> None:
    parts = app.find_parts(made_once)
    assert parts == app.Parts(
        models={
            "baseline": str(made_once / "models/baseline-seed3"),
            "aligned": str(made_once / "models/aligned-seed3"),
        },
        priors=made_once / "prior",
        shortcuts=made_once / "shortcuts.yaml",
    )
    given = app.find_parts(made_once, baseline="other", priors="p", shortcuts="s.yaml")
    assert given.models["baseline"] == "other"
    assert (given.priors, given.shortcuts) == (Path("p"), Path("s.yaml"))


def test_a_classifier_alone_is_enough(made_once: Path) -> None:
    place = str(made_once / "models/aligned-seed3")
    assert app.find_parts(place) == app.Parts(models={"model": place})
    assert app.find_parts("me/model", baseline="me/plain").models == {
        "baseline": "me/plain",
        "model": "me/model",
    }


def test_a_fit_without_an_aligned_model_is_named(made_once: Path, tmp_path: Path) -> None:
    done = json.loads((made_once / "fit.json").read_text())
    done["models/aligned-seed3"]["finished"] = False
    (tmp_path / "fit.json").write_text(json.dumps(done))
    with pytest.raises(DataError, match="no finished aligned model; run `hf-cap fit` again"):
        app.find_parts(tmp_path)


def test_texts_that_the_models_predict_differently_lead(made_once: Path) -> None:
    rows = app.known_texts(app.find_parts(made_once))
    assert rows[0]["text"] == "pay my fine"
    assert (rows[0]["baseline"], rows[0]["aligned"]) == ("renew", "cancel")
    assert {row["text"] for row in rows} == {
        *("pay my fine", "renew my card", "cancel the hold", "pay fine"),
        *HOSTILE,
    }
    by_text = {row["text"]: row for row in rows}
    assert by_text["renew my card"]["priors"] == {"prior": [1.0, 0.0, -0.5]}
    # without a fused prior, those of the sources
    assert by_text["pay fine"]["priors"] == {"prior: cap": [0.5, 0.5]}
    assert by_text["renew my card"]["label"] == "renew"


def test_the_list_has_every_decision_and_the_numbers_that_are_known(made_once: Path) -> None:
    rows = app.list_shortcuts(made_once / "shortcuts.yaml")
    assert [row["mark"] for row in rows] == MARKS
    assert [row["of"] for row in rows] == [4, 0, 0]
    text = " ".join(shown(app.show_marks(rows)).split())
    assert "3 of 4 texts, 1 elsewhere; flips 25 % of others" in text
    assert text.count("Show a text") == 1


# --- Decisions.


def test_a_decision_changes_one_entry_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "shortcuts.yaml"
    save_marks(MARKS, file)
    saved = app.save_decision(file, Cue("word", "hold"), "cancel", "fine")
    assert saved.decision == "fine"
    assert load_marks(file) == [saved, *MARKS[1:]]
    assert [path.name for path in tmp_path.iterdir()] == ["shortcuts.yaml"]


@pytest.mark.parametrize(
    ("cue", "label", "decision"),
    [
        (Cue("word", "hold"), "pay", "fine"),
        (Cue("last", "hold"), "cancel", "fine"),
        (Cue("word", "hold"), "cancel", "delete"),
    ],
)
def test_what_is_not_in_the_file_is_not_saved(tmp_path: Path, cue: Cue, label: str, decision: str) -> None:
    file = tmp_path / "shortcuts.yaml"
    save_marks(MARKS, file)
    before = file.read_bytes()
    with pytest.raises(DataError, match=r"has no 'hold' .* load the page again"):
        app.save_decision(file, cue, label, decision)
    assert file.read_bytes() == before


# --- Answers.


def test_an_answer_is_that_of_the_pipeline(made_once: Path) -> None:
    register_pipeline()
    pipeline: Any = transformers.pipeline
    place = str(made_once / "models/aligned-seed3")
    explainer, said = app.Explainer("aligned", place), pipeline(TASK, model=place)
    for label in (None, "pay"):
        answer, row = (explainer.answer("renew my card", label), said("renew my card", label=label, steps=20))
        assert sum(answer.probabilities.values()) == pytest.approx(1)
        assert answer.probabilities[answer.explained] == pytest.approx(row["score"])
        assert answer.explained == row["label"]
        assert list(answer.words) == row["words"]
        assert answer.scores == pytest.approx(row["attributions"])


def test_a_model_of_a_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "hf_cap_tabular"}')
    with pytest.raises(ConfigError, match="is a model of a table"):
        app.Explainer("model", str(tmp_path))


def test_a_word_is_left_out_and_the_last_one_stays() -> None:
    assert app.leave_out("please  renew my card", 1) == "please  my card"
    assert app.leave_out("renew", 0) == "renew"
    assert app.leave_out("renew my card", 7) == "renew my card"


# --- HTML.

BLANK: dict[str, Any] = {"of": 0, "flipped": None, "examples": []}

ANSWERS = [
    app.Answer("baseline", {"renew": 0.7, "pay": 0.3}, "renew", ("renew", "<b>"), (2.0, -1.0)),
    app.Answer("aligned", {"renew": 0.2, "pay": 0.8}, "pay", ("renew", "<b>"), (0.0, 0.5)),
]


def test_answers_show_probabilities_words_prior_and_shortcuts() -> None:
    before = [app.Answer(one.name, {"renew": 0.5, "pay": 0.5}, "pay", (), ()) for one in ANSWERS]
    known = {"label": "pay", "priors": {"prior": [0.25, 1.0], "too short": [1.0]}}
    marks = [
        Mark(kind="word", value="renew", label="renew"),
        Mark(kind="first", value="renew", label="pay", decision="fine"),
    ]
    html = app.show_answers(ANSWERS, before, known, marks)
    text = " ".join(shown(html).split())
    # the likeliest label of any model first
    assert "baseline pay (its label) 30 % was 50 % renew 70 % was 50 %" in text
    assert "aligned pay (its label) 80 % was 50 % renew 20 % was 50 %" in text
    strengths = re.findall(r'class="w (\w*)" style="--a: ([\d.]+)"', html)
    assert strengths == [
        *[("for", "1.000"), ("against", "0.500"), ("", "0.000"), ("for", "1.000")],
        *[("for", "0.250"), ("for", "1.000")],
    ]
    assert html.count('data-word="1"') == 2
    assert "too short" not in text
    assert "Marked as shortcuts in this text: renew for renew." in text


def test_labels_that_are_unlikely_are_left_out_unless_they_are_the_text_s_own() -> None:
    many = {f"l{n}": 0.3 - n / 100 for n in range(9)}
    answer = app.Answer("model", many, "l0", ("renew",), (0.0,))
    text = shown(app.show_answers([answer], known={"label": "l8", "priors": {}}))
    assert re.findall(r"l\d(?= | %|\n)", text)[:6] == ["l0", "l1", "l2", "l3", "l4", "l8"]


@pytest.mark.parametrize("text", [*HOSTILE, EVIL])
def test_hostile_texts_are_shown_as_text(text: str) -> None:
    words = tuple(text.split())
    answer = app.Answer(EVIL, {text: 1.0}, text, words, (1.0,) * len(words))
    html = app.show_answers([answer], known={"label": text, "priors": {}})
    html += app.show_marks([{**BLANK, "examples": [text], "mark": Mark(kind="word", value=text, label=EVIL)}])
    tags = set(re.findall(r"<(\w+)", html))
    assert tags <= set("div section h3 h4 ul li span small q p button fieldset legend label input b".split())
    assert not re.search(r"<[^>]* on\w+=(?![^<]*&)", re.sub(r'"[^"]*"', '""', html))
    # gradio reads what it shows as a template
    assert not set("{}$") & set(html)
    assert " ".join(text.split()) in " ".join(shown(html).split())


def test_decisions_are_those_of_the_list() -> None:
    html = app.show_marks([{**BLANK, "mark": mark} for mark in MARKS])
    chosen = re.findall(r'name="decision-(\d)" value="(\w+)" checked', html)
    assert chosen == [("1", "shortcut"), ("2", "fine"), ("3", "shortcut")]


def test_without_gradio_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(MissingExtra, match=r"pip install 'hf-cap\[app\]'"):
        app.make_app(app.Parts(models={"model": "none"}))
