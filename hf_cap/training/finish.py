"""What follows a training: the head is fitted to few texts anew, and refined by texts without labels."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase, TrainerCallback

from hf_cap.classifiers import evaluation_mode, text_embeddings
from hf_cap.data import load_texts
from hf_cap.errors import ConfigError
from hf_cap.labels import class_names, head_phrases
from hf_cap.refit import (
    KEPT_TO_REFINE,
    KEPT_TO_REFIT,
    average_encoder,
    check_refinable,
    encoder_weights,
    refine_head,
    refit_head,
)
from hf_cap.training.collator import LABELS, take_priors
from hf_cap.training.examples import EXAMPLE_WEIGHT

SETTINGS = ("encoder_kept", "refit_head", "unlabelled")
VERSIONS = 8
"""Of each text with word dropout."""


class FinishClassifier(TrainerCallback):
    """Changes the classifier at the end of a training (`encoder_kept`, `refit_head`, `unlabelled`).

    Checkpoints are from before it, so that they can go on.

    Raises:
        ConfigError: the classifier cannot be changed like that.
        DataError: there are no unlabelled texts where the settings say.
    """

    def __init__(self, trainer: Any) -> None:
        config, model = trainer.args, trainer.model
        asked = [name for name in SETTINGS if getattr(config, name)]
        sharded = trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled
        check_refinable(model, asked[0], sharded=sharded)
        if asked[0] != "unlabelled" and hasattr(model, "peft_config"):
            raise ConfigError(
                f"`{asked[0]}` takes the encoder back towards its start, and adapters leave it there; use "
                "one of the two."
            )
        self.trainer = trainer
        self.texts = load_texts(config.unlabelled) if config.unlabelled else []
        self.start = encoder_weights(model)

    @classmethod
    def is_asked(cls, settings: Any) -> bool:
        """Whether some setting needs it."""
        return any(getattr(settings, name, None) for name in SETTINGS)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Change the trained, or the best, weights."""
        model, tokenizer, config = kwargs["model"], kwargs["processing_class"], self.trainer.args
        default = KEPT_TO_REFIT if config.refit_head else KEPT_TO_REFINE if self.texts else 1.0
        average_encoder(model, self.start, config.encoder_kept or default)
        if config.refit_head:
            refit_head(model, *self.known_texts(model, tokenizer))
        refine_head(model, tokenizer, self.texts)

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
