"""Settings of the priors that come from a language model. Imports neither torch nor transformers."""

from dataclasses import dataclass
from typing import Literal

from ..options import check_choices, check_range, documented, option

Score = Literal["log_prob", "mean_log_prob", "contrast"]
Masking = Literal["delete", "replace"]
Sign = Literal["positive", "signed", "absolute"]
Evidence = Literal["posterior", "uniform"]

DEFAULT_TEMPLATE = "default"
"""Stands for the template that comes with the prior."""


@documented
@dataclass(frozen=True, kw_only=True)
class PromptSettings:
    """How a language model is asked, shared by `CAPPrior` and `ChannelPrior`."""

    template: str = option(
        DEFAULT_TEMPLATE,
        "Prompt template: 'default' (the file that comes with the prior) or the path of a YAML file like it.",
    )
    chat: bool = option(
        True, "Put the prompt into the model's chat template, where it has one; else plain text."
    )
    verbalise: bool = option(
        True, "Write labels as words in the prompt: card_arrival becomes 'card arrival'."
    )
    demonstrations: int = option(
        1,
        "Labelled training texts a label in the prompt, at least 0. Two disjoint sets are kept, and no "
        "text is scored under a set that it is in.",
    )
    sign: Sign = option(
        "positive",
        "Which scores the prior keeps: evidence for the label only, signed scores, or absolute values.",
    )
    keep_label_scores: bool = option(
        False,
        "Also score every label on the whole text: the language model's own answer, as a diagnostic.",
    )
    seed: int = option(0, "Determines the demonstrations and the perturbations of every text.")

    def __post_init__(self) -> None:
        check_choices(self)
        check_range(self, "demonstrations", at_least=0)


@documented
@dataclass(frozen=True, kw_only=True)
class CAPSettings:
    """Settings of the perturbation prior `cap`."""

    n: int = option(100, "Perturbations a text, at least 1; all of them where fewer exist.")
    penalty: float = option(0.1, "Ridge penalty λ, more than 0.")
    score: Score = option(
        "log_prob",
        "What a perturbation is scored by: log-probability of the gold label, the same per token, or its "
        "contrast with the strongest rival labels.",
    )
    rivals: int = option(5, "Rival labels that `contrast` compares with, at least 1.")
    calibration_texts: int = option(
        200,
        "Texts from which `contrast` learns how much the model favours each label anyway; 0 turns it off.",
    )
    masking: Masking = option("delete", "Whether a masked word is deleted or replaced.")
    replacement: str = option("...", "What stands in for a masked word when masking is `replace`.")

    def __post_init__(self) -> None:
        check_choices(self)
        check_range(self, "n", "rivals", at_least=1)
        check_range(self, "calibration_texts", at_least=0)
        check_range(self, "penalty", above=0)


@documented
@dataclass(frozen=True, kw_only=True)
class ChannelSettings:
    """Settings of the class-conditional prior `channel`."""

    evidence: Evidence = option(
        "posterior",
        "What a word under the gold label is compared with: the labels weighted by what the words before "
        "it say (scores then add up to log p(label | text) - log p(label)), or all labels alike.",
    )
    temperature: float = option(
        1.0,
        "Divides the log-probabilities of the words, more than 0; above 1 tempers over-confidence.",
    )
    keep_label_words: bool = option(
        False, "Also keep the word scores of every label, not only of the gold one."
    )

    def __post_init__(self) -> None:
        check_choices(self)
        check_range(self, "temperature", above=0)


@documented
@dataclass(frozen=True, kw_only=True)
class ExtractionSettings:
    """How the stage `extract` goes through a data set. Changes no score."""

    splits: tuple[str, ...] = option(
        ("train",),
        "Splits whose texts get priors. `hf-cap extract` reads and writes no others; its sources learn "
        "(demonstrations, keywords) from train where it is among them, else from the first.",
    )
    chunk_size: int = option(
        32, "Texts that are scored, and kept, together. What is lost by a crash is one chunk."
    )
    progress: bool = option(True, "Show a progress bar.")

    def __post_init__(self) -> None:
        check_range(self, "chunk_size", at_least=1)
