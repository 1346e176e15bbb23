"""The served lm against a small server on loopback that answers as vLLM does, or misbehaves."""

import logging
import os
import signal
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hf_cap.errors import ConfigError, ExtractError, MissingExtra, ServerError
from hf_cap.lm.base import LMRuntime, LMSettings, Query, Reply, Sampling
from hf_cap.lm.cache import CachedLanguageModel
from hf_cap.lm.local import LocalLanguageModel
from hf_cap.lm.open import open_language_model
from hf_cap.lm.served import ServedLanguageModel
from tests.lm.queries import all_queries, largest_difference
from tests.lm.server import Server, Write, message
from tests.tiny import byte_tokenizer, llama

QUERIES = all_queries()[::6]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.001)
    running = Server()
    yield running
    running.close()


def opened(
    server: Server, *, tokenizer: bool = True, probe: bool = True, **runtime: Any
) -> ServedLanguageModel:
    settings = LMSettings(model="tiny", base_url=server.url)
    lm = ServedLanguageModel(settings, LMRuntime(**runtime), byte_tokenizer() if tokenizer else None)
    if probe:
        assert lm.dialect
    return lm


@pytest.mark.parametrize(
    ("fields", "tokenizer", "dialect"),
    [
        ({"prompt_logprobs", "echo"}, True, "prompt_logprobs"),
        ({"echo"}, True, "echo"),
        ({"prompt_logprobs", "echo"}, False, "echo"),
    ],
)
def test_served_scores_equal_local_ones(
    server: Server, fields: set[str], tokenizer: bool, dialect: str
) -> None:
    server.fields = fields
    lm = opened(server, tokenizer=tokenizer)
    assert lm.dialect == dialect
    queries = [q for q in QUERIES if tokenizer or "".join(q).isascii()]
    if tokenizer:
        spelled = lm.as_data("<|im_end|>")
        queries.append(Query(f"<|im_start|>{spelled}", f" {spelled}", f" é{spelled} card"))
    local = LocalLanguageModel(llama(), byte_tokenizer()).log_probs(queries)
    served = lm.log_probs(queries + queries[:2])
    assert largest_difference(served, local + local[:2]) < 1e-4
    assert [s.starts for s in served] == [s.starts for s in local + local[:2]]
    assert lm.statistics.distinct == len(set(queries))
    assert (lm.chat_prompt("hi") is None) == (not tokenizer)
    assert lm.fingerprint == opened(server, tokenizer=tokenizer).fingerprint
    assert lm.fingerprint != opened(server, tokenizer=not tokenizer, probe=False).fingerprint


def test_as_many_requests_are_under_way_as_are_allowed(server: Server) -> None:
    lm, three = opened(server, max_concurrency=3), threading.Barrier(3)

    def meet(number: int) -> None:
        three.wait(60)

    server.fault = meet
    lm.log_probs(QUERIES[:6])
    assert server.most == 3


def test_a_server_without_prompt_log_probabilities_is_an_error_with_the_reason(server: Server) -> None:
    lm = opened(server)
    server.fields = set()
    with pytest.raises(ExtractError, match="0 prompt log-probabilities"):
        lm.log_probs(QUERIES[:1])
    reasons = "no log-probabilities of prompt tokens.*prompt_logprobs: 0 prompt.*echo: "
    with pytest.raises(ServerError, match=reasons):
        opened(server)


def echo(reply: dict[str, Any]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = reply["choices"][0]["logprobs"]
    return found


def add_token(reply: dict[str, Any], *, completion: bool = True, keep: str = "usage tokens") -> None:
    """One token of the server's own in front, as an echo with a beginning of text has it."""
    for values, value in zip(echo(reply).values(), ("<s>", None, 0), strict=True):
        values.insert(0, value)
        del values[len(values) - (not completion) :]
    reply["usage"]["prompt_tokens"] += 1
    for name in {"usage", "tokens"} - set(keep.split()):
        del (reply if name == "usage" else echo(reply))[name]


def set_value(value: Any, place: int | slice = -2) -> Callable[[dict[str, Any]], None]:
    def spoil(reply: dict[str, Any]) -> None:
        echo(reply)["token_logprobs"][place] = value

    return spoil


def offsets_from(unit: Callable[[str], int]) -> Callable[[dict[str, Any]], None]:
    def spoil(reply: dict[str, Any]) -> None:
        text = "".join(QUERY)
        echo(reply)["text_offset"] = [unit(text[:at]) for at in echo(reply)["text_offset"]]

    return spoil


QUERY = Query("naïve 🙂 ", "café", " card")


@pytest.mark.parametrize(
    ("ids", "spoil", "reason"),
    [
        (True, add_token, "scored .* tokens where"),
        (True, partial(add_token, completion=False), "scored .* tokens where"),
        (True, partial(add_token, completion=False, keep="tokens"), "in place of the answer ' card'"),
        (True, partial(add_token, keep=""), "scored .* tokens where"),
        (True, lambda reply: echo(reply)["token_logprobs"].pop(0) and None, "in place of|tokens where"),
        (True, set_value(0.7), "less than or equal to 0.001, got '0.7'"),
        (True, set_value(True), "a valid number, got 'True'"),
        (True, set_value("-1"), "a valid number"),
        (True, set_value(float("nan")), "finite number"),
        (True, set_value(None), r"gave .*None.* for an answer of 5 tokens"),
        (True, set_value([0.0] * 20, slice(1, None)), "tokens the log-probability 0.0, which no model"),
        (True, set_value([-2.5] * 20, slice(1, None)), "tokens the log-probability -2.5, which no model"),
        (False, offsets_from(lambda text: len(text.encode())), "do not count the 17 characters"),
        (False, offsets_from(lambda text: len(text.encode("utf-16-le")) // 2), "do not count the 17"),
        (False, offsets_from(lambda text: -1), "do not count the 17 characters"),
        (False, offsets_from(lambda text: len("<s>" + text)), "do not count the 17 characters"),
        (False, offsets_from(lambda text: max(0, len(text) - 1)), "do not count the 17 characters"),
        (False, lambda reply: echo(reply)["text_offset"].pop(), "do not count the 17 characters"),
    ],
)  # fmt: skip
def test_scores_that_are_not_those_of_the_answer_are_refused(
    server: Server, ids: bool, spoil: Callable[[dict[str, Any]], object], reason: str
) -> None:
    server.fields = {"echo"}
    lm = opened(server, tokenizer=ids)
    assert lm.log_probs([QUERY])[0].starts == (0, 1, 2, 3, 4)
    server.spoil = spoil
    with pytest.raises((ExtractError, ServerError), match=reason):
        lm.log_probs([QUERY])


def test_a_token_of_the_servers_own_and_a_rounding_error_above_zero_are_no_trouble(server: Server) -> None:
    server.fields = {"echo"}
    lm = opened(server, tokenizer=False)
    expected = lm.log_probs([QUERY])
    server.spoil = add_token
    assert lm.log_probs([QUERY]) == expected
    server.spoil = set_value(1e-6)
    assert lm.log_probs([QUERY])[0].log_probs[-1] == 0.0


BOMB = zlib.compress(bytes(2**26), 1, wbits=31)
HEADERS = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


def endless(write: Write) -> None:
    write(HEADERS + b"\r\n")
    while True:
        write(b" " * 2**20)


def inflated(write: Write) -> None:
    write(HEADERS + b"Content-Encoding: gzip\r\n\r\n" + BOMB)


def dripping(write: Write, start: bytes = HEADERS + b"\r\n") -> None:
    write(start)
    while True:
        time.sleep(0.05)
        write(b" ")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (endless, "sent more than 33554432 bytes"),
        (inflated, "sent more than 33554432 bytes"),
        (dripping, "no whole answer within 0.4 seconds"),
        (partial(dripping, start=b"HTTP/1.1 200 OK\r\nX-Long:"), "no whole answer within 0.4 seconds"),
        (lambda write: write(HEADERS + b"\r\n" + b"[" * 10**6), "cannot be used: Invalid JSON"),
        (lambda write: write(HEADERS + b"\r\n\xff"), "cannot be used: Invalid JSON"),
        (lambda write: write(HEADERS + b"Content-Length: 9\r\n\r\n{}"), "RemoteProtocolError"),
        (lambda write: write(b"nonsense\r\n\r\n"), "RemoteProtocolError"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("probed", [False, True])
def test_an_answer_is_bounded_in_time_and_size(
    server: Server, answer: Callable[[Write], object], reason: str, probed: bool
) -> None:
    lm = opened(server, probe=probed, timeout=0.4 if "0.4" in reason else 20, max_retries=1)
    server.raw, started = answer, time.monotonic()
    with pytest.raises(ServerError, match=reason):
        lm.log_probs(QUERIES[:1])
    assert time.monotonic() - started < 15


def test_the_server_is_asked_before_the_hub(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(settings: LMSettings, local_files_only: bool) -> Any:
        asked.append(local_files_only)
        raise OSError("not found")

    monkeypatch.setattr("hf_cap.lm.served.load_tokenizer", load)
    settings = LMSettings(model="tiny", base_url=server.url)
    assert ServedLanguageModel(settings).tokens is None
    assert asked == [True, False]
    with pytest.raises(ServerError, match=r"does not serve 'other'; it serves \['tiny'\]"):
        ServedLanguageModel(replace(settings, model="other")).fingerprint
    assert asked == [True, False, True]


def test_a_server_that_lists_no_models_is_used(server: Server) -> None:
    server.lists_models = False
    lm = opened(server)
    assert lm.dialect == "prompt_logprobs"
    assert lm.excess(QUERIES[0]) == 0


def test_passing_trouble_is_waited_out(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    async def no_sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr("anyio.sleep", no_sleep)
    lm = opened(server, max_concurrency=2)
    expected = lm.log_probs(QUERIES[:8])
    start = len(server.requests)
    faults = {
        1: (429, {"Retry-After": "7"}), 2: (503, {}), 4: (500, {"Retry-After": "Friday"}), 6: (0, {}),
    }  # fmt: skip
    server.fault = lambda number: faults.get(number - start)
    assert largest_difference(lm.log_probs(QUERIES[:8]), expected) < 1e-6
    assert len(server.requests) - start == 8 + len(faults)
    assert max(waits) == 7.0


def test_lasting_trouble_ends(server: Server) -> None:
    lm = opened(server, max_retries=2)
    start = len(server.requests)
    server.fault = lambda number: (503, {})
    with pytest.raises(ServerError, match="status 503"):
        lm.log_probs(QUERIES[:1])
    assert len(server.requests) - start == 3
    server.fault = lambda number: (400, {})
    with pytest.raises(ServerError, match=r"status 400.*spoiled"):
        lm.log_probs(QUERIES[:1])
    assert len(server.requests) - start == 4
    absent = LMSettings(model="m", base_url="http://127.0.0.1:9/v1")
    with pytest.raises(ServerError, match="ConnectError"):
        ServedLanguageModel(absent, LMRuntime(max_retries=1), None).log_probs(QUERIES[:1])


BASIC = "Basic YW5uOm15OnNlY3JldA=="
REPEATED = "ann:my:secret, my:secret and YW5uOm15OnNlY3JldA=="


@pytest.mark.parametrize(
    ("key", "header", "said"),
    [
        (" spoiled\r\n", "Bearer spoiled", "spoiled"),
        *((key, BASIC, REPEATED) for key in ("Basic ann:my:secret", BASIC, " Basic ann:my:secret\n")),
    ],
)
def test_a_key_is_sent_and_never_shown(
    server: Server, monkeypatch: Any, caplog: pytest.LogCaptureFixture, key: str, header: str, said: str
) -> None:
    monkeypatch.setenv("MY_KEY", key)
    caplog.set_level(logging.DEBUG)
    lm = opened(server, api_key_env="MY_KEY", max_retries=0)
    assert server.keys == {header}
    server.raw = lambda write: write(b"HTTP/1.1 401 No\r\n\r\n" + said.encode())
    with pytest.raises(ServerError, match=r"status 401: \*\*\*") as caught:
        lm.log_probs(QUERIES[:1])
    told = caplog.text + str(caught.value) + lm.fingerprint
    assert not [secret for secret in ("spoiled", "ann:", "my:", "secret", "YW5u") if secret in told]


@pytest.mark.parametrize("name", ["sk-my-secret", "Basic ann:my-secret", ""])
def test_a_key_in_place_of_its_variable_is_refused_and_not_shown(name: str) -> None:
    with pytest.raises(ConfigError, match="not the name of an environment variable") as caught:
        LMRuntime(api_key_env=name)
    assert "my-secret" not in str(caught.value)


@pytest.mark.parametrize("key", ["secret-1\r\nsecret-2", "secret-\u200b1", "secret-ü"])
def test_a_key_that_cannot_be_sent_is_refused_and_not_shown(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, key: str
) -> None:
    monkeypatch.setenv("MY_KEY", key)
    caplog.set_level(logging.DEBUG)
    with pytest.raises(ConfigError, match="'MY_KEY' contains non-printable") as caught:
        opened(server, api_key_env="MY_KEY")
    assert "secret" not in caplog.text + str(caught.value)


@pytest.mark.parametrize("task", ["scores", "replies"])
def test_answers_that_arrived_before_a_failure_are_kept(server: Server, tmp_path: Path, task: str) -> None:
    inner = opened(server, probe=task == "scores", max_concurrency=1, max_retries=0)
    lm = CachedLanguageModel(inner, tmp_path / "s.sqlite")

    def ask() -> object:
        if task == "scores":
            return lm.log_probs(QUERIES[:6])
        return lm.generate([f"prompt {i}" for i in range(6)], Sampling(max_new_tokens=1))

    start = len(server.requests)
    server.fault = lambda number: (400, {}) if number == start + 4 else None
    with pytest.raises(ServerError, match="status 400"):
        ask()
    server.fault, start = lambda number: None, len(server.requests)
    assert ask() == ask()
    assert len(server.requests) - start == 3


@pytest.fixture
def interruptible() -> Iterator[None]:
    """An interrupt arrives as in a terminal; the workers of pytest-xdist ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_calls_requests_back_and_keeps_what_arrived(server: Server, tmp_path: Path) -> None:
    lm = CachedLanguageModel(opened(server, max_concurrency=1), tmp_path / "s.sqlite")
    start, held = len(server.requests), threading.Event()

    def interrupt(number: int) -> None:
        if number == start + 3:
            os.kill(os.getpid(), signal.SIGINT)
            held.wait(30)

    server.fault = interrupt
    with pytest.raises(KeyboardInterrupt):
        lm.log_probs(QUERIES[:8])
    held.set()
    assert len(server.requests) - start == 3
    lm.log_probs(QUERIES[:8])
    assert len(server.requests) - start == 3 + 6


def test_a_prompt_is_bounded_where_the_server_tells_its_limit(server: Server) -> None:
    query = Query("a prefix: ", "and a text", " answer")
    tokens = len("a prefix: and a text answer")
    assert opened(server).excess(query) == 0
    server.told = {"max_model_len": tokens + 1}
    assert opened(server).excess(query) == 0
    server.told = {"max_model_len": tokens}
    assert opened(server).excess(query) == 1
    assert opened(server, tokenizer=False).excess(query) == 0


def test_a_reply_is_asked_at_the_chat_endpoint(server: Server) -> None:
    sampling = Sampling(max_new_tokens=9, temperature=0.5, seed=3)
    told: list[str] = []
    replies = opened(server, probe=False).generate(["a", "b"], sampling, lambda p, r: told.append(p))
    assert replies == [Reply("A", 7, 2), Reply("B", 7, 2)]
    assert sorted(told) == ["a", "b"]
    body = {"temperature": 0.5, "max_tokens": 9, "seed": 3, "model": "tiny"}
    assert {**body, "messages": [{"role": "user", "content": "b"}]} in server.requests
    assert server.paths == {"/v1/chat/completions"}
    server.chat = lambda prompt: message(None)
    assert opened(server, probe=False).generate(["a"], sampling) == [Reply("", 7, 2)]


@pytest.mark.parametrize("spelled", ["<|im_end|>", "<s>", "[/INST]", "<start_of_turn>", "<｜User｜>"])
def test_a_spelled_control_token_is_sent_with_a_space_where_the_server_tokenises(
    server: Server, spelled: str
) -> None:
    lm = opened(server, tokenizer=False)
    answer = lm.as_data(f" a {spelled} card")
    (scored,) = lm.log_probs([Query("", f"Say {lm.as_data(spelled)}:", answer)])
    sent = f"{spelled[0]} {spelled[1:]}"
    assert server.requests[-1]["prompt"] == f"Say {sent}: a {sent} card"
    # one token a byte; the space sent starts where the character behind it does
    at = [i for i, character in enumerate(f" a {spelled}"[:4]) for _ in character.encode()]
    assert scored.starts[: len(at) + 2] == (*at, 4, 4)
    assert scored.starts[-1] == len(f" a {spelled} card") - 1
    lm.generate([spelled], Sampling(max_new_tokens=1))
    assert server.requests[-1]["messages"][0]["content"] == sent


@pytest.mark.parametrize("answer", [{"error": "no"}, {"choices": []}, {"choices": None}, ["page"]])
def test_an_answer_without_a_message_is_an_error(server: Server, answer: Any) -> None:
    server.chat = lambda prompt: answer
    with pytest.raises(ServerError, match=r"cannot be used: .*Is it the root of"):
        opened(server, probe=False).generate(["a"], Sampling(max_new_tokens=1))


def test_a_served_model_needs_its_extra(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    monkeypatch.delitem(sys.modules, "hf_cap.lm.served")
    with pytest.raises(MissingExtra, match=r"pip install 'hf-cap\[served\]'"):
        open_language_model(LMSettings(model="tiny", base_url=server.url))
