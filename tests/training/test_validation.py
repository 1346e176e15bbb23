"""What cannot be aligned, or published while training, is an error before training that says so."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from datasets import Dataset
from transformers import TrainingArguments

from hf_cap.errors import AlignmentError, ConfigError, DataError, ModelError, PriorError
from hf_cap.training.collator import encode_dataset
from hf_cap.training.options import AlignmentOptions, weight_at
from hf_cap.training.trainer import CAPTrainer
from tests.tiny import roberta_classifier, word_tokenizer
from tests.training.cases import LABEL2ID, config, raw_rows, trainer


def encoded(**settings: Any) -> Dataset:
    return encode_dataset(raw_rows(), word_tokenizer(), LABEL2ID, **settings)


def tokenised() -> Dataset:
    """What the usual `dataset.map(tokenize)` leaves: tokens beside text, label and prior."""
    return raw_rows().map(lambda row: dict(word_tokenizer()(row["text"])))


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        (lambda: raw_rows().remove_columns("prior"), PriorError, "no prior column 'prior'"),
        (tokenised, DataError, r"training set has .*no 'token_words'.*`encode_dataset`"),
        (lambda: encoded(prior_column="prior_cap"), PriorError, "None of the 16 .*`prior_column`"),
        (lambda: encoded().remove_columns("prior_weight"), PriorError, "None of the 16 training"),
        (
            lambda: encoded().remove_columns("token_words").to_iterable_dataset(),
            DataError,
            r"batch has .*no 'token_words'.*`CAPCollator`",
        ),
    ],
)
def test_an_alignment_without_words_or_priors(
    tmp_path: Path, rows: Callable[[], Dataset], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        trainer(tmp_path, rows=rows()).train()
    plain = trainer(tmp_path, rows=rows(), alignment_weight=0.0, max_steps=1)
    plain.train()
    assert plain.state.global_step == 1


def test_a_stream_of_encoded_texts_is_aligned(tmp_path: Path) -> None:
    subject = trainer(tmp_path, rows=encoded().to_iterable_dataset())
    subject.train()
    assert subject.state.global_step == 4


def cut(model: Any) -> None:
    """Let no gradient pass behind a layer."""
    model.roberta.encoder.layer[1].register_forward_hook(lambda layer, args, output: output.detach())


def cut_branch(model: Any) -> None:
    """Let the gradient only pass by a layer."""
    model.roberta.encoder.layer[1].register_forward_hook(
        lambda layer, args, output: args[0] + (output - args[0]).detach()
    )


def overflow(model: Any) -> None:
    model.classifier.out_proj.weight.data.fill_(float("inf"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, "cannot be computed by 'double_backward'"),
        (cut_branch, r"does not reach \['roberta.encoder.layer.1'\]"),
        (overflow, "not finite"),
    ],
)
def test_a_bad_gradient_is_found_before_training(
    tmp_path: Path, damage: Callable[[Any], None], message: str
) -> None:
    model = roberta_classifier()
    damage(model)
    with pytest.raises(AlignmentError, match=message):
        trainer(tmp_path, model=lambda: model).train()


def test_models_that_cannot_be_aligned_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="num_labels=1"):
        trainer(tmp_path, model=lambda: roberta_classifier(1))
    with pytest.raises(ModelError, match="multi_label_classification"):
        trainer(tmp_path, model=lambda: roberta_classifier(problem_type="multi_label_classification"))
    with pytest.raises(ConfigError, match="bfloat16"):
        trainer(
            tmp_path, model=lambda: roberta_classifier().bfloat16(), alignment_gradient="finite_difference"
        )


BAD: list[tuple[dict[str, Any], str]] = [
    ({"alignment_weight": float("nan")}, "less than inf, got nan"),
    ({"alignment_loss": "l1"}, "There is no `alignment_loss` 'l1'"),
    ({"alignment_warmup": 0.0}, "`alignment_warmup` must be more than 0 and at most 1, got 0.0"),
    ({"attribution_backward_steps": 2}, "`attribution_backward_steps` must be .* at most 1, got 2"),
    ({"activation_checkpointing_kwargs": {"use_reentrant": True}}, "use_reentrant"),
    ({"ddp_static_graph": True}, "ddp_static_graph"),
    ({"fp16": True}, "Mixed precision 'fp16' scales the loss"),
]


@pytest.mark.parametrize(("settings", "message"), BAD)
def test_settings_that_cannot_work_are_refused(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        config(tmp_path, **settings)


def test_settings_that_no_argument_of_ours_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    args = config(tmp_path)
    args._n_gpu = 2
    with pytest.raises(ConfigError, match="DataParallel over 2 GPUs"):
        CAPTrainer(roberta_classifier(), args)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    with pytest.raises(ConfigError, match="Mixed precision 'fp16' scales the loss"):
        config(tmp_path)
    assert config(tmp_path, bf16=True).mixed_precision == "bf16"
    assert config(tmp_path, alignment_weight=0.0).mixed_precision == "fp16"


def test_one_default_of_training_arguments_is_changed() -> None:
    ours = {field.name: field for field in dataclasses.fields(type(config(Path("x"))))}
    changed = {
        field.name: ours[field.name].default
        for field in dataclasses.fields(TrainingArguments)
        if ours[field.name].default != field.default
    }
    assert changed == {"adam_beta2": 0.98}
    assert {f.name for f in dataclasses.fields(AlignmentOptions)} <= set(ours)


def test_a_schedule_gives_its_weights() -> None:
    rising = AlignmentOptions(alignment_weight=2.0, alignment_schedule="warmup", alignment_warmup=0.5)
    assert [weight_at(rising, step, 8) for step in (0, 2, 4, 8)] == [0.0, 1.0, 2.0, 2.0]
    cosine = AlignmentOptions(alignment_weight=2.0, alignment_schedule="cosine")
    assert [weight_at(cosine, step, 8) for step in (0, 4, 8)] == pytest.approx([2.0, 1.0, 0.0])


class Hub:
    """In the place of the Hub: the files of each upload."""

    def __init__(self) -> None:
        self.uploads: list[dict[str, bytes]] = []

    def create_repo(self, name: str, **_: Any) -> Any:
        return SimpleNamespace(repo_id=f"me/{name}")

    def upload_folder(self, *, folder_path: str, **_: Any) -> None:
        folder = Path(folder_path)
        files = [file for file in folder.rglob("*") if file.is_file()]
        self.uploads.append({str(file.relative_to(folder)): file.read_bytes() for file in files})


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub()
    monkeypatch.setattr("transformers.trainer.hf_api", lambda: hub)
    return hub


def leave_things(folder: Path) -> None:
    """What lies in the output folder of a run, and must not leave it."""
    for name in ("runs/heat_maps/events", "run.json", "evaluation/test.parquet", "training_args.bin",
                 "adapter_config.json", ".hub/old.bin"):  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("lost my card")


def test_nothing_but_model_tokenizer_and_card_is_published(tmp_path: Path, hub: Hub) -> None:
    folder = tmp_path / "desk"
    leave_things(folder)
    subject = trainer(folder, max_steps=1)
    subject.train()
    subject.push_to_hub()
    (files,) = hub.uploads
    assert set(files) == {
        "README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    assert b"\n# desk\n" in files["README.md"]
    assert str(tmp_path).encode() not in b"".join(files.values())
    assert subject.args.output_dir == str(folder)
    assert (folder / "run.json").exists()


def test_publishing_at_each_save_is_refused_and_at_the_end_is_not(tmp_path: Path, hub: Hub) -> None:
    leave_things(tmp_path)
    for weight in (0.5, 0.0):
        with pytest.raises(ConfigError, match=r"`hub_strategy='every_save'` uploads.*'end'"):
            config(tmp_path, push_to_hub=True, alignment_weight=weight)
        args = config(tmp_path, alignment_weight=weight)
        args.push_to_hub = True
        with pytest.raises(ConfigError, match="`hub_strategy='every_save'` uploads"):
            CAPTrainer(roberta_classifier(), args)
    settings: dict[str, Any] = {"save_strategy": "steps", "save_steps": 1, "max_steps": 2}
    subject = trainer(tmp_path, push_to_hub=True, hub_strategy="end", **settings)
    subject.train()
    assert hub.uploads == []
    subject.save_model()
    (files,) = hub.uploads
    assert {"README.md", "model.safetensors"} <= set(files)
    assert not {"training_args.bin", "run.json"} & set(files)
