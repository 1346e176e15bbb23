"""`pipeline("explained-text-classification")`, and word scores as a heat map."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup
from transformers import Pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from hf_cap.attribution import attribute_words
from hf_cap.classifiers import AutoTextClassifier, TextClassifier
from hf_cap.evaluation.calibration import Calibration
from hf_cap.schema import AttributionSettings, check_prior
from hf_cap.utils import choose, printable
from hf_cap.words import heat_map, word_strings

TASK = "explained-text-classification"


class ExplainedTextClassification(Pipeline):
    """Classifies texts and attributes the label to their words.

    Each text gives `{"label", "score", "words", "attributions"}`: the probability of the label in [0, 1],
    the words, and one attribution per word in units of the logit, positive = evidence for the label. With
    a calibrated model the probability is calibrated, and there are `labels`, the likeliest first, which
    hold the gold label with the probability `coverage`; see `hf_cap.evaluation.calibrate`. A
    call takes `label` (instead of the predicted one), `steps` (points on the path of Integrated Gradients,
    50 by default) and `method` (by default the one that the model was aligned with).
    """

    # the parts that `pipeline` loads; `None` in the base class
    _load_processor: Any = False
    _load_image_processor: Any = False
    _load_feature_extractor: Any = False
    _load_tokenizer: Any = True
    model: Any
    tokenizer: Any

    def _sanitize_parameters(self, **parameters: Any) -> Any:
        return {}, parameters, {}

    def preprocess(self, input_: Any, **parameters: Any) -> Any:
        """The text as it is: attribution tokenizes it itself."""
        return {"text": input_}

    def _forward(self, input_tensors: Any, **parameters: Any) -> Any:
        if isinstance(text := input_tensors["text"], str):
            return {"row": self._explain([text], **parameters)[0]}
        return {"row": self._explain(text, **parameters)}

    def postprocess(self, model_outputs: Any, **parameters: Any) -> Any:
        """The row of one text."""
        return model_outputs["row"]

    def _explain(
        self, texts: Sequence[str], *, label: str | None = None, steps: int = 50, method: str | None = None
    ) -> list[dict[str, Any]]:
        config, settings = self.model.config, AttributionSettings.read(self.model.config)
        classifier = TextClassifier(self.model, self.tokenizer)
        logits = classifier.logits(texts)
        chosen = logits.argmax(-1).tolist()
        if label is not None:
            chosen = [int(choose(config.label2id, label, "label"))] * len(texts)
        how: Any = {**vars(settings), "max_length": classifier.max_length, "steps": steps}
        how["method"] = method or settings.method
        attributions = attribute_words(self.model, self.tokenizer, texts, chosen, **how)
        calibration = Calibration.read(config)
        probabilities = calibration.probabilities(logits)
        sets: Sequence[Any] = calibration.label_sets(probabilities) or [None] * len(texts)
        rows = zip(texts, probabilities.tolist(), chosen, attributions, sets, strict=True)
        return [
            {
                "label": config.id2label[index],
                "score": chances[index],
                "words": word_strings(text, settings.word_pattern),
                "attributions": scores,
                **({} if held is None else {"labels": [config.id2label[i] for i in held]}),
                **({} if held is None else {"coverage": calibration.coverage}),
            }
            for text, chances, index, scores, held in rows
        ]


def register_pipeline() -> None:
    """Register `transformers.pipeline("explained-text-classification", model=...)` in this process."""
    if TASK not in PIPELINE_REGISTRY.get_supported_tasks():
        model = AutoTextClassifier
        PIPELINE_REGISTRY.register_pipeline(TASK, ExplainedTextClassification, model, type="text")


# --- Heat maps.

FOR, AGAINST = "33,113,181", "217,102,10"
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
        whole = Markup("<table>{}{}</table>")
        return str(whole.format(title if self.title else "", Markup().join(rows)))

    def _html(self, row: Sequence[float]) -> Markup:
        largest = max(map(abs, row), default=0.0) or 1.0
        words = []
        for word, score in zip(self.words, row, strict=True):
            part, style = abs(score) / largest, ""
            if part >= 0.04:
                line, rgb = ("solid", FOR) if score > 0 else ("dashed", AGAINST)
                style = f"background:rgba({rgb},{0.62 * part:.2f});border-bottom:2px {line} "
                style += f"rgba({rgb},{part:.2f})"
            words.append(_WORD.format(word=word, score=score, style=style))
        return Markup(" ").join(words)


def show_attributions(
    words: Sequence[str], scores: Sequence[float] | Mapping[str, Sequence[float]], *, title: str = ""
) -> HeatMaps:
    """Show which words matter, as a heat map; the strongest colour is the largest absolute score of a row.

    Args:
        words: The words of a text, as in the column `words`.
        scores: One score per word, positive = evidence for the label; or rows of them by name, such as
            `{"cap": ..., "after": ...}`.
        title: What the scores are about, such as the label.

    Returns:
        What a notebook draws as the last line of a cell, and `print` shows as text.

    Raises:
        PriorError: a row has not exactly one finite score per word.
    """
    rows = scores if isinstance(scores, Mapping) else {"": scores}
    for name, row in rows.items():
        check_prior(row, words, column=name or "scores")
    return HeatMaps(tuple(words), {name: tuple(row) for name, row in rows.items()}, title)
