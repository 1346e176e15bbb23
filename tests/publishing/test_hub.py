"""Over the wire: the real `huggingface_hub` client against a Hub on loopback."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hf_cap.data import load_splits
from hf_cap.errors import ConfigError, DataError, ServerError
from hf_cap.hub import PushOptions, check_access, push_metric, push_model, push_prior_dataset, push_priors
from tests.publishing import visitor
from tests.publishing.conftest import Client, HubControl
from tests.publishing.runs import LABELS, write_priors, write_run

pytestmark = pytest.mark.slow
to = partial(PushOptions, push=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_run(tmp_path_factory.mktemp("runs") / "desk"))


@pytest.fixture(scope="module")
def priors(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_priors(tmp_path_factory.mktemp("data") / "desk-priors"))


def test_a_model_goes_there_and_back_and_then_works_offline(
    hub: HubControl, client: Client, offline_client: Client, run: str, priors: str
) -> None:
    client(push_model, run, to(repo_id="alice/desk"))
    files, private = client(visitor.download, "alice/desk")
    names = "README.md config.json model.safetensors tokenizer.json tokenizer_config.json"
    assert set(files) == {".gitattributes", *names.split()}
    assert files["model.safetensors"] == (Path(run) / "model.safetensors").read_bytes()
    assert not any(b"/home/alice" in content for content in files.values())
    assert private is True
    asked = ("alice/desk", "renew my card")
    (plain,) = client(visitor.pipeline, "text-classification", *asked)
    explained = client(visitor.pipeline, "explained-text-classification", *asked, steps=4)
    assert plain["label"] == explained["label"]
    assert plain["label"] in LABELS
    assert plain["score"] == pytest.approx(explained["score"], abs=1e-6)
    assert explained["words"] == ["renew", "my", "card"]

    client(push_priors, priors, to(repo_id="alice/offline"))
    rows = client(visitor.load_priors, "alice/offline")
    before = len(hub.tell("log"))
    assert offline_client(visitor.pipeline, "text-classification", *asked) == [plain]
    assert offline_client(visitor.load_priors, "alice/offline") == rows
    with pytest.raises(ConfigError, match="HF_HUB_OFFLINE"):
        offline_client(push_priors, priors, to(repo_id="alice/offline"))
    assert hub.tell("log")[before:] == []


def test_priors_go_there_and_back_and_train_without_a_language_model(
    hub: HubControl, client: Client, priors: str, tmp_path: Path
) -> None:
    client(push_priors, priors, to(repo_id="alice/priors"))
    hybrid = client(visitor.load_priors, "alice/priors")
    cap = client(visitor.load_priors, "alice/priors", "cap")
    assert list(hybrid) == ["train", "test"]
    assert [row["prior"] for row in hybrid["train"]] == [[1.0, 0.0, -0.5], [2.0, 0.0, 1.0], None]
    assert set(hybrid["train"][0]) >= {"prior_cap", "prior_lime", "cap_r2"}
    assert cap["test"][0]["prior"] == [2.0, 0.0, 1.0]
    assert set(cap["train"][0]) == {"text", "label", "words", "prior", "cap_r2", "provenance"}
    with pytest.raises(DataError, match=r"'shap' of 'alice/priors'.*hybrid"):
        client(visitor.load_priors, "alice/priors", "shap")
    with pytest.raises(DataError, match=r"'alice/nothing'.*hf auth login"):
        client(visitor.load_priors, "alice/nothing")

    folder = str(tmp_path / "run")
    log, asked = client(visitor.train, "alice/priors", folder, "alice/trained")
    assert any("loss_align" in line for line in log)
    assert asked == []
    files, _ = client(visitor.download, "alice/trained")
    assert "training_args.bin" not in files
    assert not any(folder.encode() in content for content in files.values())
    card = files["README.md"].decode()
    for line in ("license: mit", "| Training split | unknown, 3 texts |", "| `learning_rate` | `0.001` |",
                 "| Step | Epoch | Loss | Task loss | Alignment loss | Cosine with the prior |"):  # fmt: skip
        assert line in card
    assert json.loads(files["config.json"])["hf_cap"]["method"] == "integrated_gradients"


def test_priors_in_memory_go_there_and_back(hub: HubControl, client: Client, priors: str) -> None:
    address = client(push_prior_dataset, load_splits(priors), "alice/memory", license="mit", private=False)
    assert address == f"{hub.address}/datasets/alice/memory"
    assert client(visitor.download, "alice/memory", "dataset")[1] is False
    assert client(visitor.load_priors, "alice/memory", "lime")["train"][2]["prior"] is None


def test_a_metric_becomes_a_space_that_evaluate_loads(
    hub: HubControl, client: Client, tmp_path: Path
) -> None:
    there = to(repo_id="alice/plausibility", output_dir=str(tmp_path / "plausibility"))
    client(push_metric, "plausibility", there)
    assert client(visitor.measure, "alice/plausibility")["auprc"] == 1.0


@pytest.mark.parametrize(
    ("name", "method", "path", "fault"),
    [
        ("busy", "POST", "/preupload/", {"status": 429, "headers": {"Retry-After": "1"}}),
        ("cut", "PUT", "/_lfs/", {"cut": True}),
    ],
    ids=str,
)
def test_a_passing_fault_of_an_upload_is_survived(
    hub: HubControl, client: Client, priors: str, name: str, method: str, path: str, fault: Any
) -> None:
    hub.fail(method, path, **fault)
    client(push_priors, priors, to(repo_id=f"alice/{name}"))
    assert hub.tell("pending") == 0
    assert client(visitor.load_priors, f"alice/{name}")["train"]


@pytest.mark.parametrize(
    ("name", "method", "path", "fault", "message"),
    [
        ("down", "POST", "/api/repos/create", {"status": 503}, "The Hub answered 503"),
        ("storage", "PUT", "/_lfs/", {"status": 403}, "may not write to 'alice/storage'"),
        ("revoked", "POST", "/commit/", {"status": 401}, "does not accept.*revoked"),
        ("cut-commit", "POST", "/commit/", {"cut": True}, "The connection to the Hub failed"),
        ("lost", "POST", "/commit/", {"lost": True}, "The connection to the Hub failed"),
    ],
    ids=str,
)
def test_any_other_fault_ends_in_a_sentence_and_the_same_command_goes_on(
    hub: HubControl, client: Client, priors: str, name: str, method: str, path: str, fault: Any, message: str
) -> None:
    hub.fail(method, path, **fault)
    with pytest.raises(ServerError, match=rf"{message}.*complete; run the same command again"):
        client(push_priors, priors, to(repo_id=f"alice/{name}"))
    client(push_priors, priors, to(repo_id=f"alice/{name}"))
    assert client(visitor.load_priors, f"alice/{name}")["train"]


def test_a_temporary_folder_is_not_called_complete(hub: HubControl, client: Client, priors: str) -> None:
    hub.fail("POST", "/commit/", status=403)
    with pytest.raises(ServerError, match="may not write to 'alice/gone'") as caught:
        client(push_prior_dataset, load_splits(priors), "alice/gone")
    assert "is complete" not in str(caught.value)


def test_what_somebody_else_pushed_in_between_is_not_overwritten(
    hub: HubControl, client: Client, priors: str
) -> None:
    client(push_priors, priors, to(repo_id="alice/shared"))
    theirs = {"kind": "datasets", "name": "alice/shared", "files": {"theirs.txt": "new"}}
    hub.fail("POST", "/preupload/", commit=theirs)
    with pytest.raises(ServerError, match="Somebody else pushed to 'alice/shared' in the meantime"):
        client(push_priors, priors, to(repo_id="alice/shared", language="en"))
    for ours in (False, True):
        files, _ = client(visitor.download, "alice/shared", "dataset")
        assert files["theirs.txt"] == b"new"
        assert (b"language: en" in files["README.md"]) is ours
        client(push_priors, priors, to(repo_id="alice/shared", language="en"))


def test_a_broken_upload_loses_nothing_and_goes_on_where_it_was(
    hub: HubControl, client: Client, run: str, tmp_path: Path
) -> None:
    kept, weights = tmp_path / "kept", "model.safetensors"
    there = to(repo_id="alice/broken", output_dir=str(kept))
    hub.fail("POST", "/api/models/alice/broken/commit/", status=403)
    with pytest.raises(ServerError, match=r"may not write to 'alice/broken'.*run the same command"):
        client(push_model, run, there)
    assert (kept / weights).read_bytes() == (Path(run) / weights).read_bytes()
    before = len(hub.tell("log"))
    client(push_model, run, there)
    assert not [line for line in hub.tell("log")[before:] if line.startswith("PUT")]
    assert weights in client(visitor.download, "alice/broken")[0]


def test_access_is_checked_before_any_work(hub: HubControl, client: Client, priors: str) -> None:
    client(check_access, "alice/new")
    for name, token, error, message in [
        ("alice/new", "hf_wrong", ServerError, "does not accept the access token"),
        ("alice/new", "hf_reader", ConfigError, "'read'.* may not write to 'alice/new'"),
        ("bob/new", None, ConfigError, r"one of \['alice', 'library'\].*'alice/new'"),
        ("new", None, ConfigError, "'alice/new'"),
        ("alice/../etc", None, ConfigError, "no valid name of a repository"),
    ]:
        with pytest.raises(error, match=message):
            client(check_access, name, token=token)
    client(push_priors, priors, to(repo_id="alice/gated"))
    hub.tell("gate", {"kind": "datasets", "name": "alice/gated"})
    hub.accept(hf_alice="read")
    with pytest.raises((ServerError, DataError), match="gated"):
        client(visitor.load_priors, "alice/gated")
