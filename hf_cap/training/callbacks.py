"""Beside a training: its progress, heat maps of a few texts for trackers, and what it does at its end."""

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from html import escape
from itertools import product
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase, TrainerCallback, TrainingArguments

from hf_cap import refit
from hf_cap.attribution import attribute_words
from hf_cap.cards import table
from hf_cap.classifiers import evaluation_mode, text_embeddings
from hf_cap.cues import Mark, find_cues, mean_cue_mass
from hf_cap.data import label_ids, label_names, load_texts
from hf_cap.errors import ConfigError
from hf_cap.labels import class_names, head_phrases
from hf_cap.progress import progress
from hf_cap.schema import LABEL, PRIOR, TEXT, check_prior
from hf_cap.training.collator import LABELS, take_priors
from hf_cap.training.examples import EXAMPLE_WEIGHT
from hf_cap.training.options import AlignmentOptions
from hf_cap.utils import printable, subsample
from hf_cap.words import heat_map, word_strings

_logger = logging.getLogger(__name__)

NAME, SHORTCUTS = "heat_maps", "shortcuts"
_STEPS = 20


class HeatMapCallback(TrainerCallback):
    """Draws the word attributions of a few texts, beside their priors, where trackers get other numbers.

    That is at the start of a training, after each evaluation in it and after each epoch.
    The drawing is plain text with a bar below each word. It goes to those of `TRACKERS` that `report_to`
    names, except where FSDP or DeepSpeed spreads the weights. So does a table of shortcuts: how much of the
    attribution of their texts lies on each. Training is the same without it.

    Args:
        dataset: Texts with `text`, a `ClassLabel` column `label`, and perhaps priors.
        count: At most so many of its rows are drawn, evenly spread; at least 1.
        marks: Shortcuts, as `hf_cap.cues.load_marks` reads them; of each at most `count` texts are read.

    Raises:
        ConfigError: `count` is below 1.
        DataError: `label` is no `ClassLabel`, or (when training begins) the model has other labels.
        PriorError: (when training begins) a prior does not have one finite score per word.
    """

    def __init__(self, dataset: Dataset, count: int = 4, marks: Sequence[Mark] = ()) -> None:
        if count < 1:
            raise ConfigError(f"`count` must be at least 1, got {count!r}.")
        self.rows = dataset.select(subsample(range(len(dataset)), count))
        self.names = label_names(self.rows)
        self.dataset, self.count = dataset, count
        self.marks = [mark for mark in marks if mark.decision == "shortcut"]
        self.carriers: list[dict[int, list[int]]] = []
        self.drawn: int | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Draw the model that training starts with."""
        self.drawn = -1
        self.on_evaluate(args, state, control, **kwargs)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Draw the model as it is while it trains, once per step."""
        trackers = [write for name, write in TRACKERS.items() if name in (args.report_to or ())]
        spread = args.fsdp or args.deepspeed
        due = self.drawn is not None and self.drawn != state.global_step
        if trackers and due and not spread and state.is_world_process_zero:
            self.drawn = state.global_step
            options = args if isinstance(args, AlignmentOptions) else None
            models = (kwargs["model"], kwargs["processing_class"], options)
            drawn = {NAME: self.draw(*models)}
            if self.marks:
                drawn[SHORTCUTS] = self.measure(*models)
            for name, write in product(drawn, trackers):
                write(args, name, drawn[name], state.global_step)

    on_epoch_end = on_evaluate

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Leave evaluations after training, whose trackers may have ended their run, without a drawing."""
        self.drawn = None

    def draw(self, model: Any, tokenizer: Any, options: AlignmentOptions | None = None) -> str:
        """The heat maps as Markdown: an indented block, which no text can break out of."""
        options = options or AlignmentOptions()
        rows, column, pattern = self.rows, options.prior_column or PRIOR, options.word_pattern
        scores = self._attribute(rows, model, tokenizer, options)
        lines: list[str] = []
        for at, row in enumerate(rows):
            words, label = word_strings(row[TEXT], pattern), printable(self.names[row[LABEL]])
            lines += [f"{label}, model:", *heat_map(words, scores[at]).splitlines()]
            prior = row.get(column)
            check_prior(prior, words, column=column, row=at)
            if prior is not None:
                lines += [f"{label}, prior:", *heat_map(words, prior).splitlines()]
            lines.append("")
        return "\n".join("    " + line for line in lines)

    def measure(self, model: Any, tokenizer: Any, options: AlignmentOptions | None = None) -> str:
        """The table of shortcuts as Markdown: of each its label, its texts and `cue_mass` in percent."""
        options = options or AlignmentOptions()
        # which texts carry a cue is the same on every epoch
        self.carriers = self.carriers or self._find_carriers(options.word_pattern)
        read = sorted({row for places in self.carriers for row in places})
        scores = self._attribute(self.dataset.select(read), model, tokenizer, options)
        known = dict(zip(read, scores, strict=True))
        rows = [["Cue", "Label", "Texts", "Mass, %"]]
        for mark, places in zip(self.marks, self.carriers, strict=True):
            mass = mean_cue_mass((known[row], {mark.label: at}) for row, at in places.items())
            shown = "–" if mass is None else f"{100 * mass:.1f}"
            rows.append([str(mark.cue), mark.label, str(len(places)), shown])
        return str(table(rows))

    def _find_carriers(self, pattern: str) -> list[dict[int, list[int]]]:
        """Of each shortcut at most `count` texts of its label: row to the words that carry it."""
        found: list[dict[int, list[int]]] = [{} for _ in self.marks]
        pairs = zip(self.dataset[TEXT], self.dataset[LABEL], strict=True)
        for row, (text, label) in enumerate(pairs):
            cues = find_cues(word_strings(text, pattern))
            for places, mark in zip(found, self.marks, strict=True):
                if mark.label == self.names[label] and mark.cue in cues:
                    places[row] = cues[mark.cue]
        return [{row: places[row] for row in subsample([*places], self.count)} for places in found]

    def _attribute(
        self, rows: Dataset, model: Any, tokenizer: Any, options: AlignmentOptions
    ) -> list[list[float]]:
        index = label_ids(rows, model.config.label2id or {})
        how: Any = {"word_pattern": options.word_pattern, "max_length": options.max_length}
        labels = [index[label] for label in rows[LABEL]]
        return attribute_words(model, tokenizer, list(rows[TEXT]), labels, steps=_STEPS, **how)


class TrainingProgress(TrainerCallback):
    """One bar for the steps of a training with its latest loss, and a line now and then where there is none.

    It takes the place of those of transformers, which print a dictionary for each line of the log.
    """

    def __init__(self, stack: ExitStack, shown: bool = True) -> None:
        self.stack, self.shown, self.spoken = stack, shown, time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin to count the steps that are left."""
        shown = self.shown and state.is_world_process_zero
        left = state.max_steps - state.global_step
        self.work = self.stack.enter_context(progress(left, "steps", "Training", shown))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count a step."""
        self.work.update()

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Show the loss."""
        loss, seconds = (kwargs.get("logs") or {}).get("loss"), time.monotonic() - self.spoken
        if loss is None:
            return
        self.work.bar.set_postfix(loss=f"{loss:.3g}")
        if self.work.bar.disable and self.shown and state.is_world_process_zero and seconds > 30:
            self.spoken = time.monotonic()
            _logger.info("Step %d of %d: loss %.3g", state.global_step, state.max_steps, loss)


def _to_tensorboard(args: TrainingArguments, name: str, drawing: str, step: int) -> None:
    from torch.utils.tensorboard import SummaryWriter

    root = os.environ.get("TENSORBOARD_LOGGING_DIR") or Path(str(args.output_dir)) / "runs"
    with SummaryWriter(str(Path(root) / name)) as writer:
        writer.add_text(name, drawing, step)


# the run of the others is the one that transformers' own callback has begun


def _to_trackio(args: TrainingArguments, name: str, drawing: str, step: int) -> None:
    import trackio

    trackio.log({name: trackio.Markdown(drawing), "train/global_step": step})


def _to_wandb(args: TrainingArguments, name: str, drawing: str, step: int) -> None:
    import wandb

    page = wandb.Html(f"<pre>{escape(drawing)}</pre>", inject=False)
    wandb.log({name: page, "train/global_step": step})


def _to_mlflow(args: TrainingArguments, name: str, drawing: str, step: int) -> None:
    import mlflow

    mlflow.log_text(drawing, f"{name}/{step:06d}.md")


TRACKERS: Mapping[str, Callable[[TrainingArguments, str, str, int], None]] = {
    "tensorboard": _to_tensorboard,
    "trackio": _to_trackio,
    "wandb": _to_wandb,
    "mlflow": _to_mlflow,
}
"""Name in `report_to` to the function that hands it a named Markdown text at a training step."""


# --- What follows a training: the head is fitted anew, and refined by texts without labels.


SETTINGS = ("encoder_kept", "refit_head", "unlabelled")
VERSIONS = 8  # of each text with word dropout


class FinishClassifier(TrainerCallback):
    """Changes the classifier at the end of a training (`encoder_kept`, `refit_head`, `unlabelled`).

    Checkpoints are from before it, so that they can go on.
    """

    def __init__(self, trainer: Any) -> None:
        config, model = trainer.args, trainer.model
        asked = [name for name in SETTINGS if getattr(config, name)]
        sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
        refit.check_refinable(model, asked[0], sharded=sharded)
        if asked[0] != "unlabelled" and hasattr(model, "peft_config"):
            raise ConfigError(
                f"`{asked[0]}` takes the encoder back towards its start, and adapters leave it there; use "
                "one of the two."
            )
        self.trainer = trainer
        self.texts = load_texts(config.unlabelled) if config.unlabelled else []
        self.start = refit.encoder_weights(model)

    @classmethod
    def is_asked(cls, settings: Any) -> bool:
        """Whether some setting needs it."""
        return any(getattr(settings, name, None) for name in SETTINGS)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Change the trained, or the best, weights."""
        model, tokenizer, config = kwargs["model"], kwargs["processing_class"], self.trainer.args
        default = refit.KEPT_TO_REFIT if config.refit_head else refit.KEPT_TO_REFINE if self.texts else 1.0
        refit.average_encoder(model, self.start, config.encoder_kept or default)
        if config.refit_head:
            refit.refit_head(model, *self.known_texts(model, tokenizer))
        refit.refine_head(model, tokenizer, self.texts)

    def known_texts(self, model: Any, tokenizer: PreTrainedTokenizerBase) -> tuple[Tensor, ...]:
        """Embeddings, labels and weights of the training texts and of the label names that the head is told.

        With word dropout each text counts as several versions of it, as training read them.
        """
        trainer, config = self.trainer, self.trainer.args
        data = trainer._remove_unused_columns(trainer.train_dataset, "training")
        found = []
        with torch.no_grad(), evaluation_mode(model):
            for batch in DataLoader(data, config.eval_batch_size, collate_fn=trainer.data_collator):
                inputs, prior = take_priors(trainer._prepare_inputs(batch))
                labels = inputs.pop(LABELS)
                weights = inputs.pop(EXAMPLE_WEIGHT, torch.ones(len(labels)))
                drops = prior is not None and trainer.alignment.word_dropout
                for version in range(VERSIONS if drops else 1):
                    read = trainer.leave_words_out(inputs, prior, version) if drops else inputs
                    part = weights / (VERSIONS if drops else 1)
                    found.append([one.float().cpu() for one in (model.embed(**read), labels, part)])
        if phrases := head_phrases(class_names(model.config), config):
            embeddings = text_embeddings(model, tokenizer, phrases)
            found.append([embeddings, torch.arange(len(phrases)), torch.ones(len(phrases))])
        embeddings, labels, weights = (torch.cat(parts) for parts in zip(*found, strict=True))
        return embeddings, labels.long(), weights
