"""Settings of `hf-cap benchmark`; torch-free, so that its `--help` is instant."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_cap.errors import ConfigError
from hf_cap.evaluation.attacks.rewriting import Kind
from hf_cap.priors.fusion import Normalisation
from hf_cap.priors.prompts import Sign
from hf_cap.schema import LABEL, TEXT
from hf_cap.utils import check_choices, check_range, documented, option, required
from hf_cap.words import WORD_PATTERN


@documented
@dataclass(frozen=True, kw_only=True)
class BenchmarkSettings:
    """The matrix data set × regime × draw × method × seed, and how a cell of it is run."""

    dataset: tuple[str, ...] = required(
        "Labelled data sets with a training and a test split: folders, `embedded/...` or Hub ids."
    )
    output_dir: str = required("Folder for texts, priors, cells and tables. A later run goes on.")
    regimes: tuple[str, ...] = option(
        ("5_shot",), "Training sets: `full`, or `<k>_shot` for k texts a class."
    )
    draws: int = option(3, "Few-shot draws, the same for every method; at least 1.")
    seeds: tuple[int, ...] = option((0, 1), "Training seeds of each draw.")
    methods: tuple[str, ...] = option(
        (
            "none",
            "cap",
            "channel",
            "hybrid_mean",
            "hybrid_max",
            "shuffled",
            "word_length",
            "oracle",
        ),
        "`none`, any prior source, `hybrid_mean`, `hybrid_max`, the controls `shuffled`, `uniform`, "
        "`random`, `word_length`, and `oracle`, the log-odds of the whole training split.",
    )
    hybrid: tuple[str, ...] = option(("cap", "channel"), "Sources that the hybrids are fused from.")
    control_of: str = option("cap", "Method whose scores the control `shuffled` permutes.")
    sign: Sign = option(
        "positive",
        "Which scores of every source count: evidence for the label only, signed, or absolute values.",
    )
    normalisation: Normalisation = option(
        "l2", "Puts the prior of every method on one scale over the words of a text."
    )
    attacks: tuple[Kind, ...] = option(
        ("keyword_addition", "keyword_replacement"),
        "Attacked test sets, made by rule from the words of the training split.",
    )
    training: Mapping[str, Any] = option(
        help="Settings of `hf-cap train` for every cell, such as model and learning_rate.",
        factory=dict,
    )
    extraction: Mapping[str, Any] = option(
        help="Settings of `hf-cap extract` for the sources, such as model and n.", factory=dict
    )
    evaluation: Mapping[str, Any] = option(
        help="Settings of `hf-cap evaluate`, such as attribution_steps.", factory=dict
    )
    candidates: tuple[Mapping[str, Any], ...] = option(
        (),
        "Training settings to choose from for each aligned method, on validation texts; none: no choice.",
    )
    baseline_candidates: tuple[Mapping[str, Any], ...] = option(
        (), "The same for `none`; as many, so that every method has the same budget."
    )
    select: bool = option(
        True,
        "Choose among the candidates, if there are any; else `training` holds for every method.",
    )
    validation_shots: int = option(
        5, "Validation texts a class, from the training texts that draw 0 left."
    )
    faithfulness_texts: int = option(
        200,
        "Test texts (the same for every cell) whose explanations are measured, and training texts whose "
        "agreement with the prior is; 0 measures neither.",
    )
    keep_models: bool = option(
        False, "Keep the trained models; else only those that a prior source explains."
    )
    jobs: int = option(1, "Processes that share the cells; each takes its part of the cores.")
    redo_changed: bool = option(
        False, "Run finished cells again whose settings have changed since; else they are refused."
    )
    report_only: bool = option(False, "Run nothing; make the tables of the finished cells again.")
    train_split: str = option("train", "Split that training texts, keywords and oracle come from.")
    test_split: str = option("test", "Split to measure on.")
    text_column: str = option(TEXT, "Column that holds the text.")
    label_column: str = option(LABEL, "Column that holds the label.")
    word_pattern: str = option(
        WORD_PATTERN,
        "Regular expression of a word, in priors, attributions and attacks alike.",
    )

    def __post_init__(self) -> None:
        check_choices(self)
        check_range(self, "draws", "jobs", "validation_shots", at_least=1)
        check_range(self, "faithfulness_texts", at_least=0)
        if "" in self.names:
            raise ConfigError(
                f"{self.names['']!r} has no name that cells could go by; give a folder that has."
            )
        if len(set(self.names)) < len(self.dataset):
            raise ConfigError(f"Two data sets have one name: {list(self.dataset)!r}.")
        if len(self.candidates) != len(self.baseline_candidates):
            raise ConfigError(
                f"`candidates` has {len(self.candidates)} entries and `baseline_candidates` "
                f"{len(self.baseline_candidates)}; every method gets the same number of trials."
            )
        if not self.seeds:
            raise ConfigError("`seeds` is empty; give at least one.")

    @property
    def names(self) -> dict[str, str]:
        """Short name of each data set (the last part of its path) to where it is."""
        return {_name(place): place for place in self.dataset}

    @property
    def room(self) -> Path:
        """The folder of the benchmark."""
        return Path(self.output_dir)


def _name(place: str) -> str:
    """The last part of a path; of `.` and `..` that of the folder they stand for."""
    name = Path(place).name
    return Path(place).resolve().name if name in ("", "..") else name
