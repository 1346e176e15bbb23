"""Tokens of prompts cut in two equal those of the prompt in one piece, for every kind of tokenizer."""

from typing import Any, cast

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from hf_cap.errors import ExtractError, ModelError
from hf_cap.lm.tokens import PromptTokenizer
from tests.lm.queries import ANSWERS, PREFIXES, TEXTS
from tests.tiny import CHAT_TEMPLATE, byte_tokenizer

MERGES = [("c", "a"), ("ca", "r"), ("car", "d"), ("Ġ", "card"), ("e", ":"), (":", "Ġ"), ("s", "s")]


def byte_level(*, bos: bool = False, space: bool = False, split: bool = True) -> PreTrainedTokenizerFast:
    """Byte-level BPE with merges; without `split` merges cross words, so that few boundaries are stable."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = ["<s>", *alphabet, *("".join(pair) for pair in MERGES)]
    core = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, MERGES))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=space, use_regex=split)
    if bos:
        core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>")


def sentencepiece_like() -> PreTrainedTokenizerFast:
    """A dummy space in front of every text, as Llama 2 and Gemma 1 have it."""
    letters = sorted({c for text in (*PREFIXES, *TEXTS, *ANSWERS) for c in text} | set("a7'.<ー\u0301▁:"))
    vocabulary = {t: i for i, t in enumerate(["<s>", "<unk>", *letters, "▁card"])}
    core = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", unk_token="<unk>")


TOKENIZERS = {
    "bytes": byte_tokenizer(), "merges": byte_level(), "bos": byte_level(bos=True),
    "space": byte_level(space=True), "unsplit": byte_level(split=False),
    "sentencepiece": sentencepiece_like(),
}  # fmt: skip


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_cut_prompt_has_the_tokens_of_the_whole(name: str) -> None:
    tokens = PromptTokenizer(TOKENIZERS[name])
    for prefix in PREFIXES:
        for body in (*TEXTS, " card", "s", "card", ":"):
            if prefix + body:
                whole = tuple(TOKENIZERS[name](prefix + body)["input_ids"])
                assert tokens.prefix(prefix).ids + tokens.body(prefix, body) == whole


def test_a_stable_cut_is_found_where_there_is_one_and_only_there() -> None:
    prefix = PREFIXES[0]
    cut = PromptTokenizer(TOKENIZERS["merges"]).prefix(prefix).cut
    assert cut is not None
    assert cut > len(prefix) - 20
    # a dummy space in front of the second part would be a token of its own, unless a space is there
    dummy = PromptTokenizer(TOKENIZERS["sentencepiece"])
    assert prefix[dummy.prefix(prefix).cut :] == " "
    assert dummy.prefix("card:card").cut is None
    assert PromptTokenizer(TOKENIZERS["merges"]).prefix("").cut is None


def test_the_beginning_of_text_comes_exactly_once() -> None:
    tokens = PromptTokenizer(TOKENIZERS["bos"])
    assert tokens.prompt("<s>card") == tokens.prompt("card")
    assert tokens.prompt("card").count(0) == 1


def test_an_answer_is_a_continuation() -> None:
    tokens = PromptTokenizer(TOKENIZERS["sentencepiece"])
    vocabulary = TOKENIZERS["sentencepiece"].get_vocab()
    assert tokens.answer("x").ids == (vocabulary["x"],)  # no dummy space in front of it
    assert tokens.answer(" x").ids == (vocabulary["▁"], vocabulary["x"])
    merged = PromptTokenizer(TOKENIZERS["merges"]).answer(" card is")
    assert merged.starts[:2] == (0, 5)
    with pytest.raises(ExtractError, match="no tokens"):
        tokens.answer("")


def test_a_tokenizer_that_hides_its_specials_is_refused() -> None:
    class Odd:
        name_or_path = "odd"

        def __call__(self, text: str, *, add_special_tokens: bool = True, **_: object) -> Any:
            return {"input_ids": [1] if add_special_tokens else [2]}

    with pytest.raises(ModelError, match="no telling which are special"):
        PromptTokenizer(cast(PreTrainedTokenizerFast, Odd()))


@pytest.mark.parametrize(
    ("template", "end"),
    [
        (CHAT_TEMPLATE, "<|im_end|>"),
        ("{% for m in messages %}{{ m.content }}\n{% endfor %}", None),
        ("{% if messages[1] %}{{ raise_exception('no') }}{% endif %}", None),
        (None, None),
    ],
)
def test_the_end_of_an_answer_is_that_of_the_chat_template(template: str | None, end: str | None) -> None:
    tokenizer = byte_tokenizer(chat=False)
    tokenizer.chat_template = template
    assert PromptTokenizer(tokenizer).end_of_turn == end


def test_a_prompt_does_not_depend_on_the_day() -> None:
    tokenizer = byte_tokenizer(chat=False)
    # as Llama 3.2 has it
    tokenizer.chat_template = (
        "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
        "Today: {{ date_string }}. {{ messages[0].content }}"
    )
    rendered = PromptTokenizer(tokenizer).chat_prompt("hi")
    assert rendered == "Today: 26 Jul 2024. hi"
