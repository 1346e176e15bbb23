"""The folder that would be uploaded."""

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import load_dataset
from transformers import pipeline

from hf_cap.errors import ConfigError, DataError, ModelError, PriorError
from hf_cap.hub import (
    MetricPush,
    ModelPush,
    PriorCard,
    PriorPush,
    check_folder,
    configurations,
    listing,
    load_prior_dataset,
    push_metric,
    push_model,
    push_priors,
    stage_model,
    stage_priors,
)
from hf_cap.schema import AttributionSettings, add_provenance, read_provenance
from tests.publishing.runs import prior_splits, write_priors, write_run
from tests.tiny import roberta_classifier, word_tokenizer


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "desk")


def test_without_push_the_folder_is_written_and_nothing_else(run: Path) -> None:
    folder = push_model(ModelPush(run=str(run), repo_id="alice/desk"))
    assert folder == run / "hub"
    assert sorted(file.name for file in folder.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    size, name = listing(folder)[1].split()
    assert (int(size.replace(",", "")), name) == (
        (folder / "config.json").stat().st_size,
        "config.json",
    )


def test_a_dry_run_wins_over_push() -> None:
    assert not ModelPush(run="x", repo_id="a/b", push=True, dry_run=True).uploads
    assert not ModelPush(run="x", repo_id="a/b").uploads
    assert ModelPush(run="x", repo_id="a/b", push=True).uploads


def test_staging_again_replaces_what_was_there(run: Path) -> None:
    options = ModelPush(run=str(run), repo_id="alice/desk")
    first = stage_model(options, run / "hub")
    (first / "stale.json").write_text("{}")
    assert not (stage_model(options, run / "hub") / "stale.json").exists()


def test_a_folder_of_something_else_is_not_replaced(run: Path, tmp_path: Path) -> None:
    options = ModelPush(run=str(run), repo_id="alice/desk")
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "README.md").write_text("# My thesis\n")
    (other / "chapter.tex").touch()
    with pytest.raises(ConfigError, match=r"with it 'chapter\.tex'"):
        stage_model(options, other)
    assert sorted(file.name for file in other.iterdir()) == ["README.md", "chapter.tex"]


def test_the_staged_model_is_the_model(run: Path) -> None:
    folder = stage_model(ModelPush(run=str(run), repo_id="alice/desk"), run / "hub")
    (before,) = pipeline("text-classification", model=str(run))("renew my card")
    (after,) = pipeline("text-classification", model=str(folder))("renew my card")
    assert before == after


def test_the_config_tells_how_to_explain_and_not_where_it_lay(run: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "_name_or_path": str(run)}))
    folder = stage_model(ModelPush(run=str(run), repo_id="alice/desk"), run / "hub")
    published = json.loads((folder / "config.json").read_text())
    assert published["hf_cap"] == {
        "method": "input_x_gradient",
        "rule": "midpoint",
        "target": "gold",
        "word_pattern": r"\S+",
        "max_length": None,
    }
    assert "_name_or_path" not in published


def test_texts_are_shown_only_when_asked(run: Path) -> None:
    options: dict[str, Any] = {"run": str(run), "repo_id": "alice/desk"}
    card = (stage_model(ModelPush(**options), run / "hub") / "README.md").read_text()
    assert "renew  my  card" not in card
    card = (stage_model(ModelPush(**options, examples=5), run / "hub") / "README.md").read_text()
    assert "Predicted: pay. Right: renew." in card
    assert "renew  my  card\n█      ·   -▅" in card


def test_examples_need_evaluated_texts(run: Path) -> None:
    (run / "evaluation" / "test.parquet").unlink()
    with pytest.raises(DataError, match="examples=1"):
        stage_model(ModelPush(run=str(run), repo_id="alice/desk", examples=1), run / "hub")


def test_a_model_without_a_record_has_a_card_of_unknowns(tmp_path: Path) -> None:
    roberta_classifier().save_pretrained(tmp_path / "m")
    folder = stage_model(ModelPush(run=str(tmp_path / "m"), repo_id="alice/m"), tmp_path / "hub")
    assert "| Data set | unknown |" in (folder / "README.md").read_text()
    assert "hf_cap" not in json.loads((folder / "config.json").read_text())


def test_weights_must_be_safetensors(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(ModelError, match=r"safetensors, but \['pytorch_model.bin'\]"):
        stage_model(ModelPush(run=str(tmp_path / "m"), repo_id="alice/m"), tmp_path / "hub")
    assert not (tmp_path / "hub").exists()


# peft 0.21 asks transformers 5.23 by the old name; goes when peft asks by the new one
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_an_adapter_is_merged_into_its_base(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    base, run = tmp_path / "base", tmp_path / "run"
    roberta_classifier().save_pretrained(base)
    adapted = get_peft_model(
        roberta_classifier(), LoraConfig(task_type="SEQ_CLS", r=2, init_lora_weights=False)
    )
    adapted.save_pretrained(str(run))
    word_tokenizer().save_pretrained(run)
    labels = [f"LABEL_{index}" for index in range(3)]
    record = {"model": str(base), "data": {"labels": labels}, "settings": {"lora_rank": 2}}
    (run / "run.json").write_text(json.dumps(record))
    folder = stage_model(ModelPush(run=str(run), repo_id="alice/m"), tmp_path / "hub")
    assert not (folder / "adapter_config.json").exists()
    assert "library_name: transformers" in (folder / "README.md").read_text()
    texts = word_tokenizer()(["renew my card"], return_tensors="pt")
    expected = adapted.eval()(**texts).logits.softmax(-1).max().item()
    (found,) = pipeline("text-classification", model=str(folder))("renew my card")
    assert found["score"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("content", "message"),
    [("hf_" + "A1" * 17, "access token"), ("see {home}/notes", "local path")],
)
def test_secrets_and_paths_stop_the_publication(
    run: Path, tmp_path: Path, content: str, message: str
) -> None:
    template = tmp_path / "card.md"
    template.write_text("---\n{{ metadata }}\n---\n" + content.replace("{home}", str(Path.home())))
    options = ModelPush(run=str(run), repo_id="alice/desk", template=str(template))
    with pytest.raises(ConfigError, match=message) as caught:
        stage_model(options, run / "hub")
    assert "A1A1A1" not in str(caught.value)
    assert not (run / "hub").exists()


def test_a_tokenizer_may_know_words_that_look_like_paths(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(f'{{"{Path.home()}/": 1}}')
    check_folder(tmp_path, tmp_path / "run")


def test_each_source_is_a_configuration_ready_for_training() -> None:
    found = configurations(prior_splits())
    assert list(found) == ["hybrid", "cap", "lime"]
    assert list(found["cap"]) == ["train", "test"]
    assert found["cap"]["train"].column_names == [
        "text", "label", "words", "prior", "cap_r2", "provenance",
    ]  # fmt: skip
    assert found["lime"]["train"]["prior"][2] is None
    assert set(read_provenance(found["lime"]["train"]["provenance"][0])) == {"lime"}
    assert "prior_lime" in found["hybrid"]["train"].column_names


def test_provenance_keeps_no_path() -> None:
    found = configurations(prior_splits())
    for splits in found.values():
        assert "/home" not in splits["train"]["provenance"][0]
    assert read_provenance(found["cap"]["train"]["provenance"][0])["cap"]["model"] == "smollm2"


def test_provenance_keeps_no_server() -> None:
    facts = {
        "fingerprint": "http://u:pw@gpu7:8000/v1|m|served",
        "command": "x --base_url http://gpu7/v1",
    }
    splits = prior_splits()
    cell = add_provenance(None, "cap", facts)
    splits["train"] = (
        splits["train"].remove_columns("provenance").add_column("provenance", [cell] * 3)
    )
    for found in configurations(splits).values():
        assert "gpu7" not in str(found["train"]["provenance"][:])


def test_without_a_fusion_the_first_source_is_the_default() -> None:
    splits = prior_splits().remove_columns("prior")
    assert list(configurations(splits)) == ["cap", "lime"]


def test_a_data_set_without_priors_is_refused() -> None:
    splits = prior_splits().select_columns(["text", "label"])
    with pytest.raises(PriorError, match=r"no prior to publish.*\['label', 'text'\]"):
        configurations(splits)


def test_splits_with_different_columns_are_refused() -> None:
    splits = prior_splits()
    splits["test"] = splits["test"].remove_columns("prior_cap")
    with pytest.raises(PriorError, match="'test' has"):
        configurations(splits)


def test_the_staged_priors_load_with_plain_datasets(tmp_path: Path) -> None:
    splits = prior_splits()
    folder = stage_priors(
        splits,
        PriorCard(repo_id="alice/p"),
        tmp_path / "hub",
        {"cap": {"mean r2": 0.85, "note": "x"}},
    )
    loaded = load_dataset(str(folder), "cap", cache_dir=str(tmp_path / "cache"))
    assert loaded["train"].features["label"] == splits["train"].features["label"]
    assert loaded["train"]["prior"][:] == splits["train"]["prior_cap"][:]
    default = load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert default["test"]["prior_lime"][:] == splits["test"]["prior_lime"][:]
    card = (folder / "README.md").read_text()
    assert "| cap: mean r2 | 0.85 |" in card
    assert "| hybrid | 5 | 4 | none |" in card
    assert "| `n` | `100` |" in card
    assert "```bash\nhf-cap extract --dataset desk\n```" in card
    assert "| hf-cap | 0.1.0 |" in card
    assert "| `prior` | `list of float64` |" in card
    assert "| `label` | `label, 3 classes` |" in card


def test_priors_that_were_staged_anew_are_read_anew(tmp_path: Path) -> None:
    splits, card, folder = prior_splits(), PriorCard(repo_id="alice/p"), tmp_path / "hub"
    loaded = load_prior_dataset(str(stage_priors(splits, card, folder)))
    assert {name: data.features for name, data in loaded.items()} == {
        name: data.features for name, data in splits.items()
    }
    assert loaded["train"]["prior"][:] == splits["train"]["prior"][:]
    anew = splits.map(
        lambda row: {name: [7.0] * len(row["words"]) for name in ("prior", "prior_cap")}
    )
    stage_priors(anew, card, folder)
    assert load_prior_dataset(str(folder))["train"]["prior"][:] == anew["train"]["prior"][:]
    cap = load_prior_dataset(str(folder), "cap")
    assert cap["test"]["prior"][:] == anew["test"]["prior_cap"][:]
    with pytest.raises(DataError, match=r"no configuration 'shap'; it has \['hybrid', 'cap'"):
        load_prior_dataset(str(folder), "shap")


def test_a_folder_without_a_card_is_read_as_it_is(tmp_path: Path) -> None:
    folder = write_priors(tmp_path / "desk")
    assert set(load_prior_dataset(str(folder))) == set(prior_splits())
    with pytest.raises(DataError, match="no configuration 'cap'"):
        load_prior_dataset(str(folder), "cap")


def test_the_folder_of_priors_lies_beside_the_data(tmp_path: Path) -> None:
    write_priors(tmp_path / "desk")
    audit = tmp_path / "audit.json"
    audit.write_text('{"cap_r2": 0.85}')
    folder = push_priors(
        PriorPush(dataset=str(tmp_path / "desk"), repo_id="alice/p", audit=str(audit), examples=1)
    )
    assert folder == tmp_path / "desk-hub"
    assert "| cap\\_r2 | 0.85 |" in (folder / "README.md").read_text()


def test_a_metric_needs_a_card_and_its_name(tmp_path: Path) -> None:
    (tmp_path / "right.py").write_text("")
    with pytest.raises(ConfigError, match="a Space needs a README"):
        push_metric(MetricPush(metric=str(tmp_path), repo_id="alice/right"))


def test_an_explanation_survives_the_configuration() -> None:
    explanation = AttributionSettings(method="input_x_gradient", max_length=32, target="contrast")
    config = roberta_classifier().config
    assert AttributionSettings.read(config) == AttributionSettings()
    config.update(explanation.entry())
    assert AttributionSettings.read(config) == explanation
