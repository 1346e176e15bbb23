"""From a table to a trainer: the schema, the scaling, the student."""

from copy import copy

import pandas as pd
from transformers import set_seed

from .config import LAATConfig
from .data import EncodedTable
from .preprocessing import Preprocessor
from .schema import Description, TableSchema, infer_schema
from .scores import FeatureScores
from .settings import StudentOptions, TableOptions
from .students import TabularConfig, TabularStudent
from .table import Table, read_table
from .trainer import LAATTrainer


def read_schema(
    table: Table, options: TableOptions, *, target: str | None = None, split: str = "train"
) -> tuple[pd.DataFrame, TableSchema]:
    """A training table and what it means.

    Args:
        table: What `read_table` takes.
        options: Description, kind of the target, and what to ignore.
        target: Column that is predicted, where the description does not name it.
        split: The split to read.

    Raises:
        DataError: the table or its target cannot be used.
        ConfigError: the description cannot be read.
    """
    frame = read_table(table, split=split, missing_values=options.missing_values)
    schema = infer_schema(
        frame,
        Description.read(options.table) if options.table else None,
        target=target,
        kind=options.target_kind,
        ignore=options.ignore,
        max_levels=options.max_levels,
        missing_values=options.missing_values,
    )
    return frame, schema


def student_trainer(
    frame: pd.DataFrame,
    schema: TableSchema,
    config: LAATConfig,
    *,
    options: StudentOptions | None = None,
    scores: FeatureScores | None = None,
    eval_frame: pd.DataFrame | None = None,
    unlabelled: pd.DataFrame | None = None,
) -> LAATTrainer:
    """A trainer of a fresh student, seeded by `config.seed`.

    Args:
        frame: Training rows.
        schema: What they mean.
        config: How to train; where there are no scores, the alignment is off whatever its weight.
        options: The student and the scaling of its inputs.
        scores: Feature scores to align with.
        eval_frame: Rows to evaluate on.
        unlabelled: Rows to learn the scaling from, where the training rows are too few; their target counts
            for regression only.

    Raises:
        DataError: rows do not fit the schema, or are not scaled.
        PriorError: the scores do not fit the schema.
    """
    options = options or StudentOptions()
    if scores is None:
        config = copy(config)  # the caller's may serve a run with scores next
        config.alignment_weight = 0.0
    set_seed(config.seed)
    fitted_on = frame if unlabelled is None else unlabelled
    preprocessor = Preprocessor.fit(fitted_on, schema, options.scaling)
    model = TabularStudent(TabularConfig.of(preprocessor, options))
    return LAATTrainer(
        model,
        config,
        scores,
        train_dataset=EncodedTable.of(frame, preprocessor),
        eval_dataset=None if eval_frame is None else EncodedTable.of(eval_frame, preprocessor),
    )
