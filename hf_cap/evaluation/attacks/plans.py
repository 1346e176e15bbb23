"""What an attack is to do to a text, and what became of it."""

from dataclasses import dataclass

from .settings import Maker


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done to one text."""

    text: str
    label: str
    keywords: tuple[str, ...]
    """The word to add, or the words of the text to replace; none where the text offers nothing."""
    source_label: str
    """The class that the keywords come from."""
    difficulty: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one text."""

    text: str
    keywords: tuple[str, ...]
    maker: Maker | None = None
    """Who changed the text; `None` where it is as it was."""
    note: str = ""
    """Why the text is unchanged, or why the rules had to write it."""
