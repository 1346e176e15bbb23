"""The language model as the rest of hf_cap sees it: a thing that scores continuations.

A `Query` is one prompt and one answer. The prompt comes in two parts so that a scorer can compute the
shared part once: `prefix` (instruction, label space, demonstrations: the same for many queries) and
`body` (the text and the answer slot). The tokens of a query are those of the *whole* prompt
`prefix + body` followed by those of the answer.

`cap` asks for the label given the (masked) text; `channel` asks for the text given the label; LAAT asks
for an integer given a feature. All three are queries.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal, Protocol, TypeAlias, runtime_checkable

from hf_cap.embedded import LANGUAGE_MODEL, cache_folder
from hf_cap.errors import ConfigError
from hf_cap.utils import check_choices, check_range, documented, option


@dataclass(frozen=True, slots=True)
class Query:
    """How likely is `answer` after `prefix + body`?"""

    prefix: str
    """Beginning of the prompt, shared by many queries. May be empty."""
    body: str
    """Rest of the prompt, up to the answer. May be empty if `prefix` is not."""
    answer: str
    """Continuation whose tokens are scored. Never empty; begins with a space where one belongs."""


@dataclass(frozen=True, slots=True)
class Scored:
    """Log-probability of each token of an answer."""

    log_probs: tuple[float, ...]
    """Natural logarithm, at most 0; one an answer token, given all tokens before it."""
    starts: tuple[int, ...]
    """Character of the answer at which each token starts; non-decreasing."""

    @property
    def total(self) -> float:
        """Log-probability of the whole answer, in nats."""
        return sum(self.log_probs)

    @property
    def mean(self) -> float:
        """Log-probability per token of the answer, in nats."""
        return self.total / len(self.log_probs)


@runtime_checkable
class Scorer(Protocol):
    """Scores queries, in order. The result of a query never depends on the other queries of a call."""

    @property
    def identity(self) -> str:
        """Everything about the model that determines a score (id, revision or weight hash, dtype)."""

    def score(self, queries: Sequence[Query]) -> list[Scored]:
        """Score each query.

        Raises:
            ExtractError: a score is not finite, or a single query does not fit the model.
        """

    def render_chat(self, user: str) -> str | None:
        """`user` as the user's turn of a conversation, up to where the model's answer begins.

        Returns `None` where the model has no chat template; the caller falls back to plain text.
        """


@runtime_checkable
class Tokenised(Protocol):
    """A scorer that knows how its model reads and ends an answer."""

    def answer_tokens(self, answer: str) -> tuple[int, ...]:
        """The tokens of an answer."""

    def end_of_turn(self) -> str | None:
        """What the chat template puts behind the model's answer; `None` where it puts nothing."""


def answer_tokens(scorer: Scorer, answer: str) -> tuple[int, ...]:
    """The tokens of an answer; its characters where the scorer does not know."""
    if isinstance(scorer, Tokenised):
        return scorer.answer_tokens(answer)
    return characters(answer)


def characters(answer: str) -> tuple[int, ...]:
    """What stands for the tokens of an answer where these are not known."""
    return tuple(map(ord, answer))


def end_of_turn(scorer: Scorer) -> str | None:
    """What stands behind an answer in a conversation; `None` where the scorer does not know."""
    return scorer.end_of_turn() if isinstance(scorer, Tokenised) else None


@runtime_checkable
class Bounded(Protocol):
    """A scorer that knows how much its model can read, so that long texts can be cut beforehand."""

    def excess(self, query: Query) -> int:
        """Tokens by which a query is longer than the model can read; 0 or less where it fits."""


Arrived: TypeAlias = Callable[[Query, Scored], object]
"""Told a query and its score as soon as there is one; in any order, perhaps from another thread."""


@runtime_checkable
class Streaming(Protocol):
    """A scorer that has some scores long before the others, and tells each so that it can be kept."""

    def score_each(self, queries: Sequence[Query], arrived: Arrived) -> list[Scored]:
        """As `score`, and tell each distinct query's score as it arrives."""


# --- What a scorer did, and what each way of not repeating work saved.


@dataclass
class ScorerStatistics:
    """Running totals of a scorer. Tokens are tokens that the model would have to read.

    `naive_tokens` = `distinct_saved` + `prefix_saved` + `trie_saved` + `tokens_computed`, always.
    """

    queries: int = 0
    """Queries asked, repeats included."""
    stored: int = 0
    """Queries answered from the score store."""
    distinct: int = 0
    """Different queries that reached the language model."""
    naive_tokens: int = 0
    """Tokens if every query were a prompt of its own."""
    distinct_saved: int = 0
    """Tokens saved because equal queries are scored once."""
    prefix_saved: int = 0
    """Tokens saved because a prefix is encoded once."""
    trie_saved: int = 0
    """Tokens saved because equal beginnings of texts and answers are computed once."""
    tokens_computed: int = 0
    """Tokens that went through the model."""
    seconds: float = 0.0
    """Wall time spent in `score`."""

    @property
    def tokens_per_second(self) -> float:
        """Tokens computed a second; 0 before the first."""
        return self.tokens_computed / self.seconds if self.seconds else 0.0

    @property
    def naive_seconds(self) -> float:
        """Estimated time of the naive way: all its tokens at the rate reached here."""
        rate = self.tokens_per_second
        return self.naive_tokens / rate if rate else 0.0

    def __add__(self, other: "ScorerStatistics") -> "ScorerStatistics":
        return ScorerStatistics(
            *(getattr(self, f.name) + getattr(other, f.name) for f in fields(self))
        )


# --- Which language model scores, and how it is run


Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Quantization = Literal["none", "4bit", "8bit"]

RUNTIME_VARIABLE = "HF_CAP_SCORER_RUNTIME"
DEFAULT_STORE = "default"


@documented
@dataclass(frozen=True)
class ScorerSettings:
    """Which language model answers. Frozen and hashable: equal settings give equal scores."""

    model: str = option(
        LANGUAGE_MODEL, "Hub id, folder or embedded name of a decoder-only language model."
    )
    revision: str | None = option(None, "Branch, tag or commit of a model on the Hub.")
    dtype: Dtype = option(
        "auto",
        "Number format of the weights: auto is float32 on a CPU, bfloat16 on a GPU.",
    )
    quantization: Quantization = option(
        "none", "Load the weights in 4 or 8 bits; needs `bitsandbytes` and a GPU."
    )
    trust_remote_code: bool = option(False, "Run model code that comes from the Hub repository.")
    base_url: str | None = option(
        None,
        "Root of an OpenAI-compatible server that serves `model`, e.g. http://localhost:8000/v1; "
        "nothing is loaded locally then.",
    )

    def __post_init__(self) -> None:
        check_choices(self)
        if not self.model:
            raise ConfigError("`model` is empty; give a Hub id, a folder or an embedded name.")
        if self.base_url is not None and self.quantization != "none":
            raise ConfigError(
                f"quantization={self.quantization!r} is the server's business when base_url="
                f"{self.base_url!r} is given. Leave it at 'none'."
            )


@documented
@dataclass(frozen=True)
class ScorerRuntime:
    """How the language model is run. Changes the time and the memory, never a score."""

    device: str = option(
        "auto", "auto, cpu, cuda, cuda:1, mps, ...; auto takes a GPU if there is one."
    )
    token_budget: int | None = option(
        None,
        "Tokens of one forward pass; halved by itself when memory runs out. Default: 1024 on a CPU, "
        "8192 on a GPU.",
    )
    prefix_memory: float = option(
        2.0,
        "Gigabytes for the key-value caches of prompt prefixes, least recently used goes first.",
    )
    store: str | None = option(
        DEFAULT_STORE,
        "File that keeps the scores and replies of language models, so that nothing is asked twice. default "
        "is scores.sqlite in hf_cap's cache folder, none switches it off.",
    )
    max_concurrency: int = option(32, "Requests in flight at a time to a served model.")
    max_retries: int = option(6, "Times that a request to a served model is tried again.")
    timeout: float = option(300.0, "Seconds until a request to a served model counts as failed.")
    api_key_env: str = option(
        "OPENAI_API_KEY", "Environment variable that holds the key of a served model; may be unset."
    )

    def __post_init__(self) -> None:
        check_range(self, "token_budget", "prefix_memory", "max_concurrency", "timeout", above=0)
        check_range(self, "max_retries", at_least=0)

    @property
    def store_path(self) -> Path | None:
        """File of the store, or `None` where there is none."""
        if self.store is None or self.store == "none":
            return None
        if self.store == DEFAULT_STORE:
            return cache_folder() / "scores.sqlite"
        return Path(self.store).expanduser()


def current_runtime() -> ScorerRuntime:
    """The runtime that `using_runtime` set in this process or a parent of it; else the defaults.

    Raises:
        ConfigError: the environment variable does not hold a runtime.
    """
    text = os.environ.get(RUNTIME_VARIABLE)
    if not text:
        return ScorerRuntime()
    try:
        return ScorerRuntime(**json.loads(text))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"The environment variable {RUNTIME_VARIABLE}={text!r} is not a scorer runtime: {error}. "
            "Unset it."
        ) from error


@contextmanager
def using_runtime(runtime: ScorerRuntime) -> Iterator[None]:
    """Inside this block, here and in child processes, scorers open with `runtime`."""
    before = os.environ.get(RUNTIME_VARIABLE)
    os.environ[RUNTIME_VARIABLE] = json.dumps(asdict(runtime))
    try:
        yield
    finally:
        if before is None:
            del os.environ[RUNTIME_VARIABLE]
        else:
            os.environ[RUNTIME_VARIABLE] = before
