"""Markdown from facts and a template.

Every value that a template prints is escaped for Markdown, so that a label such as `a|b` or `<script>` is
shown and not obeyed; `| code` and `| block` print it as code. `None` prints as "unknown".
"""

import json
import re
from collections.abc import Sequence
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, ClassVar, Protocol

import jinja2
from huggingface_hub import CardData, DatasetCard, ModelCard, ModelCardData, RepoCard
from markupsafe import Markup

from ..errors import ConfigError
from ..files import bundled
from .facts import PAPER
from .heat_map import heat_map, sparkline

UNKNOWN = "unknown"
SOURCES = {
    "cap": "What the language model's log-probability of the label loses when the word is taken out "
    "(ridge regression on perturbed texts).",
    "channel": "How much likelier the language model finds the word given the label than given others.",
    "lime": "LIME: a local linear model of a classifier that was trained without alignment.",
    "integrated_gradients": "Integrated Gradients of a classifier that was trained without alignment.",
    "keywords": "The statistical weight of the word for the label in the training split.",
    "llm_gradient": "The gradient of the language model's log-probability of the label.",
    "occlusion": "What a classifier that was trained without alignment loses when the word is taken out.",
    "rationale": "Marks that people put on the words that justify the label.",
    "shap": "Shapley values of a classifier that was trained without alignment.",
    "word_length": "The number of characters of the word: a control, not an explanation.",
    "prior": "The priors of the sources named below, normalised over the words of a text and fused.",
}
"""Source of a prior to a sentence on what its scores are."""
_SPECIAL = re.compile(r"[\\`*_\[\]<>|~$&#]")


class Facts(Protocol):
    """What a card tells: a dataclass with the name of its template and its front matter."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]
    template: ClassVar[str]

    def metadata(self) -> CardData:
        """The front matter."""


def render_card(facts: Facts, template: str | Path | None = None) -> str:
    """The card as Markdown, front matter included.

    Args:
        facts: What it tells. The template sees each field by its name, `metadata` (the front matter as YAML)
            and the facts themselves as `facts`.
        template: File of a Jinja template of one's own.

    Raises:
        ConfigError: the template is not there, is malformed, names a fact that does not exist, or gives a
            card whose front matter the Hub would not take.
    """
    source = bundled("model_cards") / facts.template if template is None else Path(template)
    values = {field.name: getattr(facts, field.name) for field in fields(facts)}
    data = facts.metadata()
    metadata = Markup(data.to_yaml(line_break="\n").strip())
    try:
        text = source.read_text(encoding="utf-8")
        card = _environment().from_string(text).render(**values, facts=facts, metadata=metadata)
    except OSError as error:
        raise ConfigError(
            f"Cannot read the card template {str(source)!r}: {error.strerror}."
        ) from error
    except jinja2.TemplateError as error:
        known = ", ".join(sorted(values))
        raise ConfigError(
            f"The card template {str(source)!r} fails: {error}. The facts it may use are {known}."
        ) from error
    _check_metadata(card, source, ModelCard if isinstance(data, ModelCardData) else DatasetCard)
    return card


def _check_metadata(card: str, source: Path, kind: type[RepoCard]) -> None:
    try:
        data = kind(card, ignore_metadata_errors=False).data
    except ValueError as error:
        raise ConfigError(
            f"The card template {str(source)!r} gives bad front matter: {error}"
        ) from error
    if not any(vars(data).values()):
        raise ConfigError(
            f"The card template {str(source)!r} gives no front matter. Begin it with the lines "
            "'---', '{{ metadata }}', '---'."
        )


def escape(value: Any) -> str:
    """A value as Markdown text that means itself; `None` is "unknown"."""
    if value is None:
        return UNKNOWN
    if isinstance(value, Markup):
        return str(value)
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(escape, value)) or "none"
    return _SPECIAL.sub(r"\\\g<0>", " ".join(str(value).split()))


def code(value: Any) -> Markup:
    """A value as a code span that also stands in a table."""
    if value is None:
        return Markup(UNKNOWN)
    text = " ".join(str(value).split()).replace("|", "\\|")
    fence = _fence(text, 1)
    padding = " " if text.startswith("`") or text.endswith("`") else ""
    return Markup(f"{fence}{padding}{text}{padding}{fence}")


def block(value: str, language: str = "text") -> Markup:
    """A text as a fenced code block that it cannot break out of."""
    fence = _fence(value, 3)
    return Markup(f"{fence}{language}\n{value}\n{fence}")


def table(rows: Sequence[Sequence[Any]]) -> Markup:
    """A Markdown table; the first row is its header, columns of numbers stand on the right."""
    header, *body = rows
    numeric = [any(isinstance(line[i], int | float) for line in body) for i in range(len(header))]
    ruler = "|" + "".join("---:|" if right else "---|" for right in numeric)
    lines = [f"| {' | '.join(map(escape, line))} |" for line in (header, *body)]
    return Markup("\n".join([lines[0], ruler, *lines[1:]]))


def spread(rows: Sequence[Any], keep: int = 12) -> list[Any]:
    """At most `keep` of the rows, evenly spread, the first and last among them."""
    if len(rows) <= keep:
        return list(rows)
    return [rows[round(i * (len(rows) - 1) / (keep - 1))] for i in range(keep)]


def _fence(text: str, least: int) -> str:
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    return "`" * max(least, longest + 1)


def _environment() -> jinja2.Environment:
    # no autoescape, which is for HTML: `finalize` escapes for Markdown
    environment = jinja2.Environment(
        finalize=escape,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "block": block,
        "code": code,
        "describe": lambda source: SOURCES.get(source, f"Prior of the source {source}."),
        "literal": lambda value: Markup(json.dumps(value, ensure_ascii=False)),
        "spread": spread,
        "table": table,
    }
    environment.globals |= {
        "heat_map": heat_map,
        "sparkline": sparkline,
        "PAPER": PAPER,
    }
    return environment
