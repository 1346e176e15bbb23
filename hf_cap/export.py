"""A trained classifier as ONNX, or as what differs from the checkpoint that it was trained from.

Many classifiers on one base differ from it little: with most differences left out at random and the others
scaled up (DARE, Yu et al. 2024, arXiv 2311.03099; DAREx, Deng et al. 2025, arXiv 2410.09344, which chooses
the scale by validation), each is a small file. Deltas are made from files alone, whatever the model is.
"""

import hashlib
import logging
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from hf_cap.cards import EVALUATIONS, RUN_FILE
from hf_cap.embedded import resolve_model
from hf_cap.errors import ConfigError, ModelError, import_extra
from hf_cap.training.validation import refuse_other_model, whole_folder
from hf_cap.utils import Place

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


def check_export(output_dir: Place) -> None:
    """Raise an error where `export_onnx` could not write; done before a model is loaded."""
    import_extra("onnx", "The export needs", "onnx", "onnxscript", "onnxruntime.quantization")
    refuse_other_model(output_dir, ONNX_FILE)


def export_onnx(
    model: Any, tokenizer: PreTrainedTokenizerBase, output_dir: Place, *, int8: bool = False
) -> Path:
    """Write `model.onnx`, for batches and lengths of any size, the tokenizer and `config.json`.

    The inputs are those of the tokenizer (`input_ids`, `attention_mask`, of some models `token_type_ids`),
    each `(batch, tokens)`, the output is `logits`, `(batch, labels)`. The configuration keeps the label
    names: the layout of optimum's `ORTModelForSequenceClassification`.

    Args:
        model, tokenizer: A classifier, its adapters merged, and its tokenizer.
        int8: Store weights with 8 bits, and round what is multiplied with them to 8 bits for each batch
            (onnxruntime's dynamic quantisation): a quarter of the size, and other logits.

    Raises:
        ConfigError, MissingExtra: see `check_export`.
    """
    check_export(output_dir)
    with whole_folder(output_dir) as folder:
        _write_onnx(model, tokenizer, folder / ONNX_FILE)
        if int8:
            from onnxruntime.quantization import quantize_dynamic

            with _only_errors():
                quantize_dynamic(folder / ONNX_FILE, folder / ONNX_FILE)
        tokenizer.save_pretrained(folder)
        model.config.save_pretrained(folder)
    return Path(output_dir) / ONNX_FILE


def _write_onnx(model: Any, tokenizer: PreTrainedTokenizerBase, file: Path) -> None:
    example = tokenizer(["one text", "another longer text"], padding=True, return_tensors="pt")
    inputs = {name: example[name].to(model.device) for name in example}
    sizes = tuple({0: "batch", 1: "tokens"} for _ in inputs)
    logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter warns of its own parts, and of torchvision
        torch.onnx.export(
            _Logits(model, list(inputs)).eval(),
            tuple(inputs.values()),
            file,
            input_names=list(inputs),
            output_names=["logits"],
            dynamic_shapes=(sizes,),
            dynamo=True,
            external_data=False,
            verbose=False,
        )


# --- Deltas.

DELTA_FILE = "delta.safetensors"
WEIGHTS = "model.safetensors"
_VALUES, _PLACES, _WHOLE = "values:", "places:", "whole:"
_PARTS = ("*.json", "*.txt", "*.model", "[0-9]_*/*")
"""What goes along: configuration, tokenizer, modules of sentence-transformers."""

State = Mapping[str, Tensor]


def sparse(
    tuned: State, base: State, *, drop: float = 0.0, rescale: float | None = None, seed: int = 0
) -> dict[str, Tensor]:
    """The weights that differ from the base, after some were left out, as tensors to store.

    A weight w of the base that became w + d is w with probability `drop`, and else w + d / `rescale`: with
    1 - `drop`, the default, it is w + d in the mean. New weights are stored rather than differences, so that
    at `drop` 0 each comes back to the bit.

    Args:
        tuned, base: Name to weight; names may differ by a prefix such as `bert.`. Weights that the base does
            not have, or in another shape, are stored whole.
        drop: Probability in [0, 1).
        rescale: Above 0.
        seed: Of the draw.
    """
    q = 1 - drop if rescale is None else rescale
    if not (0 <= drop < 1 and q > 0):
        raise ConfigError(
            f"`drop` must be at least 0 and less than 1, `rescale` above 0; got {drop!r} and {rescale!r}."
        )
    stored, rng = {}, torch.Generator().manual_seed(seed)
    for name, new in tuned.items():
        old = base.get(_name_in(base, name))
        if old is None or old.shape != new.shape:
            stored[_WHOLE + name] = new.contiguous()
            continue
        new, old = new.flatten(), old.flatten().to(new.dtype)
        places = (new != old).nonzero().squeeze(1)
        if drop:
            places = places[torch.rand(len(places), generator=rng) >= drop]
        values = new[places] if q == 1 else old[places] + (new[places] - old[places]) / q
        stored |= {_VALUES + name: values, _PLACES + name: places.int()}
    return stored


def whole(stored: State, base: State) -> dict[str, Tensor]:
    """The weights that `sparse` stored, on the same base."""
    tuned = {}
    for key, values in stored.items():
        kind, name = key[: key.index(":") + 1], key[key.index(":") + 1 :]
        if kind == _WHOLE:
            tuned[name] = values
        elif kind == _VALUES:
            old = base[_name_in(base, name)]
            new = old.to(values.dtype).flatten().clone()
            new[stored[_PLACES + name].long()] = values
            tuned[name] = new.view_as(old)
    return tuned


def best_rescale(
    tuned: State, base: State, score: Callable[[State], float], drop: float, candidates: Iterable[float]
) -> float:
    """Of some values of `rescale` the one whose weights have the highest score, on validation texts say."""
    return max(candidates, key=lambda q: score(whole(sparse(tuned, base, drop=drop, rescale=q), base)))


def save_delta(
    model: str, base: str | None, output_dir: Place, *, drop: float = 0, rescale: float | None = None
) -> Path:
    """Write what differs from the base, with the configuration and the tokenizer; see `sparse`.

    Args:
        base: Folder, or `embedded/...` name, of the checkpoint that it was trained from.
    """
    if base is None:
        raise ConfigError("A delta needs `base`, the checkpoint that the model was trained from.")
    refuse_other_model(folder := Path(output_dir), DELTA_FILE)
    weights, old = (_read(_file(place))[0] for place in (model, base))
    stored = sparse(weights, old, drop=drop, rescale=rescale)
    facts = {"base": base, "sha256": _hash(base), "drop": str(drop)}
    with whole_folder(folder) as path:
        _copy(Path(resolve_model(model)), path)
        save_file(stored, path / DELTA_FILE, metadata={"format": "pt", **facts})
    return folder / DELTA_FILE


def restore(delta: str, output_dir: Place) -> Path:
    """Write the checkpoint that a delta was made of; the base must be where it was, and unchanged."""
    if not (file := Path(delta) / DELTA_FILE).is_file():
        raise ModelError(f"{delta!r} is no delta: it has no {DELTA_FILE}. Name one, or use `onnx`.")
    refuse_other_model(folder := Path(output_dir))
    stored, facts = _read(file)
    if not (base := facts.get("base")):
        raise ModelError(f"{str(file)!r} is no delta: it names no base. Write it again.")
    if _hash(base) != facts.get("sha256"):
        raise ModelError(f"The base {base!r} has other weights than when the delta was made; restore them.")
    try:
        weights = whole(stored, _read(_file(base))[0])
    except (LookupError, ValueError, RuntimeError) as error:
        raise ModelError(f"{str(file)!r} does not fit its base ({error}); make it anew.") from error
    with whole_folder(folder) as path:
        _copy(Path(delta), path)
        save_file(weights, path / WEIGHTS, metadata={"format": "pt"})
    return folder / WEIGHTS


def _name_in(base: State, name: str) -> str:
    """The name of a weight in the base, which has the same prefix or none; empty if it is not there."""
    return max((n for n in base if name == n or name.endswith(f".{n}")), key=len, default="")


def _copy(source: Path, target: Path) -> None:
    for file in (file for pattern in _PARTS for file in source.glob(pattern)):
        if file.is_file() and file.name not in (RUN_FILE, EVALUATIONS):
            copy = target / file.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)


def _file(model: str) -> Path:
    if not (file := Path(resolve_model(model)) / WEIGHTS).is_file():
        raise ModelError(
            f"{model!r} has no {WEIGHTS}; name the folder of a whole model that is stored in one file."
        )
    return file


def _read(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file, and what is noted beside them."""
    try:
        with safe_open(file, "pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}
            return tensors, opened.metadata() or {}
    except SafetensorError as error:
        raise ModelError(f"{str(file)!r} is damaged: {error}. Write it again.") from error


def _hash(model: str) -> str:
    with _file(model).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
