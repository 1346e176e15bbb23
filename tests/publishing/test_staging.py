"""The folder that would be uploaded."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import Dataset, Features, load_dataset
from transformers import pipeline

from hf_cap import hub
from hf_cap.cards import escape
from hf_cap.classifiers import is_lora_run
from hf_cap.data import read_parquet, save_splits
from hf_cap.errors import ConfigError, DataError, ModelError, PriorError
from hf_cap.parquet import write_parquet
from hf_cap.priors.card import configurations
from hf_cap.schema import AttributionSettings, add_provenance, read_provenance
from tests.publishing.runs import prior_splits, write_priors, write_run
from tests.tiny import llama, roberta_classifier, word_tokenizer

SECRET = "hf_" + "A1" * 17


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "desk")


def push(run: Path, **options: Any) -> Path:
    return hub.push_model(run, hub.PushOptions(repo_id="alice/desk", **options))


def stage_priors(folder: Path, splits: Any, **card: Any) -> Path:
    options = hub.PushOptions(repo_id="alice/p", output_dir=str(folder))
    return hub.push_priors(folder, options, splits=splits, **card)


# --- Models.


def test_without_push_the_folder_is_written_listed_and_nothing_else(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "_name_or_path": str(run)}))
    folder = push(run)
    assert folder == run / "hub"
    names = "README.md config.json model.safetensors tokenizer.json tokenizer_config.json"
    assert sorted(file.name for file in folder.iterdir()) == names.split()
    size = (folder / "config.json").stat().st_size
    assert f"{size:>12,}  config.json" in caplog.text
    assert "Nothing was uploaded" in caplog.text
    before, after = (pipeline("text-classification", model=str(x))("renew my card") for x in (run, folder))
    assert before == after
    published = json.loads((folder / "config.json").read_text())
    stored = AttributionSettings(method="input_x_gradient", word_pattern=r"\S+")
    assert published["hf_cap"] == stored.entry()["hf_cap"]
    assert "_name_or_path" not in published


def test_staging_again_replaces_what_was_there_but_nothing_else(run: Path, tmp_path: Path) -> None:
    (push(run) / "stale.json").write_text("{}")
    assert not (push(run) / "stale.json").exists()
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "README.md").write_text("# My thesis\n")
    (other / "chapter.tex").touch()
    with pytest.raises(ConfigError, match=r"with it 'chapter\.tex'"):
        push(run, output_dir=str(other))
    assert sorted(file.name for file in other.iterdir()) == ["README.md", "chapter.tex"]
    (run / "README.md").write_text((run / "hub" / "README.md").read_text())
    for source in (run, tmp_path):
        with pytest.raises(ConfigError, match=r"would be replaced, and with it .*which is published"):
            push(run, output_dir=str(source))


def test_texts_are_shown_only_when_asked(run: Path) -> None:
    assert "renew  my  card" not in (push(run) / "README.md").read_text()
    card = (push(run, examples=5) / "README.md").read_text()
    assert "Predicted: pay. Right: renew." in card
    assert "renew  my  card\n█      ·   -▅" in card
    (run / "evaluation" / "test.parquet").unlink()
    with pytest.raises(DataError, match="examples=1"):
        push(run, examples=1)


def test_a_card_shows_texts_that_were_explained(run: Path) -> None:
    file = run / "evaluation" / "test.parquet"
    rows = [*read_parquet(file)]
    write_parquet(Dataset.from_list([{**rows[0], "text": "bare", "attributions": None}, *rows]), file)
    assert "renew  my  card\n█      ·   -▅" in (push(run, examples=1) / "README.md").read_text()


def test_texts_as_they_are_lead_on_a_card(run: Path) -> None:
    place = run / "evaluation"
    shutil.copy(place / "test.json", place / "removed.json")
    changed = read_parquet(place / "test.parquet").map(lambda row: {"text": "anna " + row["text"]})
    write_parquet(changed, place / "shifted.parquet")
    card = (push(run, examples=1) / "README.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["widget"] == [{"text": "renew my card"}]
    results = front["model-index"][0]["results"]
    assert [one["dataset"]["split"] for one in results] == ["test", "removed"]


def test_a_folder_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    missing, options = tmp_path / "no" / "folder", hub.PushOptions(repo_id="alice/m")
    with pytest.raises(ModelError, match=r"There is no folder .*no/folder"):
        hub.push_model(missing, options)
    with pytest.raises(DataError, match="There is no file or folder"):
        hub.push_priors(missing, options)
    assert not list(tmp_path.iterdir())


def test_a_model_without_a_record_has_a_card_of_unknowns(tmp_path: Path) -> None:
    roberta_classifier().save_pretrained(tmp_path / "m")
    folder = push(tmp_path / "m")
    assert "| Data set | unknown |" in (folder / "README.md").read_text()
    assert "hf_cap" not in json.loads((folder / "config.json").read_text())
    (tmp_path / "m" / "model.safetensors").unlink()
    (tmp_path / "m" / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(ModelError, match=r"safetensors, but \['config.json', .*pytorch_model.bin"):
        push(tmp_path / "m")


DAMAGED = ["", "{", "[]", "\udcff", "[" * 9999, '{"data": 3}', '{"data": {"provenance": [1]}}']
DAMAGED += [f'{{"{name}": [1]}}' for name in ("history", "settings", "alignment", "model")]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        *(("run.json", content) for content in DAMAGED),
        ("evaluation/test.json", "3"),
        ("evaluation/test.json", '{"accuracy": "high"}'),
        ("config.json", "{"),
    ],
    ids=lambda value: ascii(value[:20]),
)
def test_a_damaged_record_is_named(run: Path, file: str, content: str) -> None:
    (run / file).write_text(content, errors="surrogateescape")
    with pytest.raises((DataError, ConfigError)) as caught:
        push(run)
    assert str(run) in str(caught.value) or "fails" in str(caught.value)
    assert not (run / "hub").exists()


def test_weights_that_cannot_be_loaded_are_not_published(run: Path) -> None:
    weights = (run / "model.safetensors").read_bytes()
    (run / "model.safetensors").write_bytes(weights[:-1])
    with pytest.raises(ModelError, match="are damaged: "):
        push(run)
    (run / "model.safetensors").write_bytes(weights)
    index = run / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "model-00001-of-00002.safetensors"}}')
    with pytest.raises(ModelError, match=r"are damaged: .*model-00001-of-00002"):
        push(run)
    index.unlink()
    (run / "config.json").unlink()
    with pytest.raises(ModelError, match=r"holds no config\.json"):
        push(run)
    assert not (run / "hub").exists()


def test_a_language_model_is_no_classifier(tmp_path: Path) -> None:
    llama().save_pretrained(tmp_path / "llm")
    with pytest.raises(ModelError, match="holds a LlamaForCausalLM, which is no text classifier"):
        hub.push_model(tmp_path / "llm", hub.PushOptions(repo_id="user/x"))
    assert not [*tmp_path.glob("llm/hub/*")]


@pytest.mark.parametrize("name", ["license", "language", "source_dataset"])
@pytest.mark.parametrize("value", ["mit\x1b[2J", "mit\nname: x", "", "\x00"])
def test_what_enters_the_header_of_a_card_is_one_line(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=rf"`{name}` must be one line of printable text") as caught:
        hub.PushOptions(repo_id="user/x", **{name: value})  # type: ignore[arg-type]
    assert str(caught.value).isprintable()


def test_an_audit_that_is_not_there_is_missed(tmp_path: Path) -> None:
    options = hub.PushOptions(repo_id="alice/p", audit=str(tmp_path / "audit.json"))
    with pytest.raises(DataError, match=r"Cannot read .*audit\.json"):
        hub.push_priors(tmp_path / "p", options, splits=prior_splits())
    assert not list(tmp_path.iterdir())


def test_the_calibration_is_published_with_the_model(run: Path) -> None:
    stored = {"temperature": 2.5, "coverage": 0.9, "threshold": 0.2, "texts": 200}
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "calibration": stored}))
    folder = hub.push_model(run, hub.PushOptions(repo_id="alice/desk"))
    assert json.loads((folder / "config.json").read_text())["calibration"] == stored
    assert "calibrated on 200 texts" in (folder / "README.md").read_text()


def test_an_adapter_is_merged_into_its_base(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    base, run = tmp_path / "base", tmp_path / "run"
    roberta_classifier().save_pretrained(base)
    lora = LoraConfig(task_type="SEQ_CLS", r=2, init_lora_weights=False)
    adapted = get_peft_model(roberta_classifier(), lora)
    adapted.save_pretrained(str(run))
    word_tokenizer().save_pretrained(run)
    assert not is_lora_run(run)
    labels = ["no", "yes", "so"]
    record = {"model": str(base), "data": {"labels": labels}, "settings": {"lora_rank": 2}}
    (run / "run.json").write_text(json.dumps(record))
    folder = push(run)
    assert not (folder / "adapter_config.json").exists()
    assert json.loads((folder / "config.json").read_text())["label2id"] == {"no": 0, "yes": 1, "so": 2}
    assert "library_name: transformers" in (folder / "README.md").read_text()
    texts = word_tokenizer()(["renew my card"], return_tensors="pt")
    expected = adapted.eval()(**texts).logits.softmax(-1)[0].tolist()
    classify: Any = pipeline("text-classification", model=str(folder), top_k=None)
    (found,) = classify(["renew my card"])
    shown = {one["label"]: one["score"] for one in found}
    assert shown == pytest.approx(dict(zip(labels, expected, strict=True)), abs=1e-6)


# --- What stops a publication.


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (SECRET, "README.md holds what looks like a secret"),
        (escape(SECRET), "a secret"),  # as the card of a user's text would hold it
        ("see {home}/notes", "local path"),
        ("{{ '{home}/notes' }}", "local path"),
    ],
)
def test_secrets_and_paths_stop_the_publication(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, message: str
) -> None:
    home = tmp_path / "al_ice"  # escaped in a card
    monkeypatch.setenv("HOME", str(home))
    template = tmp_path / "card.md"
    template.write_text("---\n{{ metadata }}\n---\n" + content.replace("{home}", str(home)))
    with pytest.raises(ConfigError, match=message) as caught:
        push(run, template=str(template))
    assert "A1A1A1" not in str(caught.value)
    assert not (run / "hub").exists()


def test_links_and_pickles_stop_the_publication(tmp_path: Path) -> None:
    def publish_with(make: Callable[[Path], object]) -> None:
        def write(folder: Path) -> None:
            # a vocabulary may hold a path
            (folder / "tokenizer.json").write_text(f'{{"{Path.home()}/": 1}}')
            make(folder)

        hub.publish(hub.PushOptions(repo_id="alice/desk"), "model", write, tmp_path / "hub")

    publish_with(lambda folder: None)
    with pytest.raises(ConfigError, match=r"model\.bin is a link or a pickle"):
        publish_with(lambda folder: (folder / "model.bin").write_bytes(b"pickle"))
    with pytest.raises(ConfigError, match=r"vocab\.txt is a link"):
        publish_with(lambda folder: (folder / "vocab.txt").symlink_to("/etc/hostname"))


@pytest.mark.parametrize("repo_id", ["", "a/b/c", "../x", "a/\x1b[31m", "a b"])
def test_a_malformed_name_stops_the_publication(run: Path, repo_id: str) -> None:
    with pytest.raises(ConfigError, match="is no valid name of a repository"):
        hub.push_model(run, hub.PushOptions(repo_id=repo_id))
    assert not (run / "hub").exists()


# --- Data sets with priors.


def test_each_source_is_a_configuration_without_paths_and_servers() -> None:
    splits = prior_splits()
    found = configurations(splits)
    assert list(found) == ["hybrid", "cap", "lime"]
    assert list(found["cap"]) == ["train", "test"]
    columns = ["text", "label", "words", "prior", "cap_r2", "provenance"]
    assert found["cap"]["train"].column_names == columns
    assert found["lime"]["train"]["prior"][2] is None
    made = {name: parts["train"]["provenance"][0] for name, parts in found.items()}
    assert set(read_provenance(made["lime"])) == {"lime"}
    assert read_provenance(made["cap"])["cap"]["model"] == "smollm2"
    assert "/home" not in str(made)
    assert "prior_lime" in found["hybrid"]["train"].column_names
    assert list(configurations(prior_splits().remove_columns("prior"))) == ["cap", "lime"]

    private = {"fingerprint": "http://u:pw@gpu7:8000/v1|m", "command": "x --base_url http://gpu7/v1"}
    cells = [add_provenance(None, "cap", private)] * 3
    splits["train"] = splits["train"].remove_columns("provenance").add_column("provenance", cells)
    for parts in configurations(splits).values():
        assert "gpu7" not in str(parts["train"]["provenance"][:])


def test_what_is_no_prior_data_set_is_refused() -> None:
    with pytest.raises(PriorError, match=r"no prior to publish.*\['label', 'text'\]"):
        configurations(prior_splits().select_columns(["text", "label"]))
    splits = prior_splits()
    splits["test"] = splits["test"].remove_columns("prior_cap")
    with pytest.raises(PriorError, match="'test' has"):
        configurations(splits)


@pytest.mark.parametrize(
    "source", ["../../x", "/abs", "", "a\x1b[31mb", "a\nb", "[ab]", "hybrid", "README.md"]
)
def test_a_source_whose_name_is_no_folder_is_refused(tmp_path: Path, source: str) -> None:
    splits = prior_splits().rename_column("prior_lime", f"prior_{source}")
    with pytest.raises(ConfigError, match=r"cannot name a file|rename the column"):
        stage_priors(tmp_path / "a" / "hub", splits)
    with pytest.raises(ConfigError, match="cannot name a file"):
        save_splits({"../../x": splits["train"]}, tmp_path / "a" / "data")
    assert not list(tmp_path.iterdir())


def test_a_secret_in_a_cell_stops_the_publication(tmp_path: Path) -> None:
    notes = ["", f"my token is {SECRET}", ""]
    splits = prior_splits()
    splits["train"] = splits["train"].add_column("note", notes)
    splits["test"] = splits["test"].add_column("note", notes[:1] * 2)
    message = r"^hybrid/train\.parquet, column 'note', row 1, holds .*\(Hugging Face Token\)"
    with pytest.raises(ConfigError, match=message) as caught:
        stage_priors(tmp_path / "hub", splits)
    assert "A1A1A1" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("column", "cell", "message"),
    [
        ("prior_lime", [1.0], r"'prior_lime', row 1: 1 scores for 3 words"),
        ("prior", [1.0, float("nan"), 0.0], r"'prior', row 1: the score of word 1 .* is nan"),
        ("provenance", "{", "'provenance' is damaged: '{'"),
        ("provenance", '{"cap": 3}', "'provenance' is damaged"),
    ],
)
def test_a_prior_that_does_not_fit_is_not_published(
    tmp_path: Path, column: str, cell: Any, message: str
) -> None:
    splits = prior_splits()
    cells = [splits["train"][column][0], cell, splits["train"][column][2]]
    old = splits["train"].remove_columns(column)
    splits["train"] = old.add_column(column, cells).cast(
        Features({**old.features, column: splits["test"].features[column]})
    )
    with pytest.raises(PriorError, match=message):
        stage_priors(tmp_path / "hub", splits)
    assert not list(tmp_path.iterdir())


def test_the_staged_priors_load_with_plain_datasets_and_are_read_anew(tmp_path: Path) -> None:
    splits, folder = prior_splits(), tmp_path / "hub"
    stage_priors(folder, splits, audit={"cap": {"mean r2": 0.85, "note": "x"}})
    plain = load_dataset(str(folder), "cap", cache_dir=str(tmp_path / "cache"))
    assert plain["train"].features["label"] == splits["train"].features["label"]
    assert plain["train"]["prior"][:] == splits["train"]["prior_cap"][:]
    loaded = hub.load_prior_dataset(str(folder))
    assert loaded["train"].features == splits["train"].features
    assert loaded["test"]["prior_lime"][:] == splits["test"]["prior_lime"][:]
    card = (folder / "README.md").read_text()
    for line in ("| cap: mean r2 | 0.85 |", "| hybrid | 5 | 4 | none |", "| `n` | `100` |",
                 "```bash\nhf-cap extract --dataset desk\n```", "| hf-cap | 0.1.0 |"):  # fmt: skip
        assert line in card
    columns = ("prior", "prior_cap")
    anew = splits.map(lambda row: {name: [7.0] * len(row["words"]) for name in columns})
    stage_priors(folder, anew)
    assert hub.load_prior_dataset(str(folder))["train"]["prior"][:] == anew["train"]["prior"][:]
    cap = hub.load_prior_dataset(str(folder), "cap")
    assert cap["test"]["prior"][:] == anew["test"]["prior_cap"][:]
    with pytest.raises(DataError, match=r"'shap' of .*hybrid"):
        hub.load_prior_dataset(str(folder), "shap")


def test_a_folder_of_priors_is_no_pattern(tmp_path: Path) -> None:
    splits = prior_splits()
    stage_priors(tmp_path / "hub[1]", splits)
    stage_priors(tmp_path / "hub1", splits.map(lambda row: {"prior": [7.0] * len(row["words"])}))
    loaded = hub.load_prior_dataset(str(tmp_path / "hub[1]"))
    assert loaded["train"]["prior"][:] == splits["train"]["prior"][:]


def test_the_folder_of_priors_lies_beside_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_priors(tmp_path / "desk")
    monkeypatch.chdir(data)
    assert hub.push_priors(".", hub.PushOptions(repo_id="alice/p")) == tmp_path / "desk-hub"
    assert set(hub.load_prior_dataset(str(data))) == set(prior_splits())  # a folder without a card
    (tmp_path / "audit.json").write_text('{"cap_r2": 0.85}')
    options = hub.PushOptions(repo_id="alice/p", audit=str(tmp_path / "audit.json"), examples=1)
    folder = hub.push_priors(data, options)
    assert folder == tmp_path / "desk-hub"
    assert "| cap\\_r2 | 0.85 |" in (folder / "README.md").read_text()


# --- Metrics.


def test_a_metric_is_a_space_of_its_own_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = hub.push_metric("plausibility", hub.PushOptions(repo_id="alice/plausibility"))
    assert folder == tmp_path / "plausibility-hub"
    names = ["README.md", "app.py", "plausibility.py", "requirements.txt"]
    assert sorted(file.name for file in folder.iterdir()) == names
    assert hub.push_metric("plausibility", hub.PushOptions(repo_id="alice/plausibility")) == folder
    with pytest.raises(ConfigError, match=r"'right.py'. Call the repository 'alice/plausibility'"):
        hub.push_metric("plausibility", hub.PushOptions(repo_id="alice/right"))
