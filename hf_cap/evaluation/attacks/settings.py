"""Settings of an attack; torch-free, so that `hf-cap attack --help` is instant."""

from dataclasses import dataclass
from typing import Literal

from hf_cap.embedded import LANGUAGE_MODEL
from hf_cap.errors import ConfigError
from hf_cap.lm.base import LMSettings, Sampling
from hf_cap.schema import PRIOR
from hf_cap.utils import check_choices, check_range, documented, option
from hf_cap.words import WORD_PATTERN

Kind = Literal["keyword_addition", "keyword_replacement"]
Maker = Literal["rules", "chat"]
KeywordsFrom = Literal["training", "prior"]
Difficulty = Literal["easy", "medium", "hard"]
WantedDifficulty = Literal["any", "easy", "medium", "hard"]
Unchanged = Literal["keep", "drop", "rules"]


@documented
@dataclass(frozen=True, kw_only=True)
class AttackSettings:
    """Which attack, who writes it, and where its keywords come from."""

    kind: Kind = option(
        "keyword_addition",
        "keyword_addition brings a word of another class into the text, keyword_replacement puts other words "
        "in the place of the class's own keywords; the label stays right in both.",
    )
    maker: Maker = option(
        "rules", "Who writes the attacked text: fixed rules, or a chat model with checks."
    )
    keywords_from: KeywordsFrom = option(
        "training",
        "training takes keywords by chi-squared from the training texts alone, which favours no method, "
        "prior the words with the highest sum of prior scores.",
    )
    prior_column: str = option(
        PRIOR, "Column of the training data that holds the prior, for keywords_from=prior."
    )
    keywords: int = option(10, "Keywords a class at most; at least 1.")
    keyword_texts: int = option(
        2,
        "Training texts of its class that a keyword must occur in; 1 admits words met once by chance.",
    )
    difficulty: WantedDifficulty = option(
        "any",
        "Which classes added keywords come from, by overlap of their keywords with the text's class: "
        "the most similar third (hard), the least similar (easy), the middle (medium), or any.",
    )
    synonyms: str | None = option(
        None,
        "JSON file of synonyms, word to list of words; they go before the own lexicon.",
    )
    unchanged: Unchanged = option(
        "keep",
        "What becomes of a text that the attack cannot change, or of which the chat model's version fails a "
        "check: keep it as it is, drop it, or let the rules write it (for maker=chat).",
    )
    model: str = option(LANGUAGE_MODEL, "Chat model for maker=chat.")
    base_url: str | None = option(
        None,
        "Root of an OpenAI-compatible server that serves `model`, e.g. http://localhost:8000/v1.",
    )
    max_new_tokens: int = option(96, "Longest reply of the chat model, in tokens.")
    word_pattern: str = option(WORD_PATTERN, "Regular expression of a word.")
    seed: int = option(0, "Seed of every choice; a choice depends on it and the text alone.")

    def __post_init__(self) -> None:
        check_choices(self)
        check_range(self, "keywords", "keyword_texts", "max_new_tokens", at_least=1)
        if self.unchanged == "rules" and self.maker == "rules":
            raise ConfigError(
                "unchanged='rules' lets the rules write what a chat model cannot, but maker='rules' writes "
                "everything by rule already. Choose 'keep' or 'drop', or maker='chat'."
            )

    @property
    def chat_model(self) -> LMSettings:
        """The chat model, as the language model that is opened."""
        return LMSettings(model=self.model, base_url=self.base_url)

    @property
    def sampling(self) -> Sampling:
        """How it answers: the likeliest words."""
        return Sampling(max_new_tokens=self.max_new_tokens, seed=self.seed)
