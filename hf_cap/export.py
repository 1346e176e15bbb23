"""A trained classifier as ONNX, beside the tokenizer and configuration that its users need."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from hf_cap.errors import import_extra
from hf_cap.training.folder import refuse_other_model

ONNX_FILE = "model.onnx"


class _Logits(nn.Module):
    """A classifier from its inputs, by position, to its logits."""

    def __init__(self, model: nn.Module, names: list[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs: Tensor) -> Tensor:
        logits: Tensor = self.model(**dict(zip(self.names, inputs, strict=True))).logits
        return logits


@contextmanager
def _only_errors() -> Iterator[None]:
    """Without the warning that recommends a step of preparation, which torch has done."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


def export_onnx(
    model: Any, tokenizer: PreTrainedTokenizerBase, output_dir: str | Path, *, int8: bool = False
) -> Path:
    """Write `model.onnx`, for batches and lengths of any size, the tokenizer and `config.json`.

    The inputs are those of the tokenizer (`input_ids`, `attention_mask`, of some models `token_type_ids`),
    each `(batch, tokens)`, the output is `logits`, `(batch, labels)`. The configuration keeps the label
    names: the layout of optimum's `ORTModelForSequenceClassification`.

    Args:
        model, tokenizer: A classifier, its adapters merged, and its tokenizer.
        output_dir: Folder to write into.
        int8: Store weights with 8 bits, and round what is multiplied with them to 8 bits for each batch
            (onnxruntime's dynamic quantisation): a quarter of the size, and other logits.

    Raises:
        ConfigError: `output_dir` holds the weights or the configuration of a model.
        MissingExtra: `onnx` or `onnxscript` is not installed.
    """
    parts = ("onnxruntime.quantization", "onnxscript")
    quantization = import_extra("onnx", "The export needs", *parts)
    refuse_other_model(folder := Path(output_dir), ONNX_FILE)
    folder.mkdir(parents=True, exist_ok=True)
    example = tokenizer(["one text", "another longer text"], padding=True, return_tensors="pt")
    inputs = {name: example[name].to(model.device) for name in example}
    sizes = tuple({0: "batch", 1: "tokens"} for _ in inputs)
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter warns of its own parts, and of torchvision
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
    if int8:
        with _only_errors():
            quantization.quantize_dynamic(folder / ONNX_FILE, folder / ONNX_FILE)
    tokenizer.save_pretrained(folder)
    model.config.save_pretrained(folder)
    return folder / ONNX_FILE
