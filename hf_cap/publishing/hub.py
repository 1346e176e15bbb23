"""To the Hub and back: the only module that writes to the network.

Everything is staged in a folder first, so that a failed upload loses nothing: the same command uploads the
same folder again, and what had arrived is not sent twice.
"""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from datasets import Dataset, DatasetDict, load_dataset
from datasets.exceptions import DatasetNotFoundError
from huggingface_hub import HfApi

from ..data import prior_sources
from ..errors import CAPError, ConfigError, DataError, PriorError
from ..schema import PRIOR
from .faults import explained, persistently
from .prior_data import read_configuration
from .settings import MetricPush, ModelPush, PriorCard, PriorPush, PushOptions
from .staging import read_priors, stage_metric, stage_model, stage_priors

_logger = logging.getLogger(__name__)

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
