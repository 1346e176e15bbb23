import math
from dataclasses import dataclass
from typing import Literal

import pytest

from hf_cap.errors import ConfigError
from hf_cap.utils import check_choices, check_range


@dataclass(frozen=True)
class Settings:
    how: Literal["mean", "max"] = "mean"
    order: Literal[1, 2] = 1
    note: str = ""
    n: float | None = 1
    share: float = 0.5


@pytest.mark.parametrize("settings", [Settings(), Settings(how="max", order=2, note="sum")])
def test_a_choice_among_its_names_passes(settings: Settings) -> None:
    check_choices(settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Settings(how="sum"), r"^`how` must be one of 'mean', 'max', got 'sum'\.$"),  # type: ignore[arg-type]
        (Settings(order=3), r"^`order` must be one of 1, 2, got 3\.$"),  # type: ignore[arg-type]
    ],
)
def test_any_other_choice_is_refused(settings: Settings, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_choices(settings)


@pytest.mark.parametrize("n", [1, 2.5, None])
def test_at_least_admits_its_bound_and_a_default(n: float | None) -> None:
    check_range(Settings(n=n), "n", "share", at_least=0.5)


@pytest.mark.parametrize("n", [0, -1, math.nan])
def test_at_least_refuses_what_is_below_and_not_a_number(n: float) -> None:
    with pytest.raises(ConfigError, match=rf"^`n` must be at least 1, got {n}\.$"):
        check_range(Settings(n=n), "n", at_least=1)


def test_above_and_below_leave_their_bounds_out_and_at_most_admits_its_own() -> None:
    check_range(Settings(share=1), "share", above=0, at_most=1)
    with pytest.raises(ConfigError, match="must be more than 0 and at most 1, got 0"):
        check_range(Settings(share=0), "share", above=0, at_most=1)
    check_range(Settings(share=0), "share", at_least=0, below=1)
    with pytest.raises(ConfigError, match="must be at least 0 and less than 1, got 1"):
        check_range(Settings(share=1), "share", at_least=0, below=1)
    with pytest.raises(ConfigError, match="less than inf, got inf"):
        check_range(Settings(n=math.inf), "share", "n", at_least=0, below=math.inf)
