from pathlib import Path

import pytest

from hf_cap.cards import SECRET, public_id, public_name, public_settings, public_text


@pytest.mark.parametrize(
    ("name", "public"),
    [
        ("FacebookAI/roberta-base", "FacebookAI/roberta-base"),
        ("gpt2", "gpt2"),
        ("embedded/minilm-l6", "sentence-transformers/all-MiniLM-L6-v2"),
        ("embedded/library-desk", None),
        ("/home/alice/model", None),
        ("~/model", None),
        ("./model", None),
        ("C:\\model", None),
        ("a/b/c", None),
        ("", None),
        (None, None),
    ],
)
def test_only_hub_ids_are_public(name: str | None, public: str | None) -> None:
    assert public_id(name) == public


def test_a_folder_that_looks_like_a_hub_id_is_local(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs" / "desk").mkdir(parents=True)
    assert public_id("runs/desk") == "runs/desk"
    monkeypatch.chdir(tmp_path)
    assert public_id("runs/desk") is None
    assert public_name("runs/desk") == "desk"


def test_a_local_thing_keeps_its_last_name() -> None:
    assert public_name("/home/alice/data/desk") == "desk"
    assert public_name("embedded/library-desk") == "library-desk"
    assert public_name(None) is None


@pytest.mark.parametrize(
    ("text", "public"),
    [
        ("--dataset /home/alice/desk --n 3", "--dataset desk --n 3"),
        ("--dir=~/runs/x", "--dir=x"),
        ("'/home/alice/my' b", "'my' b"),
        ("C:\\runs\\x", "x"),
        ("a/b and/or 1/2", "a/b and/or 1/2"),
        ("--base_url http://gpu7.corp:8000/v1 --n 3", "--base_url *** --n 3"),
        ("'https://user:word@gpu7/v1'", "'***'"),
        ("http://u:pw@gpu7:8000/v1|m|served|echo|text", "***|m|served|echo|text"),
        (r"\S+|[^\w\s]", r"\S+|[^\w\s]"),
        ("--token hf_" + "a" * 34, "--token ***"),
    ],
)
def test_paths_are_cut_and_servers_and_secrets_hidden(text: str, public: str) -> None:
    assert public_text(text) == public


def test_private_settings_are_left_out() -> None:
    kept = {"learning_rate": 1e-4, "max_length": 64, "push_to_hub": True, "template": "a1"}
    private = {
        "output_dir": "x",
        "hub_token": "y",
        "hub_model_id": "z",
        "base_url": "w",
        "api_key": "v",
    }
    assert public_settings({**kept, **private}) == {
        k: v for k, v in kept.items() if k != "push_to_hub"
    }


@pytest.mark.parametrize(
    "secret", ["hf_" + "A1" * 17, "sk-" + "a" * 40, "ghp_" + "a" * 36, "hf_oauth_eyJhbGciOi"]
)
def test_tokens_are_known(secret: str) -> None:
    assert SECRET.search(f"x={secret}&")


def test_ordinary_names_are_no_tokens() -> None:
    assert not SECRET.search("hf_cap hf_hub_download sk-learn task-specific-language-modelling")
