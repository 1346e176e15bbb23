"""Tables and models that the tests of this room share."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from hf_cap.laat.elicitation import FeatureScores
from hf_cap.laat.models import TabularConfig, TabularModel
from hf_cap.laat.settings import Scaling, TableOptions, TabularModelOptions, TargetKind
from hf_cap.laat.table import EncodedTable, Preprocessor, TableSchema, infer_schema
from hf_cap.laat.trainer import LAATConfig, LAATTrainer


def numbers(rows: int = 40, columns: int = 4, classes: int = 2, seed: int = 0) -> pd.DataFrame:
    """Independent standard normal columns `x0, x1, ...` and a target `y` that is `c0, c1, ...` in turn."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({f"x{i}": rng.normal(size=rows) for i in range(columns)})
    frame["y"] = [f"c{row % classes}" for row in range(rows)]
    return frame


def fitted(
    frame: pd.DataFrame, *, kind: TargetKind = "classification", scaling: Scaling = "standard"
) -> Preprocessor:
    """A preprocessor for `frame` with the target `y`."""
    return Preprocessor.fit(
        frame, infer_schema(frame, target="y", options=TableOptions(target_kind=kind)), scaling
    )


def tabular_model(preprocessor: Preprocessor, *, seed: int = 0, **options: Any) -> TabularModel:
    """A model with fresh weights."""
    torch.manual_seed(seed)
    return TabularModel(TabularConfig.of(preprocessor, TabularModelOptions(**options)))


def scores_of(schema: TableSchema, values: Any) -> FeatureScores:
    """Scores from a matrix `(outputs, features)`; NaN for none."""
    return FeatureScores.of(
        {
            output: {
                name: None if np.isnan(value) else float(value)
                for name, value in zip(schema.feature_names, row, strict=True)
            }
            for output, row in zip(schema.outputs, np.asarray(values), strict=True)
        }
    )


def trainer(
    model: TabularModel,
    frame: pd.DataFrame,
    folder: Path,
    scores: FeatureScores | None = None,
    **settings: Any,
) -> LAATTrainer:
    """A trainer that leaves nothing behind but what is asked for."""
    quiet: dict[str, Any] = {
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "per_device_train_batch_size": len(frame),
    }
    if scores is None:
        quiet["alignment_weight"] = 0.0
    table = EncodedTable(frame, model.config.preprocessor)
    return LAATTrainer(
        model, LAATConfig(str(folder), **{**quiet, **settings}), scores, train_dataset=table
    )
