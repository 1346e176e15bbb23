"""Heat maps of a few texts while training, for TensorBoard and trackio."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import TrainerCallback, TrainingArguments

from hf_cap.attribution import attribute_words
from hf_cap.cards import heat_map
from hf_cap.data import label_ids, label_names
from hf_cap.errors import ConfigError
from hf_cap.schema import LABEL, PRIOR, TEXT, check_prior
from hf_cap.training.options import AlignmentOptions
from hf_cap.utils import printable, subsample
from hf_cap.words import word_strings

NAME = "heat_maps"
_STEPS = 20


class HeatMapCallback(TrainerCallback):
    """Draws the word attributions of a few texts at the start and after each epoch, beside their priors.

    The drawing is plain text with a bar below each word. It goes to each of TensorBoard and trackio that
    `report_to` names, except where FSDP or DeepSpeed spreads the weights. Training is the same without it.

    Args:
        dataset: Texts with `text`, a `ClassLabel` column `label`, and perhaps priors.
        count: At most so many of its rows are drawn, evenly spread; at least 1.

    Raises:
        ConfigError: `count` is below 1.
        DataError: `label` is no `ClassLabel`, or (when training begins) the model has other labels.
        PriorError: (when training begins) a prior does not have one finite score per word.
    """

    def __init__(self, dataset: Dataset, count: int = 4) -> None:
        if count < 1:
            raise ConfigError(f"`count` must be at least 1, got {count!r}.")
        self.rows = dataset.select(subsample(range(len(dataset)), count))
        self.names = label_names(self.rows)

    def on_epoch_end(
        self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any
    ) -> None:
        """Draw the model as it is."""
        trackers = [write for name, write in TRACKERS.items() if name in (args.report_to or ())]
        spread = args.fsdp or args.deepspeed
        if trackers and not spread and state.is_world_process_zero:
            options = args if isinstance(args, AlignmentOptions) else None
            drawing = self.draw(kwargs["model"], kwargs["processing_class"], options)
            for write in trackers:
                write(args, drawing, state.global_step)

    on_train_begin = on_epoch_end

    def draw(self, model: Any, tokenizer: Any, options: AlignmentOptions | None = None) -> str:
        """The heat maps as Markdown: an indented block, which no text can break out of."""
        options = options or AlignmentOptions()
        rows, column, pattern = self.rows, options.prior_column or PRIOR, options.word_pattern
        index = label_ids(rows, model.config.label2id or {})
        scores = attribute_words(
            model,
            tokenizer,
            list(rows[TEXT]),
            [index[label] for label in rows[LABEL]],
            steps=_STEPS,
            word_pattern=pattern,
            max_length=options.max_length,
        )
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
