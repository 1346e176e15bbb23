"""Requests to a model server: bounded concurrency, patience, and a key that is never shown."""

import asyncio
import logging
import os
import random
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

import httpx2

from ..errors import ConfigError, ServerError
from .settings import ScorerRuntime

T = TypeVar("T")

_logger = logging.getLogger(__name__)
_PASSING = {408, 409, 429, 500, 502, 503, 504}
"""Statuses that may be gone the next time."""
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 60.0


def wait_for(requests: Coroutine[Any, Any, T]) -> T:
    """The result of some requests, from code that is not asynchronous.

    They run in a thread of their own, because a notebook already runs an event loop in this one. When
    the user interrupts, those that have not ended are called back.
    """
    begun: Future[Callable[[], object]] = Future()

    async def work() -> T:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        begun.set_result(lambda: loop.call_soon_threadsafe(task.cancel) if task else None)
        return await requests

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(asyncio.run, work())
        try:
            return running.result()
        except KeyboardInterrupt:
            with suppress(RuntimeError):  # they have ended meanwhile
                begun.result()()
            raise


class Connection:
    """A server and how to talk to it.

    Args:
        base_url: Root of the API, e.g. `http://localhost:8000/v1`.
        runtime: Concurrency, retries, time limit, and the name of the key's environment variable.
    """

    def __init__(self, base_url: str, runtime: ScorerRuntime) -> None:
        self.base_url = base_url.rstrip("/")
        self.runtime = runtime

    async def get(self, path: str) -> dict[str, Any]:
        """The JSON at `path`.

        Raises:
            ConfigError: the key cannot be sent.
            ServerError: the server cannot be reached or refuses.
        """
        async with self._client() as client:
            return await self._send(client, "GET", path, None)

    async def post_all(
        self,
        path: str,
        bodies: Sequence[dict[str, Any]],
        arrived: Callable[[int, dict[str, Any]], object] | None = None,
    ) -> list[dict[str, Any]]:
        """The replies to `bodies`, in order, at most `max_concurrency` under way at a time.

        Args:
            path: Below the root of the API.
            bodies: What is sent, one a request.
            arrived: Told the number and the reply of each request as it ends, whatever becomes of the others.

        Raises:
            ConfigError: the key cannot be sent.
            ServerError: a request is refused, or keeps failing.
        """
        gate = asyncio.Semaphore(self.runtime.max_concurrency)

        async with self._client() as client:

            async def one(number: int, body: dict[str, Any]) -> dict[str, Any]:
                async with gate:
                    reply = await self._send(client, "POST", path, body)
                if arrived:
                    arrived(number, reply)
                return reply

            tasks = [asyncio.ensure_future(one(*pair)) for pair in enumerate(bodies)]
            try:
                return await asyncio.gather(*tasks)
            finally:  # after a failure the others are called back before the client closes
                for task in tasks:
                    task.cancel()

    def _client(self) -> httpx2.AsyncClient:
        key = read_key(self.runtime.api_key_env)
        return httpx2.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=self.runtime.timeout,
            limits=httpx2.Limits(max_connections=self.runtime.max_concurrency),
        )

    async def _send(
        self, client: httpx2.AsyncClient, method: str, path: str, body: dict[str, Any] | None
    ) -> dict[str, Any]:
        """One request, repeated while the server is busy or unwell."""
        for attempt in range(self.runtime.max_retries + 1):
            wait = _wait(attempt)
            try:
                response = await client.request(method, self.base_url + path, json=body)
            except httpx2.TransportError as error:
                trouble = self._hidden(f"{type(error).__name__}: {error}")
            else:
                if response.is_success:
                    return self._json(response)
                trouble = f"status {response.status_code}: {self._hidden(response.text)[:500]}"
                if response.status_code not in _PASSING:
                    break
                wait = _asked_wait(response) or wait
            if attempt < self.runtime.max_retries:
                _logger.info("%s%s: %s; again in %.1f s.", self.base_url, path, trouble, wait)
                await asyncio.sleep(wait)
        raise ServerError(f"{self.base_url}{path} failed with {trouble}")

    def _json(self, response: httpx2.Response) -> dict[str, Any]:
        try:
            return dict(response.json())
        except ValueError as error:
            raise ServerError(
                f"{response.url} answered with something else than JSON: "
                f"{self._hidden(response.text)[:200]!r}. Is base_url the root of an OpenAI-compatible API "
                "(it usually ends in /v1)?"
            ) from error

    def _hidden(self, text: str) -> str:
        """Words of the server or the network without the key, which some repeat."""
        key = read_key(self.runtime.api_key_env)
        return text.replace(key, "***") if key else text


def read_key(variable: str) -> str:
    """The key that an environment variable holds, without white space at its ends; empty for none.

    Raises:
        ConfigError: it could not be sent. The message does not show it.
    """
    key = os.environ.get(variable, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(
            f"The environment variable {variable!r} holds a key with a control character or one outside "
            "ASCII, which no server takes. Copy the key into it anew, alone and on one line."
        )
    return key


def _wait(attempt: int) -> float:
    """Seconds before the next attempt: doubling, with jitter so that many clients do not march in step."""
    return float(min(_LONGEST_WAIT, _FIRST_WAIT * 2**attempt) * random.uniform(0.5, 1.0))


def _asked_wait(response: httpx2.Response) -> float | None:
    """The seconds that the server asks for in `Retry-After`, if it does."""
    try:
        return min(_LONGEST_WAIT, max(0.0, float(response.headers["Retry-After"])))
    except (KeyError, ValueError):  # absent, or a date
        return None
