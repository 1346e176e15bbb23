"""Scores from a language model that is a function."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from hf_cap.errors import ConfigError, DataError, ExtractError, PriorError
from hf_cap.laat.elicitation import (
    CONTROLS,
    FeatureScore,
    FeatureScores,
    elicit_scores,
    expectations,
    load_scores,
    questions,
    read_answer,
)
from hf_cap.laat.settings import ElicitOptions
from hf_cap.laat.table import Description, TableSchema, infer_schema
from hf_cap.lm.base import LanguageModel, LMSettings, MockLanguageModel, OnReply, Reply, Sampling
from hf_cap.lm.cache import CachedLanguageModel


def schema() -> TableSchema:
    frame = pd.DataFrame(
        {"age": [1, 2, 3], "job": ["cook", "smith", "cook"], "y": ["no", "yes", "no"]}
    )
    told = Description(
        target="y",
        question="Who pays?",
        classes={"yes": "the person pays"},
        columns={"age": "age in years"},
    )
    return infer_schema(frame, told)


TRUTH = {"age": 6, "job=cook": -3, "job=smith": 0}


def feature_of(prompt: str) -> str:
    asked = prompt.rsplit("Feature: ", 1)[1].split("\n")[0]
    return {"age (age in years)": "age", "job is cook": "job=cook", "job is smith": "job=smith"}[
        asked
    ]


def peaked(prompt: str, answer: str) -> float:
    """Answers near the truth are likelier; for the class `no` near its opposite."""
    sign = 1 if "Outcome: yes (the person pays)" in prompt else -1
    return -abs(int(answer) - sign * TRUTH[feature_of(prompt)]) * 9.0


def found(scores: FeatureScores, label: str) -> dict[str, Any]:
    return {one.feature: one.score for one in scores.scores if one.label == label}


def test_there_is_a_question_for_each_class_and_feature() -> None:
    asked = [(one.output, one.feature.name) for one in questions(schema())]
    assert asked == [(label, name) for label in ("no", "yes") for name in TRUTH]


@pytest.mark.parametrize("chat", [None, lambda user: f"<user>{user}</user><model>"])
def test_the_score_is_the_mean_answer(chat: Any) -> None:
    scorer = MockLanguageModel(peaked, chat=chat)
    scores = elicit_scores(schema(), scorer, ElicitOptions(calibrate=False))
    assert found(scores, "yes") == pytest.approx(TRUTH, abs=1e-6)
    assert found(scores, "no") == pytest.approx({k: -v for k, v in TRUTH.items()}, abs=1e-6)
    assert scores.provenance["calls"] == 2 * 3 * 21
    first = scorer.calls[0]
    assert (first.prefix + first.body).endswith("</user><model>Score:" if chat else "Score:")
    # all that features share comes first, so that it is computed once
    assert len({query.prefix for query in scorer.calls}) == 1
    assert {query.answer for query in scorer.calls} == {f" {score}\n" for score in range(-10, 11)}


def test_calibration_takes_out_what_the_model_answers_anyway() -> None:
    rng = np.random.default_rng(0)
    log_probs = rng.normal(size=(12, 21))
    liking = 5 * rng.normal(size=21)  # of some integers, whatever is asked
    expected = expectations(log_probs, calibrate=True)
    np.testing.assert_allclose(expectations(log_probs + liking, calibrate=True), expected)
    assert np.abs(expectations(log_probs + liking, calibrate=False) - expected).max() > 1
    # nor does the scale of a row's probabilities count
    np.testing.assert_allclose(
        expectations(log_probs - 700, calibrate=False), expectations(log_probs, calibrate=False)
    )
    assert expectations(np.zeros((2, 21)), calibrate=False).tolist() == pytest.approx([0, 0])


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("It rises with age.\nScore: 7", 7),
        ("**Score:** -10", -10),
        ("score = 3. No: Score: −4", -4),
        ("Score: +2", 2),
        ("Score: 11", None),
        ("Score: 3.5", None),
        ("It would need to be more to make the score 10.", None),
        ("I cannot say; from -10 to 10 it is 4.", None),
        ("", None),
    ],
)
def test_a_score_is_read_from_the_end_of_an_answer(text: str, score: int | None) -> None:
    assert read_answer(text) == score


class Talker(LanguageModel):
    """Answers the truth, but on its first `silent` calls nothing of use about `age`."""

    @property
    def fingerprint(self) -> str:
        return "talker"

    def __init__(self, silent: int = 0) -> None:
        self.silent, self.seeds = silent, list[int]()

    def generate(
        self, prompts: Sequence[str], sampling: Sampling, on_result: OnReply | None = None
    ) -> list[Reply]:
        self.seeds.append(sampling.seed)
        quiet = len(self.seeds) <= self.silent
        replies = []
        for prompt in prompts:
            name = feature_of(prompt)
            text = "Hm." if quiet and name == "age" else f"Because. Score: {TRUTH[name]}"
            replies.append(Reply(text, 10, 5))
            if on_result:
                on_result(prompt, replies[-1])
        return replies


def test_answers_are_averaged_and_those_without_a_score_asked_again() -> None:
    talker = Talker(silent=2)
    scores = elicit_scores(schema(), talker, ElicitOptions(method="chat", estimates=2, attempts=3))
    assert found(scores, "yes") == TRUTH
    assert {one.missing for one in scores.scores} == {0}
    assert scores.scores[0].reasons == ("Because. Score: 6",) * 2
    # 6 questions, 2 twice more, then 6 for the second estimate; each time another seed
    assert scores.provenance["calls"] == 6 + 2 + 2 + 6
    assert scores.provenance["completion_tokens"] == 5 * 16
    assert len(set(talker.seeds)) == 4


def test_what_is_never_answered_is_missing_and_not_zero(caplog: pytest.LogCaptureFixture) -> None:
    scores = elicit_scores(
        schema(), Talker(silent=99), ElicitOptions(method="chat", estimates=2, attempts=1)
    )
    assert found(scores, "yes") == {**TRUTH, "age": None}
    assert [one.missing for one in scores.scores if one.feature == "age"] == [2, 2]
    assert "4 of 12 answers held no score" in caplog.text
    _, known = scores.matrix(schema().outputs, schema().feature_names)
    assert known.tolist() == [[False, True, True]] * 2


def test_a_model_that_never_answers_is_refused() -> None:
    mute = MockLanguageModel(reply=lambda prompt: "Who knows")
    with pytest.raises(ExtractError, match=r"None of the 6 answers.*Who knows"):
        elicit_scores(schema(), mute, ElicitOptions(method="chat", estimates=1, attempts=0))


def test_an_elicitation_that_was_killed_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    options = ElicitOptions(method="chat", estimates=3, attempts=1)
    expected = elicit_scores(schema(), Talker(silent=1), options)

    class Killed(Talker):
        """Dies in the second round, after four of its six replies."""

        def generate(
            self, prompts: Sequence[str], sampling: Sampling, on_result: OnReply | None = None
        ) -> list[Reply]:
            if len(self.seeds) < 2:
                return super().generate(prompts, sampling, on_result)
            super().generate(prompts[:4], sampling, on_result)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        elicit_scores(
            schema(), CachedLanguageModel(Killed(silent=1), tmp_path / "s.sqlite"), options
        )
    again = Talker()
    asked: list[int] = []

    class Counted(Talker):
        def generate(
            self, prompts: Sequence[str], sampling: Sampling, on_result: OnReply | None = None
        ) -> list[Reply]:
            asked.append(len(prompts))
            return again.generate(prompts, sampling, on_result)

    found = elicit_scores(schema(), CachedLanguageModel(Counted(), tmp_path / "s.sqlite"), options)
    assert found == expected
    assert asked == [2, 6]  # what was left of the second estimate, and the third


def test_more_estimates_ask_only_what_is_new(tmp_path: Path) -> None:
    for estimates, calls in ((2, 2), (5, 3)):
        talker = Talker()
        chat = CachedLanguageModel(talker, tmp_path / "s.sqlite")
        elicit_scores(schema(), chat, ElicitOptions(method="chat", estimates=estimates, seed=3))
        assert len(talker.seeds) == calls


@pytest.mark.parametrize(
    "setting", [{"estimates": 0}, {"attempts": -1}, {"temperature": 0.0}, {"max_new_tokens": 0}]
)
def test_settings_that_cannot_work_are_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(setting))):
        ElicitOptions(**setting)


def test_scores_come_back_from_a_folder_and_a_file(tmp_path: Path) -> None:
    scores = elicit_scores(
        schema(), Talker(silent=99), ElicitOptions(method="chat", estimates=2, attempts=0)
    )
    (tmp_path / "made").mkdir()
    scores.to_dataset().to_parquet(str(tmp_path / "made" / "train.parquet"))
    assert load_scores(tmp_path / "made") == scores
    (tmp_path / "hand.yaml").write_text("no: {age: -2}\nyes: {age: 2.5, 'job=cook': 0}\n")
    values, known = load_scores(tmp_path / "hand.yaml").matrix(*[schema().outputs, list(TRUTH)])
    np.testing.assert_array_equal(values, [[-2, 0, 0], [2.5, 0, 0]])
    np.testing.assert_array_equal(known, [[1, 0, 0], [1, 1, 0]])


@pytest.mark.parametrize("text", ["[1, 2]", "yes: {age: high}", "yes: {age: ["])
def test_a_file_that_holds_no_scores_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "hand.yaml").write_text(text)
    with pytest.raises(DataError, match=r"class: \{feature: score\}"):
        load_scores(tmp_path / "hand.yaml")


def test_scores_that_contradict_themselves_are_refused() -> None:
    with pytest.raises(PriorError, match="two scores"):
        FeatureScores((FeatureScore("a", "x", 1.0), FeatureScore("a", "x", 2.0)))
    with pytest.raises(PriorError, match="is nan"):
        FeatureScores.of({"a": {"x": float("nan")}})


def test_controls_keep_what_they_should() -> None:
    scores = FeatureScores.of({"a": dict(zip("uvwxyz", range(6), strict=True)), "b": {"u": None}})
    controls = {name: scores.control(name, seed=1) for name in CONTROLS}
    before = [one.score for one in scores.scores][:6]
    shuffled = [one.score for one in controls["shuffled"].scores][:6]
    assert shuffled != before
    assert sorted(map(float, filter(lambda s: s is not None, shuffled))) == [0, 1, 2, 3, 4, 5]  # type: ignore[arg-type]
    assert [one.score for one in controls["sign_flipped"].scores][:6] == [0, -1, -2, -3, -4, -5]
    assert (
        scores.control("random", seed=1) == controls["random"] != scores.control("random", seed=2)
    )
    assert all(made.scores[-1].score is None for made in controls.values())
    with pytest.raises(ConfigError, match="no control 'uniform'"):
        scores.control("uniform")


@pytest.mark.real
def test_the_embedded_language_model_gives_finite_scores() -> None:
    from hf_cap.lm.open import open_language_model

    with torch.no_grad():
        scores = elicit_scores(schema(), open_language_model(LMSettings()))
    values, known = scores.matrix(schema().outputs, schema().feature_names)
    assert known.all()
    assert np.abs(values).max() <= 10


def test_scores_that_were_written_anew_are_read_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, room in enumerate(("one", "one", "two")):
        folder = tmp_path / room / "scores"
        folder.mkdir(parents=True, exist_ok=True)
        made = FeatureScores.of({"yes": {"a": float(number)}})
        made.to_dataset().to_parquet(str(folder / "train.parquet"))
        card = "---\nconfigs:\n- config_name: default\n  data_files: train.parquet\n---\n"
        (folder / "README.md").write_text(card)
        monkeypatch.chdir(tmp_path / room)
        assert load_scores("scores").scores[0].score == number
