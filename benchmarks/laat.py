"""Do a language model's feature scores help a small tabular model? Few shots, skewed and noisy training rows.

    python benchmarks/laat.py --config recipes/study/laat_few_shot.yaml --data FOLDER [--minutes 5]

FOLDER holds the tables. Each training run is a cell with a JSON file of its own: stopped at any moment, or
after `--minutes`, the same command goes on. `--report FILE...` writes `results/laat.json` and
`results/laat.md` from the finished cells of these recipes; what other recipes found stays. Scores are made
before, by `hf-cap elicit`.

`made_with.json` beside the cells records what their numbers depend on. Other settings, tables or scores are
an error, and so are cells without such a record, unless `--adopt` accepts them.
"""

import argparse
import json
import logging
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import torch
import transformers
from lightgbm import LGBMClassifier
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.functional import cross_entropy

from hf_cap.errors import CAPError, ConfigError, DataError
from hf_cap.evaluation import results
from hf_cap.laat.elicitation import CONTROLS, FeatureScores, load_scores
from hf_cap.laat.models import (
    TabularConfig,
    TabularModel,
    classification_metrics,
    input_gradients,
    predict_table,
)
from hf_cap.laat.settings import TableOptions, TabularModelOptions
from hf_cap.laat.table import Preprocessor, TableSchema, infer_schema, read_schema
from hf_cap.laat.trainer import LAATConfig, tabular_trainer
from hf_cap.losses import LOSSES, alignment_loss
from hf_cap.utils import (
    documented,
    fingerprint,
    generator,
    option,
    read_yaml,
    required,
    versions,
    write_json,
    write_text,
)

RESULTS = Path(__file__).parent / "results"
HAND_WRITTEN = Path(__file__).parent / "laat_hand_written_scores.json"
TABLES = Path(__file__).parent.parent / "recipes" / "laat" / "tables"
RECORD = "made_with.json"
ALL = "mean of the tables"
STUDENTS = {"lr": "logistic", "mlp": "mlp"}
METRICS = {"roc_auc": "ROC-AUC", "macro_f1": "macro F1", "accuracy": "accuracy"}


@dataclass(frozen=True)
class Cell:
    """One training run."""

    dataset: str
    regime: str
    draw: int
    method: str
    seed: int

    @property
    def folder(self) -> str:
        """Relative place of its numbers."""
        return f"{self.dataset}/{self.regime}/draw_{self.draw}/{self.method}/seed_{self.seed}"


@documented
@dataclass(frozen=True, kw_only=True)
class Plan:
    """One matrix of training runs."""

    output_dir: str = required("Folder for the cells.")
    scores: str = required("Folder with one folder of elicited scores a table.")
    tables: dict[str, str] = required("Name of a table to its file in the data folder.")
    shots: tuple[int, ...] = option((1, 5, 10), "Training rows per class.")
    draws: int = option(20, "Repetitions, each with rows of its own.")
    methods: tuple[str, ...] = required(
        "`lr`, `mlp`, `random_forest`, `gradient_boosting`, `laat_<student>`, and that with `_<control>` or "
        "`_hand` at its end."
    )
    dropped: dict[str, str] | None = option(
        None, "Name of a table to the rows that are no training rows, as a pandas query."
    )
    label_noise: tuple[float, ...] = option((), "Shares of training labels drawn anew.")
    feature_noise: tuple[float, ...] = option((), "Shares of training cells taken from other rows.")
    steps: int = option(200, "Training steps of a student, each on all its rows.")
    learning_rate: float = option(0.02, "Learning rate of a student.")
    alignment_weight: float = option(100.0, "Weight γ.")
    test_rows: int = option(2000, "Most test rows of a table.")

    @property
    def regimes(self) -> list[str]:
        """Names of the conditions, such as `5_shot` or `5_shot, label noise 0.5`."""
        noises = [
            *(f", {kind} noise {share:g}" for kind in NOISE for share in getattr(self, f"{kind}_noise"))
        ] or ["", *([", skewed"] if self.dropped else [])]
        return [f"{k}_shot{noise}" for k, noise in product(self.shots, noises)]

    @property
    def cells(self) -> list[Cell]:
        """Every cell, those that complete a comparison soonest first."""
        places = product(range(self.draws), self.tables, self.regimes, self.methods)
        return [
            Cell(name, regime, draw, method, seed=draw)
            for draw, name, regime, method in places
            if "skewed" not in regime or name in (self.dropped or {})
        ]


@dataclass(frozen=True)
class Task:
    """Rows to train on and to test on, and what may be known beside them."""

    schema: TableSchema
    train: pd.DataFrame
    unlabelled: pd.DataFrame  # rows of the pool, from which all methods learn the scaling
    test: pd.DataFrame
    seed: int


@cache
def read(file: str, name: str) -> tuple[pd.DataFrame, TableSchema]:
    """A table with its description."""
    return read_schema(file, TableOptions(table=str(TABLES / f"{name}.yaml")))


def make_task(plan: Plan, data: str, cell: Cell) -> Task:
    """The rows of a cell: the same for all its methods.

    Half of the table, drawn anew each time, is the pool that training rows come from; the rest is tested on.
    """
    frame, schema = read(f"{data}/{plan.tables[cell.dataset]}", cell.dataset)
    rng = generator("laat", cell.dataset, cell.draw)
    order = rng.permutation(len(frame))
    pool, test = (frame.iloc[half].reset_index(drop=True) for half in np.array_split(order, 2))
    eligible = pool
    if "skewed" in cell.regime and plan.dropped:
        eligible = pool.drop(pool.query(plan.dropped[cell.dataset]).index)
    target = eligible[schema.target]
    shots = int(cell.regime.split("_shot")[0])
    # the first k of one order of a class, so that a draw's 1-shot set is part of its 5-shot set
    rows = [index for _, group in eligible.groupby(target) for index in group.index[:shots]]
    train = pool.loc[rows].reset_index(drop=True)
    for kind, corrupt in NOISE.items():
        if f"{kind} noise" in cell.regime:
            train = corrupt(train, pool, schema, float(cell.regime.split()[-1]), rng)
    return Task(schema, train, pool, test.head(plan.test_rows), cell.seed)


def label_noise(
    train: pd.DataFrame, pool: pd.DataFrame, schema: TableSchema, share: float, rng: Any
) -> pd.DataFrame:
    """Each label with probability `share` that of a random class."""
    drawn = rng.choice(np.array(sorted(pool[schema.target].unique()), dtype=object), len(train))
    hit = rng.random(len(train)) < share
    noisy = np.where(hit, drawn, train[schema.target].astype(object))
    if len(set(noisy)) < 2:  # no method can learn from one class
        return train
    return train.assign(**{schema.target: noisy})


def feature_noise(
    train: pd.DataFrame, pool: pd.DataFrame, schema: TableSchema, share: float, rng: Any
) -> pd.DataFrame:
    """Each cell with probability `share` that of a random row of the pool."""
    columns = {}
    for column in schema.columns:
        drawn = pool[column.name].to_numpy()[rng.integers(len(pool), size=len(train))]
        columns[column.name] = np.where(rng.random(len(train)) < share, drawn, train[column.name])
    return train.assign(**columns)


NOISE: Mapping[str, Callable[..., pd.DataFrame]] = {"label": label_noise, "feature": feature_noise}
Probabilities = NDArray[np.float64]


@dataclass(frozen=True)
class Encoded:
    """A task as arrays."""

    task: Task
    preprocessor: Preprocessor
    train: NDArray[np.float32]
    labels: NDArray[np.int64]
    test: NDArray[np.float32]
    test_labels: NDArray[np.int64]

    @classmethod
    def of(cls, task: Task) -> "Encoded":
        """The inputs that all methods see."""
        made = Preprocessor.fit(task.unlabelled, task.schema)
        known = np.asarray(made.targets(task.train), dtype=np.int64)
        asked = np.asarray(made.targets(task.test), dtype=np.int64)
        return cls(task, made, made.features(task.train), known, made.features(task.test), asked)


def through_trainer(plan: Plan, name: str, task: Task, scores: FeatureScores | None) -> Probabilities:
    """A student through `LAATTrainer`, on all its rows at each step."""
    with TemporaryDirectory() as folder:
        config = LAATConfig(
            folder,
            seed=task.seed,
            max_steps=plan.steps,
            learning_rate=plan.learning_rate,
            per_device_train_batch_size=len(task.train),
            alignment_weight=plan.alignment_weight,
            max_grad_norm=0.0,
            lr_scheduler_type="constant",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            report_to="none",
            use_cpu=True,
            dataloader_pin_memory=False,
        )
        trainer = tabular_trainer(
            task.train, task.schema, config,
            options=model_options(name), scores=scores, unlabelled=task.unlabelled,
        )  # fmt: skip
        trainer.train()
    found: Probabilities = predict_table(trainer.model, task.test).to_numpy()
    return found


def model_options(name: str) -> TabularModelOptions:
    """The settings of a student."""
    return TabularModelOptions(architecture=STUDENTS[name])  # type: ignore[arg-type]


def side_by_side(
    plan: Plan, name: str, tasks: Sequence[Encoded], scores: Sequence[FeatureScores] | None
) -> list[Probabilities]:
    """Students of several draws at once: what `through_trainer` computes, without its overhead for each.

    The steps of the draws do not touch: the loss is the sum of theirs, and Adam works weight by weight.
    """
    models = [fresh_student(name, one) for one in tasks]
    stacked, _ = stack_module_state([model.layers for model in models])

    def forward(weights: dict[str, Tensor], features: Tensor) -> Tensor:
        logits: Tensor = functional_call(models[0].layers, weights, features)
        return logits

    logits_of = vmap(forward)
    features = torch.from_numpy(np.stack([one.train for one in tasks])).requires_grad_()
    labels = torch.from_numpy(np.stack([one.labels for one in tasks]))
    rows = None
    if scores is not None:
        pairs = zip(scores, tasks, strict=True)
        rows = [g.matrix(one.task.schema.outputs, one.task.schema.feature_names) for g, one in pairs]
    optimizer = torch.optim.AdamW(stacked.values(), lr=plan.learning_rate, weight_decay=0.0)
    for _ in range(plan.steps):
        optimizer.zero_grad()
        logits = logits_of(stacked, features)
        loss = cross_entropy(logits.flatten(0, 1), labels.flatten()) * len(tasks)
        if rows is not None:
            loss = loss + plan.alignment_weight * alignment(logits, features, rows) * len(tasks)
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return [
            forward({key: value[place] for key, value in stacked.items()}, torch.from_numpy(one.test))
            .softmax(-1)
            .double()
            .numpy()
            for place, one in enumerate(tasks)
        ]


def alignment(logits: Tensor, features: Tensor, rows: Sequence[tuple[NDArray[Any], NDArray[Any]]]) -> Tensor:
    """Mean over draws of the global alignment loss; logits `(draws, rows, classes)`."""
    # (draws, classes, rows, features)
    gradients = input_gradients(logits.flatten(0, 1), features, differentiable=True)
    prior, known = (torch.from_numpy(np.concatenate(part)) for part in zip(*rows, strict=True))
    weight = torch.ones(len(prior))
    found: Tensor = alignment_loss(
        LOSSES["mse_mean"], gradients.mean(2).flatten(0, 1), prior.float(), known, weight
    )
    return found


def fresh_student(name: str, one: Encoded) -> TabularModel:
    """The student that the trainer would begin with."""
    transformers.set_seed(one.task.seed)
    return TabularModel(TabularConfig.of(one.preprocessor, model_options(name)))


PEERS: Mapping[str, Callable[[int], Any]] = {
    "random_forest": lambda seed: RandomForestClassifier(random_state=seed),
    # the default wants 20 rows in each leaf, and would not split so few
    "gradient_boosting": lambda seed: LGBMClassifier(
        n_estimators=50, min_child_samples=1, min_data_in_bin=1, random_state=seed,
        n_jobs=1, verbose=-1,
    ),
}  # fmt: skip


def tree(method: str, one: Encoded) -> Probabilities:
    """A classifier of scikit-learn's kind on the same inputs."""
    model = PEERS[method](one.task.seed).fit(one.train, one.labels)
    found: Probabilities = model.predict_proba(one.test)
    return found


def known_scores(plan: Plan, cell: Cell, schema: TableSchema) -> FeatureScores | None:
    """The feature scores of a method: none, elicited, a control's, or written by hand."""
    parts = cell.method.split("_", 2)
    if parts[0] != "laat":
        return None
    if parts[2:] == ["hand"]:
        return hand_written(cell.dataset, schema)
    scores = elicited(plan.scores, cell.dataset)
    return scores.control(parts[2], cell.seed) if parts[2:] else scores


@cache
def elicited(folder: str, name: str) -> FeatureScores:
    """The scores of a table from the language model."""
    return load_scores(Path(folder) / name)


@cache
def hand_written_scores() -> dict[str, dict[str, float]]:
    """What a person wrote: table to feature to score."""
    scores: dict[str, dict[str, float]] = json.loads(HAND_WRITTEN.read_text(encoding="utf-8"))
    return scores


def hand_written(name: str, schema: TableSchema) -> FeatureScores:
    """Scores that a person wrote for the second class; the first has the opposite, unnamed features 0."""
    known = hand_written_scores()[name]
    row = {feature: float(known.get(feature, 0.0)) for feature in schema.feature_names}
    first, second = schema.classes
    return FeatureScores.of({first: {k: -v for k, v in row.items()}, second: row}, source="hand")


def predictions(
    plan: Plan, method: str, cells: Sequence[Cell], tasks: Sequence[Encoded]
) -> list[Probabilities]:
    """Test predictions of one method in several draws of one table and regime."""
    if method in PEERS:
        return [tree(method, one) for one in tasks]
    name = next(part for part in method.split("_") if part in STUDENTS)
    known = [known_scores(plan, cell, one.task.schema) for cell, one in zip(cells, tasks, strict=True)]
    scores = [one for one in known if one is not None]
    return side_by_side(plan, name, tasks, scores or None)


def measure(plan: Plan, cell: Cell, one: Encoded, found: Probabilities) -> dict[str, Any]:
    """Metrics on the test rows, and on those of the dropped group."""
    metrics = {"all": classification_metrics(found, one.test_labels)}
    if plan.dropped and cell.dataset in plan.dropped:
        test = one.task.test
        group = test.index.isin(test.query(plan.dropped[cell.dataset]).index)
        if len(set(one.test_labels[group])) == 2:
            metrics["group"] = classification_metrics(found[group], one.test_labels[group])
    return {"cell": asdict(cell), "metrics": metrics}


def decisive(plan: Plan, data: str) -> dict[str, Any]:
    """What the numbers of a cell depend on beside the cell itself; tables and scores as hashes."""
    settings = ("steps", "learning_rate", "alignment_weight", "test_rows")
    facts = {name: getattr(plan, name) for name in settings}
    for name, file in plan.tables.items():
        frame, schema = read(f"{data}/{file}", name)
        scores = elicited(plan.scores, name).values.items()
        facts |= {
            f"{name}: rows": fingerprint(
                frame.to_csv(), schema.target, *schema.classes, *schema.feature_names
            ),
            f"{name}: dropped": (plan.dropped or {}).get(name),
            f"{name}: scores": fingerprint(
                *sorted(f"{label} {feature} {score!r}" for (label, feature), score in scores)
            ),
            f"{name}: scores by hand": fingerprint(
                json.dumps(hand_written_scores().get(name), sort_keys=True)
            ),
        }
    return facts


def check_folder(plan: Plan, data: str, *, adopt: bool = False) -> None:
    """Check that a folder's cells were made with the settings of this plan, and record the settings.

    Cells without a record could be of any settings and scores; only `adopt` accepts them.

    Args:
        plan: The plan.
        data: Folder of the tables.
        adopt: Take cells without a record for this plan's.

    Raises:
        ConfigError: settings, tables or scores are not those of the cells, or there is no record of them.
    """
    folder = Path(plan.output_dir)
    record, now = folder / RECORD, decisive(plan, data)
    before = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
    if not before and not adopt and any(folder.glob("*/**/*.json")):
        raise ConfigError(
            f"The folder {plan.output_dir!r} has cells but no {RECORD}, so it is unknown with which settings "
            "and scores they were made. Name another `output_dir`, or move the folder away; if you know that "
            "they are this recipe's, with these scores, add `--adopt`."
        )
    changed = [name for name in now if name in before and before[name] != now[name]]
    if changed:
        changes = "; ".join(f"{name}: {before[name]!r} then, {now[name]!r} now" for name in changed)
        raise ConfigError(
            f"The cells in {plan.output_dir!r} were made with other settings ({changes}). Name "
            "another `output_dir`, or move the folder away."
        )
    write_json(record, {**before, **now})


def run(plan: Plan, data: str, minutes: float) -> None:
    """Run cells that are not finished, until the time is up; `check_folder` comes before."""
    end = time.monotonic() + 60 * minutes
    waiting: dict[tuple[str, str], dict[str, list[Cell]]] = defaultdict(lambda: defaultdict(list))
    for cell in plan.cells:
        if not cell_file(plan, cell).exists():
            waiting[cell.regime, cell.dataset][cell.method].append(cell)
    for (regime, dataset), methods in waiting.items():
        draws = {cell.draw: cell for cells in methods.values() for cell in cells}
        tasks = {draw: Encoded.of(make_task(plan, data, cell)) for draw, cell in draws.items()}
        for method, cells in methods.items():
            if time.monotonic() > end:
                print("time is up; the same command goes on")
                return
            some = [tasks[cell.draw] for cell in cells]
            for cell, one, found in zip(cells, some, predictions(plan, method, cells, some), strict=True):
                write_json(cell_file(plan, cell), measure(plan, cell, one, found))
        print(f"{dataset}, {regime}: done", flush=True)
    print(f"all {len(plan.cells)} cells are done")


def check(plan: Plan, data: str) -> float:
    """Largest difference of a predicted probability between `side_by_side` and `LAATTrainer`."""
    worst = 0.0
    for dataset, name in (("diabetes", "lr"), ("diabetes", "mlp"), ("contraceptive", "lr")):
        cells = [Cell(dataset, "5_shot", draw, f"laat_{name}", draw) for draw in range(2)]
        tasks = [Encoded.of(make_task(plan, data, cell)) for cell in cells]
        together = predictions(plan, f"laat_{name}", cells, tasks)
        for cell, one, found in zip(cells, tasks, together, strict=True):
            alone = through_trainer(plan, name, one.task, known_scores(plan, cell, one.task.schema))
            worst = max(worst, float(np.abs(alone - found).max()))
    return worst


def cell_file(plan: Plan, cell: Cell) -> Path:
    """Where a cell's numbers are kept."""
    return Path(plan.output_dir) / f"{cell.folder}.json"


def finished(plan: Plan) -> list[Cell]:
    """The cells that have their numbers."""
    return [cell for cell in plan.cells if cell_file(plan, cell).exists()]


def numbers(plan: Plan, metric: str, test_set: str) -> pd.DataFrame:
    """Numbers of the finished cells, and the mean of the tables for the draws that all of them have."""
    rows = []
    for cell in finished(plan):
        metrics = json.loads(cell_file(plan, cell).read_text())["metrics"]
        if test_set in metrics:
            rows.append({**asdict(cell), "value": metrics[test_set][metric]})
    frame = pd.DataFrame(rows, columns=["dataset", "regime", "draw", "method", "seed", "value"])
    tables = frame.groupby("regime")["dataset"].nunique()
    means = frame.groupby(["regime", "draw", "method", "seed"])["value"].agg(["mean", "size"])
    means = means.reset_index()
    means = means[means["size"] == means["regime"].map(tables)]
    means = means.drop(columns="size").rename(columns={"mean": "value"}).assign(dataset=ALL)
    return pd.concat([frame, means]) if len(means) else frame


def families(plan: Plan) -> Iterator[tuple[str, list[str], list[str]]]:
    """A student, the methods to compare with it, and its controls."""
    for name in STUDENTS:
        controls = [f"laat_{name}_{control}" for control in CONTROLS]
        yield name, [name, f"laat_{name}", f"laat_{name}_hand", *controls, *PEERS], controls


def compare(plan: Plan) -> list[dict[str, Any]]:
    """All rows of all tables."""
    test_sets = ["all", *(["group"] if plan.dropped else [])]
    found = []
    for metric, test_set in product(METRICS, test_sets):
        frame = numbers(plan, metric, test_set)
        for name, methods, controls in families(plan):
            facts = {"student": name, "metric": metric, "test_set": test_set}
            of_family = frame[frame["method"].isin(methods)]
            for (dataset, regime), group in of_family.groupby(["dataset", "regime"]):
                rows = table(group, name, controls, f"laat_{name}_hand")
                found += [{**facts, "dataset": dataset, "regime": regime, **row} for row in rows]
    return found


def table(frame: pd.DataFrame, baseline: str, controls: Sequence[str], ceiling: str) -> list[dict[str, Any]]:
    """Each method against the student without scores and the best control, the best method first."""
    values, plain = results.summarize(frame, ["method"]), results.compare(frame, baseline, [])
    of_controls = frame[frame["method"].isin(controls)].pivot(index="draw", columns="method", values="value")
    shared = of_controls.dropna()
    means = (shared if len(shared) else of_controls).mean().sort_values(ascending=False)
    ranked = list(means.index)
    against = {control: results.compare(frame, control, []) for control in ranked[:2]}
    competing = frame[~frame["method"].isin({baseline, ceiling, *controls} - set(ranked[:1]))]
    p = results.compare(competing, ranked[0], [], test="bootstrap") if ranked else None
    rows = []
    for method in sorted(values.index, key=lambda name: (-values.loc[name, "mean"], name)):
        best = next((control for control in ranked if control != method), None)
        rows.append(
            {
                "method": method,
                "value": _estimate(values, method, "mean"),
                "from_baseline": _estimate(plain, method, "difference"),
                "best_control": best,
                "from_control": best and _estimate(against[best], method, "difference"),
                "p": float(p.loc[method, "p"]) if p is not None and method in p.index else None,
                "p_holm": float(p.loc[method, "p_holm"]) if p is not None and method in p.index else None,
            }
        )
    return rows


def _estimate(found: pd.DataFrame, method: str, mean: str) -> dict[str, Any] | None:
    if method not in found.index:
        return None
    row = found.loc[method]
    width = None if row["n"] == 1 else float(row["high"] - row[mean])
    return {"mean": float(row[mean]), "half_width": width, "count": int(row["n"])}


@cache
def score_quality(folder: str, file: str, name: str) -> dict[str, Any]:
    """How a table's scores of the second class over the first agree with logistic regression on all of it."""
    frame, schema = read(file, name)
    preprocessor = Preprocessor.fit(frame, schema)
    fit = LogisticRegression(max_iter=2000).fit(preprocessor.features(frame), preprocessor.targets(frame))
    asked = elicited(folder, name)
    agreement = {}
    for source, scores in (("elicited", asked), ("hand", hand_written(name, schema))):
        values, _ = scores.matrix(schema.classes, schema.feature_names)
        agreement[source] = float(spearmanr(values[1] - values[0], fit.coef_[0]).statistic)
    cost = {
        key: asked.provenance.get(key)
        for key in ("model", "chat", "calls", "tokens", "tokens_without_sharing")
    }
    return {
        "rows": len(frame), "features": len(schema.features),
        "rank_correlation": agreement, "elicitation": cost,
    }  # fmt: skip


def step_times(rounds: int = 3, steps: int = 100) -> dict[str, float]:
    """Milliseconds of a plain and of an aligned training step, medians over rounds in turn."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(20, 30))).rename(columns=str)
    frame["y"] = ["a", "b"] * 10
    schema = infer_schema(frame, target="y")
    scores = FeatureScores.of(
        {label: dict(zip(schema.feature_names, rng.normal(size=30), strict=True)) for label in "ab"}
    )
    plan = Plan(output_dir="", scores="", tables={}, methods=(), steps=steps)
    task = Task(schema, frame, frame, frame, 0)
    found: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds + 1):
        for name, (kind, given) in product(STUDENTS, {"plain": None, "aligned": scores}.items()):
            started = time.perf_counter()
            through_trainer(plan, name, task, given)
            found[f"{kind}_{name}"].append(1000 * (time.perf_counter() - started) / steps)
    # the first round warms up
    return {name: float(np.median(values[1:])) for name, values in found.items()}


def report(recipes: Sequence[str], data: str, *, timed: bool = False, adopt: bool = False) -> None:
    """Write `results/laat.json` and `results/laat.md` from the finished cells of some recipes.

    Recipes and tables that are not given stay as the file has them.

    Raises:
        ConfigError: cells were made with other settings than those of a recipe.
        DataError: no cell of a recipe is finished.
    """
    plans = {Path(recipe).stem: read_plan(recipe) for recipe in recipes}
    for name, plan in plans.items():
        if not finished(plan):
            raise DataError(
                f"No cell of {name!r} is finished in {plan.output_dir!r}. Run it by `--config` first, or "
                "leave it out: the report keeps what it has of it."
            )
        check_folder(plan, data, adopt=adopt)
    results = RESULTS / "laat.json"
    before = json.loads(results.read_text()) if results.exists() else {}
    found: dict[str, Any] = {
        "recipes": dict(before.get("recipes", {})),
        "scores": dict(before.get("scores", {})),
        "versions": versions(),
        "step_ms": before.get("step_ms"),
        "difference_from_trainer": before.get("difference_from_trainer"),
    }
    if timed:
        found["step_ms"] = step_times()
        found["difference_from_trainer"] = check(next(iter(plans.values())), data)
    for name, plan in plans.items():
        found["recipes"][name] = {
            "plan": asdict(plan), "cells": len(plan.cells), "finished": len(finished(plan)),
            "rows": [row for row in compare(plan) if row["metric"] == "roc_auc" or row["dataset"] == ALL],
        }  # fmt: skip
        found["scores"] |= {
            dataset: score_quality(plan.scores, f"{data}/{file}", dataset)
            for dataset, file in plan.tables.items()
        }
    kept = rounded(found)  # both files from the same numbers, whenever they were found
    # thousands of rows: one a line would be fifty thousand lines
    write_text(results, json.dumps(kept, sort_keys=True, allow_nan=False) + "\n")
    write_text(RESULTS / "laat.md", markdown(kept))


def rounded(value: Any) -> Any:
    """The same with four significant digits; a second time it changes nothing."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def markdown(found: Mapping[str, Any]) -> str:
    """The tables as Markdown."""
    lines = ["# LAAT: feature scores as regularisers of small tabular models", "", _HOW, ""]
    for name, recipe in sorted(found["recipes"].items()):
        lines += [f"## {name}", "", f"{recipe['finished']} of {recipe['cells']} cells.", ""]
        for metric, test_set in dict.fromkeys((r["metric"], r["test_set"]) for r in recipe["rows"]):
            rows = [r for r in recipe["rows"] if (r["metric"], r["test_set"]) == (metric, test_set)]
            lines += _tables(METRICS[metric], test_set, rows, whole=metric == "roc_auc")
    lines += ["## The scores themselves", "", *_quality(found["scores"])]
    if times := found["step_ms"]:
        lines += ["", "## A step", ""]
        for name in STUDENTS:
            plain, aligned = times[f"plain_{name}"], times[f"aligned_{name}"]
            lines.append(
                f"- {name}: {plain:.2f} ms plain, {aligned:.2f} ms aligned, {aligned / plain:.2f} times."
            )
    if (worst := found["difference_from_trainer"]) is not None:
        lines += [
            "",
            f"The draws of a cell were trained side by side; from `LAATTrainer` no predicted "
            f"probability differed by more than {worst:.1g} in the six runs compared.",
        ]
    return "\n".join(lines) + "\n"


_HOW = """Written by `benchmarks/laat.py` from its cells. Means over draws with 95 % intervals; `vs plain` is
the paired difference from the same student without scores, `vs control` that from the best of its controls
(shuffled, sign-flipped, random scores), `p` the paired bootstrap of the latter after Holm's correction over
the methods of a table. `hand` scores were written by a person and are a ceiling, not a result. All methods
see the same rows and inputs. TabPFN is not among the methods: its weights were not to be had offline."""


def _tables(metric: str, test_set: str, rows: list[dict[str, Any]], *, whole: bool) -> list[str]:
    """A table a student: the mean over all tables, and for the main metric each table too."""
    lines = []
    for name in STUDENTS:
        shown = [r for r in rows if r["student"] == name and (whole or r["dataset"] == ALL)]
        title = f"### {metric}, {name}" + (", rows of the dropped group" if test_set == "group" else "")
        header = ["table", "regime", "method", metric, "vs plain", "vs control", "p"]
        lines += [title, "", f"| {' | '.join(header)} |", "|---|---|---|---:|---:|---:|---:|"]
        shown.sort(key=lambda r: (r["dataset"] != ALL, r["dataset"], _place(r["regime"])))
        lines += [f"| {' | '.join(_cells(row))} |" for row in shown]
        lines.append("")
    return lines


def _place(regime: str) -> tuple[int, str]:
    return int(regime.split("_")[0]), regime


def _cells(row: Mapping[str, Any]) -> list[str]:
    p = row["p_holm"]
    return [
        row["dataset"],
        row["regime"],
        row["method"],
        _interval(row["value"], signed=False),
        _interval(row["from_baseline"]),
        _interval(row["from_control"]),
        "" if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}",
    ]


def _interval(value: Mapping[str, Any] | None, *, signed: bool = True) -> str:
    if value is None:
        return ""
    width = "" if value["half_width"] is None else f" ± {value['half_width']:.3f}"
    return (f"{value['mean']:+.3f}" if signed else f"{value['mean']:.3f}") + width


def _quality(scores: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines = [
        "Rank correlation of the scores with the weights of logistic regression on the whole table, and what "
        "eliciting cost.",
        "",
        "| table | rows | features | elicited | hand | scored answers | tokens | without sharing |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, one in sorted(scores.items()):
        rank, cost = one["rank_correlation"], one["elicitation"]
        lines.append(
            f"| {name} | {one['rows']} | {one['features']} | {rank['elicited']:.2f} | {rank['hand']:.2f} | "
            f"{cost['calls']} | {cost['tokens']} | {cost['tokens_without_sharing']} |"
        )
    return lines


def read_plan(recipe: str) -> Plan:
    """The plan in a recipe."""
    values: dict[str, Any] = read_yaml(recipe, typed=True)
    lists = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
    return Plan(**{**values, **lists})


def main() -> None:
    """Run a recipe's cells, or report on several."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--config", help="recipe to run")
    parser.add_argument("--data", required=True, help="folder with the tables")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so many")
    parser.add_argument("--report", nargs="+", metavar="RECIPE", help="recipes to report on")
    parser.add_argument("--timed", action="store_true", help="time a step, compare with the trainer")
    parser.add_argument(
        "--adopt", action="store_true",
        help="vouch that cells without a record are this recipe's, with these scores",
    )  # fmt: skip
    arguments = parser.parse_args()
    logging.getLogger("hf_cap").setLevel(logging.ERROR)  # constant columns in few rows
    transformers.utils.logging.set_verbosity_error()
    warnings.filterwarnings("ignore", "X does not have valid feature names")
    try:
        if arguments.config:
            plan = read_plan(arguments.config)
            check_folder(plan, arguments.data, adopt=arguments.adopt)
            run(plan, arguments.data, arguments.minutes)
        if arguments.report:
            report(arguments.report, arguments.data, timed=arguments.timed, adopt=arguments.adopt)
    except CAPError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
