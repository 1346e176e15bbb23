"""Feature scores: how much each feature of a table speaks for each class, as a language model sees it."""

import json
import logging
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from datasets import Dataset, Features, List, Value, load_dataset
from numpy.typing import NDArray
from tqdm.auto import tqdm

from hf_cap.data import read_parquet
from hf_cap.errors import ConfigError, DataError, ExtractError, PriorError
from hf_cap.laat.settings import HIGHEST, LOWEST, ElicitOptions
from hf_cap.laat.table import Feature, TableSchema, read_strings
from hf_cap.lm.base import LanguageModel, Query, Reply
from hf_cap.lm.open import ModelLike, open_language_model
from hf_cap.schema import PROVENANCE
from hf_cap.utils import generator, versions

_logger = logging.getLogger(__name__)

ANSWERS = tuple(range(LOWEST, HIGHEST + 1))
"""Every score that can be answered."""
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
class FeatureScore:
    """One feature's score for one class."""

    label: str
    """The class, or the target of a regression."""
    feature: str
    score: float | None
    """Positive where a larger value makes the class more likely; in [-10, 10]. `None`: unknown."""
    description: str = ""
    estimates: tuple[float, ...] = ()
    """The answers that the score is the mean of."""
    missing: int = 0
    """Answers without a score."""
    reasons: tuple[str, ...] = ()
    """What the language model wrote, one per counted answer."""


@dataclass(frozen=True)
class FeatureScores:
    """The scores of a table's features, and how they were made.

    Raises:
        PriorError: a score is not finite, or a class and feature occurs twice.
    """

    scores: tuple[FeatureScore, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        seen = set()
        for one in self.scores:
            if one.score is not None and not math.isfinite(one.score):
                raise PriorError(
                    f"The score of {one.feature!r} for {one.label!r} is {one.score!r}; scores are finite "
                    "numbers, or null where nothing is known."
                )
            if (one.label, one.feature) in seen:
                raise PriorError(f"{one.feature!r} has two scores for the class {one.label!r}.")
            seen.add((one.label, one.feature))

    @classmethod
    def of(
        cls, values: Mapping[str, Mapping[str, float | None]], **provenance: Any
    ) -> "FeatureScores":
        """Scores given as class -> feature -> score."""
        scores = [
            FeatureScore(label, str(feature), None if score is None else float(score))
            for label, row in values.items()
            for feature, score in row.items()
        ]
        return cls(tuple(scores), provenance)

    def matrix(
        self, outputs: Sequence[str], features: Sequence[str]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Scores as `(outputs, features)`, 0 where there is none, and where there is one.

        Raises:
            PriorError: no score fits, or scores are for a class or feature that the model does not have.
        """
        for kind, got, known in (
            (CLASS, {one.label for one in self.scores}, outputs),
            (FEATURE, {one.feature for one in self.scores}, features),
        ):
            if strange := sorted(got - set(known)):
                raise PriorError(
                    f"There are scores for the {kind} {strange[:3]!r}, but the table has "
                    f"{list(known)[:8]!r}. Elicit them for this table and description."
                )
        found = {(one.label, one.feature): one.score for one in self.scores}
        rows = [[found.get((label, name)) for name in features] for label in outputs]
        values = np.array(rows, dtype=np.float64)
        known_ = ~np.isnan(values)
        if not np.nan_to_num(values).any():
            raise PriorError("All feature scores are 0 or missing; there is nothing to align with.")
        return np.where(known_, values, 0.0), known_

    def control(self, name: str, seed: int = 0) -> "FeatureScores":
        """Scores of a control in place of these, drawn by `seed`.

        Raises:
            ConfigError: `CONTROLS` has no such control.
        """
        if name not in CONTROLS:
            raise ConfigError(f"There is no control {name!r}; there are {sorted(CONTROLS)}.")
        rng = generator(seed, name)
        made: list[FeatureScore] = []
        for label in dict.fromkeys(one.label for one in self.scores):
            row = [one for one in self.scores if one.label == label]
            known = np.array([one.score for one in row if one.score is not None])
            drawn = iter(CONTROLS[name](known, rng).tolist())
            made += [replace(one, score=None if one.score is None else next(drawn)) for one in row]
        return FeatureScores(tuple(made), {**self.provenance, "control": name})

    def to_dataset(self) -> Dataset:
        """The scores as a data set with the columns `COLUMNS`."""
        cell = json.dumps(dict(self.provenance), sort_keys=True)
        rows = [{**asdict(one), CLASS: one.label, PROVENANCE: cell} for one in self.scores]
        return Dataset.from_list([{c: row[c] for c in COLUMNS} for row in rows], features=COLUMNS)

    @classmethod
    def from_dataset(cls, dataset: Dataset) -> "FeatureScores":
        """The scores of a data set; all columns but class, feature and score may be absent.

        Raises:
            DataError: one of these columns is missing.
        """
        if absent := {CLASS, FEATURE, SCORE} - set(dataset.column_names):
            raise DataError(
                f"Feature scores need the columns {sorted(absent)!r}; found {dataset.column_names}."
            )
        rows: list[dict[str, Any]] = list(dataset)
        scores = tuple(
            FeatureScore(
                row[CLASS],
                row[FEATURE],
                row[SCORE],
                row.get("description") or "",
                tuple(row.get("estimates") or ()),
                row.get("missing") or 0,
                tuple(row.get("reasons") or ()),
            )
            for row in rows
        )
        cell = rows[0].get(PROVENANCE) if rows else None
        return cls(scores, json.loads(cell) if cell else {})


def sharpened(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """sign(s)·exp|s|; 0 stays 0."""
    return np.sign(scores) * np.exp(np.abs(scores))


def load_scores(name: str | os.PathLike[str]) -> FeatureScores:
    """Scores from a YAML or JSON file (class: {feature: score}), a folder of `hf-cap elicit`, or the Hub.

    Raises:
        DataError: there is nothing of that name, or it does not hold scores.
    """
    path = Path(name).expanduser()
    if path.suffix in (".json", ".yaml", ".yml"):
        try:
            values = {
                label: {feature: float(score) for feature, score in row.items()}
                for label, row in read_strings(path).items()
            }
        except (OSError, yaml.YAMLError, AttributeError, ValueError) as error:
            raise DataError(
                f"Cannot read feature scores from {str(name)!r}: {error}. It holds class: {{feature: score}}."
            ) from error
        return FeatureScores.of(values, source="file")
    try:
        dataset = (
            read_parquet(path / "train.parquet")
            if path.is_dir()
            else load_dataset(str(name), split="train")
        )
    except (FileNotFoundError, ValueError) as error:
        raise DataError(f"There are no feature scores {str(name)!r}: {error}") from error
    return FeatureScores.from_dataset(dataset)


# --- What the language model is asked.

_EXAMPLES = (
    # feature, output, score: from a domain that no table is likely to be about
    ("price of the dish in euros", "the guest orders the dish", -5),
    ("the dish is recommended by the waiter", "the guest orders the dish", 7),
    ("number on the page of the menu", "the guest orders the dish", 0),
)
_ANSWER = re.compile(r"score\W{0,4}?[:=]\W{0,4}?([-−–]?\s?\d+)\b(?!\.\d)", re.IGNORECASE)


class Question(NamedTuple):
    """One feature and one output of a table."""

    schema: TableSchema
    feature: Feature
    output: str
    description: str
    """Of the output."""

    @property
    def feature_text(self) -> str:
        """The feature in words: name and description, and for a category its level."""
        feature = self.feature
        known = "" if feature.description == feature.column else f" ({feature.description})"
        level = "" if feature.level is None else f" is {feature.level}"
        return f"{feature.column}{known}{level}"

    @property
    def output_text(self) -> str:
        """The output in words."""
        if self.schema.kind == "regression":
            return f"a higher value of {self.description}"
        same = self.description == self.output
        return self.output if same else f"{self.output} ({self.description})"


def questions(schema: TableSchema) -> list[Question]:
    """A question for each output and feature, outputs slowest."""
    descriptions = schema.class_descriptions or schema.outputs
    return [
        Question(schema, feature, output, description)
        for output, description in zip(schema.outputs, descriptions, strict=True)
        for feature in schema.features
    ]


def expectation_prefix(question: Question) -> str:
    """The beginning of the prompt, the same for all features of an output."""
    examples = "\n\n".join(
        f"Feature: {feature}\nOutcome: {output}\nScore: {score}"
        for feature, output, score in _EXAMPLES
    )
    task = f"\n\n{question.schema.question}" if question.schema.question else ""
    return (
        f"Rate from {LOWEST} to {HIGHEST} how much a feature speaks for an outcome: positive if a larger "
        "value of the feature (or, for a category, that it applies) makes the outcome more likely, negative "
        f"if less likely, 0 if it does not matter.\n\n{examples}{task}\n\n"
    )


def expectation_body(question: Question) -> str:
    """The rest of the prompt, up to the score."""
    return f"Feature: {question.feature_text}\nOutcome: {question.output_text}\nScore:"


def answer_text(score: int) -> str:
    """A score as it is answered; the line's end distinguishes 1 from 10."""
    return f" {score}\n"


def chat_prompt(question: Question) -> str:
    """The request to a chat model that reasons before it answers."""
    task = question.schema.question or f"The target is {question.schema.target}."
    names = ", ".join(column.name for column in question.schema.columns)
    larger = "a larger value" if question.feature.level is None else "that this applies"
    return (
        f"You help to predict an outcome from the columns of a table.\nTask: {task}\nColumns: {names}\n"
        f"Feature: {question.feature_text}\nOutcome: {question.output_text}\n\n"
        f"How much does the feature speak for the outcome? Give an integer from {LOWEST} to {HIGHEST}: "
        f"positive if {larger} makes the outcome more likely, negative if less likely, 0 if it does not "
        "matter. Think step by step in a few sentences, then end with one line of the form\nScore: <integer>"
    )


def read_answer(text: str) -> int | None:
    """The last score of an answer, or `None` where there is none in the range."""
    found = _ANSWER.findall(text)
    score = int(re.sub(r"[−–]", "-", found[-1]).replace(" ", "")) if found else HIGHEST + 1
    return score if LOWEST <= score <= HIGHEST else None


# --- Elicitation.


def elicit_scores(
    schema: TableSchema, model: ModelLike, options: ElicitOptions | None = None
) -> FeatureScores:
    """Ask a language model for the score of each feature and class.

    Only names, descriptions and categories are shown to it, never a row. An opened model that keeps its
    answers (`open_language_model` gives one) is asked nothing twice, so a stopped run continues.

    Args:
        schema: The table.
        model: What `open_language_model` accepts.
        options: How to ask; the defaults where not given.

    Raises:
        ModelError: the model cannot score, or (`method='chat'`) cannot generate.
        ExtractError: not one answer held a score.
        ServerError: the server of the model keeps failing.
    """
    opened, options = open_language_model(model), options or ElicitOptions()
    scores, facts = (_by_chat if options.method == "chat" else _by_expectation)(
        schema, opened, options
    )
    known = {"method": options.method, "model": opened.fingerprint, **facts, "versions": versions()}
    return FeatureScores(tuple(scores), known)


def _by_expectation(
    schema: TableSchema, model: LanguageModel, options: ElicitOptions
) -> tuple[list[FeatureScore], dict[str, Any]]:
    """The mean integer under the model's probabilities: deterministic, one short pass per question."""
    asked = questions(schema)
    answers = [answer_text(score) for score in ANSWERS]
    prompts = [_prompt(question, model, options.chat) for question in asked]
    scored = model.log_probs([Query(*prompt, answer) for prompt in prompts for answer in answers])
    log_probs = np.array([one.total for one in scored]).reshape(len(asked), len(answers))
    means = expectations(log_probs, calibrate=options.calibrate).tolist()
    scores = [
        FeatureScore(one.output, one.feature.name, mean, one.feature.description, (mean,))
        for one, mean in zip(asked, means, strict=True)
    ]
    facts = {
        "chat": options.chat,
        "calibrate": options.calibrate,
        "calls": len(scored),
        "tokens": model.statistics.tokens_computed,
        "tokens_without_sharing": model.statistics.naive_tokens,
    }
    return scores, facts


def expectations(log_probs: NDArray[np.float64], *, calibrate: bool) -> NDArray[np.float64]:
    """Mean answer of each row.

    Args:
        log_probs: `(questions, 21)`, log-probability of each answer; need not be normalised.
        calibrate: Subtract each answer's mean over the questions first.

    Returns:
        `(questions,)` in [-10, 10].
    """
    if calibrate:
        log_probs = log_probs - log_probs.mean(0)
    probs = np.exp(log_probs - log_probs.max(1, keepdims=True))
    mean: NDArray[np.float64] = probs / probs.sum(1, keepdims=True) @ np.array(ANSWERS, dtype=float)
    return mean


def _prompt(question: Question, model: LanguageModel, chat: bool) -> tuple[str, str]:
    """Prefix and body, inside the model's chat template where it has one; the answer continues its turn."""
    prefix, body = expectation_prefix(question), expectation_body(question)
    request, slot = body.rsplit("\n", 1)
    rendered = model.chat_prompt(prefix + request) if chat else None
    if rendered is None:
        return prefix, body
    at = rendered.rfind(request)
    return rendered[:at], rendered[at:] + slot


def _by_chat(
    schema: TableSchema, model: LanguageModel, options: ElicitOptions
) -> tuple[list[FeatureScore], dict[str, Any]]:
    """The mean of a few answers in words; one without a score is asked again, then counts as missing."""
    asked = questions(schema)
    found, replies = _ask([chat_prompt(question) for question in asked], model, options)
    if not any(found):
        raise ExtractError(
            f"None of the {len(replies)} answers held a score; the last one was {replies[-1].text[-200:]!r}. "
            "Use a stronger model, more `max_new_tokens`, or `method='expectation'`."
        )
    wanted = options.estimates * len(asked)
    if missing := wanted - sum(map(len, found)):
        _logger.warning("%d of %d answers held no score.", missing, wanted)
    scores = [
        FeatureScore(
            one.output,
            one.feature.name,
            float(np.mean([score for score, _ in answers])) if answers else None,
            one.feature.description,
            tuple(float(score) for score, _ in answers),
            options.estimates - len(answers),
            tuple(text for _, text in answers),
        )
        for one, answers in zip(asked, found, strict=True)
    ]
    facts = {
        "estimates": options.estimates,
        "temperature": options.temperature,
        "seed": options.seed,
        "calls": len(replies),
        "prompt_tokens": sum(reply.prompt_tokens for reply in replies),
        "completion_tokens": sum(reply.completion_tokens for reply in replies),
    }
    return scores, facts


def _ask(
    prompts: Sequence[str], model: LanguageModel, options: ElicitOptions
) -> tuple[list[list[tuple[int, str]]], list[Reply]]:
    """Per prompt the scores that were answered, with the answers; and all replies."""
    found: list[list[tuple[int, str]]] = [[] for _ in prompts]
    replies: list[Reply] = []
    with tqdm(total=options.estimates * len(prompts), desc="answers", disable=None) as bar:

        def count(_: str, reply: Reply) -> None:
            bar.update(read_answer(reply.text) is not None)

        for estimate in range(options.estimates):
            waiting = list(range(len(prompts)))
            for attempt in range(options.attempts + 1):
                asked = [prompts[index] for index in waiting]
                made = model.generate(asked, options.sampling(estimate, attempt), count)
                replies += made
                scores = [read_answer(reply.text) for reply in made]
                for index, score, reply in zip(waiting, scores, made, strict=True):
                    found[index] += [] if score is None else [(score, reply.text)]
                waiting = [i for i, score in zip(waiting, scores, strict=True) if score is None]
                if not waiting:
                    break
    return found, replies
