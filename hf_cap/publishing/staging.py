"""The folder that is uploaded, written whole before anything leaves the machine."""

import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from datasets import Dataset
from huggingface_hub import RepoCard

from ..cards import ModelCardFacts, model_facts, render_card
from ..cards.run import EVALUATIONS, RUN_FILE
from ..cards.safety import SECRET
from ..classifiers import is_lora_run, merged_lora
from ..data import load_splits
from ..errors import ConfigError, DataError, ModelError
from ..explanation import CONFIG_KEY, Explanation
from ..files import atomic_path, refuse_loss
from .prior_card import prior_card_facts
from .prior_data import configurations, write_configurations
from .settings import MetricPush, ModelPush, PriorCard, PriorPush

_logger = logging.getLogger(__name__)

CARD = "README.md"
_MARK = "\n- hf_cap\n"
"""Tag of our cards: a folder with such a card was written here and may be written anew."""
MODEL_FILES = (
    "config.json",
    "generation_config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.model",
    "chat_template.jinja",
)
"""What a classifier needs. Pickles, optimizer states and run records are not among it, and stay at home."""
METRIC_FILES = ("*.py", CARD, "requirements.txt")
_LOCAL_KEYS = ("_name_or_path", "name_or_path")
_TEXT_FILES = {".json", ".md", ".txt", ".py", ".jinja"}


def stage_model(
    options: ModelPush, folder: Path, told: Callable[..., ModelCardFacts] = model_facts
) -> Path:
    """Write a run's model and its card as they go to the Hub. LoRA adapters are merged into their base.

    Args:
        options: The run, and where it goes.
        folder: What to write.
        told: The facts of the card, from the arguments of `model_facts`.

    Raises:
        ModelError: the run holds no safetensors weights.
        ConfigError: the template fails, something must not be published, or `folder` holds other files.
        DataError: examples are asked for and the run has no evaluated texts.
    """
    run = Path(options.run)
    record = _read_json(run / RUN_FILE)
    facts = told(
        record,
        name=options.repo_id.split("/")[-1],
        repo_id=options.repo_id,
        evaluations={
            file.stem: _read_json(file) for file in sorted((run / EVALUATIONS).glob("*.json"))
        },
        records=_records(run, options.examples),
        license=options.license,
        language=options.language,
    )
    with staging(folder) as target:
        if is_lora_run(run):  # an adapter alone names its base by a path that may be local
            merged_lora(run).save_pretrained(target)
        _copy(run, target, MODEL_FILES)
        if not any(target.glob("*.safetensors")):
            raise ModelError(
                f"{str(run)!r} holds no model in safetensors, but {sorted(f.name for f in run.glob('*'))}. "
                "Give the `output_dir` of `hf-cap train`, or a folder of `save_pretrained`."
            )
        _public_config(target / "config.json", record)
        (target / CARD).write_text(render_card(facts, options.template), encoding="utf-8")
        check_folder(target, run)
    return folder


def stage_priors(
    splits: Mapping[str, Dataset],
    options: PriorCard,
    folder: Path,
    audit: Mapping[str, Any] | None = None,
) -> Path:
    """Write a prior data set and its card as they go to the Hub: `<configuration>/<split>.parquet`.

    Raises:
        PriorError: there is no prior to publish.
        ConfigError: the template fails, something must not be published, or `folder` holds other files.
    """
    found = configurations(splits)
    with staging(folder) as target:
        write_configurations(found, target)
        facts = prior_card_facts(found, options, audit)
        (target / CARD).write_text(render_card(facts, options.template), encoding="utf-8")
        check_folder(target, folder)
    return folder


def read_priors(options: PriorPush) -> tuple[dict[str, Dataset], Mapping[str, Any] | None]:
    """The data set that is to be published, and its audit where there is one.

    Raises:
        DataError: a folder or file is not there.
    """
    return dict(load_splits(options.dataset)), _read_json(
        Path(options.audit)
    ) if options.audit else None


def stage_metric(options: MetricPush, folder: Path) -> Path:
    """Write an `evaluate` module as it goes to a Space of the same name.

    Raises:
        ConfigError: the folder is no such module, or its name is not that of the Space.
    """
    source = Path(options.metric)
    name = options.repo_id.split("/")[-1]
    if not (source / f"{name}.py").exists() or not (source / CARD).exists():
        raise ConfigError(
            f"`evaluate.load({options.repo_id!r})` looks for {name + '.py'!r}, and a Space needs a {CARD}; "
            f"{str(source)!r} has {sorted(f.name for f in source.glob('*'))}. Give the folder of a metric, "
            "and its own name in `repo_id`."
        )
    RepoCard.load(source / CARD)
    with staging(folder) as target:
        _copy(source, target, METRIC_FILES)
        check_folder(target, source)
    return folder


@contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """An empty folder to fill, which takes the place of `folder` at the end.

    Raises:
        ConfigError: `folder` holds other files and is none that was staged before.
    """
    with atomic_path(folder) as target:
        target.mkdir()
        yield target
        card = folder / CARD
        if not (card.is_file() and _MARK in card.read_text(encoding="utf-8", errors="replace")):
            refuse_loss(folder, (file.name for file in target.iterdir()))


def check_folder(folder: Path, source: Path) -> None:
    """Refuse a folder whose text files hold an access token or the way to the user's own files.

    Raises:
        ConfigError: with the file and what was found in it (of a token, only the beginning).
    """
    private = {
        f"{path}/" for path in (Path.home(), source.resolve(), Path.cwd()) if path != Path("/")
    }
    for file in sorted(folder.rglob("*")):
        if file.suffix not in _TEXT_FILES:
            continue
        text = file.read_text(encoding="utf-8")
        if secret := SECRET.search(text.replace("\\_", "_")):  # as a card escapes it
            raise ConfigError(
                f"{file.name} holds what looks like an access token ({secret[0][:6]!r}...). Nothing was "
                "published; take it out, and revoke it if it ever left this machine."
            )
        for path in private if file.name != "tokenizer.json" else ():
            if path in text:
                raise ConfigError(
                    f"{file.name} holds the local path {path!r}. Nothing was published; use names or "
                    "relative paths in the settings or the template."
                )


def _copy(source: Path, target: Path, patterns: tuple[str, ...]) -> None:
    """Copy the files that match; those that are there already stay."""
    for pattern in patterns:
        for file in source.glob(pattern):
            if not (target / file.name).exists():
                shutil.copyfile(file, target / file.name)


def _public_config(path: Path, record: Mapping[str, Any]) -> None:
    """Add the way of explaining to `config.json`, and take out where the weights came from."""
    config = {key: value for key, value in _read_json(path).items() if key not in _LOCAL_KEYS}
    alignment = record.get("alignment") or {}
    if "attribution_method" in alignment and CONFIG_KEY not in config:
        config |= Explanation.of_alignment(alignment).entry()
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _records(run: Path, count: int) -> list[dict[str, Any]]:
    """The first evaluated texts of a run."""
    if not count:
        return []
    files = sorted((run / EVALUATIONS).glob("*.parquet"))
    if not files:
        raise DataError(
            f"`examples={count}` needs evaluated texts, but {str(run / 'evaluation')!r} has none. Run "
            "`hf-cap evaluate --records` first, or leave the examples out."
        )
    records = Dataset.from_parquet(str(files[0]))
    return list(records.select(range(min(count, len(records)))))


def _read_json(path: Path) -> dict[str, Any]:
    """Content of a JSON file; empty where a run has no such record."""
    if not path.exists():
        _logger.warning("There is no %s; the card will call its facts unknown.", path)
        return {}
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content
