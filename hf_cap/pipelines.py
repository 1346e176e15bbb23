"""`pipeline("explained-text-classification")`, and word scores as a heat map."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup
from transformers import AutoModelForSequenceClassification, Pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from hf_cap.attribution import attribute_words
from hf_cap.cards import heat_map, printable
from hf_cap.classifiers import TextClassifier
from hf_cap.errors import ConfigError
from hf_cap.schema import AttributionSettings, check_prior
from hf_cap.words import word_strings

TASK = "explained-text-classification"


class ExplainedTextClassification(Pipeline):
    """Classifies texts and attributes the label to their words.

    Each text gives `{"label", "score", "words", "attributions"}`: the probability of the label in [0, 1],
    the words, and one attribution per word in units of the logit, positive = evidence for the label. The
    method is the one that the model was aligned with, or Integrated Gradients.

    Args of a call:
        label: Name of the label to attribute, instead of the predicted one. `score` is its probability.
        steps: Points on the path of Integrated Gradients (default 50).
        method: Another attribution method.
    """

    # the parts that `pipeline` loads; `None` in the base class
    _load_processor = False  # type: ignore[assignment]
    _load_image_processor = False  # type: ignore[assignment]
    _load_feature_extractor = False  # type: ignore[assignment]
    _load_tokenizer = True  # type: ignore[assignment]
    model: Any
    tokenizer: Any

    def _sanitize_parameters(self, **parameters: Any) -> Any:
        return {}, parameters, {}

    def preprocess(self, input_: Any, **parameters: Any) -> Any:
        """The text as it is: attribution tokenizes it itself."""
        return {"text": input_}

    def _forward(self, input_tensors: Any, **parameters: Any) -> Any:
        text = input_tensors["text"]
        alone = isinstance(text, str)
        rows = self._explain([text] if alone else text, **parameters)
        return {"row": rows[0] if alone else rows}

    def postprocess(self, model_outputs: Any, **parameters: Any) -> Any:
        """The row of one text."""
        return model_outputs["row"]

    def _explain(
        self,
        texts: Sequence[str],
        *,
        label: str | None = None,
        steps: int = 50,
        method: str | None = None,
    ) -> list[dict[str, Any]]:
        config, settings = self.model.config, AttributionSettings.read(self.model.config)
        if label is not None and label not in config.label2id:
            raise ConfigError(
                f"The model has no label {label!r}; it has {sorted(config.label2id)[:20]}."
            )
        classifier = TextClassifier(self.model, self.tokenizer, max_length=settings.max_length)
        logits = classifier.logits(texts)
        chosen = [int(config.label2id[label])] * len(texts) if label else logits.argmax(-1).tolist()
        attributions = attribute_words(
            self.model,
            self.tokenizer,
            texts,
            chosen,
            method=method or settings.method,
            steps=steps,
            rule=settings.rule,
            target=settings.target,
            word_pattern=settings.word_pattern,
            max_length=classifier.max_length,
        )
        rows = zip(texts, logits.softmax(-1).tolist(), chosen, attributions, strict=True)
        return [
            {
                "label": config.id2label[index],
                "score": probabilities[index],
                "words": word_strings(text, settings.word_pattern),
                "attributions": scores,
            }
            for text, probabilities, index, scores in rows
        ]


def register_pipeline() -> None:
    """Register `transformers.pipeline("explained-text-classification", model=...)` in this process."""
    if TASK not in PIPELINE_REGISTRY.get_supported_tasks():
        PIPELINE_REGISTRY.register_pipeline(
            TASK,
            pipeline_class=ExplainedTextClassification,
            pt_model=AutoModelForSequenceClassification,
            type="text",
        )


# --- Heat maps.

FOR, AGAINST = (33, 113, 181), (217, 102, 10)
"""Blue and orange, which colour-blind people tell apart; the same as in the report."""
_CELL = "text-align:left;vertical-align:top;padding:0.3em 1em 0.3em 0;line-height:2"
_WORD = Markup(
    '<span role="img" aria-label="{word}: {score:+.3g}" title="{score:+.3g}" style="'
    'padding:0.1em 0.25em;border-radius:3px;unicode-bidi:isolate;{style}">{word}</span>'
)
_ROW = Markup('<tr><th scope="row" style="{0}">{1}</th><td style="{0}">{2}</td></tr>')


@dataclass(frozen=True, repr=False)
class HeatMaps:
    """A text with rows of word scores: coloured in a notebook, bars when printed.

    Attributes:
        words: The words of the text.
        rows: Name of a row to one score per word, positive = evidence for the label.
        title: What the scores are about, such as the label.
    """

    words: tuple[str, ...]
    rows: Mapping[str, tuple[float, ...]]
    title: str = ""

    def __repr__(self) -> str:
        """Bars below the words, a minus before those against the label."""
        maps = [(printable(name), heat_map(self.words, row)) for name, row in self.rows.items()]
        parts = [printable(self.title), *("\n".join(filter(None, one)) for one in maps)]
        return "\n\n".join(filter(None, parts))

    def _repr_html_(self) -> str:
        """Coloured words, each with its value as a tooltip and for a screen reader."""
        title = Markup('<caption style="{}">{}</caption>').format(_CELL, self.title)
        rows = [_ROW.format(_CELL, name, self._html(row)) for name, row in self.rows.items()]
        return str(
            Markup("<table>{}{}</table>").format(title * bool(self.title), Markup().join(rows))
        )

    def _html(self, row: Sequence[float]) -> Markup:
        largest = max(map(abs, row), default=0.0) or 1.0
        return Markup(" ").join(
            _WORD.format(word=word, score=score, style=_style(score, abs(score) / largest))
            for word, score in zip(self.words, row, strict=True)
        )


def _style(score: float, part: float) -> str:
    if part < 0.04:
        return ""
    colour = ",".join(map(str, FOR if score > 0 else AGAINST))
    line = "solid" if score > 0 else "dashed"
    return f"background:rgba({colour},{0.62 * part:.2f});border-bottom:2px {line} rgba({colour},{part:.2f})"


def show_attributions(
    words: Sequence[str],
    scores: Sequence[float] | Mapping[str, Sequence[float]],
    *,
    title: str = "",
) -> HeatMaps:
    """Show which words matter, as a heat map; the strongest colour is the largest absolute score of a row.

    Args:
        words: The words of a text, as in the column `words`.
        scores: One score per word, positive = evidence for the label; or several rows of them by name, such
            as `{"cap": ..., "before": ..., "after": ...}`.
        title: What the scores are about, such as the label.

    Returns:
        A value that a notebook draws when it is the last line of a cell, and that `print` shows as text.

    Raises:
        PriorError: a row has not exactly one finite score per word.
    """
    rows = scores if isinstance(scores, Mapping) else {"": scores}
    for name, row in rows.items():
        check_prior(row, words, column=name or "scores")
    return HeatMaps(tuple(words), {name: tuple(row) for name, row in rows.items()}, title)
