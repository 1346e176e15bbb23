"""Settings of the report. Imports nothing heavy, so that `hf-cap report --help` is instant."""

from dataclasses import dataclass

from ...errors import ConfigError
from ...options import documented, option


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
        if self.examples < 0:
            raise ConfigError(f"`examples` must be at least 0, got {self.examples!r}.")
        if not self.megabytes > 0:
            raise ConfigError(f"`megabytes` must be more than 0, got {self.megabytes!r}.")
