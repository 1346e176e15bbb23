"""bfloat16 on a CPU: only where it is faster and gives the same priors, and written down."""

import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from hf_cap.lm.base import LMRuntime, LMSettings, MockLanguageModel, using_runtime
from hf_cap.lm.open import open_language_model
from hf_cap.priors import cap
from hf_cap.priors.cap import agreement, choose_dtype
from hf_cap.workflow import make_sources
from tests.priors.conftest import labelled
from tests.tiny import byte_tokenizer, llama

TEXTS = [
    f"{one} my {other} card" for one in ("renew", "lost", "pay") for other in "abcdefghijklmno"
]
OPTIONS = {"n": 6}


@pytest.fixture
def data() -> Dataset:
    return labelled(TEXTS, [index % 3 for index in range(len(TEXTS))])


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Pretends a ratio of speeds."""

    def pretend(ratio: float) -> None:
        monkeypatch.setattr(cap, "bfloat16_speedup", lambda: ratio)

    return pretend


def saved(folder: Path, shift: float) -> str:
    """A model whose embeddings share an offset; beside 512 bfloat16 cannot tell tokens apart."""
    model = llama()
    with torch.no_grad():
        model.get_input_embeddings().get_parameter("weight").add_(shift)
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return str(folder)


def test_agreement_is_the_mean_cosine() -> None:
    assert agreement([[3, 4], [1, 0]], [[6, 8], [1, 1]]) == pytest.approx((1 + math.sqrt(0.5)) / 2)
    assert agreement([[0, 0], [0, 1]], [[0, 0], [0, 0]]) == 0.5
    assert agreement([[1, 0]], [[-1, 0]]) == -1


@pytest.mark.parametrize(("shift", "expected"), [(0.0, "bfloat16"), (512.0, "float32")])
def test_priors_that_disagree_keep_float32(
    tmp_path: Path,
    data: Dataset,
    fast: Callable[[float], None],
    caplog: pytest.LogCaptureFixture,
    shift: float,
    expected: str,
) -> None:
    fast(3.0)
    model = saved(tmp_path / "model", shift)
    runtime = LMRuntime(device="cpu", store=str(tmp_path / "scores.sqlite"))
    with using_runtime(runtime), caplog.at_level(logging.INFO, "hf_cap.priors.cap"):
        (source,) = make_sources(["cap"], data, {"cap": OPTIONS}, model=model)
        found: Any = source
        batch = source(data[:2])
        assert open_language_model(found.model).fingerprint.split("|")[2] == expected
    facts = json.loads(batch["provenance"][0])["cap"]
    assert found.model.dtype == expected
    assert facts["fingerprint"].split("|")[2] == expected
    (line,) = [record.getMessage() for record in caplog.records if "mean cosine" in record.message]
    assert line.startswith(f"The language model runs in {expected}: ")


@pytest.mark.parametrize(
    ("ratio", "settings", "rows"),
    [
        (1.4, LMSettings(), 45),
        (3.0, LMSettings(), 39),
        (3.0, LMSettings(dtype="float32"), 45),
        (3.0, LMSettings(base_url="http://localhost:8000/v1"), 45),
        (3.0, MockLanguageModel(lambda prompt, answer: 0.0), 45),
    ],
)
def test_nothing_is_checked_where_nothing_is_gained_or_open(
    data: Dataset, fast: Callable[[float], None], ratio: float, settings: Any, rows: int
) -> None:
    fast(ratio)
    with using_runtime(LMRuntime(device="cpu", store=None)):
        assert choose_dtype(settings, data.select(range(rows)), OPTIONS) is settings


def test_the_speeds_are_measured_once() -> None:
    assert cap.bfloat16_speedup() == cap.bfloat16_speedup() > 0


def test_sources_that_are_only_checked_ask_no_language_model(data: Dataset) -> None:
    model = MockLanguageModel(lambda prompt, answer: -float(len(answer)))
    groups: Any = {"cap": {"score": "contrast"}, "prompt": {"demonstrations": 0, "chat": False}}
    made = make_sources(["lexicon", "cap"], data, groups, learns=False, model=model)
    assert [source.name for source in made] == ["lexicon", "cap"]
    assert model.calls == []
    make_sources(["lexicon", "cap"], data, groups, model=model)
    assert model.calls
