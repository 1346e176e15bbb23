"""Rows, classifiers of every family and trainers that the tests of this room share."""

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    T5Config,
    T5EncoderModel,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from hf_cap.attribution import TextBatch
from hf_cap.sentence_encoder import CONFIG_ENTRY, SentenceEncoderClassifier
from hf_cap.training.collator import CAPCollator, Priors, encode_dataset, take_priors
from hf_cap.training.config import CAPConfig
from hf_cap.training.sparse_tuning import ImportanceCallback
from hf_cap.training.trainer import CAPTrainer
from tests.tiny import WORDS, roberta_classifier, word_tokenizer

LABEL2ID = {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}


def raw_rows(count: int = 16, seed: int = 0, *, without: int = 5) -> Dataset:
    """Random texts of 2 to 9 words; every `without`-th has no prior."""
    rng = random.Random(seed)
    rows = []
    for index in range(count):
        words = [rng.choice(WORDS) for _ in range(rng.randint(2, 9))]
        prior = None if index % without == 0 else [rng.uniform(-0.3, 1) for _ in words]
        rows.append({"text": " ".join(words), "label": index % 3, "prior": prior})
    return Dataset.from_list(rows)


def batch_of(rows: Dataset, *, padding_side: str = "right") -> tuple[dict[str, Tensor], Priors]:
    """The classifier's inputs and the priors of one batch."""
    tokenizer = word_tokenizer()
    tokenizer.padding_side = padding_side
    encoded = encode_dataset(rows, tokenizer, LABEL2ID)
    inputs, priors = take_priors(CAPCollator(tokenizer)(list(encoded)))
    assert priors is not None
    return inputs, priors


def text_batch(padding_side: str = "right") -> tuple[TextBatch, Priors]:
    """A batch with a prior for each text."""
    inputs, priors = batch_of(raw_rows(5, seed=3, without=100).skip(1), padding_side=padding_side)
    labels = inputs.pop("labels")
    return TextBatch(inputs, labels, priors.token_words), priors


_SMALL = {
    "vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 32, "max_position_embeddings": 80, "initializer_range": 0.2, "pad_token_id": 1,
    "bos_token_id": 0, "eos_token_id": 2, "cls_token_id": 0, "sep_token_id": 2, "num_labels": 3,
}  # fmt: skip
_ENCODER = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
FAMILIES: dict[str, dict[str, Any]] = {
    "bert": _ENCODER,
    "sentence": {**_ENCODER, CONFIG_ENTRY: {"pooling": "mean"}},
    "roberta": _ENCODER,
    "xlm-roberta": _ENCODER,
    "electra": {**_ENCODER, "embedding_size": 8},
    "albert": {**_ENCODER, "embedding_size": 8, "classifier_dropout_prob": 0.0},
    "deberta-v2": {**_ENCODER, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    "distilbert": {
        "dim": 16, "hidden_dim": 32, "n_layers": 2, "n_heads": 2,
        "dropout": 0.0, "attention_dropout": 0.0, "seq_classif_dropout": 0.0,
    },
    "modernbert": {"global_attn_every_n_layers": 2, "local_attention": 8},
    "gpt2": {
        "n_embd": 16, "n_layer": 2, "n_head": 2,
        "embd_pdrop": 0.0, "attn_pdrop": 0.0, "resid_pdrop": 0.0,
    },
    "llama": {"num_key_value_heads": 1},
    "qwen2": {"num_key_value_heads": 1},
    "bart": {
        "d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
        "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "init_std": 0.2,
        "dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0, "classifier_dropout": 0.0,
        "decoder_start_token_id": 2,
    },
    "t5": {
        "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 2,
        "dropout_rate": 0.0, "classifier_dropout": 0.0, "initializer_factor": 1.0,
        "feed_forward_proj": "gated-gelu", "decoder_start_token_id": 1,
    },
}  # fmt: skip
ENCODER_EMBEDDINGS = {
    "t5-encoder": "encoder.encoder.embed_tokens",
    "t5": "transformer.encoder.embed_tokens",
    "bart": "model.encoder.embed_tokens",
}
"""Layers that read the shared table for an encoder; a decoder reads it through a layer of its own."""


class EncoderHead(nn.Module):
    """A classification head of our own on an encoder without one: the mean over the tokens."""

    def __init__(self, encoder: PreTrainedModel, labels: int = 3) -> None:
        super().__init__()
        self.encoder, self.config = encoder, encoder.config
        self.head = nn.Linear(encoder.config.hidden_size, labels)

    def get_input_embeddings(self) -> nn.Module:
        embeddings: nn.Module = self.encoder.get_input_embeddings()
        return embeddings

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None
    ) -> SequenceClassifierOutput:
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask[..., None]
        logits = self.head((hidden * mask).sum(1) / mask.sum(1))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


def family(name: str, *, feed_forward: str = "gated-gelu") -> nn.Module:
    """A tiny random classifier without dropout; T5 is by default that of version 1.1."""
    torch.manual_seed(0)
    if name == "t5-encoder":
        config = T5Config(
            vocab_size=64, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, dropout_rate=0.0,
            initializer_factor=1.0, feed_forward_proj=feed_forward, pad_token_id=1,
        )  # fmt: skip
        return EncoderHead(T5EncoderModel(config)).eval()
    kind = "bert" if name == "sentence" else name
    settings = AutoConfig.for_model(kind, **{**_SMALL, **FAMILIES[name]})
    if name == "sentence":
        model: nn.Module = SentenceEncoderClassifier(settings)
        return model.eval()
    model = AutoModelForSequenceClassification.from_config(settings)
    return model.eval()


def config(folder: Path, **settings: Any) -> CAPConfig:
    """Plain SGD without clipping, so that equal gradients mean equal weights and unequal ones do not."""
    return CAPConfig(
        **{
            "output_dir": str(folder), "use_cpu": True, "optim": "sgd", "learning_rate": 0.5,
            "max_grad_norm": 0.0, "lr_scheduler_type": "constant", "per_device_train_batch_size": 4,
            "max_steps": 4, "alignment_weight": 0.5, "report_to": "none", "disable_tqdm": True,
            "save_strategy": "no", "logging_strategy": "no", **settings,
        }
    )  # fmt: skip


OF_THE_TRAINER = ("alignment_loss_func", "compute_loss_func", "compute_metrics", "peft_config")


def trainer(
    folder: Path,
    *,
    model: Callable[[], nn.Module] = roberta_classifier,
    rows: Dataset | None = None,
    evaluated: Mapping[str, Dataset] | None = None,
    **settings: Any,
) -> CAPTrainer:
    """A trainer of a tiny classifier on the random rows; a column `weight`, where asked for, is 0 to 3."""
    data = raw_rows() if rows is None else rows
    if settings.get("example_weight_column") == "weight":
        data = data.add_column("weight", [row % 4 for row in range(len(data))])
    functions = {name: settings.pop(name, None) for name in OF_THE_TRAINER}
    return CAPTrainer(
        model=model(), args=config(folder, **settings), train_dataset=data, processing_class=word_tokenizer(),
        eval_dataset=evaluated or data, **functions,
    )  # fmt: skip


def sparse_trainer(folder: Path, **settings: Any) -> CAPTrainer:
    """A trainer of LoRA adapters, of which each step trains one layer's."""
    from peft import LoraConfig

    adapters = LoraConfig(r=2, target_modules=["query", "value"], task_type="SEQ_CLS")
    subject = trainer(folder, model=exact_classifier, peft_config=adapters, **settings)
    data, collator = subject.train_dataset, subject.data_collator
    subject.add_callback(ImportanceCallback(data, collator, every=1, rows=4))
    return subject


def exact_classifier(kind: str = "roberta") -> nn.Module:
    """A tiny classifier in float64, where equal computations in another order differ by 1e-13 or less.

    In float32 they differ by up to 1e-3 (finite differences divide rounding by a small step), and on each
    processor by another amount.
    """
    return family(kind).double() if kind != "roberta" else roberta_classifier().double()


def summed_loss(outputs: Any, labels: Tensor, num_items_in_batch: Tensor) -> Tensor:
    """A task loss that is itself divided by the number of examples of all micro-batches and processes."""
    total = nn.functional.cross_entropy(outputs["logits"], labels, reduction="sum")
    return total / num_items_in_batch


def absolute(attribution: Tensor, prior: Tensor, mask: Tensor) -> Tensor:
    """A distance of one's own."""
    return ((attribution - prior).abs() * mask).sum(-1)


def weights(model: nn.Module) -> dict[str, Tensor]:
    """A copy of a model's weights."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def farthest(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Largest difference between two sets of weights."""
    assert one.keys() == other.keys()
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)


def moved(subject: CAPTrainer) -> Tensor:
    """How training moves the weights of the tiny classifier, as one vector."""
    start = weights(roberta_classifier())
    subject.train()
    end = weights(subject.model)
    return torch.cat([(end[name].cpu() - start[name]).flatten() for name in start])
