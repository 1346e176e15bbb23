"""A Hub in a process of its own, and clients in processes that know no other Hub."""

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

SERVER = Path(__file__).with_name("hub_server.py")
Client = Callable[..., Any]
"""Calls a function with these arguments in another process, which imports it, and gives its result."""


@dataclass(frozen=True)
class HubControl:
    """What a test may tell the Hub."""

    address: str

    def tell(self, path: str, content: Any = None) -> Any:
        body = None if content is None else json.dumps(content).encode()
        with urllib.request.urlopen(f"{self.address}/_test/{path}", body, timeout=10) as answer:
            return json.load(answer)

    def fail(self, method: str, path: str, **fault: Any) -> None:
        """Let the next request like this go wrong, as `hub_server` describes."""
        self.tell("faults", [{"method": method, "path": path, **fault}])

    def accept(self, **tokens: str) -> None:
        """Which tokens are valid from now on, and their roles."""
        self.tell("tokens", tokens)


@pytest.fixture(scope="session")
def hub_process() -> Iterator[str]:
    command, pipe = [sys.executable, str(SERVER)], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()


@pytest.fixture
def hub(hub_process: str) -> Iterator[HubControl]:
    """The Hub, without faults and with its usual tokens."""
    control = HubControl(hub_process)
    control.tell("faults", [])
    control.tell("forget", {})  # so that each test's uploads are whole
    control.accept(hf_alice="write", hf_reader="read")
    yield control
    control.tell("faults", [])


@contextmanager
def _client(address: str, home: Path, **settings: str) -> Iterator[Client]:
    """A process whose `huggingface_hub` was imported with these settings in the environment."""
    environment = {
        "HF_ENDPOINT": address,
        "HF_HOME": str(home),
        "HF_TOKEN": "hf_alice",
        "HF_HUB_DISABLE_XET": "1",  # the Hub of the tests has no content-addressed store
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "OMP_NUM_THREADS": "1",
        **settings,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        # a child begins with our path, where an earlier test may have put the modules of another cache
        own = [place for place in sys.path if not Path(place, "evaluate_modules").exists()]
        patch.setattr(sys, "path", own)
        pool = ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn"))
        pool.submit(os.getpid).result()  # a worker starts with its first task
    with pool:
        yield lambda function, *args, **kwargs: pool.submit(function, *args, **kwargs).result()


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cache of the clients."""
    return tmp_path_factory.mktemp("hf_home")


@pytest.fixture(scope="session")
def client(hub_process: str, home: Path) -> Iterator[Client]:
    with _client(hub_process, home) as call:
        yield call


@pytest.fixture
def offline_client(hub_process: str, home: Path) -> Iterator[Client]:
    """As `client`, with the same cache and no way out."""
    with _client(hub_process, home, HF_HUB_OFFLINE="1") as call:
        yield call
