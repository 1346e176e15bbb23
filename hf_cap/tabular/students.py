"""The small models: logistic (or linear) regression and a network with a few hidden layers."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.modeling_outputs import SequenceClassifierOutput

from .preprocessing import Preprocessor
from .settings import StudentOptions

Features = Float[Tensor, "batch features"]


class TabularConfig(PreTrainedConfig):
    """Configuration of a `TabularStudent`.

    Args:
        hidden_sizes: Units of each hidden layer; none for a linear model.
        activation: Activation of the hidden layers.
        preprocessing: `Preprocessor.to_dict()`: the table's schema and what was learnt of its columns.
        initializer_range: Standard deviation of the weights before training.
        kwargs: All else that `PreTrainedConfig` takes, such as `id2label`.
    """

    model_type = "hf_cap_tabular"

    hidden_sizes: list[int] | tuple[int, ...] = ()
    activation: str = "relu"
    preprocessing: dict[str, Any] | None = None
    initializer_range: float = 0.1

    @classmethod
    def of(cls, preprocessor: Preprocessor, options: StudentOptions) -> "TabularConfig":
        """The configuration of a student for tables of this kind."""
        outputs = preprocessor.schema.outputs
        regression = preprocessor.schema.kind == "regression"
        config: TabularConfig = cls(
            hidden_sizes=list(options.layers),
            activation=options.activation,
            preprocessing=preprocessor.to_dict(),
            id2label=dict(enumerate(outputs)),
            label2id={name: index for index, name in enumerate(outputs)},
            problem_type="regression" if regression else "single_label_classification",
        )
        return config

    @property
    def preprocessor(self) -> Preprocessor:
        """What makes inputs of a table's rows."""
        return Preprocessor.from_dict(self.preprocessing or {})


class TabularStudent(PreTrainedModel):
    """Linear layers with an activation between them; without hidden layers, logistic regression.

    One output a class, or for regression one output, the standardised target.
    """

    config_class = TabularConfig
    base_model_prefix = "layers"
    main_input_name = "features"
    config: TabularConfig

    def __init__(self, config: TabularConfig) -> None:
        super().__init__(config)
        schema = config.preprocessor.schema
        sizes = [len(schema.features), *config.hidden_sizes]
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), ACT2FN[config.activation]]
        self.layers = nn.Sequential(*layers, nn.Linear(sizes[-1], len(schema.outputs)))
        self.post_init()  # type: ignore[no-untyped-call]

    def forward(
        self, features: Features, labels: Tensor | None = None, **kwargs: Any
    ) -> SequenceClassifierOutput:
        """Scores of the classes, and the loss where there are labels.

        Args:
            features: What `Preprocessor.features` gave.
            labels: `(batch,)`: class indices, or standardised numbers for regression.
            kwargs: Ignored; the trainer may say more than a small model wants to know.
        """
        logits = self.layers(features)
        loss = None
        if labels is not None and self.config.problem_type == "regression":
            loss = mse_loss(logits[:, 0], labels)
        elif labels is not None:
            loss = cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


def is_student(folder: str | Path) -> bool:
    """Whether a folder holds a tabular student, whatever else may be wrong with it."""
    try:
        config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get("model_type") == TabularConfig.model_type


@torch.no_grad()
def predict(model: TabularStudent, features: Features) -> Tensor:
    """Class probabilities, `(batch, classes)`, or for regression the standardised target, `(batch,)`."""
    logits: Tensor = model(features=features.to(model.device)).logits
    return logits[:, 0] if model.config.problem_type == "regression" else logits.softmax(-1)
