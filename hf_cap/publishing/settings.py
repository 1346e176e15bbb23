"""Settings of `hf-cap push`. Imports neither torch nor transformers."""

from dataclasses import dataclass

from ..options import documented, option, required


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
