"""The served lm against a small server on loopback that answers as vLLM does, or misbehaves."""

import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_cap.errors import ConfigError, ExtractError, MissingExtra, ServerError
from hf_cap.lm.base import LMRuntime, LMSettings, Query, Reply, Sampling
from hf_cap.lm.cache import CachedLanguageModel
from hf_cap.lm.local import LocalLanguageModel
from hf_cap.lm.served import ServedLanguageModel
from tests.lm.queries import all_queries, largest_difference
from tests.tiny import byte_tokenizer, llama

QUERIES = all_queries()[::6]
Fault = Callable[[int], tuple[int, dict[str, str]] | None]


def message(content: str | None) -> dict[str, Any]:
    usage = {"prompt_tokens": 7, "completion_tokens": 2}
    return {"choices": [{"message": {"content": content}}], "usage": usage}


class Server:
    """An OpenAI-compatible server over a tiny model; `fault(n)` may spoil the n-th completion."""

    def __init__(self) -> None:
        self.model = llama()
        self.fields = {"prompt_logprobs", "echo"}
        self.told: dict[str, Any] = {}
        self.chat: Callable[[str], Any] = lambda prompt: message(prompt.upper())
        self.fault: Fault = lambda number: None
        self.requests: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        self.paths: set[str] = set()
        self.now, self.most = 0, 0
        self._lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def complete(self, body: dict[str, Any]) -> Any:
        if "messages" in body:
            return self.chat(body["messages"][0]["content"])
        tokenizer, prompt = byte_tokenizer(), body["prompt"]
        ids = prompt if isinstance(prompt, list) else tokenizer(prompt)["input_ids"]
        with self._lock, torch.no_grad():
            logits = self.model(torch.tensor([ids])).logits[0].log_softmax(-1)
        values = [float(logits[place, token]) for place, token in enumerate(ids[1:])]
        text, choice = str(tokenizer.decode(ids)), dict[str, Any](index=0, text="!")
        asked = self.fields & set(body)
        if "prompt_logprobs" in asked:
            pairs = zip(ids[1:], values, strict=True)
            told = [{str(token): {"logprob": value, "rank": 1}} for token, value in pairs]
            choice["prompt_logprobs"] = [None, *told]
        if "echo" in asked:
            spans = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
            offsets = [*(start for start, _ in spans), len(text)]
            choice["logprobs"] = {"token_logprobs": [None, *values, -0.5], "text_offset": offsets}
        return {"choices": [choice], "usage": {"prompt_tokens": len(ids)}}

    def _handler(server: "Server") -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._reply(200, {"data": [{"id": "tiny", **server.told}]}, {})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with server._lock:
                    server.requests.append(body)
                    server.paths.add(self.path)
                    server.keys.add(self.headers["Authorization"])
                    number = len(server.requests)
                    server.now += 1
                    server.most = max(server.most, server.now)
                fault = server.fault(number)
                reply = {} if fault else server.complete(body)
                with server._lock:
                    server.now -= 1
                if fault and fault[0] == 0:
                    self.connection.close()
                elif fault:
                    self._reply(fault[0], {"error": "spoiled"}, fault[1])
                else:
                    self._reply(200, reply, {})

            def _reply(self, status: int, value: dict[str, Any], headers: dict[str, str]) -> None:
                data = json.dumps(value).encode()
                self.send_response(status)
                for name, text in {**headers, "Content-Length": str(len(data))}.items():
                    self.send_header(name, text)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: Any) -> None:
                pass

        return Handler


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
    lm = ServedLanguageModel(
        settings, LMRuntime(**runtime), byte_tokenizer() if tokenizer else None
    )
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
    lm = opened(server, tokenizer=tokenizer, max_concurrency=3)
    assert lm.dialect == dialect
    queries = [q for q in QUERIES if tokenizer or "".join(q).isascii()]
    local = LocalLanguageModel(llama(), byte_tokenizer()).log_probs(queries)
    served = lm.log_probs(queries + queries[:2])
    assert 1 < server.most <= 3
    assert largest_difference(served, local + local[:2]) < 1e-4
    assert [s.starts for s in served] == [s.starts for s in local + local[:2]]
    assert lm.statistics.distinct == len(set(queries))
    assert (lm.chat_prompt("hi") is None) == (not tokenizer)
    assert lm.fingerprint == opened(server, tokenizer=tokenizer).fingerprint
    assert lm.fingerprint != opened(server, tokenizer=not tokenizer, probe=False).fingerprint


def test_a_server_without_prompt_log_probabilities_is_an_error_with_the_reason(
    server: Server,
) -> None:
    lm = opened(server)
    server.fields = set()
    with pytest.raises(ExtractError, match="0 prompt log-probabilities"):
        lm.log_probs(QUERIES[:1])
    reasons = "no log-probabilities of prompt tokens.*prompt_logprobs: 0 prompt.*echo: "
    with pytest.raises(ServerError, match=reasons):
        opened(server)


def test_a_model_that_is_not_served_is_refused(server: Server) -> None:
    with pytest.raises(ServerError, match=r"does not serve 'other'; it serves \['tiny'\]"):
        ServedLanguageModel(LMSettings(model="other", base_url=server.url)).dialect


def test_passing_trouble_is_waited_out(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    async def no_sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr("anyio.sleep", no_sleep)
    lm = opened(server, max_concurrency=2)
    expected = lm.log_probs(QUERIES[:8])
    start = len(server.requests)
    faults = {
        1: (429, {"Retry-After": "7"}),
        2: (503, {}),
        4: (500, {"Retry-After": "Friday"}),
        6: (0, {}),
    }
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


def test_the_key_is_sent_and_never_shown(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MY_KEY", " spoiled\r\n")  # the server says so in its errors
    caplog.set_level(logging.DEBUG)
    lm = opened(server, api_key_env="MY_KEY", max_retries=1)
    server.fault = lambda number: (500, {})
    with pytest.raises(ServerError, match=r"\*\*\*") as caught:
        lm.log_probs(QUERIES[:1])
    assert server.keys == {"Bearer spoiled"}
    assert "spoiled" not in caplog.text + str(caught.value) + lm.fingerprint


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
def test_answers_that_arrived_before_a_failure_are_kept(
    server: Server, tmp_path: Path, task: str
) -> None:
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
def test_an_interrupt_calls_requests_back_and_keeps_what_arrived(
    server: Server, tmp_path: Path
) -> None:
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
    replies = opened(server, probe=False).generate(
        ["a", "b"], sampling, lambda p, r: told.append(p)
    )
    assert replies == [Reply("A", 7, 2), Reply("B", 7, 2)]
    assert sorted(told) == ["a", "b"]
    body = {"temperature": 0.5, "max_tokens": 9, "seed": 3, "model": "tiny"}
    assert {**body, "messages": [{"role": "user", "content": "b"}]} in server.requests
    assert server.paths == {"/v1/chat/completions"}
    server.chat = lambda prompt: message(None)
    assert opened(server, probe=False).generate(["a"], sampling) == [Reply("", 7, 2)]


@pytest.mark.parametrize("answer", [{"error": "no"}, {"choices": []}, {"choices": None}, ["page"]])
def test_an_answer_without_a_message_is_an_error(server: Server, answer: Any) -> None:
    server.chat = lambda prompt: answer
    with pytest.raises(ServerError, match=r"holds no message|something else than JSON"):
        opened(server, probe=False).generate(["a"], Sampling(max_new_tokens=1))


def test_a_served_model_needs_its_extra(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(MissingExtra, match=r"pip install 'hf-cap\[served\]'"):
        opened(server)
