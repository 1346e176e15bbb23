"""Feature scores: how much each feature of a table speaks for each class, as a language model sees it."""

import json
import logging
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset, Features, List, Value, load_dataset
from huggingface_hub import DatasetCardData
from numpy.typing import NDArray

from hf_cap.cards import PushOptions, public_provenance, public_text, render_card
from hf_cap.data import read_parquet
from hf_cap.errors import DataError, ExtractError, PriorError
from hf_cap.laat.settings import ElicitOptions
from hf_cap.laat.table import Feature, TableSchema
from hf_cap.lm.base import LanguageModel, Query, Reply, Sampling
from hf_cap.lm.open import ModelLike, open_language_model
from hf_cap.parquet import write_parquet
from hf_cap.schema import PROVENANCE
from hf_cap.utils import Place, generator, read_yaml, versions, write_text

_logger = logging.getLogger(__name__)

TAGS = ("hf_cap", "laat", "tabular", "feature-scores", "arxiv:2502.20268")
LOWEST, HIGHEST = -10, 10  # range of the integers that the language model chooses from
CLASS, FEATURE, SCORE = "class", "feature", "score"
COLUMNS = Features(
    {
        CLASS: Value("string"),
        FEATURE: Value("string"),
        "description": Value("string"),
        SCORE: Value("float64"),
        "estimates": List(Value("float64")),
        "missing": Value("int32"),
        "reasons": List(Value("string")),
        PROVENANCE: Value("string"),
    }
)
CONTROLS = {
    "shuffled": lambda scores, rng: rng.permutation(scores),
    "sign_flipped": lambda scores, rng: -scores,
    "random": lambda scores, rng: rng.normal(size=len(scores)),
}
"""Name of a control to a function of the scores of one class and a generator."""


# --- Scores.


@dataclass(frozen=True)
class FeatureScores:
    """The scores of a table's features, and how they were made.

    Args:
        rows: One per class (or the target of a regression) and feature, with the `COLUMNS` but the last:
            `score` is in [-10, 10], positive where a larger value makes the class more likely, `None` where
            unknown; `estimates` are the answers that it is the mean of, `missing` counts those without a
            score, and `reasons` are the texts of the others.
        provenance: How they were made.
    """

    rows: list[dict[str, Any]]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, values: Mapping[str, Mapping[str, float | None]], **provenance: Any) -> "FeatureScores":
        """Scores given as class -> feature -> score."""
        rest: dict[str, Any] = {"description": "", "estimates": [], "missing": 0, "reasons": []}
        rows = [
            {CLASS: label, FEATURE: name, SCORE: _score(score), **rest}
            for label, row in values.items()
            for name, score in row.items()
        ]
        return cls(rows, provenance)

    @property
    def values(self) -> dict[tuple[str, str], float | None]:
        """Class and feature to score."""
        return {(row[CLASS], row[FEATURE]): row[SCORE] for row in self.rows}

    def matrix(
        self, outputs: Sequence[str], features: Sequence[str]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Scores as `(outputs, features)`, 0 where there is none, and where there is one.

        Raises:
            PriorError: no score fits, or scores are for a class or feature that the model does not have.
        """
        found = self.values
        if unknown := [one for one in found if one[0] not in outputs or one[1] not in features]:
            raise PriorError(
                f"There are scores for (class, feature) {unknown[:3]!r}, but the table has the classes "
                f"{list(outputs)[:8]!r} and features {list(features)[:8]!r}; elicit them for this table."
            )
        rows = [[found.get((label, name)) for name in features] for label in outputs]
        values = np.array(rows, dtype=np.float64)
        known = ~np.isnan(values)
        if not np.nan_to_num(values).any():
            raise PriorError("All feature scores are 0 or missing; there is nothing to align with.")
        return np.where(known, values, 0.0), known

    def control(self, name: str, seed: int = 0) -> "FeatureScores":
        """These scores replaced by those of a control (one of `CONTROLS`), drawn by `seed`."""
        rng, drawn = generator(seed, name), dict[tuple[str, str], float]()
        for label in dict.fromkeys(label for label, _ in self.values):
            known = {k: v for k, v in self.values.items() if k[0] == label and v is not None}
            values = CONTROLS[name](np.array(list(known.values())), rng).tolist()
            drawn |= zip(known, values, strict=True)
        made = [{**row, SCORE: drawn.get((row[CLASS], row[FEATURE]))} for row in self.rows]
        return FeatureScores(made, {**self.provenance, "control": name})

    def to_dataset(self) -> Dataset:
        """The scores as a data set with the columns `COLUMNS`."""
        cell = json.dumps(dict(self.provenance), sort_keys=True)
        return Dataset.from_list([{**row, PROVENANCE: cell} for row in self.rows], features=COLUMNS)


def _score(value: Any) -> float | None:
    """A finite score, also as the text of a file, or `None`; else `ValueError`."""
    if value in (None, "", "~", "null"):
        return None
    if not math.isfinite(score := float(value)):
        raise ValueError(f"the score {value!r} is not finite")
    return score


def load_scores(name: Place) -> FeatureScores:
    """Scores from a YAML or JSON file (class: {feature: score}), a folder of `hf-cap elicit`, or the Hub.

    Raises:
        DataError: there is nothing of that name, or it does not hold scores.
    """
    path = Path(name).expanduser()
    try:
        if path.suffix in (".json", ".yaml", ".yml"):
            return FeatureScores.of(read_yaml(path), source="file")
        table = path / "train.parquet"
        data = read_parquet(table) if path.is_dir() else load_dataset(str(name), split="train")
    except (OSError, AttributeError, ValueError) as error:
        raise DataError(
            f"There are no feature scores {str(name)!r}: {str(error).rstrip('.')}. A file holds class: "
            "{feature: score}."
        ) from error
    if absent := set(COLUMNS) - set(data.column_names):
        raise DataError(f"The feature scores {str(name)!r} lack the columns {sorted(absent)!r}.")
    rows: list[dict[str, Any]] = data.to_list()
    cells = [row.pop(PROVENANCE) for row in rows]
    return FeatureScores(rows, json.loads(cells[0] if cells else "{}"))


# --- Elicitation.


class Question(NamedTuple):
    """One output and one feature of a table; `text` has a line for each."""

    output: str
    feature: Feature
    text: str


def questions(schema: TableSchema) -> list[Question]:
    """A question per output and feature, outputs slowest."""
    found = []
    meanings = schema.class_descriptions or schema.outputs
    for output, meaning in zip(schema.outputs, meanings, strict=True):
        outcome = output if meaning == output else f"{output} ({meaning})"
        if schema.kind == "regression":
            outcome = f"a higher value of {output}"
        for feature in schema.features:
            known = "" if feature.description == feature.column else f" ({feature.description})"
            level = "" if feature.level is None else f" is {feature.level}"
            text = f"Feature: {feature.column}{known}{level}\nOutcome: {outcome}"
            found.append(Question(output, feature, text))
    return found


def elicit_scores(
    schema: TableSchema, model: ModelLike, options: ElicitOptions | None = None
) -> FeatureScores:
    """Ask a language model for the score of each feature and class.

    Only names, descriptions and categories are shown to it, never a row. An opened model that keeps its
    answers (`open_language_model` gives one) is asked nothing twice, so a stopped run continues.

    Raises:
        ModelError: the model cannot score, or (`method='chat'`) cannot generate.
        ExtractError: not one answer held a score.
        ServerError: the server of the model keeps failing.
    """
    opened, options = open_language_model(model), options or ElicitOptions()
    asked, chat = questions(schema), options.method == "chat"
    answers, facts = (_by_chat if chat else _by_expectation)(schema, asked, opened, options)
    rows = [
        {
            CLASS: question.output,
            FEATURE: question.feature.name,
            "description": question.feature.description,
            SCORE: float(np.mean([score for score, _ in found])) if found else None,
            "estimates": [score for score, _ in found],
            "missing": options.estimates - len(found) if chat else 0,
            "reasons": [text for _, text in found if text],
        }
        for question, found in zip(asked, answers, strict=True)
    ]
    known = {"method": options.method, "model": opened.fingerprint, **facts, "versions": versions()}
    return FeatureScores(rows, known)


Answers = list[list[tuple[float, str]]]
"""Per question the scores that were answered, each with the text of the answer."""


_EXPECTATION = (
    f"Rate from {LOWEST} to {HIGHEST} how much a feature speaks for an outcome: positive if a larger value "
    "of the feature (or, for a category, that it applies) makes the outcome more likely, negative if less "
    "likely, 0 if it does not matter.\n\n"
    # from a domain that no table is likely to be about
    "Feature: price of the dish in euros\nOutcome: the guest orders the dish\nScore: -5\n\n"
    "Feature: the dish is recommended by the waiter\nOutcome: the guest orders the dish\nScore: 7\n\n"
    "Feature: number on the page of the menu\nOutcome: the guest orders the dish\nScore: 0\n\n"
)


def _by_expectation(
    schema: TableSchema, asked: list[Question], model: LanguageModel, options: ElicitOptions
) -> tuple[Answers, dict[str, Any]]:
    """The mean integer under the model's probabilities: deterministic, one short pass per question."""
    shared = _EXPECTATION + (f"{model.as_data(schema.question)}\n\n" if schema.question else "")
    queries = []
    for question in asked:
        text = model.as_data(question.text)
        prefix, body = shared, f"{text}\nScore:"
        rendered = model.chat_prompt(shared + text) if options.chat else None
        if rendered is not None:  # the answer continues the model's turn
            at = rendered.rfind(text)
            prefix, body = rendered[:at], f"{rendered[at:]}Score:"
        # the end of the line distinguishes 1 from 10
        queries += [Query(prefix, body, f" {score}\n") for score in range(LOWEST, HIGHEST + 1)]
    scored = model.log_probs(queries)
    log_probs = np.array([one.total for one in scored]).reshape(len(asked), -1)
    means = expectations(log_probs, calibrate=options.calibrate).tolist()
    facts = {"chat": options.chat, "calibrate": options.calibrate, "calls": len(scored)}
    facts["tokens"] = model.statistics.tokens_computed
    facts["tokens_without_sharing"] = model.statistics.naive_tokens
    return [[(mean, "")] for mean in means], facts


def expectations(log_probs: NDArray[np.float64], *, calibrate: bool) -> NDArray[np.float64]:
    """Mean answer per question, `(questions,)` in [-10, 10].

    Args:
        log_probs: `(questions, 21)`, log-probability of each answer; need not be normalised.
        calibrate: Subtract each answer's mean over the questions first.
    """
    if calibrate:
        log_probs = log_probs - log_probs.mean(0)
    probs = np.exp(log_probs - log_probs.max(1, keepdims=True))
    answers = np.arange(LOWEST, HIGHEST + 1.0)
    mean: NDArray[np.float64] = probs / probs.sum(1, keepdims=True) @ answers
    return mean


def _by_chat(
    schema: TableSchema, asked: list[Question], model: LanguageModel, options: ElicitOptions
) -> tuple[Answers, dict[str, Any]]:
    """A few answers in words; one without a score is asked again, then counts as missing."""
    prompts = [_chat_prompt(schema, question) for question in asked]
    found: Answers = [[] for _ in prompts]
    replies: list[Reply] = []
    waiting: list[int] = []
    for estimate, attempt in product(range(options.estimates), range(options.attempts + 1)):
        waiting = list(range(len(prompts))) if attempt == 0 else waiting
        if not waiting:
            continue
        # a seed of its own, so that more estimates or attempts ask only what is new
        seed = (options.seed * 1_009 + estimate) * 101 + attempt
        sampling = Sampling(max_new_tokens=options.max_new_tokens, temperature=options.temperature, seed=seed)
        made = model.generate([prompts[index] for index in waiting], sampling)
        scores = [read_answer(reply.text) for reply in made]
        for index, score, reply in zip(waiting, scores, made, strict=True):
            if score is not None:
                found[index].append((float(score), reply.text))
        waiting = [index for index, score in zip(waiting, scores, strict=True) if score is None]
        replies += made
    if not any(found):
        raise ExtractError(
            f"None of the {len(replies)} answers held a score; the last one was {replies[-1].text[-200:]!r}. "
            "Use a stronger model, more `max_new_tokens`, or `method='expectation'`."
        )
    wanted = options.estimates * len(asked)
    if missing := wanted - sum(map(len, found)):
        _logger.warning("%d of %d answers held no score.", missing, wanted)
    facts = {
        **{name: getattr(options, name) for name in ("estimates", "temperature", "seed")},
        "calls": len(replies),
        "prompt_tokens": sum(reply.prompt_tokens for reply in replies),
        "completion_tokens": sum(reply.completion_tokens for reply in replies),
    }
    return found, facts


def _chat_prompt(schema: TableSchema, question: Question) -> str:
    """The request to a chat model that reasons before it answers."""
    task = schema.question or f"The target is {schema.target}."
    names = ", ".join(column.name for column in schema.columns)
    larger = "a larger value" if question.feature.level is None else "that this applies"
    return (
        f"You help to predict an outcome from the columns of a table.\nTask: {task}\nColumns: {names}\n"
        f"{question.text}\n\n"
        f"How much does the feature speak for the outcome? Give an integer from {LOWEST} to {HIGHEST}: "
        f"positive if {larger} makes the outcome more likely, negative if less likely, 0 if it does not "
        "matter. Think step by step in a few sentences, then end with one line of the form\nScore: <integer>"
    )


_ANSWER = re.compile(r"score\W{0,4}?[:=]\W{0,4}?([-−–]?\s?\d+)\b(?!\.\d)", re.IGNORECASE)


def read_answer(text: str) -> int | None:
    """The last score of an answer, or `None` where there is none in the range."""
    found = _ANSWER.findall(text)
    score = int(re.sub(r"[−–]", "-", found[-1]).replace(" ", "")) if found else HIGHEST + 1
    return score if LOWEST <= score <= HIGHEST else None


# --- Publishing.


def write_scores(folder: Path, scores: FeatureScores, options: PushOptions | None = None) -> None:
    """Write scores as parquet, and their card, into a folder, without local paths, servers and secrets."""
    public = replace(scores, provenance=public_provenance(scores.provenance))
    known = (options.repo_id, options.license) if options else (None, None)
    facts = score_facts(public, (known[0] or folder.name).split("/")[-1], *known)
    write_parquet(public.to_dataset(), folder / "train.parquet")
    write_text(folder / "README.md", render_card(facts, options.template if options else None))


def score_facts(scores: FeatureScores, name: str, repo_id: str | None, license: str | None) -> dict[str, Any]:
    """The facts of the card of feature scores: `name`, `scores` (a table), `made` (how), and others."""
    made, found = scores.provenance, scores.values
    classes = list(dict.fromkeys(label for label, _ in found))
    features = dict.fromkeys(feature for _, feature in found)
    rows = [[one, *(found.get((label, one)) for label in classes)] for one in features]
    return {
        "template": "scores.md.jinja",
        "metadata": DatasetCardData(
            pretty_name=name,
            license=license,
            task_categories=["tabular-classification"],
            size_categories="n<1K" if len(found) < 1_000 else "1K<n<10K",
            tags=list(TAGS),
            configs=[{"config_name": "default", "data_files": "train.parquet"}],
        ),
        "name": name,
        "repo_id": repo_id,
        "scores": [["Feature", *classes], *rows],
        "made": {k: v for k, v in made.items() if k not in ("command", "versions")},
        "versions": made.get("versions") or {},
        "command": public_text(made.get("command") or "") or None,
    }
