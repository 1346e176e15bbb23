"""The small models: logistic (or linear) regression and a network with a few hidden layers."""

import json
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from sklearn.metrics import (
    accuracy_score,
    f1_score,
    r2_score,
    roc_auc_score,
    root_mean_squared_error,
)
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.modeling_outputs import SequenceClassifierOutput

from hf_cap.attribution import Logits
from hf_cap.errors import DataError
from hf_cap.laat.settings import Scope, StudentOptions
from hf_cap.laat.table import Preprocessor

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


# --- Input gradients of a tabular model: how its scores rise with each feature.


ClassGradients = Float[Tensor, "batch classes features"]


def class_scores(logits: Logits) -> Logits:
    """What is attributed: each class's logit minus the mean over the classes; a single output as it is.

    Logits mean something only up to a number that all classes share. With two classes the score is half the
    margin between them.
    """
    return logits if logits.shape[1] == 1 else logits - logits.mean(-1, keepdim=True)


def input_gradients(
    logits: Logits,
    features: Float[Tensor, "batch features"],
    classes: Int[Tensor, " classes"],
    *,
    differentiable: bool,
) -> ClassGradients:
    """∂ score_c / ∂ x for each example and class; positive where a larger value speaks for the class.

    Args:
        logits: Outputs of the model for `features`, which must require a gradient.
        features: The inputs.
        classes: Which outputs to attribute.
        differentiable: Whether a loss on the gradients will be differentiated.
    """
    # examples do not meet in the model, so that the gradient of a sum over them is each one's own
    totals = class_scores(logits).sum(0)[classes]
    gradients = [
        torch.autograd.grad(total, features, create_graph=differentiable, retain_graph=True)[0]
        for total in totals
    ]
    return torch.stack(gradients, dim=1)


def scoped(gradients: ClassGradients, scope: Scope) -> Float[Tensor, "rows features"]:
    """Rows: one a class (`global`, the mean over the batch), or one an example and class (`local`).

    Classes run fastest in `local` rows.
    """
    return gradients.mean(0) if scope == "global" else gradients.flatten(0, 1)


# --- How good predictions are.


def classification_metrics(
    probabilities: NDArray[np.float64], labels: NDArray[np.int64]
) -> Mapping[str, float]:
    """ROC-AUC (one class against the rest, averaged), macro F1 and accuracy, each in [0, 1].

    Args:
        probabilities: `(rows, classes)`.
        labels: `(rows,)`, class indices.

    Raises:
        DataError: only one class occurs among the labels.
    """
    present = np.unique(labels)
    if len(present) < 2:
        raise DataError(
            f"All {len(labels)} rows have the class {present.tolist()}; ROC-AUC needs two."
        )
    areas = [roc_auc_score(labels == one, probabilities[:, one]) for one in present]
    chosen = probabilities.argmax(1)
    return {
        "roc_auc": float(np.mean(areas)),
        "macro_f1": float(f1_score(labels, chosen, average="macro", zero_division=0.0)),
        "accuracy": float(accuracy_score(labels, chosen)),
    }


def regression_metrics(
    predicted: NDArray[np.float64], targets: NDArray[np.float64]
) -> Mapping[str, float]:
    """R² (at most 1) and root mean squared error (in the unit of the target)."""
    return {
        "r2": float(r2_score(targets, predicted)),
        "rmse": float(root_mean_squared_error(targets, predicted)),
    }
