"""A saved student, used: from rows to predictions and to what they rest on."""

import os

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from ..errors import ModelError
from .attribution import input_gradients
from .students import TabularStudent, predict
from .table import Table, read_table


def load_student(name: str | os.PathLike[str]) -> TabularStudent:
    """A student that `hf-cap train --task tabular` or `save_pretrained` wrote, or one on the Hub.

    Raises:
        ModelError: there is no such student.
    """
    try:
        student: TabularStudent = TabularStudent.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ModelError(f"Cannot load a tabular student from {str(name)!r}: {error}") from error
    return student


def predict_table(student: TabularStudent, table: Table) -> pd.DataFrame:
    """Predictions for the rows of a table, which needs no target.

    Returns:
        A frame with a column of probabilities a class, or for regression one of numbers, named as the target.
    """
    preprocessor = student.config.preprocessor
    outputs = predict(student, torch.from_numpy(preprocessor.features(read_table(table))))
    found = outputs.double().cpu().numpy()
    if preprocessor.schema.kind == "regression":
        found = preprocessor.numbers(found)[:, None]
    return pd.DataFrame(found, columns=list(preprocessor.schema.outputs))


def attribute_features(student: TabularStudent, table: Table) -> NDArray[np.float64]:
    """Input gradients of each class's score, averaged over the rows, `(outputs, features)`.

    Positive where a larger value of the (scaled) feature speaks for the class.
    """
    preprocessor = student.config.preprocessor
    features = torch.from_numpy(preprocessor.features(read_table(table))).to(student.device)
    logits = student(features=features.requires_grad_()).logits
    outputs = torch.arange(logits.shape[1], device=logits.device)
    gradients = input_gradients(logits, features, outputs, differentiable=False)
    averaged: NDArray[np.float64] = gradients.mean(0).double().cpu().numpy()
    return averaged
