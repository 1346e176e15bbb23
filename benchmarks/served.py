"""How much of a server's own throughput scoring by hf_cap reaches, measured in turns on one running server.

Both sides send the same kind of requests with as many in flight: hf_cap (`LanguageModel.log_probs`), and a
client that only sends bodies which were written before and throws the answers away. Each turn scores texts
that no turn had.

    vllm serve MODEL --dtype float32 --enforce-eager
    python -m benchmarks.served --data data/banking77 --base_url http://localhost:8000/v1 --model MODEL
"""

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import httpx2

from benchmarks.extraction import instruction, queries, read
from hf_cap.lm.base import LMRuntime, LMSettings, Query
from hf_cap.lm.served import ServedLanguageModel


def replay(base_url: str, bodies: Sequence[dict[str, Any]], concurrency: int) -> None:
    """Send the bodies, and read the answers without looking at them."""
    waiting = iter(bodies)

    async def worker(client: httpx2.AsyncClient) -> None:
        for body in waiting:
            answer = await client.post(f"{base_url}/completions", json=body)
            answer.raise_for_status()

    async def all_workers() -> None:
        async with httpx2.AsyncClient(timeout=None) as client:
            await asyncio.gather(*(worker(client) for _ in range(concurrency)))

    asyncio.run(all_workers())


def timed(work: Callable[[], object]) -> float:
    """Seconds."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    """Print each turn and the ratio of the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train_5.jsonl and labels.json")
    parser.add_argument("--base_url", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--requests", type=int, default=60, help="of each turn")
    parser.add_argument("--turns", type=int, default=4)
    given = parser.parse_args()
    runtime = LMRuntime(store=None)
    model = ServedLanguageModel(LMSettings(model=given.model, base_url=given.base_url), runtime)
    texts, labels = read(given.data)
    asked = iter(dict.fromkeys(queries(instruction(labels), texts, 20)))

    def some() -> list[Query]:
        return list(islice(asked, given.requests))

    model.log_probs(some())  # warms up both, and asks the server what it is
    seconds: dict[str, list[float]] = {"hf_cap": [], "server": []}
    for turn in range(given.turns):
        ours, others = some(), some()
        bodies = [model._body(model._request(query), model.dialect) for query in others]
        sides: list[tuple[str, Callable[[], object]]] = [
            ("hf_cap", partial(model.log_probs, ours)),
            ("server", partial(replay, given.base_url, bodies, runtime.max_concurrency)),
        ]
        for side, work in sides if turn % 2 else reversed(sides):
            seconds[side].append(timed(work))
        print(json.dumps({side: round(values[-1], 2) for side, values in seconds.items()}), flush=True)
    medians = {side: statistics.median(values) for side, values in seconds.items()}
    rates = {f"{side}_requests_per_second": round(given.requests / s, 2) for side, s in medians.items()}
    print(json.dumps({**rates, "share": round(medians["server"] / medians["hf_cap"], 3)}))


if __name__ == "__main__":
    main()
