"""Over the wire: the real `huggingface_hub` client against a Hub on loopback."""

import json
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from hf_cap.errors import ConfigError, DataError, ServerError
from tests.publishing import visitor
from tests.publishing.conftest import HubControl
from tests.publishing.runs import LABELS, write_priors, write_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "desk")


@pytest.fixture(scope="module")
def priors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_priors(tmp_path_factory.mktemp("data") / "desk-priors")


def test_a_model_goes_there_and_back(
    hub: HubControl, client: ProcessPoolExecutor, run: Path
) -> None:
    client.submit(visitor.push_model, str(run), "alice/desk").result()
    files, private = client.submit(visitor.download, "alice/desk").result()
    assert set(files) == {
        ".gitattributes",
        "README.md",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert files["model.safetensors"] == (run / "model.safetensors").read_bytes()
    assert not any(b"/home/alice" in content for content in files.values())
    assert private is True
    assert json.loads(files["config.json"])["hf_cap"]["method"] == "input_x_gradient"
    asked = ("alice/desk", "renew my card")
    (plain,) = client.submit(visitor.pipeline, "text-classification", *asked).result()
    task = "explained-text-classification"
    explained = client.submit(visitor.pipeline, task, *asked, steps=4).result()
    assert plain["label"] == explained["label"]
    assert plain["label"] in LABELS
    assert plain["score"] == pytest.approx(explained["score"], abs=1e-6)
    assert explained["words"] == ["renew", "my", "card"]


def test_priors_go_there_and_back_and_train_without_a_language_model(
    hub: HubControl, client: ProcessPoolExecutor, priors: Path, tmp_path: Path
) -> None:
    client.submit(visitor.push_priors, str(priors), "alice/priors").result()
    hybrid = client.submit(visitor.load_priors, "alice/priors").result()
    cap = client.submit(visitor.load_priors, "alice/priors", "cap").result()
    assert list(hybrid) == ["train", "test"]
    assert [row["prior"] for row in hybrid["train"]] == [[1.0, 0.0, -0.5], [2.0, 0.0, 1.0], None]
    assert set(hybrid["train"][0]) >= {"prior_cap", "prior_lime", "cap_r2"}
    assert cap["test"][0]["prior"] == [2.0, 0.0, 1.0]
    assert set(cap["train"][0]) == {"text", "label", "words", "prior", "cap_r2", "provenance"}
    log, asked = client.submit(visitor.train_on, "alice/priors", str(tmp_path / "run")).result()
    assert any("loss_align" in line for line in log)
    assert asked == []
    with pytest.raises(DataError, match=r"'shap' of 'alice/priors'.*hybrid"):
        client.submit(visitor.load_priors, "alice/priors", "shap").result()
    with pytest.raises(DataError, match="There is no data set 'alice/nothing'"):
        client.submit(visitor.load_priors, "alice/nothing").result()


def test_a_trainer_pushes_its_model_with_its_card(
    hub: HubControl, client: ProcessPoolExecutor, priors: Path, tmp_path: Path
) -> None:
    folder = str(tmp_path / "run")
    client.submit(visitor.push_trainer, folder, "alice/trained", str(priors)).result()
    files, _ = client.submit(visitor.download, "alice/trained").result()
    assert "training_args.bin" not in files
    assert not any(folder.encode() in content for content in files.values())
    card = files["README.md"].decode()
    assert "license: mit" in card
    assert "| Training split | unknown, 3 texts |" in card
    assert "| `learning_rate` | `0.001` |" in card
    assert "| Step | Epoch | Loss | Task loss | Alignment loss | Cosine with the prior |" in card
    assert json.loads(files["config.json"])["hf_cap"]["method"] == "integrated_gradients"


def test_priors_in_memory_go_there_and_back(
    hub: HubControl, client: ProcessPoolExecutor, priors: Path
) -> None:
    address = client.submit(visitor.push_in_memory, str(priors), "alice/memory").result()
    assert address == f"{hub.address}/datasets/alice/memory"
    _, private = client.submit(visitor.download, "alice/memory", "dataset").result()
    assert private is False
    loaded = client.submit(visitor.load_priors, "alice/memory", "lime").result()
    assert loaded["train"][2]["prior"] is None


def test_a_metric_becomes_a_space_that_evaluate_loads(
    hub: HubControl, client: ProcessPoolExecutor, tmp_path: Path
) -> None:
    there = ("plausibility", "alice/plausibility", str(tmp_path / "plausibility"))
    client.submit(visitor.push_metric, *there).result()
    assert client.submit(visitor.measure, "alice/plausibility").result()["auprc"] == 1.0


@pytest.mark.parametrize(
    ("name", "method", "path", "fault"),
    [
        ("busy", "POST", "/preupload/", {"status": 429, "headers": {"Retry-After": "1"}}),
        ("batch", "POST", "/objects/batch", {"status": 500}),
        ("cut", "PUT", "/_lfs/", {"cut": True}),
        ("storage", "PUT", "/_lfs/", {"status": 500}),
    ],
    ids=str,
)
def test_a_passing_fault_of_an_upload_is_survived(
    hub: HubControl,
    client: ProcessPoolExecutor,
    priors: Path,
    name: str,
    method: str,
    path: str,
    fault: dict[str, Any],
) -> None:
    hub.fail(method, path, **fault)
    client.submit(visitor.push_priors, str(priors), f"alice/{name}").result()
    assert hub.pending() == 0
    assert client.submit(visitor.load_priors, f"alice/{name}").result()["train"]


@pytest.mark.parametrize(
    ("name", "path", "fault", "message"),
    [
        ("down", "/api/repos/create", {"status": 503}, "The Hub answered 503"),
        ("pause", "/api/repos/create", {"status": 429}, "too many requests"),
        ("change", "/commit/", {"status": 409}, "is changing 'alice/change'"),
        ("cut-commit", "/commit/", {"cut": True}, "The connection to the Hub failed"),
        ("lost", "/commit/", {"lost": True}, "The connection to the Hub failed"),
    ],
    ids=str,
)
def test_any_other_fault_ends_in_a_sentence_and_the_same_command_goes_on(
    hub: HubControl,
    client: ProcessPoolExecutor,
    priors: Path,
    name: str,
    path: str,
    fault: dict[str, Any],
    message: str,
) -> None:
    hub.fail("POST", path, **fault)
    with pytest.raises(ServerError, match=rf"{message}.*run the same command again"):
        client.submit(visitor.push_priors, str(priors), f"alice/{name}").result()
    client.submit(visitor.push_priors, str(priors), f"alice/{name}").result()
    assert client.submit(visitor.load_priors, f"alice/{name}").result()["train"]


def test_what_somebody_else_pushed_in_between_is_not_overwritten(
    hub: HubControl, client: ProcessPoolExecutor, priors: Path
) -> None:
    client.submit(visitor.push_priors, str(priors), "alice/shared").result()
    hub.commit_before("/preupload/", "datasets", "alice/shared", {"theirs.txt": "new"})
    pushed = client.submit(visitor.push_priors, str(priors), "alice/shared", language="en")
    with pytest.raises(ServerError, match="Somebody else pushed to 'alice/shared' in the meantime"):
        pushed.result()
    files, _ = client.submit(visitor.download, "alice/shared", "dataset").result()
    assert files["theirs.txt"] == b"new"
    assert b"language: en" not in files["README.md"]
    client.submit(visitor.push_priors, str(priors), "alice/shared", language="en").result()
    files, _ = client.submit(visitor.download, "alice/shared", "dataset").result()
    assert files["theirs.txt"] == b"new"
    assert b"language: en" in files["README.md"]


def test_a_broken_upload_loses_nothing_and_goes_on_where_it_was(
    hub: HubControl, client: ProcessPoolExecutor, run: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    hub.fail("POST", "/api/models/alice/broken/commit/", status=403)
    with pytest.raises(ServerError, match=r"may not write to 'alice/broken'.*run the same command"):
        client.submit(visitor.push_model, str(run), "alice/broken", output_dir=str(kept)).result()
    assert (kept / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()
    before = len(hub.log())
    client.submit(visitor.push_model, str(run), "alice/broken", output_dir=str(kept)).result()
    assert not [line for line in hub.log()[before:] if line.startswith("PUT")]
    assert "model.safetensors" in client.submit(visitor.download, "alice/broken").result()[0]


def test_access_is_checked_before_any_work(hub: HubControl, client: ProcessPoolExecutor) -> None:
    client.submit(visitor.check, "alice/new").result()
    for arguments, error, message in [
        (("alice/new", "model", "hf_wrong"), ServerError, "does not accept the access token"),
        (("alice/new", "model", "hf_reader"), ConfigError, "may only read"),
        (("bob/new",), ConfigError, r"may write to \['alice', 'library'\].*'alice/new'"),
        (("new",), ConfigError, "'alice/new'"),
        (("alice/../etc",), ConfigError, "no valid name of a repository"),
    ]:
        with pytest.raises(error, match=message):
            client.submit(visitor.check, *arguments).result()


def test_a_token_that_is_revoked_in_between_is_told(
    hub: HubControl, client: ProcessPoolExecutor, priors: Path
) -> None:
    hub.fail("POST", "/commit/", status=401)
    with pytest.raises(ServerError, match=r"revoked.*complete; run the same command again"):
        client.submit(visitor.push_priors, str(priors), "alice/revoked").result()
    hub.accept(hf_other="write")
    with pytest.raises(ServerError, match="does not accept the access token"):
        client.submit(visitor.push_priors, str(priors), "alice/revoked").result()
    hub.accept(hf_alice="write")
    client.submit(visitor.push_priors, str(priors), "alice/revoked").result()


def test_a_gated_repository_is_told(
    hub: HubControl, client: ProcessPoolExecutor, priors: Path
) -> None:
    client.submit(visitor.push_priors, str(priors), "alice/gated").result()
    hub.gate("datasets", "alice/gated")
    hub.accept(hf_alice="read")
    with pytest.raises((ServerError, DataError), match="gated"):
        client.submit(visitor.load_priors, "alice/gated").result()


def test_what_was_loaded_once_works_offline(
    hub: HubControl,
    client: ProcessPoolExecutor,
    offline_client: ProcessPoolExecutor,
    run: Path,
    priors: Path,
) -> None:
    client.submit(visitor.push_model, str(run), "alice/offline").result()
    client.submit(visitor.push_priors, str(priors), "alice/offline").result()
    asked = ("text-classification", "alice/offline", "pay my fine")
    online = client.submit(visitor.pipeline, *asked).result()
    rows = client.submit(visitor.load_priors, "alice/offline").result()
    before = len(hub.log())
    assert (
        offline_client.submit(
            visitor.pipeline, "text-classification", "alice/offline", "pay my fine"
        ).result()
        == online
    )
    assert offline_client.submit(visitor.load_priors, "alice/offline").result() == rows
    with pytest.raises(ConfigError, match="HF_HUB_OFFLINE"):
        offline_client.submit(visitor.push_priors, str(priors), "alice/offline").result()
    assert hub.log()[before:] == []
