"""The output folder of a training: whose run is in it, and the checkpoint that a run goes on from."""

import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

from safetensors import SafetensorError, safe_open
from transformers import TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, get_last_checkpoint

from hf_cap.cards import RUN_FILE
from hf_cap.classifiers import ADAPTER_FILES, WHOLE_FILES
from hf_cap.errors import ConfigError
from hf_cap.utils import atomic_path, check_writable

UNFINISHED = "run.unfinished.json"
"""The settings of a run from its first step until `run.json` has them."""

_logger = logging.getLogger(__name__)

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
    """Remove what an earlier run of the other kind left in a folder: its adapter, or its whole model.

    Args:
        folder: Where a model was just saved.
        adapter: Whether that is an adapter alone.
    """
    for pattern in WHOLE_FILES if adapter else ADAPTER_FILES:
        for file in folder.glob(pattern):
            file.unlink()


def refuse_other_model(folder: str | Path, own_file: str | None = None) -> None:
    """Raise `ConfigError` if a folder cannot be written, or holds a model and not `own_file`."""
    check_writable(folder)
    kept = any(any(Path(folder).glob(name)) for name in (*WHOLE_FILES, *ADAPTER_FILES))
    if kept and not (own_file and (Path(folder) / own_file).exists()):
        raise ConfigError(
            f"The folder {str(folder)!r} holds a model, whose configuration would be replaced; name another "
            "output folder."
        )


@contextmanager
def whole_folder(folder: str | Path) -> Iterator[Path]:
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

    Raises:
        ConfigError: the checkpoint that is named cannot be loaded.
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
