"""The `evaluate` modules: equal to the functions below them, and loadable as the Spaces they become."""

import inspect
import re
from pathlib import Path
from typing import Any

import evaluate
import numpy as np
import pytest
import yaml

from hf_cap.errors import ConfigError, DataError
from hf_cap.evaluation import load_metric, metrics, write_metric_space
from hf_cap.evaluation.classifier import Classifier
from hf_cap.evaluation.modules import METRICS
from hf_cap.schema import AttributionSettings
from tests.tiny import roberta_classifier, save, word_tokenizer

TEXTS = ["i lost my card", "renew the loan please"]
SCORES = [[0.0, 0.9, 0.1, 0.4], [0.8, 0.0, 0.3, -0.2]]
TARGETS = [1, 0]


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    return {"cache_dir": str(tmp_path / "cache"), "keep_in_memory": True}


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("comprehensiveness", {"percentages": (50,)}),
        ("sufficiency", {"percentages": (50,)}),
        ("soft_nc", {"samples": 1, "distance": "hellinger"}),
        ("soft_ns", {"seed": 3}),
    ],
)
def test_metrics_that_run_a_model(
    name: str, changed: dict[str, Any], options: dict[str, Any], tmp_path: Path
) -> None:
    model, tokenizer = roberta_classifier(), word_tokenizer()
    folder = save(model, tmp_path / "model")
    inputs: dict[str, Any] = {"predictions": SCORES, "references": TARGETS, "texts": TEXTS}
    metric, scored = load_metric(name, **options), metrics.ScoredTexts(TEXTS, TARGETS, SCORES)
    for given in ({}, changed):
        parts: dict[str, Any] = {"model": model, "tokenizer": tokenizer, "batch_size": 1}
        found = metric.compute(**inputs, **parts, per_text=True, **given)
        expected = getattr(metrics, name)(Classifier(model, tokenizer), scored, **given)
        np.testing.assert_allclose(found["per_text"], expected, atol=1e-5)
        again = metric.compute(**inputs, model=folder, **given)
        assert again == {name: pytest.approx(np.nanmean(expected), abs=1e-5)}
        assert all(f"    {option}: " in metric.inputs_description for option in given)


def test_words_are_those_stored_with_the_model() -> None:
    model, tokenizer = roberta_classifier(), word_tokenizer()
    model.config.update(AttributionSettings(word_pattern="[aeiou]+").entry())
    inputs: dict[str, Any] = {"predictions": [[1.0, 0.0, 0.0]], "references": [0]}
    inputs |= {"texts": ["i lost my card"], "model": model, "tokenizer": tokenizer}
    assert load_metric("sufficiency").compute(**inputs)["sufficiency"] is not None
    with pytest.raises(DataError, match="4 words but 3 scores"):
        load_metric("sufficiency").compute(**inputs, word_pattern=r"\S+")


@pytest.mark.parametrize(
    ("name", "inputs", "expected"),
    [
        # marked: words 1 and 3 of the first text; the two best scores are words 1 and 2. Precision-recall
        # points (0, 1), (1/2, 1), (1/2, 1/2), (1, 2/3), joined by trapezoids
        ("plausibility", {"predictions": [[0.0, 0.9, 0.5, 0.4], [0.8] * 4],
                          "references": [[0, 1, 0, 1], [0] * 4]},
         {"token_f1": pytest.approx(0.5), "iou": pytest.approx(1 / 3), "texts": 1,
          "auprc": pytest.approx(0.5 + 0.5 * (1 / 2 + 2 / 3) / 2)}),
        ("plausibility", {"predictions": SCORES, "references": [[0] * 4] * 2},
         {"token_f1": None, "auprc": None, "iou": None, "texts": 0}),
        ("alignment", {"predictions": [[3.0, 4.0], [1.0]], "references": [[4.0, 3.0], []]},
         {"cosine": pytest.approx(0.96), "spearman": pytest.approx(-1.0), "texts": 1}),
        ("alignment", {"predictions": [[1.0]], "references": [[]]},
         {"cosine": None, "spearman": None, "texts": 0}),
        ("robust_accuracy",
         {"predictions": [[1, 1], [1, 0], [2, 2], [0, 0]], "references": [1, 1, 2, 1],
          "clean_predictions": [1, 1, 2, 0]},
         {"clean_accuracy": 0.75, "robust_accuracy": 0.5, "mean_attacked_accuracy": 0.625,
          "attack_success": pytest.approx(1 / 3)}),
        ("robust_accuracy", {"predictions": [[0]], "references": [1], "clean_predictions": [2]},
         {"clean_accuracy": 0.0, "robust_accuracy": 0.0, "mean_attacked_accuracy": 0.0,
          "attack_success": None}),
    ],
)  # fmt: skip
def test_metrics_of_lists(
    name: str, inputs: dict[str, Any], expected: dict[str, Any], options: dict[str, Any]
) -> None:
    assert load_metric(name, **options).compute(**inputs) == expected


@pytest.mark.parametrize("name", sorted(METRICS))
def test_a_space_loads_and_its_page_is_whole(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    folder = write_metric_space(name, tmp_path / name)
    files = {path.name: path.read_text() for path in folder.iterdir()}
    assert set(files) == {f"{name}.py", "README.md", "app.py", "requirements.txt"}
    metric = evaluate.load(str(folder), **options)
    assert isinstance(metric, METRICS[name])
    assert metric.info.citation.startswith("@")
    assert metric.info.reference_urls[0].startswith("https://arxiv.org/abs/")
    for argument in {*inspect.signature(metric._compute).parameters, *metric.features} - {"options"}:
        assert f"    {argument}: " in metric.inputs_description
    assert "\nReturns:\n" in metric.inputs_description
    _, front, body = files["README.md"].split("---\n", 2)
    card = yaml.safe_load(front)
    assert (card["sdk"], card["app_file"], card["title"]) == ("gradio", "app.py", name)
    assert card["description"]
    assert metric.description in body
    assert not re.search(r"\{\w+\}\n", body), "a placeholder was left"
    compile(files["app.py"], "app.py", "exec")
    assert f'"{name}.py"' in files["app.py"]


def test_an_unknown_metric_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no metric 'bleu'; there are \['alignment'"):
        load_metric("bleu")
