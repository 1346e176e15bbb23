"""What alignment costs: steps of a plain `Trainer`, of naive double backward, and of each mode of ours.

    python benchmarks/alignment.py [--quick] [--output benchmarks/results/alignment.json]

A step is forward, backward, clipping and AdamW on one batch of 16 texts. All set-ups share one model and take
turns in one process; a ratio is the median over the turns of a set-up's seconds to those of the plain step of
the same turn, so that a machine that is busy for a while slows both alike. The naive way is the one of the
literature: for each path point a forward pass with eager attention and `autograd.grad(create_graph=True)`,
after the task's own pass. Peak memory is the rise of the resident set over one step in a fresh process.
`--quick` makes fewer turns of fewer set-ups, under 8 minutes on two cores. The last line printed is JSON;
its figures are medians over the cases, and `..._worst` the largest of them.
"""

import argparse
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification
from transformers.utils import logging

from hf_cap.attribution import TextBatch, pool_words, score_points
from hf_cap.embedded import ENCODER, resolve_model
from hf_cap.losses import LOSSES, alignment_loss
from hf_cap.training.collator import take_priors
from hf_cap.training.config import CAPConfig
from hf_cap.training.trainer import CAPTrainer
from hf_cap.utils import write_json

BATCH, LABELS = 16, 64
ROBERTA_BASE = {
    "vocab_size": 50265, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
    "intermediate_size": 3072, "max_position_embeddings": 514, "pad_token_id": 1,
}  # fmt: skip
TOY_SHAPE = ROBERTA_BASE | {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
}  # fmt: skip
OURS: dict[str, dict[str, Any]] = {
    "plain": {"alignment_weight": 0.0},
    "default": {},
    "word dropout": {"alignment_weight": 0.0, "word_dropout": 0.9},
    "half of the rows": {"alignment_fraction": 0.5},
    "input_x_gradient": {"attribution_method": "input_x_gradient"},
    "finite_difference": {"alignment_gradient": "finite_difference"},
    "K=3": {"attribution_steps": 3},
    "K=3, 1 carries": {"attribution_steps": 3, "attribution_backward_steps": 1},
    "K=10, 1 carries": {"attribution_steps": 10, "attribution_backward_steps": 1},
}  # fmt: skip
NAIVE = {"naive K=1": 1, "naive K=3": 3, "naive K=10": 10}
FEW = ["plain", "default", "input_x_gradient"]
SOME = [*FEW, "K=3, 1 carries", "naive K=1", "naive K=3"]
ALL = [*OURS, *NAIVE]
ROBERTA, TOY = "roberta-base shape", "toy shape"
SHAPES = {ROBERTA: ROBERTA_BASE, TOY: TOY_SHAPE}
QUICK = [
    ("minilm", 16, SOME, 5), ("minilm", 32, SOME, 3), ("minilm", 128, SOME, 1),
    (ROBERTA, 16, SOME, 2), (ROBERTA, 32, FEW, 2), (ROBERTA, 128, FEW, 1),
]  # fmt: skip
FULL = [
    ("minilm", 16, ALL, 15), ("minilm", 32, ALL, 11), ("minilm", 128, ALL, 5),
    (ROBERTA, 16, ALL, 5), (ROBERTA, 32, ALL, 5), (ROBERTA, 128, ALL, 3),
]  # fmt: skip
"""Model, tokens a text, set-ups, turns after one to warm up."""
MEMORY: dict[str, dict[str, Any]] = {
    "double_backward, K=4": {"attribution_steps": 4},
    "finite_difference, K=4": {
        "attribution_steps": 4, "alignment_gradient": "finite_difference",
        "attribution_rows": 2 * BATCH,
    },
}  # fmt: skip


def classifier(name: str) -> nn.Module:
    """MiniLM with its weights, or a model of one of the `SHAPES` with random ones."""
    torch.manual_seed(0)
    if name == "minilm":
        model: nn.Module = AutoModelForSequenceClassification.from_pretrained(
            resolve_model(ENCODER), num_labels=LABELS
        )
        return model
    config = AutoConfig.for_model("roberta", **SHAPES[name], num_labels=LABELS)
    model = AutoModelForSequenceClassification.from_config(config)
    return model


def batch(length: int, device: torch.device) -> dict[str, Tensor]:
    """Random tokens, each a word but the first and the last, with random priors."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1000, 30000, (BATCH, length), generator=generator)
    words = torch.arange(length).expand(BATCH, -1) - 1
    words = words.masked_fill(words == length - 2, -1)
    made = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": torch.randint(0, LABELS, (BATCH,), generator=generator),
        "token_words": words,
        "prior": torch.rand(BATCH, length - 2, generator=generator),
        "prior_mask": torch.ones(BATCH, length - 2, dtype=torch.bool),
        "prior_weight": torch.ones(BATCH),
    }
    return {name: value.to(device) for name, value in made.items()}


def trainer(model: nn.Module, **settings: Any) -> CAPTrainer:
    """A trainer that is ready for single steps."""
    arguments = {"max_steps": 1000, "report_to": "none", "save_strategy": "no", **settings}
    subject = CAPTrainer(model=model, args=CAPConfig(output_dir=tempfile.mkdtemp(), **arguments))
    subject.state.max_steps, subject.current_gradient_accumulation_steps = 1000, 1
    return subject


def finish(subject: CAPTrainer) -> None:
    """The part of a step that is the same for all."""
    nn.utils.clip_grad_norm_(subject.model.parameters(), 1.0)
    subject.optimizer.step()  # type: ignore[union-attr]
    subject.model.zero_grad()
    subject.state.global_step += 1


def our_step(subject: CAPTrainer, data: dict[str, Tensor]) -> None:
    """One step of `CAPTrainer`."""
    subject.training_step(subject.model, dict(data))
    finish(subject)


def naive_step(subject: CAPTrainer, data: dict[str, Tensor], steps: int) -> None:
    """One step as it is usually written, with `steps` path points."""
    model = subject.model.train()
    inputs, priors = take_priors(data)
    labels = inputs.pop("labels")
    loss = model(**inputs, labels=labels).loss
    model.set_attn_implementation("eager")
    total: Any = 0.0
    for k in range(steps):
        alpha = torch.full((1, BATCH), (k + 0.5) / steps, device=labels.device)
        texts = TextBatch(inputs, labels, priors.token_words)  # type: ignore[union-attr]
        score, path = score_points(model, texts, alpha)
        (gradient,) = torch.autograd.grad(score.sum(), path.point, create_graph=True)
        total = total + (gradient * path.difference).sum(-1) / steps
    words = pool_words(total, priors.token_words, priors.scores.shape[1])  # type: ignore[union-attr]
    loss = loss + 0.1 * alignment_loss(LOSSES["mse"], words, *priors[1:])  # type: ignore[index]
    loss.backward()
    model.set_attn_implementation("sdpa")
    finish(subject)


def seconds_a_step(subject: CAPTrainer, key: str, data: dict[str, Tensor]) -> float:
    """Seconds of one step."""
    start = time.perf_counter()
    if key in NAIVE:
        naive_step(subject, data, NAIVE[key])
    else:
        our_step(subject, data)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def timings(
    name: str, length: int, chosen: list[str], turns: int, **common: Any
) -> dict[str, dict[str, float]]:
    """Median seconds a step of each set-up, and its median ratio to the plain step of the same turn."""
    model = classifier(name)
    subjects = {key: trainer(model, **OURS.get(key, OURS["plain"]), **common) for key in chosen}
    optimizer = subjects["plain"].create_optimizer()
    data = batch(length, subjects["plain"].args.device)
    found: dict[str, list[float]] = {key: [] for key in chosen}
    for turn in range(turns + 1):
        for key, subject in subjects.items():
            subject.optimizer = optimizer
            seconds = seconds_a_step(subject, key, data)
            if turn:
                found[key].append(seconds)
    return {
        key: {
            "seconds": round(statistics.median(values), 4),
            "ratio": round(statistics.median(v / p for v, p in zip(values, found["plain"], strict=True)), 3),
        }
        for key, values in found.items()
    }


def gradient_difference(name: str, length: int) -> float:
    """Relative difference between the gradients of both modes, on the alignment term alone."""
    gradients = []
    for mode in ("double_backward", "finite_difference"):
        subject = trainer(classifier(name), alignment_gradient=mode, alignment_weight=1.0)
        data = batch(length, subject.args.device)
        inputs, priors = take_priors(data)
        if priors is None:
            raise RuntimeError("the batch has no priors")
        subject.align(subject.model.train(), inputs, priors)[0].backward()
        found = [torch.zeros_like(p) if p.grad is None else p.grad for p in subject.model.parameters()]
        gradients.append(torch.cat([g.flatten() for g in found]))
    exact, approximate = gradients
    return float((approximate - exact).norm() / exact.norm())


def peak_memory(key: str, name: str, length: int) -> float:
    """MiB that one step adds to the peak of a fresh process (or of the GPU)."""
    subject = trainer(classifier(name), **MEMORY[key])
    subject.create_optimizer()
    data = batch(length, subject.args.device)
    if torch.cuda.is_available():
        before = torch.cuda.memory_allocated()
        subject.training_step(subject.model, data)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    our_step(subject, batch(4, subject.args.device))  # the optimizer's state is there before
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    resting = resident("VmRSS")
    subject.training_step(subject.model, data)
    return resident("VmHWM") - resting


def resident(field: str) -> float:
    """Memory of this process in MiB: `VmRSS` now, `VmHWM` at its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 2**10


def measured_apart(key: str, name: str, length: int) -> float:
    """`peak_memory` in a process of its own."""
    command = [sys.executable, __file__, "--memory", key, "--model", name, "--length", str(length)]
    # every tensor in pages of its own, so that what is freed leaves the process
    variables = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=variables)
    return float(run.stdout.splitlines()[-1])


def measure(quick: bool) -> dict[str, Any]:
    """All figures."""
    steps: dict[str, dict[str, dict[str, float]]] = {}
    for name, length, chosen, turns in QUICK if quick else FULL:
        gc.collect()  # the trainers of the last case refer to themselves
        found = timings(name, length, chosen, turns)
        steps[f"{name}, {length} tokens"] = found
        ratios = {key: values["ratio"] for key, values in found.items()}
        print(f"{name}, {length} tokens: {ratios}", flush=True)
    memory = {key: round(measured_apart(key, "minilm", 64 if quick else 128), 1) for key in MEMORY}

    def over_cases(key: str, summary: Any = statistics.median) -> float:
        return round(float(summary([c[key]["ratio"] for c in steps.values() if key in c])), 3)

    return {
        "step_ratio_default": over_cases("default"),
        "step_ratio_default_worst": over_cases("default", max),
        "step_ratio_input_x_gradient": over_cases("input_x_gradient"),
        "step_ratio_k3": over_cases("K=3, 1 carries"),
        "step_ratio_k3_naive": over_cases("naive K=3"),
        "memory_ratio_finite_difference": round(
            memory["finite_difference, K=4"] / memory["double_backward, K=4"], 3
        ),
        "gradient_relative_difference": gradient_difference("minilm", 32),
        "steps": steps,
        "memory_mib": memory,
        "quick": quick,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else platform.processor() or "cpu",
        "torch": torch.__version__,
    }


def main() -> None:
    """Measure, write the file and print the headline."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="under 8 minutes")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "alignment.json")
    parser.add_argument("--memory", choices=MEMORY, help=argparse.SUPPRESS)
    parser.add_argument("--model", default="minilm", help=argparse.SUPPRESS)
    parser.add_argument("--length", type=int, default=128, help=argparse.SUPPRESS)
    options = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if options.memory:
        print(peak_memory(options.memory, options.model, options.length))
        return
    result = measure(options.quick)
    write_json(options.output, result)
    print(json.dumps({key: value for key, value in result.items() if not isinstance(value, dict)}))


if __name__ == "__main__":
    main()
