"""Heat maps while training: what is drawn, that trackers get it, that training does not notice."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import ClassLabel, Dataset

from hf_cap.errors import ConfigError, DataError, PriorError
from hf_cap.training import callbacks
from hf_cap.training.callbacks import HeatMapCallback
from hf_cap.training.options import AlignmentOptions
from tests.tiny import roberta_classifier, word_tokenizer
from tests.training.cases import config, farthest, raw_rows, trainer, weights

NAMES = ["LABEL_0", "LABEL_1", "LABEL_2"]


def rows(count: int = 9) -> Dataset:
    return raw_rows(count).cast_column("label", ClassLabel(names=NAMES))


def draw(data: Dataset, model: Any = None, **settings: Any) -> str:
    options = AlignmentOptions(**settings)
    return HeatMapCallback(data).draw(model or roberta_classifier(), word_tokenizer(), options)


def test_the_drawing_has_each_text_with_its_model_and_prior() -> None:
    data = rows().select([0, 1, 2])  # the first has no prior
    drawing = draw(data)
    for row in data:
        assert f"LABEL_{row['label']}, model:" in drawing
        assert row["text"].split()[0] in drawing
    assert drawing.count("prior:") == 2
    text = {"text": ["lost\u2028# my\x1b[31m ``` card"], "label": [0]}
    hostile = draw(Dataset.from_dict(text).cast_column("label", ClassLabel(names=NAMES)))
    assert "\x1b" not in hostile
    assert all(line.startswith("    ") for line in (drawing + "\n" + hostile).splitlines())


def test_labels_are_matched_by_name_and_by_order_where_the_model_has_no_names() -> None:
    def named(names: list[str], label: int) -> Dataset:
        data = Dataset.from_dict({"text": ["lost my card"], "label": [label]})
        return data.cast_column("label", ClassLabel(names=names))

    assert draw(named(NAMES, 1)) == draw(named(["LABEL_1", "LABEL_0", "LABEL_2"], 0))
    other = named(["lost", "renew", "pay"], 1)
    assert draw(other) == draw(named(NAMES, 1)).replace("LABEL_1", "renew")
    model = roberta_classifier()
    model.config.label2id = {"renew": 0, "pay": 1, "cancel": 2}
    with pytest.raises(DataError, match=r"\['lost'\] are not among the model's"):
        draw(other, model)


def test_length_and_column_are_those_of_the_training() -> None:
    long = rows(2).map(lambda row: {"text": "lost " * 100, "prior": None})  # beyond the model
    assert draw(long, max_length=8) != draw(long)
    data = rows().select([1, 2])
    both = data.add_column("mine", [[-score for score in prior] for prior in data["prior"]])
    found = draw(both, prior_column="mine")
    assert found != draw(both)
    assert found == draw(both.remove_columns("prior").rename_column("mine", "prior"))


def test_it_draws_at_the_start_on_evaluations_and_after_epochs_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    monkeypatch.setitem(callbacks.TRACKERS, "seen", lambda args, name, drawing, step: steps.append(step))
    found = []
    for draws in (False, True):
        work = trainer(
            tmp_path,
            rows=rows(8),
            model=lambda: roberta_classifier(hidden_dropout_prob=0.3),
            attribution_method="expected_gradients",
            eval_strategy="steps",
            eval_steps=3,
            eval_on_start=True,
        )
        work.eval_dataset = work.train_dataset
        if draws:
            work.add_callback(HeatMapCallback(rows()))
        work.args.report_to = ["seen"]
        work.train()
        work.evaluate()  # after training: no drawing
        found.append(weights(work.model))
    assert steps == [0, 2, 3, 4]
    assert farthest(*found) == 0
    for parameter in work.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    draw(rows(), work.model)
    assert all(bool((p.grad == 1).all()) for p in work.model.parameters() if p.grad is not None)


def test_trackio_gets_the_drawing_as_markdown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    logged: list[dict[str, Any]] = []
    mock = ModuleType("trackio")
    mock.Markdown = lambda text: SimpleNamespace(text=text)  # type: ignore[attr-defined]
    mock.log = logged.append  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "trackio", mock)
    args: Any = config(tmp_path, report_to=["trackio"])
    state = SimpleNamespace(is_world_process_zero=True, global_step=7)
    models = {"model": roberta_classifier(), "processing_class": word_tokenizer()}
    callback = HeatMapCallback(rows(), 3)
    assert callback.rows["text"][:] == [rows()["text"][index] for index in (0, 3, 6)]
    callback.on_train_begin(args, state, None, **models)
    assert "model:" in logged[0]["heat_maps"].text
    assert logged[0]["train/global_step"] == 7
    args.fsdp = True  # no process could explain the model alone
    callback.on_epoch_end(args, state, None, **models)
    assert len(logged) == 1


def test_mistakes_are_named() -> None:
    with pytest.raises(ConfigError, match="`count` must be at least 1, got 0"):
        HeatMapCallback(rows(), 0)
    with pytest.raises(DataError, match="ClassLabel"):
        HeatMapCallback(raw_rows())
    with pytest.raises(PriorError, match="scores for"):
        draw(rows().map(lambda row: {"prior": [0.0] * 40}))
