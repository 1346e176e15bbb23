"""A served model whose server fails a fifth of the time: how many answers are right, refused and wrong.

python -m benchmarks.server_faults --requests 1000
"""

import argparse
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import BaseHTTPRequestHandler
from typing import Any

from hf_cap.errors import CAPError
from hf_cap.lm import local, served
from hf_cap.lm.base import LMRuntime, LMSettings, Query
from tests.lm.server import Server, Write
from tests.tiny import WORDS, byte_tokenizer, llama


def quiet(server: Server) -> Any:
    """The server without a traceback for each client that hangs up."""
    server._http.handle_error = lambda *_: None  # type: ignore[method-assign]
    return server


START = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


def drip(write: Write) -> None:
    """Answer without an end, a byte at a time."""
    write(START + b"\r\n")
    while True:
        time.sleep(0.1)
        write(b" ")


def flood(write: Write) -> None:
    """Answer without an end, as fast as it is read."""
    write(START + b"\r\n")
    while True:
        write(b" " * 2**20)


def set_scores(value: Any, place: slice) -> Callable[[dict[str, Any]], None]:
    """Puts a value in the place of log-probabilities."""

    def spoil(reply: dict[str, Any]) -> None:
        choice = reply["choices"][0]
        for told in (choice.get("prompt_logprobs") or [])[1:][place]:
            next(iter(told.values()))["logprob"] = value
        scores = choice.get("logprobs", {}).get("token_logprobs", [])
        for at in range(1, len(scores))[place]:
            scores[at] = value

    return spoil


def add_token(reply: dict[str, Any]) -> None:
    """One token of the server's own in front, with the answer's place moved by one."""
    choice = reply["choices"][0]
    if listed := choice.get("prompt_logprobs"):
        listed.insert(1, {"1": {"logprob": -2.0, "rank": 1}})
    else:
        for values, value in zip(choice["logprobs"].values(), ("<s>", None, 0), strict=True):
            values.insert(0, value)
            values.pop()


def count_bytes(reply: dict[str, Any]) -> None:
    """Offsets in bytes, where the first character has two."""
    if offsets := reply["choices"][0].get("logprobs", {}).get("text_offset"):
        offsets[1:] = [offset + 1 for offset in offsets[1:]]


STATUS = {"500": (500, {}), "503": (503, {}), "429": (429, {"Retry-After": "1"}), "closed": (0, {})}
RAW: dict[str, Callable[[Write], object]] = {
    "drip": drip,
    "flood": flood,
    "cut short": lambda write: write(START + b'Content-Length: 99\r\n\r\n{"choices": ['),
    "nonsense": lambda write: write(START + b"\r\n<html>busy</html>"),
}
SPOIL: dict[str, Callable[[dict[str, Any]], object]] = {
    "above 0": set_scores(0.7, slice(-3, None)),
    "true": set_scores(True, slice(-3, None)),
    "all equal": set_scores(0.0, slice(None)),
    "a token too many": add_token,
    "offsets in bytes": count_bytes,
}
KINDS = [*STATUS, *RAW, *SPOIL]


class FaultyServer(Server):
    """Fails with the probability `share`, in each way alike."""

    share = 0.0

    def __init__(self, seed: int) -> None:
        self.draw, self.drawn = random.Random(seed), Counter[str]()
        self.now_in = threading.local()
        super().__init__()
        self.fault = lambda number: STATUS.get(self.now_in.kind)
        self.spoil = lambda reply: SPOIL.get(self.now_in.kind, len)(reply)

    def _handler(server: "FaultyServer") -> type[BaseHTTPRequestHandler]:
        class Handler(super()._handler()):  # type: ignore[misc]
            def do_POST(self) -> None:
                with server._lock:
                    fails = server.draw.random() < server.share
                    kind = server.draw.choice(KINDS) if fails else "none"
                    server.drawn[kind] += 1
                server.now_in.kind = kind
                if kind in RAW:
                    self.rfile.read(int(self.headers["Content-Length"]))
                    self._raw(RAW[kind])
                else:
                    super().do_POST()

        return Handler


def questions(number: int) -> Iterator[Query]:
    """Queries of which hardly two are equal."""
    draw = random.Random(1)
    for _ in range(number):
        prefix, body = " ".join(draw.sample(WORDS, 5)), " ".join(draw.sample(WORDS, 4))
        yield Query(f"é {prefix}: ", body, f" {draw.choice(WORDS)}")


def ask_all(number: int, seed: int) -> None:
    """Print how many answers of a server that fails were right, refused and wrong, and how long it took."""
    queries, found = list(questions(number)), Counter[str]()
    right = local.LocalLanguageModel(llama(), byte_tokenizer()).log_probs(queries)
    faulty = FaultyServer(seed)
    server, longest, began = quiet(faulty), 0.0, time.monotonic()

    def ask(lm: served.ServedLanguageModel, place: int) -> tuple[str, float]:
        started = time.monotonic()
        try:
            (scored,) = lm.log_probs([queries[place]])
        except CAPError:
            return "refused", time.monotonic() - started
        pairs = zip(scored.log_probs, right[place].log_probs, strict=True)
        close = max(abs(one - other) for one, other in pairs) < 1e-4
        return "right" if close else "wrong", time.monotonic() - started

    tokenizer = byte_tokenizer()
    parts = [("prompt_logprobs", tokenizer), ("echo", tokenizer), ("echo", None)]
    for part, (name, sent) in enumerate(parts):
        server.fields, server.share = {name}, 0.0
        settings = LMSettings(model="tiny", base_url=server.url)
        runtime = LMRuntime(timeout=2.0, max_retries=6)
        lm = served.ServedLanguageModel(settings, runtime, sent)
        print(f"The server gives {lm.dialect} of {'ids' if sent else 'text'}.")
        server.share = 0.2
        with ThreadPoolExecutor(16) as pool:
            for outcome, seconds in pool.map(partial(ask, lm), range(part, number, len(parts))):
                found[outcome] += 1
                longest = max(longest, seconds)
    server.close()
    print(f"right {found['right']}, refused {found['refused']}, wrong {found['wrong']} of {number}")
    print(f"longest {longest:.1f} s, all {time.monotonic() - began:.0f} s")
    print("answers of the server:", ", ".join(f"{n} {kind}" for kind, n in faulty.drawn.items()))


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    ask_all(given.requests, given.seed)


if __name__ == "__main__":
    main()
