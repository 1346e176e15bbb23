from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value

from tests.tiny import roberta_classifier, save

needs_shap = pytest.mark.skipif(find_spec("shap") is None, reason="shap is not installed")
LABELS = ("renew", "lost", "pay")
OUTPUTS = {0: "pay", 1: "renew", 2: "lost"}
"""Outputs of the tiny classifier: in another order than the labels of the data."""


def labelled(texts: Sequence[str], labels: Sequence[int], names: Sequence[str] = LABELS) -> Dataset:
    features = Features({"text": Value("string"), "label": ClassLabel(names=list(names))})
    return Dataset.from_dict({"text": list(texts), "label": list(labels)}, features=features)


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a tiny classifier."""
    folder: Path = tmp_path_factory.mktemp("reference")
    model = roberta_classifier(3, id2label=OUTPUTS, label2id={v: k for k, v in OUTPUTS.items()})
    # a fresh pad embedding is zero, and would hide a baseline that is not the pad's
    embeddings: torch.Tensor = model.get_input_embeddings().get_parameter("weight")
    with torch.no_grad():
        embeddings[model.config.pad_token_id] = torch.linspace(-1, 1, 16)
    return save(model, folder)
