"""The number format in which a language model is asked for priors on a CPU."""

import logging
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from operator import mul
from typing import TYPE_CHECKING, Any

from hf_cap.lm.base import LMSettings, current_runtime
from hf_cap.priors.cap import CAPPrior
from hf_cap.schema import LABEL
from hf_cap.utils import subsample

if TYPE_CHECKING:
    from datasets import Dataset

_logger = logging.getLogger(__name__)

FASTER = 1.5
"""By how much products in bfloat16 must be faster: with AMX they are several times, without it rarely 1.5."""
AGREEMENT = 0.99
"""Mean cosine of the priors in both formats from which on bfloat16 is taken."""
MOST_CHECKED, FEWEST_CHECKED, PART_CHECKED = 32, 4, 10
"""Texts of the check: one in ten, so that it costs little of what bfloat16 saves."""


def choose_dtype(model: Any, dataset: "Dataset", options: Mapping[str, Any]) -> Any:
    """The settings of `model` with bfloat16 in place of `auto` where a CPU gives the same priors faster.

    The priors of some texts by `CAPPrior` with these options are compared in both formats. All else is
    returned as it is; a CPU then takes `auto` for float32.
    """
    from hf_cap.data import label_names

    count = min(MOST_CHECKED, len(dataset) // PART_CHECKED)
    if not _is_open(model) or count < FEWEST_CHECKED or bfloat16_speedup() < FASTER:
        return model
    some = dataset.select(subsample(range(len(dataset)), count))
    labels = tuple(label_names(dataset, options.get("label_column", LABEL), at_least=2))
    formats = [replace(model, dtype=dtype) for dtype in ("float32", "bfloat16")]
    # neither calibrated nor with demonstrations, for which there is no model yet
    sources = [CAPPrior(labels=labels, **{**options, "model": one}) for one in formats]
    found = agreement(*[one.score_words(one.read_rows(some[:])).scores for one in sources])
    chosen = formats[found >= AGREEMENT]
    _logger.info(
        "The language model runs in %s: here products in bfloat16 are %.1f times as fast, and over %d texts "
        "its priors have a mean cosine of %.4f with those in float32 (at least %.2f is needed).",
        chosen.dtype, bfloat16_speedup(), count, found, AGREEMENT,
    )  # fmt: skip
    return chosen


def _is_open(model: Any) -> bool:
    """Whether `model` leaves the number format open and runs on a CPU."""
    if not isinstance(model, LMSettings) or model.dtype != "auto" or model.base_url is not None:
        return False
    from hf_cap.lm.local import choose_device  # imports torch

    return model.quantization == "none" and choose_device(current_runtime().device).type == "cpu"


def agreement(priors: Sequence[Sequence[float]], others: Sequence[Sequence[float]]) -> float:
    """Mean cosine of the priors of the same texts, in [-1, 1]; two that are all zero agree."""
    found = []
    for one, other in zip(priors, others, strict=True):
        lengths = math.hypot(*one) * math.hypot(*other)
        product = sum(map(mul, one, other))
        found.append(product / lengths if lengths else float(not any([*one, *other])))
    return statistics.fmean(found)


@lru_cache
def bfloat16_speedup() -> float:
    """How many times as fast as in float32 a CPU multiplies matrices in bfloat16, measured once."""
    import torch

    def seconds(dtype: torch.dtype) -> float:
        inputs, weight = torch.ones(384, 1024, dtype=dtype), torch.ones(1024, 1024, dtype=dtype)
        started = time.perf_counter()
        torch.nn.functional.linear(inputs, weight)
        return time.perf_counter() - started

    # in turn, so that a slow moment of the machine hits both
    turns = [(seconds(torch.float32), seconds(torch.bfloat16)) for _ in range(15)]
    return statistics.median(single / half for single, half in turns)
