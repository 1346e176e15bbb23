"""Settings of fusion, and of priors without a language model. Imports neither torch nor transformers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ..options import documented, option

Normalisation = Literal["l2", "max_abs", "min_max", "softmax", "none"]
How = Literal["mean", "max"]


@documented
@dataclass(frozen=True, kw_only=True)
class FusionSettings:
    """How several priors become one."""

    sources: tuple[str, ...] = option(
        (), "Sources to fuse, in the columns prior_<source>; all that there are by default."
    )
    how: How = option("mean", "Mean or (signed) maximum over the sources, word by word.")
    normalisation: Normalisation = option(
        "l2", "Puts each source on one scale over the words of a text, before fusing."
    )
    weights: Mapping[str, float] = option(
        help="Source to weight, at least 0; 1 where it is not named. Only ratios matter.",
        factory=dict,
    )
    certainty: Mapping[str, str] = option(
        help="Source to the diagnostic column (such as cap_r2) that multiplies its weight on each text.",
        factory=dict,
    )
