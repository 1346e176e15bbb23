"""The language model as the rest of hf_cap sees it, its settings, and one made of functions."""

import json
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn, Self, TypeAlias
from urllib.parse import urlsplit

from hf_cap.embedded import LANGUAGE_MODEL, cache_folder
from hf_cap.errors import ConfigError, ExtractError, ModelError
from hf_cap.utils import check_settings, option, settings_class

if TYPE_CHECKING:
    from hf_cap.lm.tokens import PromptTokenizer


MARK = "\ufdd0"
"""Stands in a text where a control token that it spells out is split, and so is read as text. It is a
noncharacter, made for use within a program."""


def split_tokens(text: str, beginnings: re.Pattern[str]) -> str:
    """`text` with a mark behind each match of `beginnings`."""
    return beginnings.sub(r"\g<0>" + MARK, text.replace(MARK, "\ufffd"))


def without_marks(text: str) -> str:
    """`text` as it was before `split_tokens`."""
    return text.replace(MARK, "")


class Query(NamedTuple):
    """How likely is `answer` after the prompt `prefix + body`?"""

    prefix: str  # beginning of the prompt, shared by many queries: it is computed once
    body: str  # rest of the prompt; not both of them are empty
    answer: str  # never empty; begins with a space where one belongs


class Scored(NamedTuple):
    """Log-probability of each token of an answer."""

    log_probs: tuple[float, ...]  # natural, at most 0; per answer token, given all before it
    # character of the answer at which each starts, without marks; non-decreasing
    starts: tuple[int, ...]

    @property
    def total(self) -> float:
        """Of the whole answer, in nats."""
        return sum(self.log_probs)

    @property
    def mean(self) -> float:
        """Per token of the answer, in nats."""
        return self.total / len(self.log_probs)


class Reply(NamedTuple):
    """A generated answer, perhaps empty, and what it cost."""

    text: str
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a reply is sampled; at temperature 0 the most likely token is taken each time."""

    max_new_tokens: int
    temperature: float = 0.0
    seed: int = 0


Constraint: TypeAlias = Callable[[str, bool], bool]
"""Given a text and whether it ends there, whether it is allowed, or may become so by more text."""
OnScore: TypeAlias = Callable[[Query, Scored], object]
OnReply: TypeAlias = Callable[[str, Reply], object]


@dataclass(frozen=True)
class LMStatistics:
    """Running totals of a language model's scoring."""

    queries: int = 0  # asked, repeats included
    stored: int = 0  # answered from the score store
    distinct: int = 0  # different ones that reached the language model
    naive_tokens: int = 0  # to read if every query were a prompt of its own
    tokens_computed: int = 0  # that went through the model
    seconds: float = 0.0  # wall time spent in `log_probs`

    @property
    def tokens_per_second(self) -> float:
        """Tokens computed per second; 0 before the first."""
        return self.tokens_computed / self.seconds if self.seconds else 0.0

    def __add__(self, other: "LMStatistics") -> "LMStatistics":
        return LMStatistics(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __sub__(self, other: "LMStatistics") -> "LMStatistics":
        return LMStatistics(*(getattr(self, f.name) - getattr(other, f.name) for f in fields(self)))


class LanguageModel:
    """A language model that scores answers, generates replies, or both.

    A subclass needs `log_probs` or `generate`; override `fingerprint` where two instances can differ.
    The result for a query or a prompt never depends on the others of a call.
    `Dataset.map` and deep copies treat a model as its fingerprint: it is never pickled.
    """

    statistics: LMStatistics = LMStatistics()
    tokens: "PromptTokenizer | None" = None  # where the model's tokenizer can be had here

    @property
    def fingerprint(self) -> str:
        """Everything that determines an answer: the key of the score store and of `Dataset.map`."""
        return f"{type(self).__module__}.{type(self).__qualname__}"

    def log_probs(self, queries: Sequence[Query], on_result: OnScore | None = None) -> list[Scored]:
        """Score each query, in order.

        Args:
            on_result: Called with each distinct query and its score as soon as it is there, in any
                order and perhaps from another thread.

        Raises:
            ModelError: the model cannot score.
            ExtractError: a score is not finite, or a query does not fit the model.
            ServerError: the server keeps failing.
        """
        raise ModelError(f"{type(self).__name__} gives no log-probabilities.")

    def generate(
        self, prompts: Sequence[str], sampling: Sampling, on_result: OnReply | None = None
    ) -> list[Reply]:
        """Reply to each prompt as a user's turn, in order; `on_result` as for `log_probs`.

        Raises:
            ModelError: the model cannot generate, or has no chat template.
            ServerError: the server keeps failing.
        """
        raise ModelError(f"{type(self).__name__} generates no text.")

    def generate_within(
        self, prompts: Sequence[str], sampling: Sampling, constraints: Sequence[Constraint]
    ) -> list[Reply | None]:
        """Reply to each prompt within its constraint; `None` where no reply came to an allowed end.

        Raises:
            ModelError: the model is not on this machine, or has no chat template.
        """
        raise ModelError(f"{type(self).__name__} cannot be held to a constraint; only a local model can.")

    def chat_prompt(self, user: str) -> str | None:
        """`user` as the user's turn, up to where the answer begins; `None` without a chat template."""
        return self.tokens.chat_prompt(user) if self.tokens else None

    def as_data(self, text: str) -> str:
        """`text` as a part of a query: marked where it spells out a control token of the model."""
        return self.tokens.as_data(text) if self.tokens else text

    def end_of_turn(self) -> str | None:
        """What the chat template puts behind the model's answer; `None` where it puts nothing."""
        return self.tokens.end_of_turn if self.tokens else None

    def answer_tokens(self, answer: str) -> tuple[int, ...]:
        """The tokens of an answer; its characters where the tokens are not known."""
        return self.tokens.answer(answer).ids if self.tokens else tuple(map(ord, answer))

    def excess(self, query: Query) -> int:
        """Tokens by which a query is longer than the model can read; 0 or less where it fits."""
        return 0

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _SentModel, (type(self).__name__, self.fingerprint)


class _SentModel:
    """What an opened model is in another process: an error as soon as it is used."""

    def __init__(self, name: str, fingerprint: str) -> None:
        self._known = f"{name} {fingerprint!r}"

    def __getattr__(self, attribute: str) -> NoReturn:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        raise ConfigError(
            f"An opened language model ({self._known}) cannot be sent to another process; give its "
            "name or LMSettings, which each process opens by itself, or use num_proc=1."
        )


class MockLanguageModel(LanguageModel):
    """A language model made of functions, which counts what it is asked.

    Args:
        log_prob: Given prompt and answer, the answer's log-probability, or one value per token, which
            share its characters evenly. `None` cannot score.
        reply: Given a prompt, the reply; a word counts as a token. `None` cannot generate.
        fingerprint: What the score store takes this model for.
        chat: Renders a user's turn; without it the model has no chat template.

    Attributes:
        calls: The queries that `log_prob` was asked, in order.
        asked: The prompts that `reply` was asked, in order.
    """

    fingerprint: str = ""

    def __init__(
        self,
        log_prob: Callable[[str, str], float | Sequence[float]] | None = None,
        reply: Callable[[str], str] | None = None,
        *,
        fingerprint: str = "mock",
        chat: Callable[[str], str] | None = None,
    ) -> None:
        self.log_prob, self.reply, self.chat = log_prob, reply, chat
        self.calls: list[Query] = []
        self.asked: list[str] = []
        self.fingerprint = fingerprint

    def log_probs(self, queries: Sequence[Query], on_result: OnScore | None = None) -> list[Scored]:
        """Ask the function once per query."""
        if self.log_prob is None:
            return super().log_probs(queries, on_result)
        results = []
        for query in queries:
            value = self.log_prob(query.prefix + query.body, query.answer)
            values = tuple(map(float, [value] if isinstance(value, int | float) else value))
            if not values or not all(map(math.isfinite, values)):
                raise ExtractError(f"The mock gave {value!r} for {query!r}; scores must be finite.")
            starts = (i * len(query.answer) // len(values) for i in range(len(values)))
            results.append(Scored(values, tuple(starts)))
            self.calls.append(query)
            if on_result:
                on_result(query, results[-1])
        self.statistics += LMStatistics(queries=len(queries), distinct=len(set(queries)))
        return results

    def generate(
        self, prompts: Sequence[str], sampling: Sampling, on_result: OnReply | None = None
    ) -> list[Reply]:
        """Ask the function once per prompt."""
        if self.reply is None:
            return super().generate(prompts, sampling, on_result)
        replies = []
        for prompt in prompts:
            self.asked.append(prompt)
            text = self.reply(prompt)
            replies.append(Reply(text, len(prompt.split()), len(text.split())))
            if on_result:
                on_result(prompt, replies[-1])
        return replies

    def chat_prompt(self, user: str) -> str | None:
        """The user's turn through `chat`, or `None`."""
        return self.chat(user) if self.chat else None


# --- Which language model answers, and how it is run


Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Quantization = Literal["none", "4bit", "8bit"]

_ADDRESS = re.compile(r"https?://(\[[0-9a-f:.]+\]|[\w.-]+)(:\d+)?(/[!-~]*)?", re.IGNORECASE)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
RUNTIME_VARIABLE = "HF_CAP_LM_RUNTIME"


@settings_class
class LMSettings:
    """Which language model answers. Frozen and hashable: equal settings give equal answers."""

    model: str = option(
        LANGUAGE_MODEL, "Hub id, folder, .gguf file or embedded name of a decoder-only model."
    )
    revision: str | None = option(None, "Branch, tag or commit of a model on the Hub.")
    dtype: Dtype = option(
        "auto",
        "Number format of the weights: auto is bfloat16 on a GPU, and on a CPU float32, or bfloat16 where "
        "extraction finds it faster with the same priors.",
    )
    quantization: Quantization = option(
        "none", "Load the weights in 4 or 8 bits; needs `bitsandbytes` and a GPU."
    )
    trust_remote_code: bool = option(False, "Run model code that comes from the Hub repository.")
    base_url: str | None = option(
        None, "OpenAI-compatible server of `model`, e.g. http://localhost:8000/v1; nothing is loaded here."
    )

    def __post_init__(self) -> None:
        check_settings(self)
        if not self.model:
            raise ConfigError("`model` is empty; give a Hub id, a folder or an embedded name.")
        if set("@?#") & set(self.base_url or ""):
            raise ConfigError(
                "`base_url` holds a user, a password or a query, which would be stored with all results. "
                "Give the address alone, and in the environment variable of `api_key_env` the key, or "
                "`Basic USER:PASSWORD`."
            )
        if self.base_url is not None and not _is_address(self.base_url):
            raise ConfigError(
                f"base_url={self.base_url!r} is not the address of a server; give one such as "
                "http://localhost:8000/v1."
            )
        if self.base_url is not None and self.quantization != "none":
            raise ConfigError(f"quantization={self.quantization!r} is up to the server; leave it at 'none'.")


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        (parts.hostname or "").encode("idna")
        return bool(_ADDRESS.fullmatch(url)) and parts.port != 0
    except ValueError:  # a host or a port that cannot be
        return False


@settings_class
class LMRuntime:
    """How the language model is run. Changes time and memory, never an answer."""

    device: str = option("auto", "auto, cpu, cuda, cuda:1, mps, ...; auto takes a GPU if there is one.")
    token_budget: int | None = option(
        None, "Tokens per forward pass, 1536 on a CPU, 8192 on a GPU; halved when memory runs out.", above=0
    )
    prefix_memory: float = option(
        2.0, "Gigabytes for caches of prompt prefixes; the least recently used goes first.", above=0
    )
    store: str | None = option(
        "default",
        "File that keeps all answers, so that nothing is asked twice: default is scores.sqlite in "
        "hf_cap's cache folder, none switches it off.",
    )
    max_concurrency: int = option(32, "Requests in flight at a time to a served model.", above=0)
    max_retries: int = option(6, "Times that a request to a served model is tried again.", at_least=0)
    timeout: float = option(300.0, "Seconds until a request to a served model counts as failed.", above=0)
    api_key_env: str = option(
        "OPENAI_API_KEY",
        "Environment variable that holds the key of a served model, or `Basic USER:PASSWORD`; may be unset.",
    )

    def __post_init__(self) -> None:
        check_settings(self)
        if not _VARIABLE.fullmatch(self.api_key_env):
            raise ConfigError(
                "`api_key_env` is not the name of an environment variable; put the key or password into a "
                "variable and give the variable's name, since settings are stored with the results."
            )

    @property
    def store_path(self) -> Path | None:
        """File of the store, or `None` where there is none."""
        if self.store is None or self.store == "none":
            return None
        default = cache_folder() / "scores.sqlite"
        return default if self.store == "default" else Path(self.store).expanduser()


def current_runtime() -> LMRuntime:
    """The runtime that `using_runtime` set in this process or a parent of it; else the defaults."""
    text = os.environ.get(RUNTIME_VARIABLE) or "{}"
    try:
        return LMRuntime(**json.loads(text))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"The environment variable {RUNTIME_VARIABLE}={text!r} holds no LMRuntime: {error}. Unset it."
        ) from error


@contextmanager
def using_runtime(runtime: LMRuntime) -> Iterator[None]:
    """Inside this block, here and in child processes, language models open with `runtime`."""
    before = os.environ.get(RUNTIME_VARIABLE)
    os.environ[RUNTIME_VARIABLE] = json.dumps(asdict(runtime))
    try:
        yield
    finally:
        del os.environ[RUNTIME_VARIABLE]
        os.environ.update({} if before is None else {RUNTIME_VARIABLE: before})
