"""The `evaluate` modules: loadable by path, offline, from anywhere, and equal to the functions below them."""

import shutil
from pathlib import Path
from typing import Any

import evaluate
import numpy as np
import pytest
import yaml

from hf_cap.errors import ConfigError
from hf_cap.evaluation.metrics import Classifier, comprehensiveness, soft_nc, soft_ns, sufficiency
from hf_cap.evaluation.spaces import FOLDER, load_metric, metric_names
from tests.tiny import roberta_classifier, word_tokenizer

NAMES = [
    "alignment",
    "comprehensiveness",
    "plausibility",
    "robust_accuracy",
    "soft_nc",
    "soft_ns",
    "sufficiency",
]
TEXTS = ["i lost my card", "renew the loan please"]
SCORES = [[0.0, 0.9, 0.1, 0.4], [0.8, 0.0, 0.3, -0.2]]
TARGETS = [1, 0]
FUNCTIONS: dict[str, Any] = {
    "comprehensiveness": comprehensiveness,
    "sufficiency": sufficiency,
    "soft_nc": soft_nc,
    "soft_ns": soft_ns,
}


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    return {"cache_dir": str(tmp_path / "cache"), "keep_in_memory": True}


def test_the_metrics_are_these() -> None:
    assert metric_names() == NAMES
    with pytest.raises(ConfigError, match="no metric 'bleu'; there are"):
        load_metric("bleu")


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_metrics_that_run_a_model(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    model, tokenizer = roberta_classifier(), word_tokenizer()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    inputs: dict[str, Any] = {"predictions": SCORES, "references": TARGETS, "texts": TEXTS}
    metric = load_metric(name, **options)
    found = metric.compute(**inputs, model=model, tokenizer=tokenizer, batch_size=1, per_text=True)
    expected = FUNCTIONS[name](Classifier(model, tokenizer), TEXTS, TARGETS, SCORES)
    np.testing.assert_allclose(found["per_text"], expected, atol=1e-5)
    assert found[name] == pytest.approx(np.nanmean(expected), abs=1e-5)
    again = metric.compute(**inputs, model=str(tmp_path / "model"))
    assert again == {name: pytest.approx(found[name], abs=1e-5)}


def test_options_of_a_metric_reach_the_function(options: dict[str, Any]) -> None:
    model, tokenizer = roberta_classifier(), word_tokenizer()
    found = load_metric("comprehensiveness", **options).compute(
        predictions=SCORES,
        references=TARGETS,
        texts=TEXTS,
        model=model,
        tokenizer=tokenizer,
        percentages=(50,),
    )
    expected = comprehensiveness(
        Classifier(model, tokenizer), TEXTS, TARGETS, SCORES, percentages=(50,)
    )
    assert found["comprehensiveness"] == pytest.approx(expected.mean(), abs=1e-5)


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
    assert metric.compute(predictions=[[1.0]], references=[[]]) == {
        "cosine": None,
        "spearman": None,
        "texts": 0,
    }


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


@pytest.mark.parametrize("name", NAMES)
def test_a_copied_folder_loads_as_a_space_does(
    name: str, options: dict[str, Any], tmp_path: Path
) -> None:
    script = shutil.copytree(FOLDER / name, tmp_path / "app") / f"{name}.py"
    metric = evaluate.load(str(script), **options)
    assert metric.info.citation.startswith("@")
    assert "Returns:" in metric.inputs_description


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_is_a_whole_space(name: str) -> None:
    files = {path.name for path in (FOLDER / name).iterdir() if path.is_file()}
    assert files == {f"{name}.py", "README.md", "app.py", "requirements.txt"}
    _, front, body = (FOLDER / name / "README.md").read_text().split("---\n", 2)
    card = yaml.safe_load(front)
    assert card["tags"] == ["evaluate", "metric"]
    assert (card["sdk"], card["app_file"]) == ("gradio", "app.py")
    assert f"/{name}" in body
    assert f'"{name}.py"' in (FOLDER / name / "app.py").read_text()
