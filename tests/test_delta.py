"""A delta gives back the checkpoint: to the bit, or in the mean over draws."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hf_cap.cli import main
from hf_cap.errors import ConfigError, ModelError
from hf_cap.export import DELTA_FILE, WEIGHTS, best_rescale, restore, save_delta, sparse, whole
from tests.tiny import roberta_classifier, word_tokenizer


def checkpoints(folder: Path) -> tuple[str, str]:
    """A base, and what training made of it: other values here and there, and a head of another size."""
    base: Any = roberta_classifier()
    base.base_model.save_pretrained(folder / "base")
    tuned: Any = roberta_classifier(labels=4)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in tuned.base_model.parameters():
            parameter += torch.randn_like(parameter) * (torch.rand_like(parameter) < 0.3)
    tuned.save_pretrained(folder / "tuned")
    word_tokenizer().save_pretrained(folder / "tuned")
    return str(folder / "tuned"), str(folder / "base")


def test_without_dropping_it_comes_back_to_the_bit(tmp_path: Path) -> None:
    tuned, base = checkpoints(tmp_path)
    delta, out = str(tmp_path / "delta"), str(tmp_path / "out")
    words = ["export", "--model", tuned, "--format", "delta", "--base", base, "--output_dir", delta]
    assert main(words) == 0
    assert not (tmp_path / "delta" / WEIGHTS).exists()
    assert main(["export", "--model", delta, "--format", "whole", "--output_dir", out]) == 0
    before, after = (load_file(Path(folder) / WEIGHTS) for folder in (tuned, out))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    for file in ("config.json", "tokenizer.json"):
        assert (tmp_path / "out" / file).read_bytes() == (tmp_path / "tuned" / file).read_bytes()
    stored = load_file(Path(delta) / DELTA_FILE)
    assert "whole:classifier.out_proj.weight" in stored  # the base has no head
    places = stored["places:roberta.embeddings.word_embeddings.weight"]
    assert len(places) == pytest.approx(0.3 * 64 * 16, rel=0.2)  # what did not change is not stored


def test_dropping_is_right_in_the_mean() -> None:
    torch.manual_seed(0)
    base = {"w": torch.randn(4, 5)}
    tuned = {"bert.w": base["w"] + torch.randn(4, 5), "head": torch.randn(2)}
    draws = [whole(sparse(tuned, base, drop=0.8, seed=seed), base) for seed in range(500)]
    mean = torch.stack([one["bert.w"] for one in draws]).mean(0)
    change = tuned["bert.w"] - base["w"]
    # one draw has the standard deviation |change| sqrt(0.8 / 0.2) = 2 |change|
    assert ((mean - tuned["bert.w"]).abs() < 4 * 2 * change.abs() / 500**0.5).all()
    kept = torch.stack([one["bert.w"] != base["w"] for one in draws]).float().mean()
    assert kept == pytest.approx(0.2, abs=0.02)
    assert all(torch.equal(one["head"], tuned["head"]) for one in draws)


def test_the_scale_is_chosen_by_a_score() -> None:
    base, tuned = {"w": torch.zeros(1000)}, {"w": torch.ones(1000)}
    wanted = {0.2: 1.0, 0.4: 0.5}  # means of the weights after a drop of 0.8
    for q, mean in wanted.items():

        def near(state: Any, mean: float = mean) -> float:
            return -abs(float(state["w"].mean()) - mean)

        assert best_rescale(tuned, base, near, 0.8, [0.1, 0.2, 0.4, 0.8]) == q


def test_a_base_that_is_another_is_an_error(tmp_path: Path) -> None:
    tuned, base = checkpoints(tmp_path)
    save_delta(tuned, base, tmp_path / "delta")
    other: Any = roberta_classifier(seed=1)
    other.base_model.save_pretrained(base)
    with pytest.raises(ModelError, match="other weights"):
        restore(str(tmp_path / "delta"), tmp_path / "out")
    with pytest.raises(ModelError, match="no delta"):
        restore(tuned, tmp_path / "out")
    with pytest.raises(ConfigError, match="base"):
        save_delta(tuned, None, tmp_path / "delta")
    for bad in ({"drop": 1.0}, {"drop": 0.5, "rescale": 0.0}):
        with pytest.raises(ConfigError, match="drop"):
            save_delta(tuned, base, tmp_path / "other", **bad)
    assert not (tmp_path / "other").exists()
