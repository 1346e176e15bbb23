"""The `evaluate` modules: equal to the functions below them, and loadable as the Spaces they become."""

import inspect
import re
from pathlib import Path
from typing import Any

import evaluate
import numpy as np
import pytest
import yaml

from hf_cap.errors import ConfigError
from hf_cap.evaluation import metrics
from hf_cap.evaluation.classifier import Classifier
from hf_cap.evaluation.modules import METRICS, load_metric, write_metric_space
from tests.tiny import roberta_classifier, word_tokenizer

TEXTS = ["i lost my card", "renew the loan please"]
SCORES = [[0.0, 0.9, 0.1, 0.4], [0.8, 0.0, 0.3, -0.2]]
TARGETS = [1, 0]
SCORED = metrics.ScoredTexts(TEXTS, TARGETS, SCORES)


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    return {"cache_dir": str(tmp_path / "cache"), "keep_in_memory": True}


def test_an_unknown_metric_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no metric 'bleu'; there are \['alignment'"):
        load_metric("bleu")


@pytest.mark.parametrize("name", ["comprehensiveness", "sufficiency", "soft_nc", "soft_ns"])
def test_metrics_that_run_a_model(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    model, tokenizer = roberta_classifier(), word_tokenizer()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    inputs: dict[str, Any] = {"predictions": SCORES, "references": TARGETS, "texts": TEXTS}
    metric = load_metric(name, **options)
    found = metric.compute(**inputs, model=model, tokenizer=tokenizer, batch_size=1, per_text=True)
    expected = getattr(metrics, name)(Classifier(model, tokenizer), SCORED)
    np.testing.assert_allclose(found["per_text"], expected, atol=1e-5)
    assert found[name] == pytest.approx(np.nanmean(expected), abs=1e-5)
    again = metric.compute(**inputs, model=str(tmp_path / "model"))
    assert again == {name: pytest.approx(found[name], abs=1e-5)}


@pytest.mark.parametrize(
    ("name", "changed"),
    [("comprehensiveness", {"percentages": (50,)}), ("soft_ns", {"samples": 1, "seed": 3})],
)
def test_options_of_a_metric_reach_the_function(
    name: str, changed: dict[str, Any], options: dict[str, Any]
) -> None:
    model, tokenizer = roberta_classifier(), word_tokenizer()
    inputs: dict[str, Any] = {"predictions": SCORES, "references": TARGETS, "texts": TEXTS}
    metric = load_metric(name, **options)
    found = metric.compute(**inputs, model=model, tokenizer=tokenizer, **changed)
    expected = getattr(metrics, name)(Classifier(model, tokenizer), SCORED, **changed)
    assert found[name] == pytest.approx(np.nanmean(expected), abs=1e-5)
    for option in changed:
        assert f"    {option}: " in metric.inputs_description


def test_plausibility(options: dict[str, Any]) -> None:
    metric = load_metric("plausibility", **options)
    found = metric.compute(predictions=SCORES, references=[[0, 1, 0, 1], [0, 0, 0, 0]])
    assert found == {"token_f1": 1.0, "auprc": 1.0, "iou": 1.0, "texts": 1}
    nothing = metric.compute(predictions=SCORES, references=[[0] * 4, [0] * 4])
    assert nothing == {"token_f1": None, "auprc": None, "iou": None, "texts": 0}


def test_alignment(options: dict[str, Any]) -> None:
    metric = load_metric("alignment", **options)
    found = metric.compute(predictions=[[3.0, 4.0], [1.0]], references=[[4.0, 3.0], []])
    assert found == {"cosine": pytest.approx(0.96), "spearman": pytest.approx(-1.0), "texts": 1}
    nothing = metric.compute(predictions=[[1.0]], references=[[]])
    assert nothing == {"cosine": None, "spearman": None, "texts": 0}


def test_robust_accuracy(options: dict[str, Any]) -> None:
    found = load_metric("robust_accuracy", **options).compute(
        predictions=[[1, 1], [0, 2]], references=[1, 0], clean_predictions=[1, 0]
    )
    assert found == {
        "clean_accuracy": 1.0,
        "robust_accuracy": 0.5,
        "mean_attacked_accuracy": 0.75,
        "attack_success": 0.5,
    }


@pytest.mark.parametrize("name", sorted(METRICS))
def test_a_space_loads_and_computes(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    folder = write_metric_space(name, tmp_path / name)
    files = {path.name for path in folder.iterdir()}
    assert files == {f"{name}.py", "README.md", "app.py", "requirements.txt"}
    metric = evaluate.load(str(folder), **options)
    assert isinstance(metric, METRICS[name])
    assert metric.info.citation.startswith("@")
    assert metric.info.reference_urls[0].startswith("https://arxiv.org/abs/")
    for argument in {*inspect.signature(metric._compute).parameters, *metric.features} - {
        "options"
    }:
        assert f"    {argument}: " in metric.inputs_description
    assert metric.description.startswith(("Drop", "Change", "Share", "Agreement"))
    assert "\nReturns:\n" in metric.inputs_description


@pytest.mark.parametrize("name", sorted(METRICS))
def test_the_page_of_a_space_is_whole(name: str, tmp_path: Path) -> None:
    folder = write_metric_space(name, tmp_path / name)
    _, front, body = (folder / "README.md").read_text().split("---\n", 2)
    card = yaml.safe_load(front)
    assert card["tags"] == ["evaluate", "metric"]
    assert (card["sdk"], card["app_file"], card["title"]) == ("gradio", "app.py", name)
    assert card["description"]
    assert f"/{name}" in body
    assert not re.search(r"\{\w+\}\n", body), "a placeholder was left"
    app = (folder / "app.py").read_text()
    compile(app, "app.py", "exec")
    assert f'"{name}.py"' in app
    assert 'model="distilbert/' in app
