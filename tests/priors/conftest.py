from pathlib import Path

import pytest
import torch

from tests.tiny import roberta_classifier, word_tokenizer

LABELS = ("renew", "lost", "pay")


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a tiny classifier whose outputs are in another order than the labels of the data."""
    folder: Path = tmp_path_factory.mktemp("reference")
    names = {0: "pay", 1: "renew", 2: "lost"}
    model = roberta_classifier(3, id2label=names, label2id={v: k for k, v in names.items()})
    # a fresh pad embedding is zero, and would hide a baseline that is not the pad's
    embeddings: torch.Tensor = model.get_input_embeddings().get_parameter("weight")
    with torch.no_grad():
        embeddings[model.config.pad_token_id] = torch.linspace(-1, 1, 16)
    model.save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return str(folder)
