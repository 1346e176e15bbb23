"""`pipeline("class-aware-prior")`: the prior `cap` from a language model that transformers has loaded."""

from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset
from transformers import AutoModelForCausalLM, Pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from hf_cap.errors import ConfigError, DataError
from hf_cap.lm.local import LocalLanguageModel
from hf_cap.priors.cap import CAPPrior

TASK = "class-aware-prior"


class ClassAwarePrior(Pipeline):
    """Scores the words of labelled texts by what they make the pipeline's language model say.

    Takes a batch of columns (so `dataset.map(pipe, batched=True)` works), one row `{"text", "label"}`, or
    a list of rows, and returns the same with the columns of `CAPPrior`. Where no pipeline is wanted,
    `dataset.map(CAPPrior.from_dataset(dataset, model=...), batched=True)` does the same work, and its
    cache key does not depend on the weights in memory.

    Args of the constructor, beside those of every pipeline:
        dataset: Training split from which label space and demonstrations come.
        labels: The label space, where there is no such split.
        n, penalty, score, ...: Fields of `CAPPrior`.

    Attributes:
        prior: What the pipeline runs.
    """

    # which parts `pipeline` loads; the base class calls them `None`, for "not said"
    _load_processor = False  # type: ignore[assignment]
    _load_image_processor = False  # type: ignore[assignment]
    _load_feature_extractor = False  # type: ignore[assignment]
    _load_tokenizer = True  # type: ignore[assignment]
    prior: CAPPrior
    tokenizer: Any

    def _sanitize_parameters(
        self,
        dataset: Dataset | None = None,
        labels: Sequence[str] | None = None,
        **options: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if (dataset is None) == (labels is None):
            raise ConfigError(
                f"pipeline({TASK!r}) needs either `dataset`, a training split with a ClassLabel column, or "
                "`labels`, the names of the label space."
            )
        model = LocalLanguageModel(self.model, self.tokenizer)
        if dataset is not None:
            self.prior = CAPPrior.from_dataset(dataset, model=model, **options)
        else:
            self.prior = CAPPrior(labels=tuple(labels or ()), model=model, **options)
        return {}, {}, {}

    def __call__(self, inputs: Any, *args: Any, **options: Any) -> Any:
        """The rows with the columns of the prior.

        Raises:
            ConfigError: options are given, which belong to the constructor.
            DataError: a column is missing, a text has no words, a label is outside the label space, or it is
                a text alone.
        """
        if options:
            raise ConfigError(
                f"Give {sorted(options)} to pipeline({TASK!r}, ...), not to its call: the prompts are "
                "written once."
            )
        if not isinstance(inputs, Mapping):
            rows = list(inputs)
            if not all(isinstance(row, Mapping) for row in rows):
                raise DataError(
                    f"A prior is for a text with its label: give rows such as {{{self.prior.text_column!r}: "
                    f"'...', {self.prior.label_column!r}: '...'}}, a list of them, or a batch of columns."
                )
            made = (
                self.prior({name: [row[name] for row in rows] for name in rows[0]}) if rows else {}
            )
            return [{name: made[name][row] for name in made} for row in range(len(rows))]
        if isinstance(inputs.get(self.prior.text_column), str):
            return self([inputs])[0]
        return self.prior(dict(inputs))

    def preprocess(self, input_: Any, **options: Any) -> dict[str, Any]:
        """One row; the whole work is done by `CAPPrior`."""
        return dict(input_)

    def _forward(self, input_tensors: dict[str, Any], **options: Any) -> Any:
        return self.prior({name: [value] for name, value in input_tensors.items()})

    def postprocess(self, model_outputs: Any, **options: Any) -> Any:
        """The row with the columns of the prior."""
        return {name: values[0] for name, values in model_outputs.items()}


def register_prior_pipeline() -> None:
    """Make `transformers.pipeline("class-aware-prior", model=...)` known in this process."""
    if TASK not in PIPELINE_REGISTRY.get_supported_tasks():
        PIPELINE_REGISTRY.register_pipeline(
            TASK, pipeline_class=ClassAwarePrior, pt_model=AutoModelForCausalLM, type="text"
        )
