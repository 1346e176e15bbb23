"""Settings of `hf-cap push`. Imports neither torch nor transformers."""

import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, TypeVar

from datasets import Dataset, DatasetDict, DatasetInfo, load_dataset
from datasets.exceptions import DatasetNotFoundError
from huggingface_hub import HfApi, RepoCard, metadata_load
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError is httpx's or httpx2's
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from hf_cap.cards import (
    EVALUATIONS,
    RUN_FILE,
    SECRET,
    ConfigurationFacts,
    ExampleFacts,
    ModelCardFacts,
    PriorCardFacts,
    model_facts,
    prior_facts,
    public_id,
    public_name,
    public_settings,
    public_text,
    render_card,
)
from hf_cap.classifiers import is_lora_run, merged_lora
from hf_cap.data import label_names, load_splits, read_parquet
from hf_cap.errors import CAPError, ConfigError, DataError, ModelError, PriorError, ServerError
from hf_cap.schema import (
    CONFIG_KEY,
    LABEL,
    PRIOR,
    PROVENANCE,
    TEXT,
    WORDS,
    AttributionSettings,
    add_provenance,
    diagnostic_column,
    prior_column,
    prior_sources,
    read_provenance,
)
from hf_cap.utils import atomic_path, documented, option, refuse_loss, required
from hf_cap.words import WORD_PATTERN, word_strings


@documented
@dataclass(frozen=True, kw_only=True)
class PushOptions:
    """Where something is published, and how it is described there."""

    repo_id: str = required("Repository on the Hub, `user/name`.")
    push: bool = option(False, "Upload. Without it the folder is only written and listed.")
    dry_run: bool = option(False, "Write and list the folder, and upload nothing even with `push`.")
    private: bool = option(
        True, "Make a new repository private. One that exists keeps its visibility."
    )
    output_dir: str | None = option(
        None,
        "Folder for exactly what is uploaded; by default `hub` in the folder of a model, `<folder>-hub` "
        "beside that of priors and scores, `<repository>-hub` for a metric.",
    )
    template: str | None = option(
        None, "Jinja template for the card, instead of the one that ships."
    )
    license: str | None = option(None, "Licence as the Hub spells it, such as `apache-2.0`.")
    language: str | None = option(None, "Language as the Hub spells it, such as `en`.")

    @property
    def uploads(self) -> bool:
        """Whether anything leaves this machine."""
        return self.push and not self.dry_run


@documented
@dataclass(frozen=True, kw_only=True)
class ModelPush(PushOptions):
    """A trained model with its card."""

    run: str = required("Folder that `hf-cap train` wrote, with `evaluation/` where there is one.")
    examples: int = option(
        0,
        "Evaluated texts that the card shows with their attributions. They become as public as the "
        "card; 0 shows none.",
    )


@documented
@dataclass(frozen=True, kw_only=True)
class PriorCard(PushOptions):
    """What the card of a prior data set tells beside the data."""

    source_dataset: str | None = option(None, "Hub id of the data set that the texts are from.")
    examples: int = option(3, "Texts that the card shows for each configuration.")
    command: str | None = option(
        None, "Command that makes the priors again; by default the one that their provenance tells."
    )


@documented
@dataclass(frozen=True, kw_only=True)
class PriorPush(PriorCard):
    """A data set with prior columns and its card. The texts are part of it."""

    dataset: str = required("Folder that `hf-cap extract` or `hf-cap fuse` wrote.")
    audit: str | None = option(None, "JSON file that `hf-cap audit` wrote, for the card.")


@documented
@dataclass(frozen=True, kw_only=True)
class MetricPush(PushOptions):
    """An `evaluate` module as a Space."""

    metric: str = required("Folder of the module: `<name>.py`, README.md, requirements.txt, ...")


# --- What can go wrong between here and the Hub: what to tell people, and what to try again.


_logger = logging.getLogger(__name__)

T = TypeVar("T")

ATTEMPTS = 3
FIRST_WAIT = 1.0
"""Seconds before the second attempt, doubled after each; a `Retry-After` is obeyed up to a minute."""
_LONGEST_WAIT = 60.0
_PASSING = {408, 409, 412, 429, 500, 502, 503, 504}


@contextmanager
def explained(repo_id: str, kept: Path | None = None) -> Iterator[None]:
    """Inside, faults of the Hub become errors that say what to do.

    Args:
        repo_id: What was asked for.
        kept: Folder that is safe on this machine, for the message.
    """
    rest = (
        f" Nothing is lost: {str(kept)!r} is complete; run the same command again." if kept else ""
    )
    try:
        yield
    except LocalTokenNotFoundError as error:
        raise ConfigError(
            "There is no access token for the Hub. Log in with `hf auth login`, or set HF_TOKEN."
            + rest
        ) from error
    except OfflineModeIsEnabled as error:
        raise ConfigError(
            f"HF_HUB_OFFLINE is set, so nothing can be done with {repo_id!r} on the Hub. Unset it."
            + rest
        ) from error
    except HFValidationError as error:
        raise ConfigError(f"{repo_id!r} is no name of a repository: {error}") from error
    except HfHubHTTPError as error:
        raise ServerError(_refusal(error, repo_id) + rest) from error
    except HTTPError as error:
        raise ServerError(
            f"The connection to the Hub broke off or could not be made ({type(error).__name__}: {error})."
            + rest
        ) from error


def _refusal(error: HfHubHTTPError, repo_id: str) -> str:
    status = error.response.status_code
    if isinstance(error, GatedRepoError):
        return f"{repo_id!r} is gated: ask for access on its page, then log in with that account."
    if isinstance(error, RepositoryNotFoundError):
        return f"There is no repository {repo_id!r} that this token may see. Check name, kind and token."
    known = {
        401: "The Hub does not accept the access token; it may be wrong, expired or revoked. Make a new one "
        "and log in with `hf auth login`, or set HF_TOKEN.",
        403: f"The access token may not write to {repo_id!r}. Use one with write access to this namespace.",
        409: f"Somebody else is changing {repo_id!r} at this moment.",
        412: f"Somebody else has changed {repo_id!r} in the meantime.",
        429: "The Hub has had too many requests and wants a pause.",
    }
    return known.get(status, f"The Hub answered {status}: {error}")


def persistently(send: Callable[[], T]) -> T:
    """What `send` returns, tried again after faults that pass."""
    for attempt in range(1, ATTEMPTS):
        try:
            return send()
        except (HTTPError, RuntimeError) as error:
            fault = error if isinstance(error, HTTPError) else error.__cause__
            wait = _wait(fault, attempt)
            if wait is None:
                raise
            _logger.warning("The upload was interrupted (%s); going on in %.0f s", fault, wait)
            time.sleep(wait)
    return send()


def _wait(fault: BaseException | None, attempt: int) -> float | None:
    """Seconds to wait before the next attempt; `None` where another one is of no use."""
    response = getattr(fault, "response", None)
    if not isinstance(fault, HTTPError) or (
        response is not None and response.status_code not in _PASSING
    ):
        return None
    asked = "" if response is None else response.headers.get("Retry-After", "")
    backoff = FIRST_WAIT * 2 ** (attempt - 1)
    return min(float(asked), _LONGEST_WAIT) if asked.isdigit() else backoff


# --- A data set with prior columns as the configurations that are published: one a source, and the fused one.


HYBRID = "hybrid"
"""Configuration of the fused prior. It has every column, so that other fusions can be made from it."""


def configurations(splits: Mapping[str, Dataset]) -> dict[str, DatasetDict]:
    """Configuration name to splits, the default one and the split `train` first. Each has a column `prior`.

    Raises:
        PriorError: there is no prior column, or the splits have different columns.
    """
    splits = dict(sorted(splits.items(), key=lambda item: item[0] != "train"))
    columns = next(iter(splits.values())).features
    for split, data in splits.items():
        if set(data.column_names) != set(columns):
            raise PriorError(
                f"All splits of a prior data set have the same columns, but {split!r} has "
                f"{sorted(data.column_names)} and another one {sorted(columns)}. "
                "Extract the priors of every split."
            )
    sources = prior_sources(columns)
    if PRIOR not in columns and not sources:
        raise PriorError(
            f"There is no prior to publish: no column 'prior' or 'prior_<source>' among {sorted(columns)}. "
            "Run `hf-cap extract` first."
        )
    found = {}
    if PRIOR in columns:
        found[HYBRID] = DatasetDict({name: _public(data) for name, data in splits.items()})
    for source in sources:
        found[source] = DatasetDict(
            {name: _of_source(data, source) for name, data in splits.items()}
        )
    return found


def write_configurations(found: Mapping[str, DatasetDict], folder: Path) -> None:
    """Write `<configuration>/<split>.parquet`."""
    for name, splits in found.items():
        (folder / name).mkdir(parents=True)
        for split, data in splits.items():
            data.to_parquet(str(folder / name / f"{split}.parquet"))


def read_configuration(folder: Path, name: str | None = None) -> DatasetDict:
    """Splits of one configuration of a staged folder, as its files are now.

    Args:
        folder: The folder; one without a card holds one file a split, and no configurations.
        name: The configuration; the default one if not given.

    Raises:
        DataError: there is no such configuration.
    """
    card = folder / "README.md"
    configs = ((metadata_load(card) or {}) if card.exists() else {}).get("configs", [])
    if not configs and name is None:
        return load_splits(folder)
    chosen = [
        one
        for one in configs
        if (one.get("default") if name is None else one["config_name"] == name)
    ]
    if not chosen:
        raise DataError(
            f"The folder {str(folder)!r} has no configuration {name!r}; it has "
            f"{[one['config_name'] for one in configs]}."
        )
    files = {part["split"]: folder / part["path"] for part in chosen[0]["data_files"]}
    return DatasetDict({split: read_parquet(file) for split, file in files.items()})


def configs_metadata(found: Mapping[str, DatasetDict]) -> tuple[dict[str, Any], ...]:
    """The `configs` entry of the card: which file is which split of which configuration."""
    default = next(iter(found))
    return tuple(
        {
            "config_name": name,
            **({"default": True} if name == default else {}),
            "data_files": [{"split": s, "path": f"{name}/{s}.parquet"} for s in splits],
        }
        for name, splits in found.items()
    )


def info_metadata(found: Mapping[str, DatasetDict]) -> tuple[dict[str, Any], ...]:
    """The `dataset_info` entry of the card: the typed features of each configuration."""
    features = {name: next(iter(splits.values())).features for name, splits in found.items()}
    return tuple(
        {"config_name": name, **DatasetInfo(features=kinds)._to_yaml_dict()}
        for name, kinds in features.items()
    )


def made_by(splits: Mapping[str, Dataset], source: str) -> dict[str, Any]:
    """Facts of how the prior of a source (or `prior`, the fusion) was made; empty where none tell."""
    for data in splits.values():
        if PROVENANCE in data.column_names:
            for cell in data.unique(PROVENANCE):
                if facts := read_provenance(cell).get(source):
                    return facts
    return {}


def _of_source(data: Dataset, source: str) -> Dataset:
    prefix = diagnostic_column(source, "")
    diagnostics = [column for column in data.column_names if column.startswith(prefix)]
    wanted = [TEXT, LABEL, WORDS, prior_column(source), *diagnostics, PROVENANCE]
    kept = data.select_columns([column for column in wanted if column in data.column_names])
    return _public(kept.rename_column(prior_column(source), PRIOR), (source,))


def _public(data: Dataset, sources: tuple[str, ...] = ()) -> Dataset:
    """The data set with provenance of these sources (of all by default), without local paths."""
    if PROVENANCE not in data.column_names:
        return data
    cells = {cell: _public_cell(cell, sources) for cell in data.unique(PROVENANCE)}
    return data.map(
        lambda batch: {PROVENANCE: [cells[cell] for cell in batch[PROVENANCE]]},
        batched=True,
        features=data.features,
        load_from_cache_file=False,
    )


def _public_cell(cell: str | None, sources: tuple[str, ...]) -> str | None:
    public = None
    for source, facts in read_provenance(cell).items():
        if not sources or source in sources:
            named = {"model": public_name(facts["model"])} if "model" in facts else {}
            public = add_provenance(public, source, {**public_settings(facts), **named})
    return public


# --- The facts on the card of a prior data set.


def prior_card_facts(
    found: Mapping[str, DatasetDict],
    options: PriorCard,
    audit: Mapping[str, Any] | None = None,
) -> PriorCardFacts:
    """The facts of the configurations `found`, whose default is the first.

    Args:
        found: From `configurations`.
        options: Names, licence, language, number of examples.
        audit: Figures of `hf-cap audit`; numbers in nested groups are named `group: figure`.
    """
    default = next(iter(found.values()))
    first = next(iter(default.values()))
    made = [facts for name in found if (facts := made_by(found[name], _source(name)))]
    commands = dict.fromkeys(facts["command"] for facts in made if facts.get("command"))
    return PriorCardFacts(
        name=options.repo_id.split("/")[-1],
        repo_id=options.repo_id,
        source_dataset=public_name(options.source_dataset),
        source_on_hub=public_id(options.source_dataset) is not None,
        language=options.language,
        license=options.license,
        labels=tuple(label_names(first)),
        splits={split: len(data) for split, data in default.items()},
        configurations=tuple(
            _configuration(name, splits, default=splits is default)
            for name, splits in found.items()
        ),
        configs=configs_metadata(found),
        dataset_info=info_metadata(found),
        examples={
            name: _examples(next(iter(splits.values())), _pattern(splits, name), options.examples)
            for name, splits in found.items()
        },
        audit=dict(_flat(audit or {})),
        command=public_text(options.command or "\n".join(commands)) or None,
        versions={k: v for facts in made for k, v in (facts.get("versions") or {}).items()},
    )


def _source(configuration: str) -> str:
    return PRIOR if configuration == HYBRID else configuration


def _configuration(name: str, splits: DatasetDict, *, default: bool) -> ConfigurationFacts:
    (made,) = prior_facts({_source(name): made_by(splits, _source(name))})
    first = next(iter(splits.values()))
    priors = [prior for data in splits.values() for prior in data[PRIOR]]
    return ConfigurationFacts(
        name=name,
        default=default,
        prior=made,
        columns={column: _kind(feature) for column, feature in first.features.items()},
        with_prior=sum(prior is not None for prior in priors),
        rows=len(priors),
    )


def _kind(feature: Any) -> str:
    """The type of a column in a few words."""
    if hasattr(feature, "names"):
        return f"label, {len(feature.names)} classes"
    inner = getattr(feature, "feature", None)
    return (
        f"list of {_kind(inner)}" if inner is not None else str(getattr(feature, "dtype", feature))
    )


def _pattern(splits: DatasetDict, name: str) -> str:
    return str(made_by(splits, _source(name)).get("word_pattern", WORD_PATTERN))


def _examples(data: Dataset, pattern: str, count: int) -> tuple[ExampleFacts, ...]:
    labels = label_names(data)
    rows = (row for row in data.select_columns([TEXT, LABEL, PRIOR]) if row[PRIOR])
    return tuple(
        ExampleFacts(
            label=labels[row[LABEL]],
            words=tuple(word_strings(row[TEXT], pattern)),
            scores=tuple(row[PRIOR]),
        )
        for row in islice(rows, count)
    )


def _flat(figures: Mapping[str, Any], group: str = "") -> list[tuple[str, float]]:
    """The numbers of a nested mapping, named by the way to them."""
    found: list[tuple[str, float]] = []
    for name, value in figures.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{group}{name}: ")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found.append((group + name, value))
    return found


# --- The folder that is uploaded, written whole before anything leaves the machine.


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
        config |= AttributionSettings.of_alignment(alignment).entry()
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


# --- To the Hub and back: the only module that writes to the network.


Kind = Literal["model", "dataset", "space"]


def check_access(repo_id: str, kind: Kind = "model", *, token: str | None = None) -> None:
    """Make sure that this token may write to a repository, or create it; costs a second, saves a training.

    Args:
        repo_id: `user/name`. The repository need not exist.
        kind: What kind of repository.
        token: Access token; by default the one of `HF_TOKEN` or `hf auth login`.

    Raises:
        ConfigError: there is no token, the name is malformed, or offline mode is on.
        ServerError: the Hub refuses the token, or does not let it write there.
    """
    hub = HfApi(token=token)
    with explained(repo_id):
        account = hub.whoami()
        owner, slash, _ = repo_id.partition("/")
        owners = [account["name"], *(group["name"] for group in account.get("orgs", []))]
        if not slash or owner not in owners:
            raise ConfigError(
                f"The token may write to {owners}, but `repo_id` is {repo_id!r}. Name a repository of one "
                f"of them, such as '{owners[0]}/{repo_id.split('/')[-1]}'."
            )
        if account.get("auth", {}).get("accessToken", {}).get("role") == "read":
            raise ConfigError(
                f"The token of {account['name']!r} may only read. Make one with write access in the "
                "settings of the Hub, and give it with `hf auth login` or HF_TOKEN."
            )
        if hub.repo_exists(repo_id, repo_type=kind):
            hub.auth_check(repo_id, repo_type=kind, write=True)


def upload(
    folder: Path, repo_id: str, kind: Kind, *, private: bool = True, token: str | None = None
) -> str:
    """Upload a staged folder. Passing faults are tried again, and what had arrived is not sent twice.

    Args:
        folder: What to upload.
        repo_id: `user/name`; created if it does not exist.
        kind: What kind of repository.
        private: Whether a new repository is private.
        token: Access token; by default the one of `HF_TOKEN` or `hf auth login`.

    Returns:
        Address of the repository.

    Raises:
        ConfigError: there is no token, or offline mode is on.
        ServerError: the Hub cannot be reached or refuses; the message says what is left to do.
    """
    hub = HfApi(token=token)

    def send() -> str:
        address = hub.create_repo(
            repo_id,
            repo_type=kind,
            private=private,
            exist_ok=True,
            space_sdk="gradio" if kind == "space" else None,
        )
        hub.upload_folder(
            repo_id=repo_id,
            repo_type=kind,
            folder_path=folder,
            commit_message="Upload with hf_cap",
        )
        return str(address)

    with explained(repo_id, kept=folder):
        return persistently(send)


def push_folder(
    options: PushOptions, kind: Kind, stage: Callable[[], Path], token: str | None = None
) -> Path:
    """Write and list a folder and, where `options` say so, upload it.

    Args:
        options: Where it goes.
        kind: What kind of repository.
        stage: Writes the folder.
        token: Access token; by default the one of `HF_TOKEN` or `hf auth login`.

    Returns:
        The staged folder.

    Raises:
        ConfigError: there is no token, or something in the folder must not be published.
        ServerError: the Hub cannot be reached or refuses.
    """
    if options.uploads:
        check_access(options.repo_id, kind, token=token)
    folder = stage()
    _logger.info(
        "%s holds what goes to %s:\n%s", folder, options.repo_id, "\n".join(listing(folder))
    )
    if options.uploads:
        address = upload(folder, options.repo_id, kind, private=options.private, token=token)
        _logger.info("Uploaded to %s", address)
    else:
        _logger.info("Nothing was uploaded; `--push` does it.")
    return folder


def push_model(
    options: ModelPush,
    *,
    token: str | None = None,
    stage: Callable[[ModelPush, Path], Path] = stage_model,
) -> Path:
    """Stage the model of a run and, where `options` say so, upload it.

    Args:
        options: The run, and where it goes.
        token: Access token; by default the one of `HF_TOKEN` or `hf auth login`.
        stage: Writes the folder, which is its second argument.

    Returns:
        The staged folder.
    """
    folder = Path(options.output_dir or Path(options.run) / "hub")
    return push_folder(options, "model", lambda: stage(options, folder), token)


def push_priors(options: PriorPush, *, token: str | None = None) -> Path:
    """Stage a folder of priors and, where `options` say so, upload it. Returns the staged folder."""
    source = Path(options.dataset)
    folder = Path(options.output_dir or source.with_name(f"{source.name}-hub"))

    def stage() -> Path:
        splits, audit = read_priors(options)
        return stage_priors(splits, options, folder, audit)

    return push_folder(options, "dataset", stage, token)


def push_metric(options: MetricPush, *, token: str | None = None) -> Path:
    """Stage an `evaluate` module and, where `options` say so, upload it as a Space."""
    folder = Path(options.output_dir or f"{options.repo_id.split('/')[-1]}-hub")
    return push_folder(options, "space", lambda: stage_metric(options, folder), token)


def push_prior_dataset(
    dataset: Dataset | Mapping[str, Dataset],
    repo_id: str,
    *,
    audit: Mapping[str, Any] | None = None,
    token: str | None = None,
    **options: Any,
) -> str:
    """Publish priors that are in memory: one configuration a source, and `hybrid` for the fused prior.

    Args:
        dataset: Splits (a single data set is the split `train`) with the columns `text`, `label`, `words`
            and `prior_<source>` or `prior`.
        repo_id: `user/name`; created if it does not exist.
        audit: Figures for the card.
        token: Access token; by default the one of `HF_TOKEN` or `hf auth login`.
        options: Fields of `PriorCard`, such as `license`, `language`, `source_dataset`, `private`.

    Returns:
        Address of the data set.

    Raises:
        PriorError: there is no prior to publish.
        ConfigError: there is no token, an option cannot work, or the card would give away a secret.
        ServerError: the Hub cannot be reached or refuses.
    """
    card = PriorCard(repo_id=repo_id, **options)
    splits = {"train": dataset} if isinstance(dataset, Dataset) else dataset
    check_access(repo_id, "dataset", token=token)
    with TemporaryDirectory() as room:
        folder = stage_priors(splits, card, Path(card.output_dir or f"{room}/hub"), audit)
        return upload(folder, repo_id, "dataset", private=card.private, token=token)


def load_prior_dataset(
    name: str,
    configuration: str | None = None,
    *,
    revision: str | None = None,
    token: str | None = None,
) -> DatasetDict:
    """Load published priors, ready for `CAPTrainer`: no language model is needed any more.

    Args:
        name: `user/name` on the Hub, or a folder that `hf-cap push` staged.
        configuration: A source such as `cap`, or `hybrid`; the default one of the data set if not given.
        revision: Branch, tag or commit.
        token: Access token, for a private data set.

    Raises:
        DataError: there is no such data set or configuration.
        PriorError: it has no column `prior`.
        ServerError: the Hub cannot be reached or refuses.
    """
    try:
        with explained(name):
            splits = (
                read_configuration(Path(name), configuration)
                if Path(name).is_dir()
                else load_dataset(name, configuration, revision=revision, token=token)
            )
    except (DatasetNotFoundError, FileNotFoundError) as error:
        raise DataError(
            f"There is no data set {name!r} that you may read: {error} If it is private, log in with "
            "`hf auth login`."
        ) from error
    except ValueError as error:
        if isinstance(error, CAPError):
            raise
        raise DataError(f"Cannot load {configuration!r} of {name!r}: {error}") from error
    features = next(iter(splits.values())).features
    if PRIOR not in features:
        raise PriorError(
            f"{name!r} has no column {PRIOR!r}; it has {list(features)}. "
            + ("Fuse its priors first." if prior_sources(features) else "It holds no priors.")
        )
    return splits


def listing(folder: Path) -> list[str]:
    """One line a file of a staged folder: its size in bytes and its name."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return [f"{file.stat().st_size:>12,}  {file.relative_to(folder)}" for file in files]
