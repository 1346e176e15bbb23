"""Tables and models that the tests of this room share."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hf_cap.laat.elicitation import FeatureScores
from hf_cap.laat.models import TabularConfig, TabularModel
from hf_cap.laat.settings import Scaling, TableOptions, TabularModelOptions, TargetKind
from hf_cap.laat.table import EncodedTable, Preprocessor, TableSchema, infer_schema
from hf_cap.laat.trainer import LAATConfig, LAATTrainer

SCORES = [[-1, 2, 0, 1], [4, 0, -1, 2]]
MLP: dict[str, Any] = {"architecture": "mlp", "hidden_sizes": (7, 5), "activation": "tanh"}


def numbers(rows: int = 40, classes: int = 2, seed: int = 0) -> pd.DataFrame:
    """Independent standard normal columns `x0` to `x3` and a target `y` that is `c0, c1, ...` in turn."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({f"x{i}": rng.normal(size=rows) for i in range(4)})
    frame["y"] = [f"c{row % classes}" for row in range(rows)]
    return frame


def fitted(
    frame: pd.DataFrame, *, kind: TargetKind = "classification", scaling: Scaling = "standard"
) -> Preprocessor:
    """A preprocessor for `frame` with the target `y`."""
    schema = infer_schema(frame, target="y", options=TableOptions(target_kind=kind))
    return Preprocessor.fit(frame, schema, scaling)


def tabular_model(preprocessor: Preprocessor, *, seed: int = 0, **options: Any) -> TabularModel:
    """A model with fresh weights."""
    torch.manual_seed(seed)
    return TabularModel(TabularConfig.of(preprocessor, TabularModelOptions(**options)))


def scores_of(schema: TableSchema, values: Any) -> FeatureScores:
    """Scores from a matrix `(outputs, features)`; NaN for none."""
    rows = pd.DataFrame(values, schema.outputs, schema.feature_names, dtype=object)
    return FeatureScores.of(rows.where(rows.notna(), None).T.to_dict())


def trainer(
    model: TabularModel, frame: pd.DataFrame, folder: Path, scores: Any = None, **settings: Any
) -> LAATTrainer:
    """A trainer with the scores of a matrix, which leaves nothing behind but what is asked for."""
    preprocessor = model.config.preprocessor
    quiet: dict[str, Any] = {"report_to": "none", "logging_strategy": "no", "disable_tqdm": True}
    quiet |= {"use_cpu": True, "per_device_train_batch_size": len(frame)}
    if scores is None:
        quiet["alignment_weight"] = 0.0
    return LAATTrainer(
        model,
        LAATConfig(str(folder), **{**quiet, **settings}),
        None if scores is None else scores_of(preprocessor.schema, scores),
        train_dataset=EncodedTable(frame, preprocessor),
    )


def first(model: TabularModel) -> Tensor:
    """Weights of the first layer, `(units, features)`."""
    weight = model.layers[0].weight
    assert isinstance(weight, Tensor)
    return weight


def centred(weights: Tensor) -> Tensor:
    """Weights or logits minus their mean over the classes, the first axis."""
    return weights - weights.mean(0)


def unit(rows: Any) -> Any:
    """Rows divided by their norm."""
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)
