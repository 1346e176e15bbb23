"""`pipeline("explained-text-classification")`: label, score, and the words that they rest on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from markupsafe import Markup
from transformers import AutoModelForSequenceClassification, Pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from hf_cap.attribution import attribute_words
from hf_cap.cards import heat_map, printable
from hf_cap.classifiers import TextClassifier
from hf_cap.errors import ConfigError
from hf_cap.schema import AttributionSettings, check_prior
from hf_cap.words import word_strings

if TYPE_CHECKING:
    from rich.table import Table


TASK = "explained-text-classification"


class ExplainedTextClassification(Pipeline):
    """Classifies texts and attributes the label to their words.

    Each text gives `{"label", "score", "words", "attributions"}`: the probability of the label in [0, 1], the
    words, and one attribution a word in units of the logit, positive = evidence for the label. The method is
    the one that the model was aligned with, if it was; else Integrated Gradients.

    Args of a call:
        label: Name of the label to explain, instead of the predicted one. `score` is then its probability.
        steps: Points on the path of Integrated Gradients (default 50).
        method: Another attribution method.
    """

    # which parts `pipeline` loads; the base class calls them `None`, for "not said"
    _load_processor = False  # type: ignore[assignment]
    _load_image_processor = False  # type: ignore[assignment]
    _load_feature_extractor = False  # type: ignore[assignment]
    _load_tokenizer = True  # type: ignore[assignment]
    model: Any
    tokenizer: Any

    def explain(
        self,
        texts: Sequence[str],
        *,
        label: str | None = None,
        steps: int = 50,
        method: str | None = None,
    ) -> list[dict[str, Any]]:
        """One row a text. Arguments: see the class.

        Raises:
            ConfigError: the model has no such label, or there is no such method.
        """
        how = AttributionSettings.read(self.model.config)
        classifier = TextClassifier(self.model, self.tokenizer, max_length=how.max_length)
        probabilities = classifier.logits(texts).softmax(-1).tolist()
        chosen = self._chosen(probabilities, label)
        attributions = attribute_words(
            self.model,
            self.tokenizer,
            texts,
            chosen,
            method=method or how.method,
            steps=steps,
            rule=how.rule,
            target=how.target,
            word_pattern=how.word_pattern,
            max_length=classifier.max_length,
        )
        return [
            {
                "label": self.model.config.id2label[index],
                "score": row[index],
                "words": word_strings(text, how.word_pattern),
                "attributions": scores,
            }
            for text, row, index, scores in zip(
                texts, probabilities, chosen, attributions, strict=True
            )
        ]

    def _sanitize_parameters(self, **parameters: Any) -> Any:
        return {}, parameters, {}

    def preprocess(self, input_: Any, **parameters: Any) -> Any:
        """The text as it is: attribution tokenises it itself."""
        return {"text": input_}

    def _forward(self, input_tensors: Any, **parameters: Any) -> Any:
        text = input_tensors["text"]
        if isinstance(text, str):
            return {"row": self.explain([text], **parameters)[0]}
        return {"row": self.explain(text, **parameters)}

    def postprocess(self, model_outputs: Any, **parameters: Any) -> Any:
        """The row of one text."""
        return model_outputs["row"]

    def _chosen(self, probabilities: Sequence[Sequence[float]], label: str | None) -> list[int]:
        if label is None:
            return [max(range(len(row)), key=row.__getitem__) for row in probabilities]
        index = self.model.config.label2id.get(label)
        if index is None:
            raise ConfigError(
                f"The model has no label {label!r}; it has {sorted(self.model.config.label2id)[:20]}."
            )
        return [int(index)] * len(probabilities)


def register_pipeline() -> None:
    """Make `transformers.pipeline("explained-text-classification", model=...)` known in this process."""
    if TASK not in PIPELINE_REGISTRY.get_supported_tasks():
        PIPELINE_REGISTRY.register_pipeline(
            TASK,
            pipeline_class=ExplainedTextClassification,
            pt_model=AutoModelForSequenceClassification,
            type="text",
        )


# --- Word scores as a heat map in a notebook, in the terminal and as plain text.


Colour = tuple[int, int, int]

FOR: Colour = (33, 113, 181)
AGAINST: Colour = (217, 102, 10)
"""Blue and orange, which colour-blind people tell apart; the same as in the report."""
_STRONGEST = 0.62
_FAINT = 0.04


@dataclass(frozen=True, repr=False)
class HeatMaps:
    """One text with rows of word scores. A notebook shows colours, `rich.print` too, `print` bars.

    Attributes:
        words: The words of the text.
        rows: Name of a row to one score a word, positive = evidence for the label.
        title: What the scores speak of, such as the label.
    """

    words: tuple[str, ...]
    rows: Mapping[str, tuple[float, ...]]
    title: str = ""

    def __repr__(self) -> str:
        """The rows in plain characters: a bar below each word, a minus before those against the label."""
        maps = [
            "\n".join(filter(None, [printable(name), heat_map(self.words, scores)]))
            for name, scores in self.rows.items()
        ]
        return "\n\n".join(filter(None, [printable(self.title), *maps]))

    def _repr_html_(self) -> str:
        """The rows for a notebook. Every word has its value as a tooltip and for a screen reader."""
        rows = Markup("").join(
            Markup('<tr><th scope="row" style="{}">{}</th><td style="{}">{}</td></tr>').format(
                _CELL, name, _CELL, _html_words(self.words, scores)
            )
            for name, scores in self.rows.items()
        )
        caption = Markup('<caption style="{}">{}</caption>').format(_CELL, self.title)
        return str(Markup("<table>{}{}</table>").format(caption if self.title else "", rows))

    def __rich__(self) -> "Table":
        """The rows for the terminal; words that speak for the label are underlined too."""
        from rich.table import Table
        from rich.text import Text

        table = Table(
            title=Text(printable(self.title)) if self.title else None,
            show_header=False,
            box=None,
            padding=(0, 2, 1, 0),
        )
        for name, scores in self.rows.items():
            shown = Text()
            for word, score, part in _parts(self.words, scores):
                shown.append(printable(word), style=_style(score, part))
                shown.append(" ")
            table.add_row(Text(printable(name), style="bold"), shown)
        return table


def show_attributions(
    words: Sequence[str],
    scores: Sequence[float] | Mapping[str, Sequence[float]],
    *,
    title: str = "",
) -> HeatMaps:
    """Show which words matter, as a heat map.

    The strength of a colour is the score as a part of the largest absolute one of its row.

    Args:
        words: The words of a text, as in the column `words`.
        scores: One score a word, positive = evidence for the label; or several rows of them by name, such
            as `{"cap": ..., "before": ..., "after": ...}`.
        title: What the scores speak of, such as the label.

    Returns:
        A value that a notebook draws when it is the last line of a cell, and that `rich.print` and `print`
        draw in a terminal.

    Raises:
        PriorError: a row has not one finite score a word.
    """
    rows = scores if isinstance(scores, Mapping) else {"": scores}
    for name, row in rows.items():
        check_prior(row, words, column=name or "scores")
    return HeatMaps(tuple(words), {name: tuple(row) for name, row in rows.items()}, title)


_CELL = "text-align:left;vertical-align:top;padding:0.3em 1em 0.3em 0;line-height:2"
_WORD = "padding:0.1em 0.25em;border-radius:3px;unicode-bidi:isolate;"


def _html_words(words: Sequence[str], scores: Sequence[float]) -> Markup:
    return Markup(" ").join(
        Markup('<span role="img" aria-label="{}: {}" title="{}" style="{}">{}</span>').format(
            word, written := f"{score:+.3g}", written, _WORD + _css(score, part), word
        )
        for word, score, part in _parts(words, scores)
    )


def _css(score: float, part: float) -> str:
    if part < _FAINT:
        return ""
    red, green, blue = FOR if score > 0 else AGAINST
    line = "solid" if score > 0 else "dashed"
    return (
        f"background:rgba({red},{green},{blue},{_STRONGEST * part:.2f});"
        f"border-bottom:2px {line} rgba({red},{green},{blue},{part:.2f})"
    )


def _style(score: float, part: float) -> str:
    """Style for rich: the colour on white, in black letters, so that it is the same on any terminal."""
    if part < _FAINT:
        return ""
    mixed = [round(255 + (c - 255) * _STRONGEST * part) for c in (FOR if score > 0 else AGAINST)]
    underline = "underline " if score > 0 else ""
    return f"{underline}rgb(0,0,0) on rgb({mixed[0]},{mixed[1]},{mixed[2]})"


def _parts(words: Sequence[str], scores: Sequence[float]) -> list[tuple[str, float, float]]:
    """Word, score, and the size of the score as a part of the largest, in [0, 1]."""
    largest = max(map(abs, scores), default=0.0) or 1.0
    return [(word, s, abs(s) / largest) for word, s in zip(words, scores, strict=True)]
