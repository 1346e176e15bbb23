"""A trained classifier as ONNX, beside the tokenizer and configuration that its users need."""

import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from hf_cap.classifiers import ADAPTER_FILES, WHOLE_FILES
from hf_cap.errors import ConfigError, MissingExtra
from hf_cap.utils import check_writable

ONNX_FILE = "model.onnx"


class _Logits(nn.Module):
    """A classifier from its inputs, by position, to its logits."""

    def __init__(self, model: nn.Module, names: list[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs: Tensor) -> Tensor:
        logits: Tensor = self.model(**dict(zip(self.names, inputs, strict=True))).logits
        return logits


def export_onnx(model: Any, tokenizer: PreTrainedTokenizerBase, output_dir: str | Path) -> Path:
    """Write `model.onnx`, for batches and lengths of any size, the tokenizer and `config.json`.

    The inputs are those of the tokenizer (`input_ids`, `attention_mask`, of some models `token_type_ids`),
    each `(batch, tokens)`, the output is `logits`, `(batch, labels)`. The configuration keeps the label
    names: the layout of optimum's `ORTModelForSequenceClassification`.

    Args:
        model: A classifier, its adapters merged.
        tokenizer: Its tokenizer.
        output_dir: Folder to write into.

    Raises:
        ConfigError: `output_dir` holds the weights or the configuration of a model.
        MissingExtra: `onnx` or `onnxscript` is not installed.
    """
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingExtra(
            "The export needs the extra `onnx`: pip install 'hf-cap[onnx]'."
        ) from error
    check_writable(folder := Path(output_dir))
    kept = any(any(folder.glob(name)) for name in (*WHOLE_FILES, *ADAPTER_FILES))
    if kept and not (folder / ONNX_FILE).exists():
        raise ConfigError(
            f"The folder {str(folder)!r} holds a model, whose configuration would be replaced; name another "
            "output folder."
        )
    folder.mkdir(parents=True, exist_ok=True)
    example = tokenizer(["one text", "another longer text"], padding=True, return_tensors="pt")
    inputs = {name: example[name].to(model.device) for name in example}
    sizes = tuple({0: "batch", 1: "tokens"} for _ in inputs)
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter(
            "ignore"
        )  # torch's exporter warns of its own parts, and of torchvision
        torch.onnx.export(
            _Logits(model, list(inputs)).eval(),
            tuple(inputs.values()),
            folder / ONNX_FILE,
            input_names=list(inputs),
            output_names=["logits"],
            dynamic_shapes=(sizes,),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    tokenizer.save_pretrained(folder)
    model.config.save_pretrained(folder)
    return folder / ONNX_FILE
