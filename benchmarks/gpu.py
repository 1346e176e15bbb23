"""What a GPU makes of scoring and of alignment, in under 8 minutes on a card of the class of an H100.

    python -m benchmarks.gpu [--toy] [--output benchmarks/results/gpu.json]

Scoring: a language model of the shape of Llama-3-8B in bfloat16 with random weights (they change no speed)
scores perturbations of random texts behind a prompt prefix: packed with the mask of hf_cap, packed with a
block-sparse mask for FlexAttention, and as whole prompts in padded batches (on a part of the texts).
`share_of_dense` is the tokens that a side computes in a second, over those of a plain forward pass over
full sequences. Alignment: steps of a classifier of the shape of roberta-base, as `benchmarks/alignment.py`
takes them, in float32 and bfloat16. At last the tests marked `gpu` run. `--toy` does all of it in seconds,
on the CPU too, to see that it works.
"""

import argparse
import json
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.attention.flex_attention import create_block_mask
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from benchmarks.alignment import OURS, ROBERTA, TOY, timings
from hf_cap.lm.packed import Continuation, TokenScorer, Trie
from hf_cap.utils import write_json

RESULTS = Path(__file__).parent / "results" / "gpu.json"
LLAMA_3_8B = {
    "vocab_size": 128256, "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "intermediate_size": 14336, "max_position_embeddings": 8192,
}  # fmt: skip
TOY_LLAMA = {
    "vocab_size": 512, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 128, "max_position_embeddings": 512,
}  # fmt: skip
MODES = [name for name in OURS if name != "K=10, 1 carries"]


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is measured."""

    language_model: dict[str, int]
    dtype: torch.dtype
    prefix: int  # tokens of the prompt's prefix
    words: int  # tokens of a text
    n: int  # perturbations of a text
    texts: int
    padded_texts: int  # texts that are scored as whole prompts
    budget: int  # tokens of a forward pass
    classifier: str
    lengths: tuple[int, ...]
    turns: int


CARD = Size(
    language_model=LLAMA_3_8B, dtype=torch.bfloat16, prefix=1000, words=25, n=100, texts=64, padded_texts=2,
    budget=8192, classifier=ROBERTA, lengths=(32, 128), turns=7,
)  # fmt: skip
SMALL = Size(
    language_model=TOY_LLAMA, dtype=torch.float32, prefix=40, words=6, n=8, texts=3, padded_texts=3,
    budget=64, classifier=TOY, lengths=(8,), turns=1,
)  # fmt: skip


class FlexScorer(TokenScorer):
    """Packed scoring with FlexAttention, which skips blocks of tokens that do not see each other."""

    def mask(self, prefix: int, trie: Trie, above: NDArray[np.int64], start: int, stop: int) -> Any:
        """The mask of a run as a `BlockMask`."""
        device = self.model.device
        keys = np.concatenate([above, np.arange(start, stop)])
        # a prefix token stands before all nodes and ends after them
        first = np.concatenate([np.full(prefix, -1), keys])
        end = np.concatenate([np.full(prefix, len(trie)), trie.end[keys]])
        firsts, ends = torch.from_numpy(first).to(device), torch.from_numpy(end).to(device)

        def visible(batch: Any, head: Any, query: Any, key: Any) -> Any:
            node = query + start
            return (firsts[key] <= node) & (node < ends[key])

        return create_block_mask(visible, None, None, stop - start, len(first), device=device)


def language_model(size: Size, device: torch.device) -> PreTrainedModel:
    """A Llama with random weights."""
    torch.manual_seed(0)
    auto: Any = AutoModelForCausalLM
    with device:
        model: PreTrainedModel = auto.from_config(
            AutoConfig.for_model("llama", **size.language_model), dtype=size.dtype
        )
    model.train(False)
    return model


def perturbations(size: Size) -> tuple[tuple[int, ...], list[list[Continuation]]]:
    """A prefix, and for each of some random texts its perturbations: up to half of its tokens are deleted."""
    draw = random.Random(0)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(draw.randrange(3, size.language_model["vocab_size"]) for _ in range(count))

    prefix, end, found = tokens(size.prefix), tokens(3), []
    for _ in range(size.texts):
        text, answer = tokens(size.words), tokens(3)
        kept = (
            sorted(draw.sample(range(size.words), size.words - draw.randint(0, size.words // 2)))
            for _ in range(size.n)
        )
        texts = [tuple(text[place] for place in places) for places in kept]
        found.append([Continuation(one + end + answer, len(answer)) for one in texts])
    return prefix, found


def timed(work: Callable[[], Any], device: torch.device) -> tuple[Any, float, float | None]:
    """What `work` returns, its seconds, and the memory in GB that it takes at most beyond what is there."""
    card = device.type == "cuda"
    if card:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    started = time.perf_counter()
    result = work()
    if card:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    peak = (torch.cuda.max_memory_allocated() - before) / 1e9 if card else None
    return result, seconds, peak


def side(
    scorer: TokenScorer,
    score: Callable[[], list[list[tuple[float, ...]]]],
    device: torch.device,
    dense: float,
) -> tuple[list[list[tuple[float, ...]]], dict[str, Any]]:
    """The scores of one way, and its figures; the second of two runs counts, the first compiles."""
    score()
    before = scorer.tokens_computed
    scores, seconds, peak = timed(score, device)
    rate = (scorer.tokens_computed - before) / seconds
    return scores, {
        "perturbations_per_second": sum(map(len, scores)) / seconds,
        "tokens_per_second": rate,
        "share_of_dense": rate / dense,
        "peak_gigabytes": peak,
        "seconds": seconds,
    }


def dense_rate(model: PreTrainedModel, size: Size) -> float:
    """Tokens a second of forward passes over full sequences of the length of a prompt."""
    width = size.prefix + size.words
    shape = (max(1, size.budget // width), width)
    ids = torch.randint(3, size.language_model["vocab_size"], shape, device=model.device)

    @torch.inference_mode()
    def forward() -> None:
        model(input_ids=ids, use_cache=False, logits_to_keep=1)

    rates = [ids.numel() / timed(forward, model.device)[1] for _ in range(6)]
    return statistics.median(rates[1:])


def scoring(size: Size, device: torch.device) -> dict[str, Any]:
    """All ways to score, and how far their scores are from those of whole prompts."""
    model = language_model(size, device)
    prefix, texts = perturbations(size)
    dense = dense_rate(model, size)

    def packed(scorer: TokenScorer) -> Callable[[], list[list[tuple[float, ...]]]]:
        return lambda: [scorer.packed(prefix, rows) for rows in texts]

    def whole(scorer: TokenScorer) -> Callable[[], list[list[tuple[float, ...]]]]:
        some = texts[: size.padded_texts]
        return lambda: [
            scorer.whole([Continuation(prefix + row.ids, row.scored) for row in rows]) for rows in some
        ]

    sides, scores = {}, {}
    for name, kind, how, attention in (
        ("whole prompts, padded", TokenScorer, whole, "sdpa"),
        ("packed, SDPA", TokenScorer, packed, "sdpa"),
        ("packed, FlexAttention", FlexScorer, packed, "flex_attention"),
    ):
        model.set_attn_implementation(attention)
        scorer = kind(model, size.budget)
        scores[name], sides[name] = side(scorer, how(scorer), device, dense)
        print(f"{name}: {sides[name]}", flush=True)
    reference = scores["whole prompts, padded"]
    weights = sum(one.numel() for one in model.parameters())
    return {
        "parameters": weights,
        "dense_tokens_per_second": dense,
        "dense_teraflops": 2 * weights * dense / 1e12,
        "sides": sides,
        "mean_abs_difference": {name: difference(found, reference) for name, found in scores.items()},
    }


def difference(
    one: Sequence[Sequence[tuple[float, ...]]], other: Sequence[Sequence[tuple[float, ...]]]
) -> float:
    """Mean difference of the scores of the texts that both have, token by token, in nats."""
    pairs = zip(one, other, strict=False)
    return float(np.mean([np.abs(np.subtract(a, b)).mean() for a, b in pairs]))


def gpu_tests() -> str:
    """The last line of the tests that need an accelerator."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-n", "0", "tests/training/test_gpu.py"]
    run = subprocess.run(command, capture_output=True, text=True)
    return run.stdout.strip().splitlines()[-1]


def measure(size: Size, device: torch.device) -> dict[str, Any]:
    """All figures but those of the tests."""
    cpu = device.type == "cpu"
    aligned = {
        f"{'bfloat16' if bf16 else 'float32'}, {length} tokens": timings(
            size.classifier, length, MODES, size.turns, bf16=bf16, use_cpu=cpu
        )
        for bf16 in (False, True)
        for length in size.lengths
    }
    for name, found in aligned.items():
        print(f"aligned, {name}: { {key: one['ratio'] for key, one in found.items()} }", flush=True)
    return {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.machine(),
        "torch": torch.__version__,
        "scoring": scoring(size, device),
        "aligned_steps": aligned,
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--toy", action="store_true", help="tiny models, on any device; no goal")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    if not options.toy and not torch.cuda.is_available():
        parser.error("there is no GPU here; --toy shows on a CPU that the benchmark works")
    started = time.perf_counter()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    # a CPU needs another compiler for FlexAttention than a GPU; there it runs as it is written
    with torch.compiler.set_stance("default" if device.type == "cuda" else "force_eager"):
        found = measure(SMALL if options.toy else CARD, device)
    found |= {"gpu_tests": gpu_tests(), "seconds": time.perf_counter() - started, "toy": options.toy}
    write_json(options.output, found)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
