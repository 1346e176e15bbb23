"""Seconds to score the perturbations of a text: naive, padded, captum, and hf_cap, in one run.

    python benchmarks/extraction.py --data FOLDER [--quick | --growth_only]

FOLDER holds `train_5.jsonl` (rows with `text` and `label`) and `labels.json`. All sides score the same
prompts with the same model in float32 on the same threads. The slow sides are timed on a part of the
prompts of every text and scaled to an example (`timed_on` says on how many); hf_cap is timed on all of
them, before, between and after the others, and its median counts; so does that of the matrix products (and
once more their best, since a busy machine slows products and scoring at different moments).
The last line is JSON; with everything else it is written to `benchmarks/results/extraction.json`.
`--growth_only` measures how hf_cap's cost grows, and puts that into the file of an earlier run.
"""

import argparse
import json
import platform
import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from captum.attr import KernelShap, LLMAttribution, TextTemplateInput
from torch import nn

from hf_cap.lm.base import LMRuntime, LMSettings, Query, Scored
from hf_cap.lm.cpu import multiplying
from hf_cap.lm.local import LocalLanguageModel, load_local
from hf_cap.utils import write_json
from hf_cap.words import keep_words, split_words

RESULTS = Path(__file__).parent / "results" / "extraction.json"
GOALS = {
    "speedup_vs_captum": 150,
    "speedup_vs_captum_fastest": 60,
    "speedup_vs_naive": 35,
    "share_of_floor": 0.70,
}


@dataclass(frozen=True)
class Text:
    """A text with its label, verbalised."""

    text: str
    label: str


@dataclass(frozen=True)
class Timing:
    """One side, scaled to an example of `n` perturbations."""

    seconds: float
    perturbations_per_second: float
    timed_on: int
    peak_megabytes: float | None = None


def read(folder: Path) -> tuple[list[Text], list[str]]:
    """The texts and the verbalised label space."""
    labels = json.loads((folder / "labels.json").read_text())
    rows = [json.loads(line) for line in (folder / "train_5.jsonl").read_text().splitlines()]
    return [Text(r["text"], spoken(r["label"])) for r in rows], [spoken(name) for name in labels]


def spoken(label: str) -> str:
    """A label as words."""
    return label.replace("_", " ")


def instruction(labels: list[str], shots: list[Text] | None = None) -> str:
    """The shared prefix: label space, then demonstrations, up to the text."""
    shown = "".join(f"Message: {shot.text}\nIntent: {shot.label}\n\n" for shot in shots or [])
    return f"Give the intent of the message: {', '.join(labels)}.\n\n{shown}Message: "


def queries(prefix: str, texts: list[Text], n: int) -> list[Query]:
    """`n` perturbations of each text: between 2 and half of its words (and one) deleted."""
    asked = []
    for item in texts:
        spans = split_words(item.text)
        draw = random.Random(item.text)
        for _ in range(n):
            out = draw.randint(min(2, len(spans) - 1), max(1, len(spans) // 2 + 1))
            gone = set(draw.sample(range(len(spans)), min(out, len(spans) - 1)))
            left = keep_words(item.text, spans, [place not in gone for place in range(len(spans))])
            asked.append(Query(prefix, f"{left}\nIntent:", f" {item.label}"))
    return asked


@contextmanager
def peak_memory() -> Iterator[list[float]]:
    """Collects the peak of the process's resident memory, in megabytes, sampled every 20 ms."""
    peak, done = [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            peak[0] = max(peak[0], pages * 4096 / 1e6)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def timed(work: Callable[[], Any], perturbations: int, n: int) -> tuple[Any, Timing]:
    """Run `work`, which scores `perturbations` of them; scale to `n`."""
    with peak_memory() as peak:
        started = time.perf_counter()
        result = work()
        seconds = time.perf_counter() - started
    rate = perturbations / seconds
    return result, Timing(n / rate, rate, perturbations, round(peak[0]))


def measure_naive(model: LocalLanguageModel, asked: list[Query], n: int) -> tuple[list[Scored], Timing]:
    """Side (a): one whole prompt at a time."""
    alone = plain(model, 1)
    scores, timing = timed(lambda: [alone.log_probs([query])[0] for query in asked], len(asked), n)
    return scores, timing


def measure_padded(model: LocalLanguageModel, asked: list[Query], n: int) -> Timing:
    """Side (b): whole prompts in padded batches of about eight."""
    return timed(lambda: plain(model, 4096).log_probs(asked), len(asked), n)[1]


def plain(model: LocalLanguageModel, budget: int) -> LocalLanguageModel:
    """The same model without packing."""
    runtime = LMRuntime(token_budget=budget)
    return LocalLanguageModel(model.model, model.tokens.tokenizer, packed=False, runtime=runtime)


def measure_captum(
    model: LocalLanguageModel, prefix: str, texts: list[Text], n: int, samples: int, *, in_tokens: bool
) -> Timing:
    """Side (c): captum's KernelShap over the words, one forward pass (or one a token) a sample."""
    method = LLMAttribution(KernelShap(model.model), model.tokens.tokenizer)

    def prompt(*kept: str) -> str:
        return f"{prefix}{' '.join(word for word in kept if word)}\nIntent:"

    def work() -> None:
        for item in texts:
            words = item.text.split()
            inputs = TextTemplateInput(prompt, values=words, baselines=[""] * len(words))
            method.attribute(inputs, target=f" {item.label}", n_samples=samples, forward_in_tokens=in_tokens)

    return timed(work, samples * len(texts), n)[1]


def product_rates(model: nn.Module, rows: int = 1024) -> list[float]:
    """Floating-point operations a second of the products of each layer's weights, by the faster library."""
    found = []
    with torch.inference_mode(), multiplying(model):
        for layer in model.get_submodule("model.layers").children():
            products = [m for m in layer.modules() if isinstance(m, nn.Linear)]
            inputs = [torch.randn(rows, product.in_features) for product in products]
            started = time.perf_counter()
            for rows_in, product in zip(inputs, products, strict=True):
                product(rows_in)
            seconds = time.perf_counter() - started
            found.append(sum(2 * rows * product.weight.numel() for product in products) / seconds)
    return found


def floor_seconds(model: LocalLanguageModel, prefix: str, tokens: int, rate: float) -> float:
    """Least time of `tokens` trie tokens: weights and attention to the prefix at the rate of products."""
    config, named = model.model.config, dict(model.model.named_parameters())
    weights = sum(p.numel() for n, p in named.items() if "embed" not in n and "lm_head" not in n)
    context = len(model.tokens.prompt(prefix))
    attention = 4 * config.num_hidden_layers * config.hidden_size * context
    return float((2 * weights + attention) * tokens / rate)


def measure_ours(model: LocalLanguageModel, asked: list[Query], n: int) -> tuple[list[Scored], Timing, int]:
    """Side (e): hf_cap, with its prefix still to be encoded; and the tokens it computed."""
    fresh = LocalLanguageModel(model.model, model.tokens.tokenizer)
    _ = fresh.reach  # a check once a model, like loading it, which no side's time contains
    scores, timing = timed(lambda: fresh.log_probs(asked), len(asked), n)
    return scores, timing, fresh.statistics.tokens_computed


def growth(
    model: LocalLanguageModel, texts: list[Text], labels: list[str], *, quick: bool
) -> dict[str, dict[int, float]]:
    """Seconds an example against labels, words and n, one at a time: medians of several rounds."""
    some = texts[: 2 if quick else 4]
    vocabulary = [word for item in texts for word in item.text.split()]
    many = [*labels, *(f"{a} {b}" for a in labels for b in labels)]
    prefix = instruction(labels)
    cases = {
        "labels": {
            size: (instruction(many[:size]), some, 100)
            for size in ((10, 77) if quick else (10, 77, 150, 500))
        },
        "words": {
            size: (prefix, [Text(" ".join(vocabulary[:size]), labels[0])], 100)
            for size in ((5, 20) if quick else (5, 10, 20, 50, 100))
        },
        "n": {n: (prefix, some, n) for n in ((10, 100) if quick else (10, 30, 100, 300, 1000))},
    }
    # round by round, so that a slow minute of the machine hits all sizes
    rounds = [
        {
            name: {
                size: measure_ours(model, queries(before, items, n), n)[1].seconds
                for size, (before, items, n) in sizes.items()
            }
            for name, sizes in cases.items()
        }
        for _ in range(1 if quick else 3)
    ]
    return {
        name: {size: statistics.median(one[name][size] for one in rounds) for size in sizes}
        for name, sizes in cases.items()
    }


def long_prefix(model: LocalLanguageModel, texts: list[Text], labels: list[str]) -> str:
    """A prefix with so many demonstrations that it has about 1,100 tokens."""
    shots: list[Text] = []
    for item in reversed(texts):
        if len(model.tokens.prompt(instruction(labels, shots))) >= 1100:
            break
        shots.append(item)
    return instruction(labels, shots)


def compare(model: LocalLanguageModel, folder: Path, quick: bool, n: int = 100) -> dict[str, Any]:
    """All sides on the same prompts."""
    everything, labels = read(folder)
    texts = everything[:: max(1, len(everything) // 24)][: 24 : 4 if quick else 1]
    prefix = instruction(labels)
    asked = queries(prefix, texts, n)
    extended = long_prefix(model, everything, labels)
    asked_long = queries(extended, texts, n)
    sample = list(dict.fromkeys(asked))
    sample = sample[:: max(1, len(sample) // (24 if quick else 72))]
    samples = 4
    scores, first, tokens = measure_ours(model, asked, n)
    ours, longer, rates = [first], [], product_rates(model.model)
    sides: dict[str, Timing] = {}

    def again() -> None:
        """Once more, so that a slow minute of the machine hits all sides."""
        ours.append(measure_ours(model, asked, n)[1])
        longer.append(measure_ours(model, asked_long, n)[1])
        rates.extend(product_rates(model.model))

    reference, sides["naive"] = measure_naive(model, sample, n)
    again()
    sides["padded"] = measure_padded(model, sample, n)
    for side, in_tokens in (("captum", True), ("captum_fastest", False)):
        again()
        sides[side] = measure_captum(model, prefix, texts, n, samples, in_tokens=in_tokens)
    again()
    sides["hf_cap"], sides["hf_cap_long_prefix"] = middle(ours), middle(longer)
    seconds = sides["hf_cap"].seconds
    rate = statistics.median(rates)
    floor = floor_seconds(model, prefix, tokens, rate) / len(texts)
    known = dict(zip(asked, scores, strict=True))
    return {
        "texts": len(texts),
        "prefix_tokens": len(model.tokens.prompt(prefix)),
        "long_prefix_tokens": len(model.tokens.prompt(extended)),
        "tokens_an_example": tokens / len(texts),
        "gigaflops": rate / 1e9,
        "best_gigaflops": max(rates) / 1e9,
        "floor_seconds": floor,
        "context_cite": CONTEXT_CITE,
        "sides": {name: vars(side) for name, side in sides.items()},
        "growth": growth(model, everything, labels, quick=quick),
        "long_prefix_cost": sides["hf_cap_long_prefix"].seconds / seconds,
        "summary": {
            "speedup_vs_captum": sides["captum"].seconds / seconds,
            "speedup_vs_captum_fastest": sides["captum_fastest"].seconds / seconds,
            "speedup_vs_naive": sides["naive"].seconds / seconds,
            "share_of_floor": floor / seconds,
            "share_of_floor_at_best_rate": floor / seconds * rate / max(rates),
            "max_abs_diff": difference([known[query] for query in sample], reference),
        },
    }


def middle(timings: list[Timing]) -> Timing:
    """The timing of median length."""
    return sorted(timings, key=lambda timing: timing.seconds)[len(timings) // 2]


def difference(one: list[Scored], other: list[Scored]) -> float:
    """Largest difference of two lists of scores, token by token, in nats."""
    pairs = zip(one, other, strict=True)
    return max(abs(a - b) for x, y in pairs for a, b in zip(x.log_probs, y.log_probs, strict=True))


CONTEXT_CITE = "left out: it scores a response it generated itself, and autocasts to CUDA float16"
"""Why there is no side (d)."""


def table(facts: dict[str, Any]) -> str:
    """The sides as a Markdown table."""
    lines = ["| side | s an example | perturbations/s | peak MB | timed on |", "|---|---|---|---|---|"]
    for name, side in facts["sides"].items():
        lines.append(
            f"| {name} | {side['seconds']:.2f} | {side['perturbations_per_second']:.1f} | "
            f"{side['peak_megabytes']:.0f} | {side['timed_on']} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train_5.jsonl and labels.json")
    parser.add_argument("--model", default=LMSettings().model)
    parser.add_argument("--quick", action="store_true", help="6 texts instead of 24: within 8 minutes")
    parser.add_argument("--growth_only", action="store_true", help="only how cost grows: labels, words, n")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    settings = LMSettings(model=options.model, dtype="float32")
    model = load_local(settings, LMRuntime(device="cpu", store=None))
    if options.growth_only:
        measured = growth(model, *read(options.data), quick=False)
        write_json(options.out, json.loads(options.out.read_text()) | {"growth": measured})
        print(json.dumps(measured))
        return
    facts = compare(model, options.data, options.quick)
    facts |= {
        "command": f"python benchmarks/extraction.py{' --quick' * options.quick} --data FOLDER",
        "model": options.model,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
        "goals": GOALS,
    }
    write_json(options.out, facts)
    print(table(facts))
    print(json.dumps(facts["summary"]))


if __name__ == "__main__":
    main()
