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
from tests.tiny import roberta_classifier, word_tokenizer
from tests.training.cases import config, farthest, raw_rows, trainer, weights

NAMES = ClassLabel(names=["LABEL_0", "LABEL_1", "LABEL_2"])


def rows(count: int = 9) -> Dataset:
    return raw_rows(count).cast_column("label", NAMES)


def test_the_drawing_has_each_text_with_its_model_and_prior() -> None:
    data = rows().select([1, 2])
    drawing = HeatMapCallback(data).draw(roberta_classifier(), word_tokenizer())
    for row in data:
        assert f"LABEL_{row['label']}, model:" in drawing
        assert "  ".join(row["text"].split()[:1]) in drawing
    assert drawing.count("prior:") == 2
    assert all(line.startswith("    ") for line in drawing.splitlines())


def test_a_text_without_prior_has_the_model_alone() -> None:
    drawing = HeatMapCallback(rows().select([0])).draw(roberta_classifier(), word_tokenizer())
    assert "model:" in drawing
    assert "prior:" not in drawing


def test_labels_are_matched_by_name() -> None:
    model = roberta_classifier()
    row = {"text": ["lost my card"], "label": [0]}
    drawings = []
    for names, label in (
        (["LABEL_0", "LABEL_1", "LABEL_2"], 1),
        (["LABEL_1", "LABEL_0", "LABEL_2"], 0),
    ):
        data = Dataset.from_dict({**row, "label": [label]}).cast_column(
            "label", ClassLabel(names=names)
        )
        drawings.append(HeatMapCallback(data).draw(model, word_tokenizer()))
    assert drawings[0] == drawings[1]


def test_a_model_whose_labels_have_no_names_is_drawn_by_their_order() -> None:
    named = rows().select([1])
    other = named.cast_column("label", ClassLabel(names=["lost", "renew", "pay"]))
    model = roberta_classifier()
    drawings = [HeatMapCallback(data).draw(model, word_tokenizer()) for data in (named, other)]
    assert "renew, model:" in drawings[1]
    assert drawings[1] == drawings[0].replace("LABEL_1", "renew")
    model.config.label2id = {"renew": 0, "pay": 1, "cancel": 2}
    with pytest.raises(DataError, match=r"\['lost'\] are not among the model's"):
        HeatMapCallback(other).draw(model, word_tokenizer())


def test_a_text_beyond_the_model_is_cut_as_in_training() -> None:
    tokenizer = word_tokenizer()
    tokenizer.model_max_length = int(1e30)  # as transformers writes it where there is none
    data = Dataset.from_dict({"text": ["lost " * 100], "label": [0]}).cast_column("label", NAMES)
    model = roberta_classifier()
    whole = HeatMapCallback(data).draw(model, tokenizer)
    assert "LABEL_0, model:" in whole
    assert HeatMapCallback(data, max_length=8).draw(model, tokenizer) != whole


def test_the_priors_are_those_of_the_column_that_is_trained_on() -> None:
    data = rows().select([1, 2])
    both = data.add_column("mine", [[-score for score in prior] for prior in data["prior"]])
    model, tokenizer = roberta_classifier(), word_tokenizer()
    found = HeatMapCallback(both, prior_column="mine").draw(model, tokenizer)
    assert found != HeatMapCallback(both).draw(model, tokenizer)
    renamed = both.remove_columns("prior").rename_column("mine", "prior")
    assert found == HeatMapCallback(renamed).draw(model, tokenizer)


def test_the_rows_are_evenly_spread() -> None:
    data = rows(9)
    assert HeatMapCallback(data, 3).rows["text"][:] == [data["text"][index] for index in (0, 3, 6)]
    assert len(HeatMapCallback(data, 100).rows) == 9


def test_no_text_leaves_the_indented_block() -> None:
    text = "lost\u2028# my\x1b[31m ``` card"
    data = Dataset.from_dict({"text": [text], "label": [0]}).cast_column("label", NAMES)
    drawing = HeatMapCallback(data).draw(roberta_classifier(), word_tokenizer())
    assert "\x1b" not in drawing
    assert all(line.startswith("    ") for line in drawing.splitlines())


def test_it_draws_at_the_start_and_after_each_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    monkeypatch.setitem(callbacks.TRACKERS, "seen", lambda args, drawing, step: steps.append(step))
    work = trainer(tmp_path, rows=rows(8), max_steps=4)
    work.add_callback(HeatMapCallback(rows()))
    work.args.report_to = ["seen"]
    work.train()
    assert steps == [0, 2, 4]


def test_training_is_the_same_with_and_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(callbacks.TRACKERS, "seen", lambda *_: None)
    found = []
    for draws in (False, True):
        work = trainer(
            tmp_path,
            rows=rows(8),
            model=lambda: roberta_classifier(hidden_dropout_prob=0.3),
            attribution_method="expected_gradients",
        )
        if draws:
            work.add_callback(HeatMapCallback(rows()))
        work.args.report_to = ["seen"]
        work.train()
        found.append(weights(work.model))
    assert farthest(*found) == 0


def test_tensorboard_gets_the_drawing_and_the_loss_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
        EventAccumulator,
    )

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "logs"))
    work = trainer(
        tmp_path, rows=rows(8), report_to=["tensorboard"], logging_strategy="steps", logging_steps=2
    )
    work.add_callback(HeatMapCallback(rows()))
    work.train()
    scalars = EventAccumulator(str(tmp_path / "logs")).Reload().Tags()["scalars"]
    assert {"train/loss_task", "train/loss_align", "train/align_cosine"} <= set(scalars)
    drawn = EventAccumulator(str(tmp_path / "logs" / "heat_maps"), {"tensors": 0}).Reload()
    assert [event.step for event in drawn.Tensors("heat_maps/text_summary")] == [0, 2, 4]
    text = drawn.Tensors("heat_maps/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "model:" in text


def test_trackio_gets_the_drawing_as_markdown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    logged: list[dict[str, Any]] = []
    stand_in = ModuleType("trackio")
    stand_in.Markdown = lambda text: SimpleNamespace(text=text)  # type: ignore[attr-defined]
    stand_in.log = logged.append  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "trackio", stand_in)
    callbacks.TRACKERS["trackio"](config(tmp_path), "    words", 7)
    assert logged[0]["heat_maps"].text == "    words"
    assert logged[0]["train/global_step"] == 7


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="`count` must be at least 1, got 0"):
        HeatMapCallback(rows(), 0)
    with pytest.raises(DataError, match="ClassLabel"):
        HeatMapCallback(raw_rows())
    with pytest.raises(PriorError, match="scores for"):
        HeatMapCallback(rows().map(lambda row: {"prior": [0.0] * 40}))
    args: Any = SimpleNamespace(fsdp="full_shard", deepspeed=None)
    with pytest.raises(ConfigError, match="FSDP or DeepSpeed"):
        HeatMapCallback(rows()).on_train_begin(args, None, None)


def test_gradients_of_the_weights_stay_as_they_were() -> None:
    model = roberta_classifier()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    HeatMapCallback(rows()).draw(model, word_tokenizer())
    assert all(bool((p.grad == 1).all()) for p in model.parameters() if p.grad is not None)
