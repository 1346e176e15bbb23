"""Settings say what is asked and are hashed; the runtime says how and is not."""

import subprocess
import sys
import typing
from pathlib import Path

import pytest
from datasets.fingerprint import Hasher

from hf_cap.embedded import cache_folder
from hf_cap.errors import ConfigError, ExtractError, MissingExtra, ModelError
from hf_cap.lm.base import (
    RUNTIME_VARIABLE,
    Dtype,
    Quantization,
    Query,
    Scorer,
    ScorerRuntime,
    ScorerSettings,
    current_runtime,
    using_runtime,
)
from hf_cap.lm.cache import StoredScorer
from hf_cap.lm.local import (
    DTYPES,
    QUANTIZERS,
    LocalScorer,
    choose_device,
    choose_dtype,
    load_scorer,
    resolve_dtype,
)
from hf_cap.lm.mock import StandInScorer
from hf_cap.lm.open import open_scorer
from tests.tiny import byte_tokenizer, llama


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    llama().save_pretrained(tmp_path / "model")
    byte_tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_the_runtime_leaves_the_hash_of_the_settings_alone() -> None:
    settings = ScorerSettings(dtype="float32")
    before = Hasher.hash(settings)
    with using_runtime(ScorerRuntime(device="cpu", token_budget=7)):
        assert Hasher.hash(settings) == before
    assert Hasher.hash(ScorerSettings(dtype="bfloat16")) != before


def test_a_child_process_sees_the_runtime() -> None:
    code = "from hf_cap.lm.base import current_runtime; print(current_runtime().token_budget)"
    with using_runtime(ScorerRuntime(token_budget=7)):
        with using_runtime(ScorerRuntime(token_budget=9)):
            out = subprocess.run(
                [sys.executable, "-c", code], capture_output=True, check=True, cwd="."
            )
        assert current_runtime().token_budget == 7
    assert out.stdout.strip() == b"9"
    assert current_runtime() == ScorerRuntime()


def test_settings_import_neither_torch_nor_transformers() -> None:
    code = "import sys, hf_cap.lm.base, hf_cap.lm.open, hf_cap.lm.mock; "
    code += "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_settings_that_cannot_work_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="`model` is empty"):
        ScorerSettings(model="")
    with pytest.raises(ConfigError, match="the server's business"):
        ScorerSettings(base_url="http://x", quantization="4bit")
    with pytest.raises(ConfigError, match="`token_budget` must be more than 0, got 0"):
        ScorerRuntime(token_budget=0)
    with pytest.raises(ConfigError, match="max_retries"):
        ScorerRuntime(max_retries=-1)
    monkeypatch.setenv(RUNTIME_VARIABLE, '{"colour": 1}')
    with pytest.raises(ConfigError, match="Unset it"):
        current_runtime()


def test_where_the_store_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert ScorerRuntime().store_path == cache_folder() / "scores.sqlite"
    assert ScorerRuntime(store="none").store_path is ScorerRuntime(store=None).store_path is None
    assert ScorerRuntime(store=str(tmp_path)).store_path == tmp_path


def test_every_choice_is_known_where_it_is_used() -> None:
    assert {"auto", *DTYPES} == set(typing.get_args(Dtype))
    assert {"none", *QUANTIZERS} == set(typing.get_args(Quantization))


def test_a_model_is_opened_once_a_process(folder: Path, tmp_path: Path) -> None:
    settings = ScorerSettings(model=str(folder))
    with using_runtime(ScorerRuntime(device="cpu", store=str(tmp_path / "s.sqlite"))):
        scorer = open_scorer(settings)
        assert open_scorer(ScorerSettings(model=str(folder))) is scorer
    assert isinstance(scorer, StoredScorer)
    expected = LocalScorer(llama(), byte_tokenizer()).score([Query("a", "b", "c")])
    assert scorer.score([Query("a", "b", "c")])[0].total == pytest.approx(
        expected[0].total, abs=1e-5
    )
    bare = open_scorer(settings, ScorerRuntime(device="cpu", store="none"))
    assert isinstance(bare, LocalScorer)
    assert isinstance(bare, Scorer)
    assert bare.identity == scorer.identity


def test_a_model_written_anew_is_opened_anew(folder: Path) -> None:
    settings, runtime = ScorerSettings(model=str(folder)), ScorerRuntime(device="cpu", store="none")
    before = open_scorer(settings, runtime).identity
    llama(seed=1).save_pretrained(folder)
    assert open_scorer(settings, runtime).identity != before


def test_models_that_cannot_be_loaded_are_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    runtime = ScorerRuntime(device="cpu")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_scorer(ScorerSettings(model=str(tmp_path / "empty")), runtime)
    with pytest.raises(MissingExtra, match="pip install bitsandbytes"):
        load_scorer(ScorerSettings(model=str(folder), quantization="4bit"), runtime)
    with pytest.raises(ConfigError, match="no device of torch"):
        choose_device("toaster")


def test_number_formats() -> None:
    cpu = choose_device("cpu")
    assert choose_dtype(ScorerSettings(), cpu) == DTYPES["float32"]
    assert choose_dtype(ScorerSettings(dtype="bfloat16"), cpu) == DTYPES["bfloat16"]
    assert choose_dtype(ScorerSettings(), choose_device("mps")) == DTYPES["bfloat16"]


def test_auto_stands_for_the_format_of_the_device() -> None:
    cpu, gpu = ScorerRuntime(device="cpu"), ScorerRuntime(device="cuda")
    assert resolve_dtype(ScorerSettings(), cpu) == ScorerSettings(dtype="float32")
    assert resolve_dtype(ScorerSettings(), gpu) == ScorerSettings(dtype="bfloat16")
    assert resolve_dtype(ScorerSettings(dtype="float16"), gpu) == ScorerSettings(dtype="float16")
    served = ScorerSettings(base_url="http://x")
    assert resolve_dtype(served, gpu) == served


def test_the_stand_in_answers_from_its_function() -> None:
    scorer = StandInScorer(
        lambda prompt, answer: [-1.0] * len(prompt), chat=lambda user: f"<{user}>"
    )
    (scored,) = scorer.score([Query("a", "b", "1234")])
    assert (scored.log_probs, scored.starts, scored.mean) == ((-1.0, -1.0), (0, 2), -1.0)
    assert scorer.calls == [Query("a", "b", "1234")]
    assert scorer.render_chat("hi") == "<hi>"
    assert StandInScorer(lambda p, a: -2).score([Query("a", "", "b")])[0].total == -2.0
    with pytest.raises(ExtractError, match="must be finite"):
        StandInScorer(lambda p, a: float("nan")).score([Query("a", "b", "c")])
    with pytest.raises(ExtractError, match="must be finite"):
        StandInScorer(lambda p, a: []).score([Query("a", "b", "c")])
