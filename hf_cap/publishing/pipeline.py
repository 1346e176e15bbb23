"""`pipeline("explained-text-classification")`: label, score, and the words that they rest on."""

from collections.abc import Sequence
from typing import Any

from transformers import AutoModelForSequenceClassification, Pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from ..attribution import attribute_words
from ..classifiers import TextClassifier
from ..errors import ConfigError
from ..explanation import Explanation
from ..words import word_strings

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
        how = Explanation.read(self.model.config)
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
