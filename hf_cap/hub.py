"""To the Hub and back: the only module that writes to the network.

There is one way out (`publish`): write a clean folder, check it, list it, and upload it if `push` is set.
"""

import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from datasets import Dataset, DatasetDict, concatenate_datasets, load_dataset
from huggingface_hub import DatasetCard, HfApi, constants, errors
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from hf_cap import cards
from hf_cap.cards import PushOptions as PushOptions
from hf_cap.classifiers import is_lora_run, merged_lora
from hf_cap.data import load_splits, read_parquet
from hf_cap.errors import CAPError, ConfigError, DataError, ModelError, PriorError, ServerError
from hf_cap.loading import no_bars
from hf_cap.priors.card import write_prior_dataset
from hf_cap.schema import CALIBRATION, CONFIG_KEY, PRIOR, AttributionSettings
from hf_cap.secret_scan import refuse_secrets
from hf_cap.training.validation import weights_problem
from hf_cap.utils import Place, atomic_path, check_writable, read_json, real_path, refuse_loss

_logger = logging.getLogger(__name__)

Kind = Literal["model", "dataset", "space"]

_MODEL_FILES = (
    "config.json generation_config.json model*.safetensors model.safetensors.index.json tokenizer.json "
    "tokenizer_config.json special_tokens_map.json added_tokens.json vocab.* merges.txt *.model "
    "chat_template.jinja"
).split()
_GENERATES = ("ForCausalLM", "LMHeadModel", "ForMaskedLM", "ForConditionalGeneration")
_OUR_TAG = "\n- hf_cap\n"
_TEXT_FILES = {".json", ".md", ".txt", ".py", ".jinja"}
_PICKLES = {".bin", ".pt", ".pth", ".pkl", ".ckpt"}


# --- The one way out.


def publish(
    options: PushOptions,
    kind: Kind,
    write: Callable[[Path], object],
    folder: Path,
    *,
    token: str | None = None,
    keep: bool = True,
) -> Path:
    """Write, check and list a folder and, if `options.push` is set, upload it.

    Args:
        write: Fills the empty folder it is given, card included.
        folder: The folder, unless `options.output_dir` names another; it is returned.
        token: Access token; by default the one of `HF_TOKEN` or `hf auth login`.
        keep: Whether `folder` outlives the call, so that a failed upload can go on from it.
    """
    with hub_errors(options.repo_id):
        validate_repo_id(options.repo_id)
    private, folder = folder.parent, Path(options.output_dir or folder)
    if real_path(folder) in [(source := real_path(private)), *source.parents]:
        raise ConfigError(
            f"The output folder {str(folder)!r} would be replaced, and with it {str(private)!r}, which is "
            "published. Name another one."
        )
    check_writable(folder.parent)
    if options.push:
        check_access(options.repo_id, kind, token=token)
    with atomic_path(folder) as target:
        target.mkdir()
        write(target)
        _check_folder(target, private)
        card = folder / cards.CARD
        if not (card.is_file() and _OUR_TAG in card.read_text("utf-8", errors="replace")):
            refuse_loss(folder, (file.name for file in target.iterdir()))
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    lines = [f"{file.stat().st_size:>12,}  {file.relative_to(folder)}" for file in files]
    _logger.info("%s holds what goes to %s:\n%s", folder, options.repo_id, "\n".join(lines))
    if options.push:
        with hub_errors(options.repo_id, kept=folder if keep or options.output_dir else None):
            _logger.info("Uploaded to %s", upload(folder, options, kind, token=token))
    else:
        _logger.info("Nothing was uploaded.")
    return folder


def _check_folder(folder: Path, private: Path) -> None:
    """Refuse links, pickles, secrets, and the paths of the home, the current and the `private` folder."""
    places = {f"{path}/" for path in (Path.home(), Path.cwd(), private.resolve())} - {"//"}
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder)
        if file.is_symlink() or file.suffix in _PICKLES:
            raise ConfigError(f"{name} is a link or a pickle, which is never published.")
        if file.is_dir() or file.suffix not in _TEXT_FILES:
            continue
        text = file.read_text(encoding="utf-8", errors="replace")
        local = [place for place in places if place in text or place in cards.unescape(text)]
        if local and file.name != "tokenizer.json":  # its vocabulary may hold anything
            raise ConfigError(
                f"{name} holds the local path {local[0]!r}. Nothing was published; use names or "
                "relative paths in the settings or the template."
            )
    refuse_secrets(folder)


def upload(folder: Path, options: PushOptions, kind: Kind, *, token: str | None = None) -> str:
    """Upload a folder as one commit and return the address; files that are there are not sent again."""
    hub = HfApi(token=token)
    repository: Any = {"repo_id": options.repo_id, "repo_type": kind}
    address = hub.create_repo(
        **repository, private=options.private, exist_ok=True, space_sdk="gradio" if kind == "space" else None
    )
    hub.upload_folder(
        **repository,
        folder_path=folder,
        commit_message="Upload with hf_cap",
        parent_commit=hub.repo_info(**repository).sha,
    )
    return str(address)


def check_access(repo_id: str, kind: Kind = "model", *, token: str | None = None) -> None:
    """Check that the token may write to a repository, or create it, before any work is done."""
    hub = HfApi(token=token)
    with hub_errors(repo_id):
        account = hub.whoami()
        owners = [account["name"], *(group["name"] for group in account.get("orgs", []))]
        role = account.get("auth", {}).get("accessToken", {}).get("role")
        if role == "read" or "/" not in repo_id or repo_id.split("/")[0] not in owners:
            example = f"{owners[0]}/{repo_id.split('/')[-1]}"
            raise ConfigError(
                f"The token (role {role!r}) may not write to {repo_id!r}. Give one with write access, by "
                f"`hf auth login` or HF_TOKEN, and a repository of one of {owners}, such as {example!r}."
            )
        if hub.repo_exists(repo_id, repo_type=kind):
            hub.auth_check(repo_id, repo_type=kind, write=True)


_MISTAKES = {
    "LocalTokenNotFoundError": "There is no access token for the Hub. Log in with `hf auth login`, or set "
    "HF_TOKEN.",
    "OfflineModeIsEnabled": "HF_HUB_OFFLINE is set, so {} on the Hub cannot be reached. Unset it.",
    "HFValidationError": "{} is no valid name of a repository; give `user/name`.",
}
_REFUSALS = {
    401: "The Hub does not accept the access token; it may be wrong, expired or revoked. Make a new one and "
    "log in with `hf auth login`, or set HF_TOKEN.",
    403: "The access token may not write to {}. Use one with write access to this namespace.",
    412: "Somebody else pushed to {} in the meantime, so nothing was added to it. Look at their commit.",
}


@contextmanager
def hub_errors(repo_id: str, kept: Path | None = None) -> Iterator[None]:
    """Turn errors of the Hub into errors that say what to do; `kept` is the complete local folder."""
    http: Any = errors.HTTPError  # type: ignore[attr-defined]
    rest = f" Nothing is lost: {str(kept)!r} is complete; run the same command again." * bool(kept)
    try:
        yield
    except (http, OSError, ValueError, RuntimeError) as error:
        # the upload of a large file wraps the error of a part
        cause = error.__cause__ if isinstance(error, RuntimeError) else error
        if said := _MISTAKES.get(type(cause).__name__):
            raise ConfigError(said.replace("{}", repr(repo_id)) + rest) from error
        if not isinstance(cause, http):
            raise
        told = f"The connection to the Hub failed ({type(cause).__name__}: {cause})."
        if isinstance(cause, errors.HfHubHTTPError):
            status = cause.response.status_code
            told = f"The Hub answered {status} for {{}}: {' '.join(str(cause).split())}"
            # a private or gated repository answers 401 and 403 too, and says so
            if not isinstance(cause, errors.RepositoryNotFoundError):
                told = _REFUSALS.get(status, told)
        raise ServerError(told.replace("{}", repr(repo_id)) + rest) from error


# --- A trained model, and a metric.


def push_model(
    folder: Place,
    options: PushOptions,
    *,
    facts: Callable[..., dict[str, Any]] = cards.model_facts,
    token: str | None = None,
) -> Path:
    """Publish the model in the folder of a run, LoRA adapters merged into their base; see `publish`.

    Args:
        folder: The `output_dir` of `hf-cap train`, or of `save_pretrained`.
        facts: Makes the facts of the card from the arguments of `model_facts`.
    """
    run = Path(folder)
    if not run.is_dir():
        raise ModelError(f"There is no folder {str(run)!r}. Give the `output_dir` of `hf-cap train`.")

    def write(target: Path) -> None:
        record = _read_json(run / cards.RUN_FILE)
        if (file := run / "config.json").is_file():  # of a LoRA run, the record has it
            record[CALIBRATION] = _read_json(file).get(CALIBRATION)
        known = _card_facts(run, record, options, facts)
        write_model(run, target, record)
        (target / cards.CARD).write_text(cards.render_card(known, options.template), encoding="utf-8")

    return publish(options, "model", write, run / "hub", token=token)


def _evaluation_files(run: Path, kind: str) -> list[Path]:
    """The files of a kind, by name, but those of the texts as they are before those that were changed."""
    files = (run / cards.EVALUATIONS).glob(f"*.{kind}")
    return sorted(files, key=lambda file: (file.stem != "test", file.stem))


def _evaluations(run: Path) -> dict[str, Any]:
    return {file.stem: _read_json(file) for file in _evaluation_files(run, "json")}


def _card_facts(
    run: Path, record: dict[str, Any], options: PushOptions, facts: Callable[..., dict[str, Any]]
) -> dict[str, Any]:
    numbers, known = _evaluations(run), dict[str, Any](options.named())
    other = Path(options.baseline or run.with_name(run.name.replace("aligned-", "baseline-", 1)))
    if other.name != run.name and (found := _evaluations(other)):
        known["baseline"] = found
    elif options.baseline:
        raise DataError(f"{options.baseline!r} holds no evaluation; run `hf-cap evaluate` on it.")
    texts = _evaluated_texts(run, options.examples or 0)
    try:
        return facts(record, evaluations=numbers, records=texts, **known)
    except CAPError:
        raise
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise DataError(
            f"The records in {str(run)!r} ({cards.RUN_FILE}, {cards.EVALUATIONS}) are damaged: {error!r}. "
            "Train or evaluate again."
        ) from error


def write_model(run: Path, target: Path, record: Mapping[str, Any]) -> None:
    """Write the model of a run, with the attribution of its `record`, but not where it came from."""
    _write_weights(run, target)
    path, alignment = target / "config.json", record.get("alignment") or {}
    config = {k: v for k, v in _read_json(path).items() if not k.endswith("name_or_path")}
    if not isinstance(kind := config.get("model_type"), str):
        raise ModelError(
            f"config.json in {str(run)!r} has the `model_type` {kind!r}, which is no name of an "
            "architecture; save the model again."
        )
    kinds = config.get("architectures") or [""]
    if str(kinds[0]).endswith(_GENERATES):
        raise ModelError(
            f"{str(run)!r} holds a {kinds[0]}, which is no text classifier; give the `output_dir` of `hf-cap "
            "train`."
        )
    if "attribution_method" in alignment and CONFIG_KEY not in config:
        config |= AttributionSettings.of_alignment(alignment).entry()
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _write_weights(run: Path, target: Path) -> None:
    """Write what a classifier needs; pickles, optimizer states and run records stay on this machine."""
    if is_lora_run(run):  # an adapter alone names its base by a path that may be local
        with no_bars():
            merged_lora(run).save_pretrained(target)
    for pattern in _MODEL_FILES:
        for file in run.glob(pattern):
            if not (target / file.name).exists():
                shutil.copyfile(file, target / file.name)
    if not any(target.glob("*.safetensors")):
        raise ModelError(
            f"{str(run)!r} holds no model in safetensors, but {sorted(f.name for f in run.glob('[!.]*'))}. "
            "Give the `output_dir` of `hf-cap train`, or a folder of `save_pretrained`."
        )
    if not (target / "config.json").exists():
        raise ModelError(f"{str(run)!r} holds no config.json, so its model cannot be loaded.")
    if problem := weights_problem(target):
        raise ModelError(f"The weights in {str(run)!r} are damaged: {problem}. Train again.")


def _evaluated_texts(run: Path, count: int) -> list[dict[str, Any]]:
    files = _evaluation_files(run, "parquet")
    if count and not files:
        raise DataError(
            f"`examples={count}` needs evaluated texts, but {str(run / cards.EVALUATIONS)!r} has none. Run "
            "`hf-cap evaluate --records` first, or leave the examples out."
        )
    rows = read_parquet(files[0]) if count else ()
    return list(islice((row for row in rows if row.get("attributions", ()) is not None), count))


def _read_json(path: Path) -> dict[str, Any]:
    """Content of a JSON file; empty where it is missing."""
    if not path.exists():
        _logger.warning("There is no %s; the card will call its facts unknown.", path)
        return {}
    return read_json(path)


def push_metric(name: str, options: PushOptions, *, token: str | None = None) -> Path:
    """Publish an `evaluate` metric, such as `comprehensiveness`, as a Space; see `publish`."""
    from hf_cap.evaluation.modules import write_metric_space

    owner, _, last = options.repo_id.rpartition("/")
    if last != name:
        raise ConfigError(
            f"`evaluate.load({options.repo_id!r})` would look for {last + '.py'!r}. Call the repository "
            f"'{owner}/{name}'."
        )
    write = partial(write_metric_space, name)
    return publish(options, "space", write, Path(f"{name}-hub").absolute(), token=token)


# --- Data sets with priors.


def push_priors(
    folder: Place,
    options: PushOptions,
    *,
    splits: Mapping[str, Dataset] | None = None,
    audit: Mapping[str, Any] | None = None,
    token: str | None = None,
    keep: bool = True,
) -> Path:
    """Publish the data set in a folder, or `splits` that are in memory; see `publish`.

    Args:
        folder: What `hf-cap extract` or `hf-cap fuse` wrote.
        splits: Instead of those in the folder.
        audit: Figures for the card, instead of those of the file `options.audit`.
    """
    if options.audit:
        audit = read_json(Path(options.audit).expanduser())
    found = splits or load_splits(folder)
    write = partial(write_prior_dataset, splits=found, options=options, audit=audit)
    beside = f"{os.path.abspath(folder)}-hub"
    return publish(options, "dataset", write, Path(beside), token=token, keep=keep)


def push_prior_dataset(
    dataset: Dataset | Mapping[str, Dataset],
    repo_id: str,
    *,
    audit: Mapping[str, Any] | None = None,
    token: str | None = None,
    **options: Any,
) -> str:
    """Publish priors that are in memory: one configuration per source, and `hybrid` for the fused prior.

    Args:
        dataset: Splits (a single data set is the split `train`) with the columns `text`, `label`, `words`
            and `prior_<source>` or `prior`.
        repo_id: `user/name`; created if it does not exist.
        token: Access token; by default the one of `HF_TOKEN` or `hf auth login`.
        options: Fields of `PushOptions`, such as `license`, `language`, `source_dataset`, `private`.

    Returns:
        Address of the data set.

    Raises:
        PriorError: there is no prior to publish.
        ConfigError, ServerError: see `publish`.
    """
    splits = dataset if isinstance(dataset, Mapping) else {"train": dataset}
    known = PushOptions(repo_id=repo_id, push=True, **options)
    with TemporaryDirectory() as room:
        given: Any = {"splits": splits, "audit": audit, "token": token}
        push_priors(f"{room}/priors", known, **given, keep=False)
    return f"{constants.ENDPOINT}/datasets/{repo_id}"


def _read_local(folder: Path, configuration: str | None) -> DatasetDict:
    """Not `load_dataset(folder)`: that takes the name for a pattern, and caches by it alone."""
    card = folder / cards.CARD
    entries = DatasetCard.load(card).data.to_dict().get("configs") if card.is_file() else None
    if not entries:
        return load_splits(folder)
    wanted = next((one for one in entries if one.get("default")), entries[0])
    if configuration is not None:
        found = {one["config_name"]: one for one in entries}
        if configuration not in found:
            raise ValueError(f"there are the configurations {sorted(found)}.")
        wanted = found[configuration]
    return DatasetDict(
        {
            file["split"]: concatenate_datasets(
                [read_parquet(path) for path in sorted(folder.glob(file["path"]))]
            )
            for file in wanted["data_files"]
        }
    )


def load_prior_dataset(
    name: str, configuration: str | None = None, *, revision: str | None = None, token: str | None = None
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
    local = Path(name).expanduser()
    try:
        with hub_errors(name):
            splits = (
                _read_local(local, configuration)
                if local.is_dir()
                else load_dataset(name, configuration, revision=revision, token=token)
            )
    except (FileNotFoundError, ValueError) as error:  # of `datasets`
        if isinstance(error, CAPError):
            raise
        raise DataError(
            f"Cannot load {configuration or 'the data set'!r} of {name!r}: {error} If it is private, log in "
            "with `hf auth login`."
        ) from error
    if PRIOR not in (columns := next(iter(splits.values())).column_names):
        raise PriorError(f"{name!r} has no column {PRIOR!r}, but {columns}. Fuse its priors first.")
    return splits
