"""Train a classifier, of texts or of a table."""

from dataclasses import dataclass
from functools import partial
from typing import Literal

from hf_cap.cli.core import (
    Columns,
    Command,
    Group,
    Result,
    Values,
    build,
    columns,
    command_line,
)
from hf_cap.cli.tables import train_table
from hf_cap.errors import MissingExtra
from hf_cap.laat.settings import LAATOptions, TableOptions, TabularModelOptions
from hf_cap.training.options import AlignmentOptions
from hf_cap.utils import option, required


@dataclass(frozen=True, kw_only=True)
class TrainArguments:
    """What is trained on what, and where it goes."""

    task: Literal["text", "tabular"] = option(
        "text",
        "`text`: a classifier, aligned with the priors of its texts. `tabular`: a small model of a table, "
        "aligned with the scores of its features.",
    )
    dataset: str = required(
        "Labelled data, with a prior column for alignment: the folder that `hf-cap fuse` wrote."
    )
    output_dir: str = required("Folder for checkpoints, the trained model and `run.json`.")
    model: str = option(
        "FacebookAI/roberta-base", "Encoder to fine-tune: Hub id, folder or `embedded/...` name."
    )
    model_revision: str | None = option(None, "Branch, tag or commit of the model on the Hub.")
    trust_remote_code: bool = option(False, "Run code that comes with a model on the Hub.")
    train_split: str = option("train", "Split to train on.")
    eval_split: str | None = option(None, "Split to evaluate on during training, if any.")


@dataclass(frozen=True, kw_only=True)
class LoraArguments:
    """Adapters that are trained instead of all weights."""

    rank: int = option(0, "Rank of LoRA adapters; 0 trains all weights.")
    alpha: int = option(16, "Scale of the LoRA adapters; their update is times alpha / rank.")
    targets: tuple[str, ...] = option(
        (), "Names of the layers that get adapters. Default: those that peft knows for the model."
    )


TABULAR = (TableOptions, TabularModelOptions, LAATOptions)


@partial(
    Command,
    "--dataset runs/prior --output_dir runs/model --alignment_weight 0.1",
    [TrainArguments, Columns, AlignmentOptions, *TABULAR, Group("lora", LoraArguments)],
    more="",
)
def train(values: Values) -> Result:
    """Train a classifier whose attributions are aligned with the prior, and write `run.json`.

    `accelerate launch --config_file recipes/accelerate/ddp.yaml -m hf_cap train --config ...` runs it on
    several devices.
    """
    given = build(TrainArguments, values)
    measured = (train_table if given.task == "tabular" else _train_text)(given, values)
    return Result({**measured, "output_dir": given.output_dir})


def _train_text(given: TrainArguments, values: Values) -> Values:
    import torch

    from hf_cap.data import load_splits
    from hf_cap.training.config import CAPConfig
    from hf_cap.workflow import train_classifier

    # pinned memory is for copies to a GPU; without one torch warns of it on every epoch
    config = build(CAPConfig, {"dataloader_pin_memory": torch.cuda.is_available(), **values})
    split, adapters = given.eval_split, None
    names = [given.train_split, *([split] if split else [])]
    splits = load_splits(given.dataset, splits=names, **columns(values))
    if (lora := build(LoraArguments, values, "lora")).rank:
        try:
            from peft import LoraConfig
        except ImportError as error:
            raise MissingExtra(
                "Adapters need the extra `peft`: pip install 'hf-cap[peft]'."
            ) from error
        targets = list(lora.targets) or None
        adapters = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=targets)
    data = {"dataset": given.dataset, "train_split": given.train_split}
    train_classifier(
        splits[given.train_split],
        config,
        given.model,
        eval_dataset=splits[split] if split else None,
        peft_config=adapters,
        record={"settings": values, "data": data, "command": command_line()},
        revision=given.model_revision,
        trust_remote_code=given.trust_remote_code,
    )
    return {}
