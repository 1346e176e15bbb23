"""Settings of the report. Imports nothing heavy, so that `hf-cap report --help` is instant."""

from dataclasses import dataclass

from ...options import check_range, documented, option


@documented
@dataclass(frozen=True, kw_only=True)
class ReportSettings:
    """What goes into a report, and how much of it."""

    title: str = option("What the model learned", "Heading of the page.")
    split: str | None = option(
        None,
        "Evaluation whose errors, calibration and texts are shown; `test` by default, else the first.",
    )
    examples: int = option(
        1000,
        "At most so many texts in the example browser, evenly spread over the data; at least 0.",
    )
    megabytes: float = option(
        4.0, "Room for the texts and their scores; fewer texts are shown where they need more."
    )

    def __post_init__(self) -> None:
        check_range(self, "examples", at_least=0)
        check_range(self, "megabytes", above=0)
