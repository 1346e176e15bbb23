"""Heat maps of a few texts while training, for TensorBoard and trackio."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import TrainerCallback, TrainingArguments

from hf_cap.attribution import attribute_words
from hf_cap.cards import heat_map, printable
from hf_cap.classifiers import longest_input
from hf_cap.data import label_names
from hf_cap.errors import ConfigError
from hf_cap.schema import LABEL, PRIOR, TEXT, check_prior
from hf_cap.training.collator import label_ids
from hf_cap.utils import subsample
from hf_cap.words import WORD_PATTERN, word_strings

NAME = "heat_maps"
_STEPS = 20


class HeatMapCallback(TrainerCallback):
    """Draws the word attributions of a few texts at the start and after each epoch, beside their priors.

    The drawing is plain text with a bar below each word. It goes to each of TensorBoard and trackio that
    `report_to` names; without them the callback does nothing. Training is the same with and without it.

    Args:
        dataset: Texts with `text`, a `ClassLabel` column `label`, and perhaps priors.
        count: At most so many of its rows are drawn, evenly spread; at least 1.
        word_pattern: Regular expression of a word; the one that the priors were made with.
        prior_column: Column that holds the priors.
        max_length: Tokens that a text is cut at; the model's own limit by default.

    Raises:
        ConfigError: `count` is below 1, or (when training begins) the model's weights are spread over
            processes.
        DataError: `label` is no `ClassLabel`, or (when training begins) the model has other labels.
        PriorError: a prior does not have one finite score per word.
    """

    def __init__(
        self,
        dataset: Dataset,
        count: int = 4,
        *,
        word_pattern: str = WORD_PATTERN,
        prior_column: str | None = None,
        max_length: int | None = None,
    ) -> None:
        if count < 1:
            raise ConfigError(f"`count` must be at least 1, got {count!r}.")
        column = prior_column or PRIOR
        self.rows = dataset.select(subsample(range(len(dataset)), count))
        self.word_pattern, self.max_length = word_pattern, max_length
        self.names = label_names(self.rows)
        self.words = [word_strings(text, word_pattern) for text in self.rows[TEXT]]
        has_priors = column in self.rows.column_names
        self.priors = self.rows[column][:] if has_priors else [None] * len(self.rows)
        for row, (words, prior) in enumerate(zip(self.words, self.priors, strict=True)):
            check_prior(prior, words, column=column, row=row)

    def on_train_begin(self, args: TrainingArguments, *rest: Any, **kwargs: Any) -> None:
        """Check that the model is whole, and draw it untrained."""
        if args.fsdp or args.deepspeed:
            raise ConfigError(
                "HeatMapCallback explains the model in one process, but FSDP or DeepSpeed spreads its "
                "weights over all; leave the callback out."
            )
        self.on_epoch_end(args, *rest, **kwargs)

    def on_epoch_end(
        self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any
    ) -> None:
        """Draw the model as it is."""
        trackers = [write for name, write in TRACKERS.items() if name in (args.report_to or ())]
        if trackers and state.is_world_process_zero:
            drawing = self.draw(kwargs["model"], kwargs["processing_class"])
            for write in trackers:
                write(args, drawing, state.global_step)

    def draw(self, model: Any, tokenizer: Any) -> str:
        """The heat maps as Markdown: an indented block, which no text can break out of."""
        index = label_ids(self.rows, model.config.label2id or {})
        scores = attribute_words(
            model,
            tokenizer,
            list(self.rows[TEXT]),
            [index[label] for label in self.rows[LABEL]],
            steps=_STEPS,
            word_pattern=self.word_pattern,
            max_length=self.max_length or longest_input(model, tokenizer),
        )
        lines: list[str] = []
        labels = [printable(self.names[label]) for label in self.rows[LABEL]]
        rows = zip(labels, self.words, scores, self.priors, strict=True)
        for label, words, row, prior in rows:
            lines += [f"{label}, model:", *heat_map(words, row).splitlines()]
            if prior is not None:
                lines += [f"{label}, prior:", *heat_map(words, prior).splitlines()]
            lines.append("")
        return "\n".join("    " + line for line in lines)


def _to_tensorboard(args: TrainingArguments, drawing: str, step: int) -> None:
    from torch.utils.tensorboard import SummaryWriter

    root = os.environ.get("TENSORBOARD_LOGGING_DIR") or Path(str(args.output_dir)) / "runs"
    with SummaryWriter(str(Path(root) / NAME)) as writer:
        writer.add_text(NAME, drawing, step)


def _to_trackio(args: TrainingArguments, drawing: str, step: int) -> None:
    import trackio

    # the run is the one that transformers' own callback has begun
    trackio.log({NAME: trackio.Markdown(drawing), "train/global_step": step})


TRACKERS: Mapping[str, Callable[[TrainingArguments, str, int], None]] = {
    "tensorboard": _to_tensorboard,
    "trackio": _to_trackio,
}
"""Name in `report_to` to the function that hands it a Markdown text at a training step."""
