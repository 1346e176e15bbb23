"""Validate model, data, set-up and output folder before training, and find where it goes on."""

import json
import logging
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import torch
from datasets import Dataset
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import TrainingArguments
from transformers.integrations.integration_utils import get_reporting_integration_callbacks
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, get_last_checkpoint

from hf_cap.attribution import pad_token
from hf_cap.cards import RUN_FILE
from hf_cap.classifiers import ADAPTER_FILES, WHOLE_FILES
from hf_cap.errors import AlignmentError, ConfigError, DataError, MissingExtra, ModelError, PriorError
from hf_cap.schema import PRIOR
from hf_cap.training.collator import PRIOR_WEIGHT, TOKEN_WORDS
from hf_cap.training.config import DEFAULT_METRICS, PARTS
from hf_cap.training.options import WeightingOptions
from hf_cap.utils import Place, atomic_path, check_range, check_recordable, check_writable

_logger = logging.getLogger(__name__)
OTHER_PROBLEMS = ("regression", "multi_label_classification")


SEEDS = 2**32  # number of seeds that numpy takes: those from 0 on


def check_start(config: TrainingArguments, settings: Mapping[str, Any]) -> None:
    """Raise `ConfigError` for what would fail or be lost once the training has begun.

    Such are launched processes that would each train alone, a training that would publish, settings that
    `run.json` cannot hold, a checkpoint that cannot be loaded and (`MissingExtra`) a tracker that is missing.
    """
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched > config.world_size:
        raise ConfigError(
            f"Each of the {launched} launched processes would write a model of its own to "
            f"{config.output_dir!r}; give `--use_cpu true`, and they train one together."
        )
    if config.hub_token or config.push_to_hub:
        raise ConfigError(
            "Training publishes nothing and takes no token: leave out `push_to_hub` and `hub_token`; "
            f"`hf-cap push model --folder {config.output_dir} --repo_id USER/NAME` lists what goes to the "
            "Hub, and `--push` uploads it with the token in HF_TOKEN."
        )
    check_recordable(settings)
    check_range(config, "learning_rate", at_least=0, below=math.inf)
    check_range(config, "per_device_train_batch_size", "per_device_eval_batch_size", at_least=1)
    check_range(config, "gradient_accumulation_steps", at_least=1)
    amounts = ("weight_decay", "warmup_steps", "dataloader_num_workers")
    check_range(config, *amounts, at_least=0, below=math.inf)
    default = type(config).num_train_epochs  # of tables below 0: as many as their rows need
    check_range(config, "num_train_epochs", at_least=min(0.0, default), below=math.inf)
    check_range(config, "label_smoothing_factor", at_least=0, below=1)
    check_range(config, "seed", "data_seed", at_least=0, below=SEEDS)
    if config.resume_from_checkpoint != "last":
        find_checkpoint(config)
    aligned = getattr(config, "alignment_weight", 0) > 0
    metrics = ("loss", *DEFAULT_METRICS, *(PARTS if aligned else ()))
    if (wanted := _best_metric(config)) not in metrics:
        raise ConfigError(f"`metric_for_best_model` must be one of {metrics}, got {wanted!r}.")
    try:
        for tracker in get_reporting_integration_callbacks(config.report_to):
            tracker()
    except ValueError as error:
        raise ConfigError(f"`report_to`: {error}") from error
    except (ImportError, RuntimeError) as error:
        raise MissingExtra(f"`report_to`: {error} Or give `--report_to none`.") from error


def check_weighted(options: WeightingOptions, problem: str | None, compute_loss_func: object) -> None:
    """Raise `ConfigError` where examples are to be weighted whose losses are not known."""
    other = problem in OTHER_PROBLEMS
    if options.weighs_examples and (compute_loss_func or other):
        own = "a `compute_loss_func`" if compute_loss_func else f"problem_type={problem!r}"
        raise ConfigError(
            f"Example weights need the cross-entropy of one label per example, got {own}; leave out "
            "`example_weighting` and `example_weight_column`."
        )


def _best_metric(config: TrainingArguments) -> str:
    """Name of the metric that chooses the best model, without a prefix."""
    return (config.metric_for_best_model or "loss").removeprefix("eval_")


def check_best(config: TrainingArguments, measures: bool) -> None:
    """Raise `ConfigError` where the best model is chosen by a default metric that is not measured."""
    if (wanted := _best_metric(config)) in DEFAULT_METRICS and not measures:
        raise ConfigError(
            f"`metric_for_best_model` is {wanted!r}, which only classes have; take 'loss', or give "
            "`compute_metrics`."
        )


def check_classifier(model: nn.Module) -> None:
    """Raise `ModelError` for a model without a pad token, or that does not choose one of several labels."""
    config: Any = getattr(model, "config", None)
    labels = getattr(config, "num_labels", 0)
    problem = getattr(config, "problem_type", None)
    if labels < 2 or problem in OTHER_PROBLEMS:
        raise ModelError(
            f"Alignment needs a classifier with one gold label per text, got num_labels={labels!r} and "
            f"problem_type={problem!r}; load it with at least two labels and one label per text."
        )
    pad_token(model)


def check_aligned(columns: Iterable[str], what: str) -> None:
    """Raise `DataError` for encoded texts whose words are not aligned with their tokens."""
    if TOKEN_WORDS not in columns:
        raise DataError(
            f"The {what} has {list(columns)}, but no {TOKEN_WORDS!r} to align; give raw texts, or encode "
            "them by `encode_dataset` for a collator that keeps all columns, as `CAPCollator` does."
        )


def choose_gradient(
    wanted: str, model: nn.Module, *, sharded_by: str | None = None, mixed_precision: str = "no"
) -> str:
    """The gradient mode to use: `wanted`, or for `auto` the first that can run.

    `sharded_by` is what spreads the weights over processes, if anything, and `mixed_precision` what
    accelerate calls the precision of the passes. Where no mode can run, a `ConfigError` says why.
    """
    low = {p.dtype for p in model.parameters() if p.is_floating_point() and p.dtype.itemsize < 4}
    blocked: dict[str, str] = {}
    if sharded_by:
        blocked["double_backward"] = f"{sharded_by} frees or reduces weights between two backward passes"
    if sharded_by and mixed_precision != "no":  # autocast can be switched off, but not their casts
        blocked["finite_difference"] = (
            f"{sharded_by} makes the passes in {mixed_precision!r}, not in float32; leave out `bf16`, and "
            "give accelerate `mixed_precision: 'no'`"
        )
    elif low:
        blocked["finite_difference"] = (
            f"the weights are {sorted(map(str, low))!r}, not float32; load them as `dtype='float32'`"
        )
    modes = ["double_backward", "finite_difference"] if wanted == "auto" else [wanted]
    mode = next((mode for mode in modes if mode not in blocked), None)
    if mode is None:
        reasons = "; ".join(f"{mode} cannot run: {blocked[mode]}" for mode in modes)
        raise ConfigError(f"`alignment_gradient={wanted!r}`: {reasons}.")
    if mode == "finite_difference" and any(isinstance(m, nn.ReLU) for m in model.modules()):
        _logger.warning(
            "With ReLU layers finite differences differ from the exact gradient; use `double_backward` where "
            "it can run."
        )
    return mode


def check_gradient(mode: str, model: nn.Module, align: Callable[[], tuple[Tensor, Any]]) -> None:
    """Raise `AlignmentError` where the gradient of `align` misses a layer, is not finite or cannot be."""
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    try:
        gradients = torch.autograd.grad(align()[0], list(named.values()), allow_unused=True)
    except RuntimeError as error:
        raise AlignmentError(
            f"The gradient of the attribution cannot be computed by {mode!r}: {error}. 'finite_difference' "
            "needs only ordinary passes."
        ) from error
    found = {name: g for name, g in zip(named, gradients, strict=True) if g is not None}
    if bad := [name for name, g in found.items() if not torch.isfinite(g).all()]:
        raise AlignmentError(
            f"The alignment gradient is not finite at {bad[:3]!r} ({len(bad)} of {len(found)} weights); try "
            "`alignment_norm_floor=0.1`, and look at the prior of the first examples."
        )
    lists = {name: m for name, m in model.named_modules() if isinstance(m, nn.ModuleList)}
    layers = [f"{name}.{index}" for name, entries in lists.items() for index in range(len(entries))]
    reached = [name for name, g in found.items() if g.any()]
    missed = [layer for layer in layers if _inside(named, layer) and not _inside(reached, layer)]
    if missed:
        raise AlignmentError(
            f"The alignment gradient does not reach {missed!r}; something between these layers and the word "
            "embeddings cuts the graph, such as a `detach()` or `no_grad()` in the model's forward pass."
        )


def _inside(names: Iterable[str], layer: str) -> bool:
    return any(name.startswith(f"{layer}.") for name in names)


def probe_batch(dataset: Dataset, count: int = 4) -> list[dict[str, Any]]:
    """Of the first encoded rows, the longest whose prior counts and is not constant."""
    check_aligned(dataset.column_names, "training set")
    weights = dataset[PRIOR_WEIGHT] if PRIOR_WEIGHT in dataset.column_names else ()
    if not any(weight > 0 for weight in weights):
        raise PriorError(
            f"None of the {len(dataset)} training texts has a prior that is not null or zero; name the "
            "column of the priors as `prior_column` (of `encode_dataset` where that encoded the texts), or "
            "set `alignment_weight=0`."
        )
    rows = dataset.select(range(min(64, len(dataset))))
    usable = [row for row in rows if row[PRIOR_WEIGHT] > 0 and len(set(row[PRIOR])) > 1]
    return sorted(usable, key=lambda row: -len(row[PRIOR]))[:count]


# --- The output folder of a training: whose run is in it, and the checkpoint that a run goes on from.


UNFINISHED = "run.unfinished.json"
"""The settings of a run from its first step until `run.json` has them."""

# settings, by their beginnings, with which a run that goes on may differ from its start
_FREE = tuple(
    "config quiet json output_dir overwrite_ resume_from num_train_epochs max_steps eval_ per_device_eval "
    "save_ log report_to run_name project trackio disable_tqdm use_cpu dataloader_num dataloader_pin".split()
)


def check_folder(config: TrainingArguments, settings: Mapping[str, Any], overwrite: bool) -> None:
    """Raise `ConfigError` if a training would replace the model of another run, or cannot write.

    A run goes on in its own folder by `resume_from_checkpoint`; `overwrite` replaces any run.
    """
    folder = Path(str(config.output_dir))
    check_writable(folder)
    held = [p for p in (RUN_FILE, UNFINISHED, f"{PREFIX_CHECKPOINT_DIR}-*", *WHOLE_FILES, *ADAPTER_FILES)
            if any(folder.glob(p))]  # fmt: skip
    if overwrite or not held:
        return
    changed = _changed(folder, settings) if config.resume_from_checkpoint else []
    if changed or not config.resume_from_checkpoint:
        with_what = f", with another {', '.join(map(repr, changed))}" if changed else ""
        goes_on = "" if changed else "go on with it by `--resume_from_checkpoint last`, "
        raise ConfigError(
            f"The folder {str(folder)!r} holds another run{with_what}; name another `--output_dir`, "
            f"{goes_on}or replace it by `--overwrite_output_dir`."
        )


def _changed(folder: Path, settings: Mapping[str, Any]) -> list[str]:
    """The settings with which the run in a folder began and this one does not."""
    file = next((folder / n for n in (UNFINISHED, RUN_FILE) if (folder / n).is_file()), None)
    if file is None:
        return []
    try:
        old = dict(json.loads(file.read_text(encoding="utf-8"))["settings"])
    except (OSError, ValueError, TypeError, KeyError):
        return [file.name]
    new = json.loads(json.dumps(settings))
    differ = {name for name in {*old, *new} if old.get(name) != new.get(name)}
    return sorted(name for name in differ if not name.startswith(_FREE))


def drop_other_kind(folder: Path, *, adapter: bool) -> None:
    """Remove what an earlier run left of the other kind: its whole model where this saved an `adapter`."""
    for pattern in WHOLE_FILES if adapter else ADAPTER_FILES:
        for file in folder.glob(pattern):
            file.unlink()


def refuse_other_model(folder: Place, own_file: str | None = None) -> None:
    """Raise `ConfigError` if a folder cannot be written, or holds a model and not `own_file`."""
    check_writable(folder)
    kept = any(any(Path(folder).glob(name)) for name in (*WHOLE_FILES, *ADAPTER_FILES))
    if kept and not (own_file and (Path(folder) / own_file).exists()):
        raise ConfigError(
            f"The folder {str(folder)!r} holds a model, whose configuration would be replaced; name another "
            "output folder."
        )


@contextmanager
def whole_folder(folder: Place) -> Iterator[Path]:
    """Path to write the files of a folder to: a new folder, or an empty one, gets all of them or none."""
    if Path(folder).is_dir() and any(Path(folder).iterdir()):
        yield Path(folder)
        return
    with atomic_path(folder) as path:
        path.mkdir()
        yield path


def find_checkpoint(config: TrainingArguments) -> str | None:
    """The checkpoint of `resume_from_checkpoint`; for `last` the newest of the folder that can be loaded.

    Newer ones, which a killed process left, are renamed, so that no rotation keeps them for whole ones.
    """
    wanted, folder = config.resume_from_checkpoint, Path(str(config.output_dir))
    whole = not config.save_only_model
    if wanted != "last":
        if wanted and (problem := checkpoint_problem(Path(wanted), whole)):
            raise ConfigError(
                f"The checkpoint {wanted!r} cannot be loaded: {problem}. Name another one, or `last` for the "
                "newest that can be loaded."
            )
        return wanted or None
    damaged = False
    with config.main_process_first(desc="looking for a checkpoint"):
        while folder.is_dir() and (last := get_last_checkpoint(str(folder))):
            if not (problem := checkpoint_problem(Path(last), whole)):
                _logger.info("The training goes on from %s.", last)
                return str(last)
            damaged = True
            moved = folder / f"damaged-{Path(last).name}"
            shutil.rmtree(moved, ignore_errors=True)
            Path(last).rename(moved)
            _logger.warning("%s cannot be loaded (%s); it is now %s.", last, problem, moved.name)
    if damaged:
        _logger.warning("No checkpoint can be loaded; the training begins anew.")
    return None


def weights_problem(folder: Path) -> str:
    """Why the safetensors of a folder cannot be loaded; empty where they can."""
    try:
        for index in folder.glob("*.safetensors.index.json"):
            for shard in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values():
                (folder / shard).stat()
        for file in folder.glob("*.safetensors"):
            with safe_open(file, "pt"):
                pass
    except (OSError, ValueError, TypeError, LookupError, AttributeError, SafetensorError) as error:
        return str(error)
    return ""


def checkpoint_problem(folder: Path, whole: bool = True) -> str:
    """Why a checkpoint cannot be loaded, and where `whole` its optimizer; empty where it can."""
    if problem := weights_problem(folder):
        return problem
    try:
        json.loads((folder / TRAINER_STATE_NAME).read_text(encoding="utf-8"))["global_step"]
        for file in [f for pattern in ("*.pt", "*.pth", "*.bin") for f in folder.glob(pattern)]:
            with ZipFile(file) as archive:
                if bad := archive.testzip():
                    return f"{bad} in {file.name} is damaged"
    except (OSError, ValueError, TypeError, KeyError, BadZipFile) as error:
        return str(error)
    weights = any(folder.glob("*.safetensors"))
    if not weights and not any(path.is_dir() for path in folder.iterdir()):
        return "it has no weights"
    parts = [*folder.glob("optimizer*"), *folder.glob("global_step*")]
    return "" if parts or not whole else "it has no optimizer"
