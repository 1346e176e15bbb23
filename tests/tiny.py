"""Tiny models and tokenizers, built in code: no test of the unit suite needs a network."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import (
    BertConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
)
from transformers.modeling_outputs import SequenceClassifierOutput

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content']"
    " + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
WORDS = (
    "a the my is it i please card book loan lost stolen renew cancel pay fine late account open "
    "close where when how want need help with for not new old lend return hold"
).split()


def word_tokenizer(words: Sequence[str] = WORDS) -> PreTrainedTokenizerFast:
    """A RoBERTa-like tokenizer: `<s> ... </s>`, whole words and punctuation, unknown words `<unk>`."""
    vocabulary = {w: i for i, w in enumerate(["<s>", "<pad>", "</s>", "<unk>", "<mask>", *words])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", cls_token="<s>", sep_token="</s>",
        pad_token="<pad>", unk_token="<unk>", mask_token="<mask>", model_max_length=64,
    )  # fmt: skip


def byte_tokenizer(*, chat: bool = True, turn: str = "im") -> PreTrainedTokenizerFast:
    """A GPT-2-like byte-level tokenizer without merges (one token a byte), with a chat template.

    `turn` is in the names of the tokens around a turn.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    start, end = f"<|{turn}_start|>", f"<|{turn}_end|>"
    specials = ["<|endoftext|>", start, end, "<|pad|>"]
    vocabulary = {token: index for index, token in enumerate([*specials, *alphabet])}
    core = Tokenizer(models.BPE(vocabulary, [], unk_token=None))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=start, eos_token=end, pad_token="<|pad|>",
        additional_special_tokens=["<|endoftext|>"], model_max_length=4096,
    )  # fmt: skip
    if chat:
        tokenizer.chat_template = CHAT_TEMPLATE.replace("|im_", f"|{turn}_")
    return tokenizer


def roberta_classifier(
    labels: int = 3, *, layers: int = 2, seed: int = 0, vocabulary: int = 64, **config: Any
) -> PreTrainedModel:
    """A randomly initialised RoBERTa classifier of width 16 without dropout."""
    torch.manual_seed(seed)
    settings: dict[str, Any] = {
        "vocab_size": vocabulary, "hidden_size": 16, "num_hidden_layers": layers, "num_attention_heads": 2,
        "intermediate_size": 32, "max_position_embeddings": 80, "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0, "initializer_range": 0.2, "pad_token_id": 1, "bos_token_id": 0,
        "eos_token_id": 2, "num_labels": labels, **config,
    }  # fmt: skip
    model: PreTrainedModel = RobertaForSequenceClassification(RobertaConfig(**settings))
    model.train(False)
    return model


class WordSum(PreTrainedModel):
    """A classifier whose logits are the sum of those of its words; `<pad>`, and all others, have none."""

    config_class = BertConfig

    def __init__(self, tokenizer: Any, logits: Mapping[str, Sequence[float]]) -> None:
        count = len(next(iter(logits.values())))
        config: dict[str, Any] = {"num_labels": count, "pad_token_id": tokenizer.pad_token_id}
        super().__init__(BertConfig(**config))
        self.words = nn.Embedding(len(tokenizer), count)
        with torch.no_grad():
            self.words.weight.zero_()
            for word, values in logits.items():
                self.words.weight[tokenizer.get_vocab()[word]] = torch.tensor(values)

    def get_input_embeddings(self) -> nn.Module:
        return self.words

    def forward(self, input_ids: Tensor, **inputs: Any) -> SequenceClassifierOutput:
        return SequenceClassifierOutput(logits=self.words(input_ids).sum(1))


def llama(*, layers: int = 2, seed: int = 0, vocabulary: int = 260, **config: Any) -> PreTrainedModel:
    """A randomly initialised Llama language model of width 32 for `byte_tokenizer`."""
    torch.manual_seed(seed)
    settings: dict[str, Any] = {
        "vocab_size": vocabulary, "hidden_size": 32, "num_hidden_layers": layers, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 64, "max_position_embeddings": 4096,
        "initializer_range": 0.2, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3, **config,
    }  # fmt: skip
    model: PreTrainedModel = LlamaForCausalLM(LlamaConfig(**settings))
    model.train(False)
    return model


def save(model: Any, folder: Path | str) -> str:
    """A model in a folder, which is returned, beside the tokenizer of its kind."""
    model.save_pretrained(folder)
    tokenizer = byte_tokenizer() if isinstance(model, LlamaForCausalLM) else word_tokenizer()
    tokenizer.save_pretrained(folder)
    return str(folder)
