"""A study from a recipe to its tables, on a tiny classifier."""

import json
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from datasets import Dataset

from benchmarks.study import rivals, train
from benchmarks.study.priors import source_options, source_scores, with_prior
from benchmarks.study.results import read_frame
from benchmarks.study.runs import make_run, run_study
from benchmarks.study.samples import training_texts, unlabelled_texts, validation_texts
from benchmarks.study.settings import RIVALS, Run, StudySettings, read_settings
from benchmarks.study.train import accuracy, train_classifier, training_settings
from hf_cap.embedded import ENCODER, LANGUAGE_MODEL
from hf_cap.errors import CAPError, ConfigError
from hf_cap.refit import average_encoder, refine_head
from hf_cap.schema import CHANGED, LABEL, PRIOR, TEXT
from tests.test_sentence_encoder import sentence_encoder
from tests.tiny import roberta_classifier, save

RECIPES = Path(__file__).parents[2] / "recipes" / "study"
TEXTS = {  # of training and of testing
    "lost_card": (["lost my card help", "my card is lost", "the card", "a card"], ["lost the card"]),
    "renew_loan": (["renew my loan", "the loan please", "a loan", "renew it"], ["renew the loan"]),
    "pay_fine": (["pay my fine", "pay the late fine", "the fine", "my fine"], ["late fine", "pay"]),
}


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    room = tmp_path_factory.mktemp("study")
    (room / "bank").mkdir()
    for number, split in enumerate(("train", "test")):
        rows = [{"text": t, "label": label} for label, s in TEXTS.items() for t in s[number]]
        (room / "bank" / f"{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    save(roberta_classifier(labels=3), room / "encoder")
    return room


def settings(room: Path, output: Path, **changes: Any) -> StudySettings:
    values: dict[str, Any] = {
        "dataset": (str(room / "bank"),),
        "output_dir": str(output),
        "regimes": ("2_shot",),
        "draws": 1,
        "seeds": (0,),
        "methods": ("none", "keywords", "shuffled", "hybrid_mean", "oracle"),
        "hybrid": ("keywords", "word_length"),
        "control_of": "keywords",
        "attacks": ("keyword_addition",),
        "training": {
            "model": str(room / "encoder"),
            "num_train_epochs": 1,
            "learning_rate": 1e-2,
            "logging_steps": 1,
        },
        "evaluation": {"attribution_steps": 2},
        "faithfulness_texts": 2,
    }
    return StudySettings(**{**values, **changes})


def written(output: Path) -> dict[str, int]:
    files = (output / "cells").rglob("cell.json")
    return {str(file.relative_to(output)): file.stat().st_mtime_ns for file in files}


@pytest.fixture(scope="module")
def done(room: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("done")
    assert run_study(settings(room, output)) == {}
    return output


def test_every_run_has_a_result_and_is_never_repeated(room: Path, done: Path) -> None:
    frame = read_frame(done)
    assert len(frame.drop_duplicates(["method", "seed"])) == 5
    assert set(frame["measure"]) >= {"accuracy", "macro_f1", "comprehensiveness", "prior_alignment"}
    assert frame.loc[frame["measure"] == "accuracy", "value"].between(0, 1).all()
    before = written(done)
    assert run_study(settings(room, done)) == {}
    assert written(done) == before


def test_changed_settings_are_an_error_by_name(room: Path, done: Path) -> None:
    changed = settings(room, done, methods=("none",), evaluation={"attribution_steps": 3})
    failed = run_study(changed)
    assert len(failed) == 1
    assert "evaluation changed" in next(iter(failed.values()))


def test_a_failed_run_stops_no_other(room: Path, tmp_path: Path) -> None:
    broken = settings(
        room, tmp_path, methods=("integrated_gradients", "none"),
        extraction={"integrated_gradients": {"steps": 0}},
    )  # fmt: skip
    failed = run_study(broken)
    assert [run.method for run in failed] == ["integrated_gradients"]
    assert list(written(tmp_path)) == ["cells/bank/2_shot/draw_0/none/seed_0/cell.json"]
    assert list(tmp_path.rglob("failure.json"))


@pytest.mark.slow
def test_two_processes_make_the_same_runs(room: Path, done: Path, tmp_path: Path) -> None:
    assert run_study(settings(room, tmp_path, jobs=2)) == {}
    columns = ["method", "seed", "test_set", "measure", "value"]
    one, two = (read_frame(folder)[columns] for folder in (done, tmp_path))
    timed = one["measure"].str.startswith("seconds")
    assert one[~timed].equals(two[~timed])


def test_methods_share_sample_and_scores(room: Path, done: Path) -> None:
    study = settings(room, done)
    plain, shuffled = (Run("bank", "2_shot", 0, name, 0) for name in ("keywords", "shuffled"))
    assert training_texts(study, plain)[TEXT] == training_texts(study, shuffled)[TEXT]
    left, right = with_prior(study, plain)[PRIOR][:], with_prior(study, shuffled)[PRIOR][:]
    assert left != right
    assert [sorted(row) for row in left] == [sorted(row) for row in right]


def test_validation_texts_are_not_trained_on(room: Path, done: Path) -> None:
    study = settings(room, done, validation_shots=2)
    run = Run("bank", "2_shot", 0, "none", 0)
    training, validation = training_texts(study, run)[TEXT], validation_texts(study, run)[TEXT]
    assert len(validation) == 6
    assert not set(training) & set(validation)


def test_the_best_candidate_on_validation_texts_is_used(room: Path, tmp_path: Path) -> None:
    study = settings(
        room, tmp_path, methods=("none", "keywords"), validation_shots=1,
        candidates=({"learning_rate": 0.0}, {"learning_rate": 2e-2}),
        baseline_candidates=({"learning_rate": 0.0}, {"learning_rate": 2e-2}),
    )  # fmt: skip
    assert run_study(study) == {}
    choices = [json.loads(file.read_text()) for file in (tmp_path / "selection").rglob("*.json")]
    assert len(choices) == 2
    for choice in choices:
        best = max(choice["tried"], key=lambda one: (one["accuracy"], one["macro_f1"]))
        assert choice["chosen"] == best["settings"]


def test_scores_of_other_texts_are_an_error(room: Path, tmp_path: Path) -> None:
    study, run = settings(room, tmp_path), Run("bank", "2_shot", 0, "keywords", 0)
    source_scores(study, run, "keywords")
    (file,) = (tmp_path / "scores").rglob("*.parquet")
    pd.read_parquet(file).iloc[1:].to_parquet(file)
    with pytest.raises(CAPError, match="belong to other texts"):
        source_scores(study, run, "keywords")


def test_settings_under_a_source_name_are_its_own(room: Path, tmp_path: Path) -> None:
    study = settings(room, tmp_path, extraction={"seed_of_all": 1, "n": 7, "cap": {"n": 9}})
    assert source_options(study, "cap") == {"n": 9}
    assert source_options(study, "word_length") == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"regimes": ("few",)}, "like '5_shot'"),
        ({"training_of": {"all": {}}}, "like '5_shot'"),
        ({"training_of": {"full": {"seed": 3}}}, "`training_of.full` sets 'seed'"),
        ({"draws": 0}, "draws"),
        ({"seeds": ()}, "`seeds` is empty"),
        ({"control_of": "none"}, "no scores to shuffle"),
        ({"candidates": ({},)}, "same number of trials"),
        ({"training": {"seed": 3}}, "the study itself sets"),
        ({"methods": ("lmie",)}, "no prior source 'lmie'"),
    ],
)
def test_wrong_settings_are_refused_before_any_work(
    room: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        run_study(settings(room, tmp_path, **changes))


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="no setting 'datasets'"):
        read_settings(None, {"datasets": ["a"], "output_dir": "b"})
    with pytest.raises(ConfigError, match="'output_dir' is missing"):
        read_settings(None, {"dataset": ["a"]})


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("[!l]*.yaml")), ids=lambda file: file.stem)
def test_a_recipe_is_read_whole(recipe: Path) -> None:
    found = read_settings(str(recipe), {})
    assert found.runs()
    assert yaml.safe_load(recipe.read_text())["methods"] == list(found.methods)


def test_a_regime_has_training_settings_of_its_own(room: Path, tmp_path: Path) -> None:
    study = settings(
        room, tmp_path, methods=("none", "nearest_name"), regimes=("1_shot", "full"), attacks=(),
        training_of={"full": {"num_train_epochs": 2, "learning_rate": 0.0}}, faithfulness_texts=0,
    )  # fmt: skip
    few, full = (Run("bank", regime, 0, "none", 0) for regime in study.regimes)
    assert training_settings(study, few) == {**study.training, "alignment_weight": 0.0}
    changed = {"num_train_epochs": 2, "learning_rate": 0.0, "alignment_weight": 0.0}
    assert training_settings(study, full) == {**study.training, **changed}
    make_run(study, full)
    cell = json.loads((tmp_path / "cells" / full.folder / "cell.json").read_text())
    steps = [entry["epoch"] for entry in cell["history"]]
    assert steps[-1] == 2.0  # all texts, twice
    assert cell["settings"]["training"]["num_train_epochs"] == 2


def test_unlabelled_texts_refine_the_classifier_that_was_trained(
    room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = sentence_encoder(tmp_path / "encoder")
    training = {"model": str(encoder), "num_train_epochs": 1, "learning_rate": 1e-2}
    study = settings(room, tmp_path, training=training, regimes=("1_shot",))
    plain, refined = (Run("bank", "1_shot", 0, name, 0) for name in ("none", "none_unlabelled"))
    texts = unlabelled_texts(study, refined)
    assert sorted(texts) == sorted(
        {t for s in TEXTS.values() for t in s[0]} - set(training_texts(study, plain)[TEXT])
    )
    counted = Mock(side_effect=train_classifier)
    monkeypatch.setattr(train, "train_classifier", counted)
    data = training_texts(study, plain)
    one = train.train_method(study, plain, data)
    before = one.model.head.weight.clone()
    two = train.train_method(study, refined, data)
    assert counted.call_count == 1
    assert torch.equal(one.model.head.weight, before)
    average_encoder(one.model, one.start, 0.5)
    refine_head(one.model, one.tokenizer, texts)
    assert torch.equal(two.model.head.weight, one.model.head.weight)
    assert not torch.equal(two.model.head.weight, before)
    assert training_settings(study, refined) == training_settings(study, plain)


def test_a_refitted_classifier_is_that_of_the_setting(room: Path, tmp_path: Path) -> None:
    encoder = sentence_encoder(tmp_path / "encoder")
    training = {"model": str(encoder), "num_train_epochs": 1, "learning_rate": 1e-2}
    study = settings(room, tmp_path, training=training, regimes=("1_shot",))
    run = Run("bank", "1_shot", 0, "none_refit", 0)
    data = training_texts(study, run)
    found = train.train_method(study, run, data).model
    options = {**training_settings(study, run), "refit_head": True}
    peer = train_classifier(data, options, seed=0).model
    torch.testing.assert_close(found.head.weight, peer.head.weight, atol=1e-4, rtol=1e-3)
    plain = train.train_method(study, Run("bank", "1_shot", 0, "none", 0), data).model
    assert (plain.head.weight - found.head.weight).abs().max() > 0.01


def test_accuracy_counts_the_texts_that_an_attack_changed() -> None:
    test = Dataset.from_dict({TEXT: list("abcd"), LABEL: [0, 1, 1, 0], CHANGED: [1, 0, 1, 0]})
    labels = np.array([0, 1, 0, 0])
    found = accuracy(lambda texts: labels, test)
    f1 = (0.8 + 2 / 3) / 2  # precision and recall 2/3 and 1, then 1 and 1/2
    assert found == {
        "texts": 4, "accuracy": 0.75, "macro_f1": pytest.approx(f1), "changed": 2, "accuracy_changed": 0.5,
    }  # fmt: skip
    sure = np.eye(2)[labels] * 0.6 + 0.2  # 0.8 for the predicted label
    found = accuracy(lambda texts: sure, test.remove_columns(CHANGED))
    nll = -(3 * np.log(0.8) + np.log(0.2)) / 4
    assert (found["nll"], found["ece"]) == (pytest.approx(nll), pytest.approx(0.05))
    assert set(found) == {"texts", "accuracy", "macro_f1", "nll", "ece"}


def test_every_rival_has_a_name_in_the_settings() -> None:
    assert set(RIVALS) == set(rivals.RIVALS)


@pytest.mark.real
def test_rivals_learn_from_what_they_are_told() -> None:
    texts = ["wake me at nine", "set an alarm", "play some jazz", "i want to hear music"]
    told = rivals.Sample(
        encoder=ENCODER,
        texts=texts,
        labels=[0, 0, 1, 1],
        phrases=["alarm", "play music"],
        unlabelled=["get me up early", "put on a song"],
        language_model=LANGUAGE_MODEL,
        seed=0,
    )
    asked = ["please set my alarm clock for tomorrow", "play the newest song of that band"]
    # SetFit takes minutes; two texts are too few to know what a language model always says
    for name in set(RIVALS) - {"setfit", "setfit_names", "language_model"}:
        assert rivals.RIVALS[name](told)(asked).tolist() == [0, 1], name


def test_all_texts_that_a_study_draws_are_explained(
    room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "evaluate_classifier", lambda *_, settings: settings)
    subject = train.Classifier(None, None, [], 0.0, {})
    made: Any = subject.evaluate(settings(room, tmp_path), Dataset.from_dict({}))
    assert made.explained_texts is None
