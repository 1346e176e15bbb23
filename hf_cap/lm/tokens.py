"""Tokens of prompts and answers, the same however the work is later divided.

The tokens of a query are those of the whole prompt (`prefix + body`, one beginning-of-text token in
front where the tokenizer puts one) followed by those of the answer, tokenised as a continuation.
"""

import hashlib
import re
from contextlib import suppress
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import Any, NamedTuple

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from hf_cap.errors import ExtractError, ModelError
from hf_cap.lm.base import MARK, split_tokens

_ANCHORS = ("\n", ":", "")
"""Texts an answer is tokenised behind, so that it counts as a continuation: tokenizers with a dummy
space in front of every text (SentencePiece) would otherwise put one in front of the answer."""
_SLOT = "hfcapslot"
FIXED_DATE = "26 Jul 2024"
"""The `date_string` of `apply_chat_template`: what Llama 3.1 writes as today's date where it is told none,
so that a prompt is the same on every day."""
_PROBES = ("", "a", " a", "\n", "\n\na", "  a", ".", "'s", "7", "ー", "\u0301", "é", "🙂", "<")
"""Beginnings of a body that could fuse with the end of a prefix."""


class AnswerTokens(NamedTuple):
    """Tokens of an answer and the character of the answer at which each starts."""

    ids: tuple[int, ...]
    starts: tuple[int, ...]


class PrefixTokens(NamedTuple):
    """Tokens that no body can change, and the character of the prefix at which the rest begins."""

    ids: tuple[int, ...]
    cut: int | None  # None where there is none: the whole prompt is then tokenised at once


class PromptTokenizer:
    """Tokenises prompts and answers with `tokenizer`."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._beginning = self._find_beginning()
        self.answer = lru_cache(maxsize=65536)(self._answer)
        self.prefix = lru_cache(maxsize=256)(self._prefix)

    def body(self, prefix: str, body: str) -> tuple[int, ...]:
        """Tokens of the prompt `prefix + body` that follow `self.prefix(prefix).ids`."""
        cut = self.prefix(prefix).cut
        return self.prompt(prefix + body) if cut is None else self.plain(prefix[cut:] + body)

    def prompt(self, text: str) -> tuple[int, ...]:
        """Tokens of a whole prompt; a beginning-of-text token already in the text is not doubled."""
        ids = self.plain(text)
        size = len(self._beginning)
        return ids if ids[:size] == self._beginning else self._beginning + ids

    def plain(self, text: str) -> tuple[int, ...]:
        """Tokens of a text alone, without special tokens around it."""
        return tuple(id for part in text.split(MARK) for id in self._encode(part)["input_ids"])

    def spans(self, text: str) -> list[tuple[int, int]]:
        """First and last character of each token of `plain(text)`, not counting marks."""
        spans: list[tuple[int, int]] = []
        before = 0
        for part in text.split(MARK):
            found = self._encode(part, return_offsets_mapping=True)["offset_mapping"]
            spans += [(start + before, end + before) for start, end in found]
            before += len(part)
        return spans

    def as_data(self, text: str) -> str:
        """`text` with marks, so that the control tokens it spells out are read as text."""
        return split_tokens(text, self._control)

    @cached_property
    def _control(self) -> re.Pattern[str]:
        """First character of each special token, and of each added one that the chat template writes."""
        template = str(self.tokenizer.chat_template)
        names = [
            re.escape(token.content)
            for token in self.tokenizer.added_tokens_decoder.values()
            if len(token.content.strip()) > 1 and (token.special or token.content in template)
        ]
        return re.compile(f"(?={'|'.join(names)})." if names else "(?!)", re.DOTALL)

    def chat_prompt(self, user: str) -> str | None:
        """`user` as the user's turn, up to where the answer begins; `None` without a chat template."""
        if not self.tokenizer.chat_template:
            return None
        return self._rendered([{"role": "user", "content": user}], add_generation_prompt=True)

    @cached_property
    def end_of_turn(self) -> str | None:
        """What the chat template puts behind the model's answer; `None` where it takes or ends none."""
        turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _SLOT}]
        with suppress(TemplateError):
            if self.tokenizer.chat_template:
                return self._rendered(turns).rpartition(_SLOT)[2].strip() or None
        return None

    def _rendered(self, turns: list[dict[str, str]], **options: Any) -> str:
        dated = {"tokenize": False, "date_string": FIXED_DATE, **options}
        return str(self.tokenizer.apply_chat_template(turns, **dated))

    def _prefix(self, prefix: str) -> PrefixTokens:
        """Split a prefix at the last token boundary that holds whatever probe follows."""
        if not prefix or not self.tokenizer.is_fast:
            return PrefixTokens((), None)
        joint = {probe: self.prompt(prefix + probe) for probe in _PROBES}
        tail = max(0, len(prefix) - 200)
        starts = {start for start, _ in self.spans(prefix[tail:])}
        for start in sorted(starts, reverse=True)[:16]:
            ids, rest = self.prompt(prefix[: tail + start]), prefix[tail + start :]
            if start and all(ids + self.plain(rest + p) == whole for p, whole in joint.items()):
                return PrefixTokens(ids, tail + start)
        return PrefixTokens((), None)

    def _answer(self, answer: str) -> AnswerTokens:
        for anchor in _ANCHORS:
            before, whole = self.plain(anchor), self.plain(anchor + answer)
            if len(whole) > len(before) and whole[: len(before)] == before:
                ids = whole[len(before) :]
                return AnswerTokens(ids, self._starts(anchor, answer, ids))
        raise ExtractError(f"The answer {answer!r} has no tokens; use another label.")

    def _starts(self, anchor: str, answer: str, ids: tuple[int, ...]) -> tuple[int, ...]:
        if self.tokenizer.is_fast:
            spans = self.spans(anchor + answer)[-len(ids) :]
            starts = [start - len(anchor) for start, _ in spans]
        else:  # no offsets: where the text decoded so far ends
            starts = [len(str(self.tokenizer.decode(list(ids[:end])))) for end in range(len(ids))]
        return tuple(accumulate((min(max(start, 0), len(answer)) for start in starts), max))

    def _encode(self, text: str, **options: Any) -> Any:
        # verbose=False: a prompt longer than the tokenizer's own limit is our business, not its warning's
        return self.tokenizer(text, add_special_tokens=False, verbose=False, **options)

    def _find_beginning(self) -> tuple[int, ...]:
        plain = self.plain("a")
        special = tuple(self.tokenizer("a")["input_ids"])
        for start in range(len(special) - len(plain) + 1):
            if special[start : start + len(plain)] == plain:
                return special[:start]
        raise ModelError(
            f"{self.tokenizer.name_or_path!r} writes 'a' as {list(special)} with and {list(plain)} without "
            "special tokens: no telling which are special. Use another tokenizer."
        )


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash over vocabulary and rules."""
    if tokenizer.is_fast:
        text = tokenizer.backend_tokenizer.to_str()
    else:
        text = repr(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
