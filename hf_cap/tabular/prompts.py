"""What the language model is asked, and how its answer is read."""

import re
from dataclasses import dataclass

from .schema import Feature, TableSchema
from .settings import HIGHEST, LOWEST

ANSWERS = tuple(range(LOWEST, HIGHEST + 1))
"""Every score that can be answered."""

_EXAMPLES = (
    # feature, output, score: from a domain that no table is likely to be about
    ("price of the dish in euros", "the guest orders the dish", -5),
    ("the dish is recommended by the waiter", "the guest orders the dish", 7),
    ("number on the page of the menu", "the guest orders the dish", 0),
)
_ANSWER = re.compile(r"score\W{0,4}?[:=]\W{0,4}?([-−–]?\s?\d+)\b(?!\.\d)", re.IGNORECASE)


@dataclass(frozen=True)
class Question:
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
        if feature.level is None:
            return f"{feature.column}{known}"
        return f"{feature.column}{known} is {feature.level}"

    @property
    def output_text(self) -> str:
        """The output in words."""
        if self.schema.kind == "regression":
            return f"a higher value of {self.description}"
        same = self.description == self.output
        return self.output if same else f"{self.output} ({self.description})"


def questions(schema: TableSchema) -> list[Question]:
    """A question for each output and feature, outputs slowest."""
    return [
        Question(schema, feature, output, description)
        for output, description in zip(schema.outputs, schema.output_descriptions, strict=True)
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
    """A score as it is answered; the line's end tells 1 from 10."""
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
    """The last score that an answer names, or `None` where there is none in the range."""
    found = _ANSWER.findall(text)
    if not found:
        return None
    score = int(re.sub(r"[−–]", "-", found[-1]).replace(" ", ""))
    return score if LOWEST <= score <= HIGHEST else None
