"""The small models: logistic (or linear) regression and a network with a few hidden layers."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from sklearn import metrics
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, logsigmoid, mse_loss, pad
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.modeling_outputs import SequenceClassifierOutput

from hf_cap.attribution import Logits, Scalar
from hf_cap.cards import model_facts, public_settings
from hf_cap.errors import DataError
from hf_cap.laat.elicitation import CLASS, FEATURE, SCORE, TAGS
from hf_cap.laat.settings import TabularModelOptions
from hf_cap.laat.table import EncodedTable, Preprocessor, Table, read_table
from hf_cap.loading import check_finite, check_missing, loading
from hf_cap.utils import Place

Features = Float[Tensor, "batch features"]


class TabularConfig(PreTrainedConfig):
    """Configuration of a `TabularModel`.

    `hidden_sizes` is empty for a linear model, `preprocessing` is a `Preprocessor` as a dict, and
    `initializer_range` is the standard deviation of the weights before training. `threshold_shrinkage` is
    for ordered classes.
    """

    model_type = "hf_cap_tabular"

    hidden_sizes: list[int] | tuple[int, ...] = ()
    activation: str = "relu"
    preprocessing: dict[str, Any] | None = None
    initializer_range: float = 0.1
    threshold_shrinkage: float = 0.0

    @classmethod
    def of(cls, preprocessor: Preprocessor, options: TabularModelOptions) -> "TabularConfig":
        """The configuration of a model for tables of this kind."""
        outputs = preprocessor.schema.outputs
        regression = preprocessor.schema.kind == "regression"
        config: TabularConfig = cls(
            hidden_sizes=list(options.hidden_sizes) if options.architecture == "mlp" else [],
            activation=options.activation,
            preprocessing=asdict(preprocessor),
            id2label=dict(enumerate(outputs)),
            label2id={name: index for index, name in enumerate(outputs)},
            threshold_shrinkage=options.threshold_shrinkage if preprocessor.schema.ordinal else 0.0,
            problem_type="regression" if regression else "single_label_classification",
        )
        return config

    @property
    def preprocessor(self) -> Preprocessor:
        """What turns a table's rows into inputs."""
        return Preprocessor.from_dict(self.preprocessing or {})


class TabularModel(PreTrainedModel):
    """Linear layers with an activation between them; without hidden layers, logistic regression.

    One output per class, or for regression one output, the standardised target. For ordered classes the
    outputs are log probabilities by cumulative logits whose weights may differ by threshold; in training an
    L1 norm holds adjacent ones together (PRESTO, "Predicting Rare Events by Shrinking Towards Proportional
    Odds", ICML 2023).
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
        self.ordinal = schema.ordinal
        last = nn.Linear(sizes[-1], len(schema.outputs) - self.ordinal)
        self.layers = nn.Sequential(*layers, last)
        self.post_init()  # type: ignore[no-untyped-call]
        if self.ordinal:
            start_in_order(last)

    def forward(
        self, features: Features, labels: Tensor | None = None, **kwargs: Any
    ) -> SequenceClassifierOutput:
        """Scores of the classes, and the loss where there are labels (as in an `EncodedTable`)."""
        logits, loss = self.layers(features), None
        logits = ordinal_logits(logits) if self.ordinal else logits
        if labels is not None:
            regression = self.config.problem_type == "regression"
            loss = mse_loss(logits[:, 0], labels) if regression else cross_entropy(logits, labels)
            if self.training and self.config.threshold_shrinkage:
                # the rows of the last layer, after the first, are the differences of adjacent thresholds
                last: Any = self.layers[-1]
                differences = last.weight[1:].abs().sum()
                loss = loss + self.config.threshold_shrinkage * differences
        return SequenceClassifierOutput(loss=loss, logits=logits)


def is_tabular_model(folder: Place) -> bool:
    """Whether a folder holds a tabular model, whatever else may be wrong with it."""
    try:
        config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get("model_type") == TabularConfig.model_type


def load_tabular_model(name: Place) -> TabularModel:
    """A model that `hf-cap train --task tabular` or `save_pretrained` wrote, or one on the Hub."""
    with loading(f"The tabular model {str(name)!r}"):
        auto: Any = TabularModel
        model, found = auto.from_pretrained(name, output_loading_info=True)
    check_missing(str(name), found["missing_keys"])
    check_finite(str(name), model)
    return model  # type: ignore[no-any-return]


# --- Predictions, and how good they are.


def _read(model: TabularModel, table: Table, split: str = "train") -> pd.DataFrame:
    """A table read as the training table was: the same cells mean a missing value."""
    schema = model.config.preprocessor.schema
    return read_table(table, split=split, missing_values=schema.missing_values, texts=schema.texts)


@torch.no_grad()
def predict_table(model: TabularModel, table: Table) -> pd.DataFrame:
    """Predictions for the rows of a table, which needs no target.

    A column of probabilities per class, or for regression one of numbers, named as the target.
    """
    preprocessor = model.config.preprocessor
    features = torch.from_numpy(preprocessor.features(_read(model, table)))
    logits: Tensor = model(features=features.to(model.device)).logits
    regression = preprocessor.schema.kind == "regression"
    found = (logits if regression else logits.softmax(-1)).double().cpu().numpy()
    found = preprocessor.numbers(found) if regression else found
    return pd.DataFrame(found, columns=list(preprocessor.schema.outputs))


def evaluate_tabular(model: TabularModel, table: Table, *, split: str = "train") -> dict[str, float]:
    """`rows`, their number, with `classification_metrics`, or `regression_metrics` in the target's unit."""
    frame, preprocessor = _read(model, table, split), model.config.preprocessor
    found, targets = predict_table(model, frame).to_numpy(), preprocessor.targets(frame)
    if preprocessor.schema.kind == "regression":
        measured = regression_metrics(found[:, 0], preprocessor.numbers(targets))
    else:
        measured = classification_metrics(found, targets)
    return {"rows": len(frame), **measured}


def classification_metrics(probabilities: NDArray[np.float64], labels: NDArray[np.int64]) -> dict[str, float]:
    """ROC-AUC (one class against the rest, averaged), macro F1 and accuracy, each in [0, 1].

    Takes probabilities `(rows, classes)` and class indices `(rows,)` with at least two different ones.
    """
    present = np.unique(labels)
    if len(present) < 2:
        raise DataError(f"All {len(labels)} rows have the class {present.tolist()}; ROC-AUC needs two.")
    areas = [metrics.roc_auc_score(labels == one, probabilities[:, one]) for one in present]
    chosen = probabilities.argmax(1)
    return {
        "roc_auc": float(np.mean(areas)),
        "macro_f1": float(metrics.f1_score(labels, chosen, average="macro", zero_division=0.0)),
        "accuracy": float(metrics.accuracy_score(labels, chosen)),
    }


def regression_metrics(predicted: NDArray[np.float64], targets: NDArray[np.float64]) -> dict[str, float]:
    """R² (at most 1) and root mean squared error (in the unit of the target)."""
    error = metrics.root_mean_squared_error(targets, predicted)
    return {"r2": float(metrics.r2_score(targets, predicted)), "rmse": float(error)}


# --- Input gradients: how the scores of the classes rise with each feature.


def input_gradients(
    logits: Logits, features: Features, *, differentiable: bool
) -> Float[Tensor, "batch classes features"]:
    """∂ score_c / ∂ x for each example and class; positive where a larger value speaks for the class.

    The score of a class is its logit minus the mean over the classes, since logits have a meaning only up to
    a number that all classes share; a single output is its own score. `features` must require a gradient;
    `differentiable` gradients can be part of a loss.
    """
    scores = logits if logits.shape[1] == 1 else logits - logits.mean(-1, keepdim=True)
    # examples are independent in the model, so the gradient of a sum over them is each one's own
    gradients = [
        torch.autograd.grad(total, features, create_graph=differentiable, retain_graph=True)[0]
        for total in scores.sum(0)
    ]
    return torch.stack(gradients, dim=1)


def attribute_features(model: TabularModel, table: Table | EncodedTable) -> NDArray[np.float64]:
    """Input gradients of each output, averaged over the rows of a table, `(outputs, features)`.

    Positive where a larger value of the (scaled) feature speaks for the class.
    """
    if isinstance(table, EncodedTable):
        features = table.features.to(model.device, copy=True).requires_grad_()
    else:
        inputs = model.config.preprocessor.features(_read(model, table))
        features = torch.from_numpy(inputs).to(model.device).requires_grad_()
    gradients = input_gradients(model(features=features).logits, features, differentiable=False)
    averaged: NDArray[np.float64] = gradients.mean(0).double().cpu().numpy()
    return averaged


def tabular_facts(record: Mapping[str, Any], *, config: TabularConfig, **known: Any) -> dict[str, Any]:
    """The facts of a tabular model's card, from the content of `run.json` and what else `model_facts` takes.

    Those of `model_facts`, and `hidden_sizes`, `regression`, `question`, `target`, `inputs` (a table of the
    features), `attributed` (whether it has attributions), `scores` (how they were made).
    """
    schema = config.preprocessor.schema
    task = f"tabular-{schema.kind}"
    found = {(one[CLASS], one[FEATURE]): one for one in record.get("features") or ()}
    outputs = list(dict.fromkeys(output for output, _ in found))
    elicited = any(one[SCORE] is not None for one in found.values())
    columns = [SCORE, "attribution"] if elicited else ["attribution"]
    header = [f"{output}: {column}" for output in outputs for column in columns]
    inputs = [
        [name, description, *(found[output, name][c] for output in outputs for c in columns)]
        for name, _, _, description in schema.features
    ]
    made = public_settings(record.get("scores") or {})
    return {
        **model_facts(record, **known, task=task, library="hf_cap", tags=TAGS),
        "template": "tabular.md.jinja",
        "hidden_sizes": list(config.hidden_sizes),
        "regression": schema.kind == "regression",
        "question": schema.question or None,
        "target": schema.target,
        "inputs": [["Input", "Description", *header], *inputs],
        "attributed": bool(found),
        "scores": {name: value for name, value in made.items() if name != "versions"},
    }


# --- Ordered classes, and known class shares.

_NEAREST = 1e-2
"""Gap of two thresholds, in logits, below which its logarithm goes on as a straight line."""


def ordinal_logits(steps: Float[Tensor, "batch thresholds"]) -> Logits:
    """Log probabilities of K ordered classes, `(batch, K)`, by cumulative logits.

    The sum of the first k + 1 steps, `(batch, K - 1)`, is the logit of P(y > k). All steps but the first are
    negative where the thresholds are in order. Where two of them cross, the class between them gets nearly
    no probability, with a gradient that parts them, and the result is no longer normalised.
    """
    above, gap = steps.cumsum(-1), -steps[:, 1:]
    near = gap.clamp_min(_NEAREST)
    # σ(a) − σ(b) = σ(a) · σ(−b) · (1 − exp(b − a))
    between = (-torch.expm1(-near)).log() + (gap - near) / _NEAREST
    return pad(logsigmoid(above), (1, 0)) + pad(logsigmoid(-above), (0, 1)) + pad(between, (1, 1))


def start_in_order(layer: torch.nn.Linear) -> None:
    """Let the layer that gives the steps begin with equal classes and proportional odds."""
    classes = layer.out_features + 1
    above = torch.logit(1 - torch.arange(1, classes) / classes)
    with torch.no_grad():
        layer.weight[1:] = 0.0
        layer.bias.copy_(torch.cat([above[:1], above.diff()]))


def share_divergence(logits: Logits, shares: Float[Tensor, " classes"]) -> Scalar:
    """KL(shares ‖ mean predicted probabilities of the rows) in nats; at least 0, and 0 where they agree.

    It is the loss of the rows as one bag, of which only the shares of the classes are known ("Learning from
    Aggregate Responses", arXiv 2401.11081).
    """
    mean = logits.log_softmax(-1).logsumexp(0) - torch.tensor(float(len(logits))).log()
    return kl_div(mean, shares.to(mean), reduction="sum")
