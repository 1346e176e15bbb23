"""A small OpenAI-compatible server on loopback, which answers as vLLM does or misbehaves."""

import json
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch

from tests.tiny import byte_tokenizer, llama

Fault = Callable[[int], tuple[int, dict[str, str]] | None]
Write = Callable[[bytes], Any]


def message(content: str | None) -> dict[str, Any]:
    usage = {"prompt_tokens": 7, "completion_tokens": 2}
    return {"choices": [{"message": {"content": content}}], "usage": usage}


class Server:
    """An OpenAI-compatible server over a tiny model; `fault(n)` may spoil the n-th completion."""

    def __init__(self) -> None:
        self.model = llama()
        self.fields = {"prompt_logprobs", "echo"}
        self.told: dict[str, Any] = {}
        self.lists_models = True
        self.chat: Callable[[str], Any] = lambda prompt: message(prompt.upper())
        self.fault: Fault = lambda number: None
        self.spoil: Callable[[dict[str, Any]], object] = lambda reply: None
        self.raw: Callable[[Write], object] | None = None  # writes an answer byte by byte
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
            choice["logprobs"] = {
                "tokens": [*tokenizer.convert_ids_to_tokens(ids), "!"],
                "token_logprobs": [None, *values, -0.5],
                "text_offset": offsets,
            }
        reply = {"choices": [choice], "usage": {"prompt_tokens": len(ids)}}
        self.spoil(reply)
        return reply

    def _handler(server: "Server") -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if server.raw:
                    return self._raw(server.raw)
                self._reply(
                    200 if server.lists_models else 404, {"data": [{"id": "tiny", **server.told}]}, {}
                )

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if server.raw:
                    return self._raw(server.raw)
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

            def _raw(self, answer: Callable[[Write], object]) -> None:
                self.close_connection = True
                with suppress(OSError):  # the client hangs up
                    answer(self.wfile.write)

            def log_message(self, *args: Any) -> None:
                pass

        return Handler
