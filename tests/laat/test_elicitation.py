"""Scores from a language model that is a function."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hf_cap.errors import ConfigError, DataError, ExtractError
from hf_cap.laat.elicitation import (
    CONTROLS,
    FeatureScores,
    elicit_scores,
    expectations,
    load_scores,
    read_answer,
    write_scores,
)
from hf_cap.laat.settings import ElicitOptions
from hf_cap.laat.table import infer_schema
from hf_cap.lm.base import LanguageModel, MockLanguageModel, OnReply, Reply, Sampling
from hf_cap.lm.cache import CachedLanguageModel

SCHEMA = infer_schema(
    pd.DataFrame({"age": [1, 2, 3], "job": ["cook", "smith", "cook"], "y": ["no", "yes", "no"]}),
    target="y",
    question="Who pays?",
    classes={"yes": "the person pays"},
    columns={"age": "age in years"},
)
TRUTH = {"age": 6, "job=cook": -3, "job=smith": 0}
FEATURES = {"age (age in years)": "age", "job is cook": "job=cook", "job is smith": "job=smith"}


def feature_of(prompt: str) -> str:
    return FEATURES[prompt.rsplit("Feature: ", 1)[1].split("\n")[0]]


def peaked(prompt: str, answer: str) -> float:
    """Answers near the truth are likelier; for the class `no` near its opposite."""
    sign = 1 if "Outcome: yes (the person pays)" in prompt else -1
    return -abs(int(answer) - sign * TRUTH[feature_of(prompt)]) * 9.0


def found(scores: FeatureScores, label: str) -> dict[str, Any]:
    return {name: score for (one, name), score in scores.values.items() if one == label}


@pytest.mark.parametrize("chat", [None, lambda user: f"<user>{user}</user><model>"])
def test_the_score_is_the_mean_answer(chat: Any) -> None:
    model = MockLanguageModel(peaked, chat=chat)
    scores = elicit_scores(SCHEMA, model, ElicitOptions(calibrate=False))
    assert [row["class"] for row in scores.rows] == ["no"] * 3 + ["yes"] * 3
    assert found(scores, "yes") == pytest.approx(TRUTH, abs=1e-6)
    assert found(scores, "no") == pytest.approx({k: -v for k, v in TRUTH.items()}, abs=1e-6)
    assert scores.provenance["calls"] == 2 * 3 * 21
    first = model.calls[0]
    assert (first.prefix + first.body).endswith("</user><model>Score:" if chat else "Score:")
    # all that features share comes first, so that it is computed once
    assert len({query.prefix for query in model.calls}) == 1
    assert {query.answer for query in model.calls} == {f" {score}\n" for score in range(-10, 11)}


def test_calibration_takes_out_what_the_model_answers_anyway() -> None:
    rng = np.random.default_rng(0)
    log_probs = rng.normal(size=(12, 21))
    liking = 5 * rng.normal(size=21)  # of some integers, whatever is asked
    expected = expectations(log_probs, calibrate=True)
    np.testing.assert_allclose(expectations(log_probs + liking, calibrate=True), expected)
    assert np.abs(expectations(log_probs + liking, calibrate=False) - expected).max() > 1
    # nor does the scale of a row's probabilities count
    plain = expectations(log_probs, calibrate=False)
    np.testing.assert_allclose(expectations(log_probs - 700, calibrate=False), plain)
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
    ],
)
def test_a_score_is_read_from_the_end_of_an_answer(text: str, score: int | None) -> None:
    assert read_answer(text) == score


class Talker(LanguageModel):
    """Answers the truth, but on its first `silent` calls nothing of use about `age`.

    On call `killed` it dies after four replies. `asked` counts the prompts of each call.
    """

    def __init__(self, silent: int = 0, killed: int = 99) -> None:
        self.silent, self.killed, self.seeds, self.asked = silent, killed, list[int](), list[int]()

    def generate(
        self, prompts: Sequence[str], sampling: Sampling, on_result: OnReply | None = None
    ) -> list[Reply]:
        self.seeds.append(sampling.seed)
        self.asked.append(len(prompts))
        replies: list[Reply] = []
        for prompt in prompts:
            if len(self.seeds) == self.killed and len(replies) == 4:
                raise KeyboardInterrupt
            name = feature_of(prompt)
            quiet = len(self.seeds) <= self.silent and name == "age"
            replies.append(Reply("Hm." if quiet else f"Because. Score: {TRUTH[name]}", 10, 5))
            if on_result:
                on_result(prompt, replies[-1])
        return replies


def chat(**options: Any) -> ElicitOptions:
    return ElicitOptions(method="chat", **options)


def test_answers_are_averaged_and_those_without_a_score_asked_again() -> None:
    talker = Talker(silent=2)
    scores = elicit_scores(SCHEMA, talker, chat(estimates=2, attempts=3))
    assert found(scores, "yes") == TRUTH
    assert {row["missing"] for row in scores.rows} == {0}
    assert scores.rows[0]["reasons"] == ["Because. Score: 6"] * 2
    # 6 questions, 2 twice more, then 6 for the second estimate; each time another seed
    assert talker.asked == [6, 2, 2, 6]
    assert scores.provenance["calls"] == 16
    assert scores.provenance["completion_tokens"] == 5 * 16
    assert len(set(talker.seeds)) == 4


def test_what_is_never_answered_is_missing_and_not_zero(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    scores = elicit_scores(SCHEMA, Talker(silent=99), chat(estimates=2, attempts=1))
    assert found(scores, "yes") == {**TRUTH, "age": None}
    assert [row["missing"] for row in scores.rows if row["feature"] == "age"] == [2, 2]
    assert "4 of 12 answers held no score" in caplog.text
    _, known = scores.matrix(SCHEMA.outputs, SCHEMA.feature_names)
    assert known.tolist() == [[False, True, True]] * 2
    scores.to_dataset().to_parquet(str(tmp_path / "train.parquet"))
    assert load_scores(tmp_path) == scores
    mute = MockLanguageModel(reply=lambda prompt: "Who knows")
    with pytest.raises(ExtractError, match=r"None of the 6 answers.*Who knows"):
        elicit_scores(SCHEMA, mute, chat(estimates=1, attempts=0))


def test_an_elicitation_that_was_killed_goes_on_and_asks_only_what_is_new(tmp_path: Path) -> None:
    options = chat(estimates=3, attempts=1)
    expected = elicit_scores(SCHEMA, Talker(silent=1), options)

    def resume(talker: Talker, options: ElicitOptions) -> FeatureScores:
        model = CachedLanguageModel(talker, tmp_path / "s.sqlite")
        return elicit_scores(SCHEMA, model, options)

    with pytest.raises(KeyboardInterrupt):  # in the second estimate, after four of its six replies
        resume(Talker(silent=1, killed=3), options)
    again = Talker()
    assert resume(again, options) == expected
    assert again.asked == [2, 6]  # the rest of the second estimate, and the third
    more = Talker()
    resume(more, chat(estimates=5, attempts=1))
    assert more.asked == [6, 6]


def test_settings_that_cannot_work_are_an_error() -> None:
    settings = {"estimates": 0, "attempts": -1, "temperature": 0.0, "max_new_tokens": 0}
    for name, value in settings.items():
        with pytest.raises(ConfigError, match=name):
            chat(**{name: value})


def test_scores_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "hand.yaml"
    file.write_text("no: {age: -2}\nyes: {age: 2.5, 'job=cook': 0}\n")
    values, known = load_scores(file).matrix(SCHEMA.outputs, SCHEMA.feature_names)
    np.testing.assert_array_equal(values, [[-2, 0, 0], [2.5, 0, 0]])
    np.testing.assert_array_equal(known, [[1, 0, 0], [1, 1, 0]])
    file.write_text('{"no": {"age": null, "pay": 1e-1}}')
    assert load_scores(file).values == {("no", "age"): None, ("no", "pay"): 0.1}
    for text in ("[1, 2]", "yes: {age: high}", "yes: {age: [", "yes: {age: inf}", "yes: {age: nan}"):
        file.write_text(text)
        with pytest.raises(DataError, match=r"class: \{feature: score\}"):
            load_scores(file)
    with pytest.raises(DataError, match="no feature scores"):
        load_scores(tmp_path)


def test_controls_keep_what_they_should() -> None:
    scores = FeatureScores.of({"a": dict(zip("uvwxyz", range(6), strict=True)), "b": {"u": None}})
    controls = {name: scores.control(name, seed=1) for name in CONTROLS}
    shuffled = list(found(controls["shuffled"], "a").values())
    assert shuffled != sorted(shuffled) == [0, 1, 2, 3, 4, 5]
    assert list(found(controls["sign_flipped"], "a").values()) == [0, -1, -2, -3, -4, -5]
    again, other = (scores.control("random", seed=seed) for seed in (1, 2))
    assert again == controls["random"] != other
    assert all(made.values["b", "u"] is None for made in controls.values())


def test_scores_that_were_written_anew_are_read_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scores").mkdir()
    monkeypatch.chdir(tmp_path)
    for number in (1.0, 2.0):
        write_scores(tmp_path / "scores", FeatureScores.of({"yes": {"a": number}}))
        assert load_scores("scores").values == {("yes", "a"): number}
