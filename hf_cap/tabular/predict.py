"""A saved student, used: from rows to predictions and to what they rest on."""

import os

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from ..errors import ModelError
from .attribution import input_gradients
from .data import EncodedTable
from .metrics import classification_metrics, regression_metrics
from .students import Features, TabularStudent, predict
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


def read_rows(student: TabularStudent, table: Table, *, split: str = "train") -> pd.DataFrame:
    """A table, read as the student's training table was: the same cells mean a missing value.

    Raises:
        DataError: there is no such table or split, or it has no rows.
    """
    missing_values = student.config.preprocessor.schema.missing_values
    return read_table(table, split=split, missing_values=missing_values)


def predict_table(student: TabularStudent, table: Table) -> pd.DataFrame:
    """Predictions for the rows of a table, which needs no target.

    Returns:
        A frame with a column of probabilities a class, or for regression one of numbers, named as the target.
    """
    preprocessor = student.config.preprocessor
    outputs = predict(student, torch.from_numpy(preprocessor.features(read_rows(student, table))))
    found = outputs.double().cpu().numpy()
    if preprocessor.schema.kind == "regression":
        found = preprocessor.numbers(found)[:, None]
    return pd.DataFrame(found, columns=list(preprocessor.schema.outputs))


def evaluate_student(student: TabularStudent, rows: EncodedTable) -> dict[str, float]:
    """How good a student is on some rows: their number as `rows`, and its metrics.

    Returns:
        The numbers of `classification_metrics`, or of `regression_metrics` in the unit of the target.

    Raises:
        DataError: only one class occurs among the rows.
    """
    outputs = predict(student, rows.features).double().cpu().numpy()
    preprocessor, known = student.config.preprocessor, rows.labels.numpy()
    measured = (
        regression_metrics(preprocessor.numbers(outputs), preprocessor.numbers(known))
        if preprocessor.schema.kind == "regression"
        else classification_metrics(outputs, known)
    )
    return {"rows": len(rows), **measured}


def attribute_features(student: TabularStudent, table: Table) -> NDArray[np.float64]:
    """Input gradients of each class's score, averaged over the rows, `(outputs, features)`.

    Positive where a larger value of the (scaled) feature speaks for the class.
    """
    features = student.config.preprocessor.features(read_rows(student, table))
    return attribute_rows(student, torch.from_numpy(features))


def attribute_rows(student: TabularStudent, features: Features) -> NDArray[np.float64]:
    """The same for rows that are inputs already, as of an `EncodedTable`; the student may be in training."""
    features = features.detach().to(student.device).requires_grad_()
    logits = student(features=features).logits
    outputs = torch.arange(logits.shape[1], device=logits.device)
    gradients = input_gradients(logits, features, outputs, differentiable=False)
    averaged: NDArray[np.float64] = gradients.mean(0).double().cpu().numpy()
    return averaged
