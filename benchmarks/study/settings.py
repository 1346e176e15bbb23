"""Settings of a study: data sets × shots × samples × methods × seeds, read from a recipe."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from hf_cap.errors import ConfigError
from hf_cap.schema import LABEL, TEXT
from hf_cap.utils import check_range, read_yaml
from hf_cap.words import WORD_PATTERN

BASELINE, CEILING, SEQUENCE = "none", "oracle", "none_sequence"
UNLABELLED, REFIT = "none_unlabelled", "none_refit"
DERIVED = (UNLABELLED, REFIT)
"""The classifier of `none`, whose head unlabelled texts refine, or which is refitted (`refit_head`)."""
RIVALS: Mapping[str, tuple[str, ...]] = {
    "nearest_centroid": ("labels",),
    "logistic": ("labels",),
    "setfit": ("labels",),
    "nearest_name": ("names",),
    "logistic_names": ("labels", "names"),
    "setfit_names": ("labels", "names"),
    "language_model": ("names", "language model"),
    "prototypes": ("labels", "names", "unlabelled texts"),
}
"""Methods that train no encoder of ours (`benchmarks.study.rivals`), and what each is told."""
ELICITED = ("cap", "channel", "lexicon", "llm_gradient", "reagent")
"""Prior sources that ask a language model, which sees the label names."""
CLEAN = "clean"
RESULT_FILE = "cell.json"

_DECIDED = frozenset(
    """output_dir seed sign classifier text_column label_column labels prior_column word_pattern
    save_strategy eval_strategy report_to disable_tqdm push_to_hub faithfulness""".split()
)
"""Settings of training, extraction and evaluation that the study itself sets."""


@dataclass(frozen=True, order=True, slots=True)
class Run:
    """One training run of a study, and where its result is kept."""

    dataset: str
    regime: str  # `full`, or `<k>_shot` for k texts per label
    draw: int  # seed of the few-shot sample; the same for every method
    method: str
    """`none`, `none_sequence`, `none_unlabelled`, one of `RIVALS`, a source, hybrid, control or `oracle`."""
    seed: int  # training seed

    @property
    def n_shots(self) -> int | None:
        """Texts per label; `None` for the full training set."""
        return None if self.regime == "full" else int(self.regime.removesuffix("_shot"))

    @property
    def sample_folder(self) -> str:
        """Relative folder of what all methods share: `<data set>/<regime>/draw_<n>`."""
        return f"{self.dataset.replace('/', '--')}/{self.regime}/draw_{self.draw}"

    @property
    def folder(self) -> str:
        """Relative folder of the run: `<data set>/<regime>/draw_<n>/<method>/seed_<n>`."""
        return f"{self.sample_folder}/{self.method}/seed_{self.seed}"


@dataclass(frozen=True, kw_only=True)
class StudySettings:
    """What is compared, and how each run is made.

    Attributes:
        dataset: Labelled data sets with a training and a test split: folders, embedded names or Hub ids.
        output_dir: Folder of samples, priors, results and tables; a later call continues there.
        regimes: Training sets: `full`, or `<k>_shot`.
        draws: Number of few-shot samples, the same for every method; at least 1.
        seeds: Training seeds per sample.
        methods: See `Run.method`; controls are `shuffled`, `uniform`, `random` and `word_length`, `oracle`
            is the log-odds of the whole training split, a ceiling.
        hybrid: Sources that the hybrids fuse.
        control_of: Method whose scores `shuffled` permutes.
        sign: Which scores of every source count: `positive`, `signed` or `absolute`.
        normalisation: Scale of every prior over the words of a text.
        attacks: Rule-based attacks on the test split.
        training: Settings of `CAPConfig`, and `model`.
        training_of: Regime to settings that go before those of `training` there, such as fewer epochs.
        extraction: Settings of the sources that have them; under the name of a source, of that one alone.
        evaluation: Settings of `EvaluationSettings`.
        candidates: Training settings to choose from per aligned method, on validation texts.
        baseline_candidates: The same for `none`; as many, so that every method has the same budget.
        select: Choose among the candidates, if there are any.
        validation_shots: Validation texts per label, from the training texts that sample 0 left.
        faithfulness_texts: Texts whose explanations are measured; 0 measures none.
        jobs: Processes that share the runs.
        redo_changed: Repeat finished runs whose settings changed; otherwise they are an error.
        report_only: Only write the tables of the finished runs.
        train_split: Split of training texts, attack keywords and `oracle`.
        test_split: Split to measure on.
        text_column: Column with the texts.
        label_column: Column with the labels.
        word_pattern: Regular expression of a word.
    """

    dataset: tuple[str, ...]
    output_dir: str
    regimes: tuple[str, ...] = ("5_shot",)
    draws: int = 3
    seeds: tuple[int, ...] = (0, 1)
    methods: tuple[str, ...] = (BASELINE, "cap", "channel", "hybrid_mean", "shuffled", CEILING)
    hybrid: tuple[str, ...] = ("cap", "channel")
    control_of: str = "cap"
    sign: str = "positive"
    normalisation: str = "l2"
    attacks: tuple[str, ...] = ("keyword_addition", "keyword_replacement")
    training: Mapping[str, Any] = field(default_factory=dict)
    training_of: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    extraction: Mapping[str, Any] = field(default_factory=dict)
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    candidates: tuple[Mapping[str, Any], ...] = ()
    baseline_candidates: tuple[Mapping[str, Any], ...] = ()
    select: bool = True
    validation_shots: int = 5
    faithfulness_texts: int = 200
    jobs: int = 1
    redo_changed: bool = False
    report_only: bool = False
    train_split: str = "train"
    test_split: str = "test"
    text_column: str = TEXT
    label_column: str = LABEL
    word_pattern: str = WORD_PATTERN

    def __post_init__(self) -> None:
        check_range(self, "draws", "jobs", "validation_shots", at_least=1)
        check_range(self, "faithfulness_texts", at_least=0)
        if len(self.names) < len(self.dataset):
            raise ConfigError(f"Two data sets have the same name: {list(self.dataset)!r}.")
        if len(self.candidates) != len(self.baseline_candidates):
            raise ConfigError(
                f"`candidates` has {len(self.candidates)} entries and `baseline_candidates` "
                f"{len(self.baseline_candidates)}; every method gets the same number of trials."
            )
        if not self.seeds:
            raise ConfigError("`seeds` is empty; give at least one.")
        if self.control_of in (BASELINE, "shuffled", "uniform", "random", "word_length"):
            raise ConfigError(f"`control_of` is {self.control_of!r}, which has no scores to shuffle.")
        for regime in (*self.regimes, *self.training_of):
            shots = regime.removesuffix("_shot")
            if regime != "full" and (shots == regime or not shots.isdigit() or int(shots) < 1):
                raise ConfigError(f"A regime is 'full' or like '5_shot', got {regime!r}.")
        groups = {name: getattr(self, name) for name in ("training", "extraction", "evaluation")}
        groups |= {f"training_of.{regime}": given for regime, given in self.training_of.items()}
        for name, given in groups.items():
            if taken := sorted(_DECIDED & set(given)):
                raise ConfigError(f"`{name}` sets {taken[0]!r}, which the study itself sets.")

    @property
    def names(self) -> dict[str, str]:
        """Short name of each data set (the last part of its path) to where it is."""
        return {Path(place).resolve().name: place for place in self.dataset}

    def training_for(self, regime: str) -> dict[str, Any]:
        """Training settings of a regime: `training`, changed by its entry in `training_of`."""
        return {**self.training, **self.training_of.get(regime, {})}

    def runs(self) -> list[Run]:
        """Every run, those that complete a comparison soonest first; `full` has one sample only."""
        return [
            Run(dataset, regime, draw, method, seed)
            for draw in range(self.draws)
            for seed in self.seeds
            for dataset in self.names
            for regime in self.regimes
            for method in self.methods
            if draw == 0 or regime != "full"
        ]


def told(facts: Mapping[str, Any]) -> tuple[str, ...]:
    """What a run was told, in the words of `RIVALS`, from all that decides its numbers (`run_facts`).

    `labels` are training texts with their labels. A head that is not named may start from the label names.
    """
    method, training = facts["cell"]["method"], facts.get("training", {})
    if method in RIVALS:
        return RIVALS[method]
    asked = not set(ELICITED).isdisjoint(facts.get("prior", {}))
    place = training.get("label_names_in", "auto")
    named = place in ("head", "text") or (place == "auto" and training.get("head") != "sequence")
    words = {
        "labels": True,
        "names": named or asked,
        "language model": asked,
        "unlabelled texts": method == UNLABELLED,
    }
    return tuple(word for word, true in words.items() if true)


def read_settings(recipe: str | None, given: Mapping[str, Any]) -> StudySettings:
    """Settings from a YAML recipe, changed by `given`, where `training.model` is an entry of `training`.

    Raises:
        ConfigError: a setting is unknown or missing, or cannot work.
    """
    values = dict(read_yaml(recipe, typed=True)) if recipe else {}
    for name, value in given.items():
        group, _, entry = name.partition(".")
        values[group] = {**values.get(group, {}), entry: value} if entry else value
    known = {item.name: item for item in fields(StudySettings)}
    if unknown := sorted(set(values) - set(known)):
        raise ConfigError(f"There is no setting {unknown[0]!r}; there are {sorted(known)}.")
    if missing := [name for name in ("dataset", "output_dir") if name not in values]:
        raise ConfigError(f"The setting {missing[0]!r} is missing.")
    return StudySettings(**{name: _frozen(value) for name, value in values.items()})


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
