"""Certainty of a comparison: intervals over seeds, paired differences, bootstrap and Holm's correction."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from scipy.stats import t

from .errors import DataError

Name = TypeVar("Name", bound=Hashable)

_CHUNK = 1_000
_NO_SPREAD = 1e-18  # relative to the squared mean: rounding, not spread


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and the half-width of its confidence interval, in the unit of the values."""

    mean: float
    half_width: float | None
    """`None` for a single value, which says nothing of its spread."""
    count: int

    @property
    def low(self) -> float | None:
        """Lower end of the interval."""
        return None if self.half_width is None else self.mean - self.half_width

    @property
    def high(self) -> float | None:
        """Upper end of the interval."""
        return None if self.half_width is None else self.mean + self.half_width


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Mean of independent runs with Student's t interval.

    Args:
        values: One number a run (a seed, a draw).
        confidence: Probability that such an interval covers the true mean, in (0, 1).

    Raises:
        DataError: there is no value, or one is not finite.
    """
    data = _finite(values)
    if len(data) == 1:
        return Interval(float(data[0]), None, 1)
    error = data.std(ddof=1) / np.sqrt(len(data))
    quantile = float(t.ppf((1 + confidence) / 2, len(data) - 1))
    return Interval(float(data.mean()), float(quantile * error), len(data))


def paired_difference(
    values: Sequence[float], baseline: Sequence[float], confidence: float = 0.95
) -> Interval:
    """Interval of `values - baseline`, run by run; positive where `values` are higher.

    Pairing runs on the same draws and seeds takes away the spread that both share.

    Raises:
        DataError: the lists differ in length, are empty or hold a number that is not finite.
    """
    return mean_interval(_differences(values, baseline).tolist(), confidence)


def paired_bootstrap(
    values: Sequence[float], baseline: Sequence[float], *, resamples: int = 10_000, seed: int = 0
) -> float:
    """Two-sided p-value of the paired bootstrap for a mean difference of zero.

    The differences are centred, so that the hypothesis holds, and resampled with replacement; what is
    compared is Student's t of each resample (Efron and Tibshirani 1993, sections 12.5 and 16.4). The mean
    alone would, at the 5 % level, see a difference where there is none in 29 % of comparisons of 3 pairs and
    14 % of those of 6.

    Args:
        values: One number a unit: a text (1 where it is predicted right), or a run.
        baseline: The same units under the baseline.
        resamples: Number of resamples.
        seed: Seed of the resampling.

    Returns:
        (1 + resamples whose |t| is at least the observed one) / (1 + resamples), and never below
        2^(1 − pairs), the chance that so few differences all have one sign. 1 where the mean difference is 0.

    Raises:
        DataError: the lists differ in length, are empty or hold a number that is not finite.
    """
    differences = _differences(values, baseline)
    mean, variance = differences.mean(), differences.var()
    if mean == 0:
        return 1.0
    surest = 0.5 ** (len(differences) - 1)
    if variance <= _NO_SPREAD * mean**2:
        return max(surest, 1 / (1 + resamples))
    # equal differences are interchangeable, so only how often each is drawn matters
    distinct, counts = np.unique(differences - mean, return_counts=True)
    rng = np.random.default_rng(seed)
    extreme = 0
    for start in range(0, resamples, _CHUNK):
        shares = rng.multinomial(
            len(differences), counts / len(differences), size=min(_CHUNK, resamples - start)
        ) / len(differences)
        means = shares @ distinct
        variances = np.maximum(shares @ distinct**2 - means**2, 0.0)
        # |t| compared without dividing by a spread of zero; rounding must not decide between equal values
        extreme += int((means**2 * variance >= mean**2 * variances * (1 - 1e-9)).sum())
    return max(surest, (1 + extreme) / (1 + resamples))


def holm(p_values: Mapping[Name, float]) -> dict[Name, float]:
    """Holm's step-down correction for several comparisons (Holm 1979); keeps the family-wise error rate.

    Args:
        p_values: p-value of each comparison, in [0, 1].

    Returns:
        Adjusted p-values, in [p, 1] and in the order of p; reject where they are at most the level.

    Raises:
        DataError: a p-value is outside [0, 1].
    """
    if wrong := {name: p for name, p in p_values.items() if not 0 <= p <= 1}:
        raise DataError(f"A p-value lies in [0, 1]; got {wrong!r}.")
    adjusted: dict[Name, float] = {}
    highest = 0.0
    for place, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[name]))
        adjusted[name] = highest
    return {name: adjusted[name] for name in p_values}


def _finite(values: Sequence[float]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    data = np.asarray(values, dtype=np.float64).reshape(-1)
    if not len(data) or not np.isfinite(data).all():
        raise DataError(
            f"Statistics need at least one value, and finite ones; got {list(values)[:10]!r}."
        )
    return data


def _differences(
    values: Sequence[float], baseline: Sequence[float]
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    if len(values) != len(baseline):
        raise DataError(
            f"Pairs are needed: {len(values)} values, but {len(baseline)} of the baseline."
        )
    difference: np.ndarray[tuple[int], np.dtype[np.float64]] = _finite(values) - _finite(baseline)
    return difference
