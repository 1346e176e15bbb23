"""Which language model scores, and how it is run: two frozen values, because only the first changes a score.

`ScorerSettings` says *what* is asked; it is part of the state of every map function, so `Dataset.map`
hashes it into its cache key. `ScorerRuntime` says *how* it is run (device, budget, store, requests at
a time). It must not enter that key, or a second GPU would mean paying again; it must not be dropped
when a map function is pickled for a worker either, or the worker would fall back on defaults. So it
travels through the environment, which children inherit whether they are forked or spawned.

Imports neither torch nor transformers: the command line builds its options from here.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from ..embedded import LANGUAGE_MODEL, cache_folder
from ..errors import ConfigError
from ..options import check_choices, check_range, documented, option

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
