"""Settings of evaluation and attacks, without torch, so that `--help` is instant."""

from typing import Literal

from hf_cap.embedded import LANGUAGE_MODEL
from hf_cap.errors import ConfigError
from hf_cap.lm.base import LMSettings
from hf_cap.schema import PRIOR, AttributionMethod
from hf_cap.utils import check_settings, option, settings_class
from hf_cap.words import WORD_PATTERN, check_pattern

Kind = Literal["keyword_addition", "keyword_replacement"]
SoftDistance = Literal["probability", "hellinger"]

PERCENTAGES = (1, 5, 10, 20, 50)
SOFT_SAMPLES = 4


@settings_class
class EvaluationSettings:
    """What `evaluate_classifier` measures, and how."""

    faithfulness: bool = option(True, "Measure comprehensiveness and sufficiency.")
    percentages: tuple[int, ...] = option(
        PERCENTAGES,
        "Sizes of the rationale in percent of the words, in (0, 100]; the metrics are their mean.",
    )
    soft: bool = option(False, "Measure Soft-NC and Soft-NS too.")
    soft_samples: int = option(SOFT_SAMPLES, "Random embedding masks per text; at least 1.", at_least=1)
    soft_distance: SoftDistance = option(
        "probability",
        "What soft erasure moves: `probability` of the predicted class (arXiv 2305.10496) or the "
        "`hellinger` distance of the whole output (arXiv 2402.00794).",
    )
    concepts: int = option(
        0,
        "Most concepts to find per label, with their words (CRAFT, arXiv 2211.10154); 0 for none.",
        at_least=0,
    )
    prior_column: str = option(PRIOR, "Column of the prior; rows without one are left out.")
    attribution_method: AttributionMethod = option("integrated_gradients", "Attribution method.")
    attribution_steps: int = option(20, "Path points of Integrated Gradients; at least 1.", at_least=1)
    batch_size: int = option(32, "Texts per forward pass; changes the speed, not the result.", at_least=1)
    max_length: int | None = option(
        None,
        "Most tokens of a text. Default: as stored with the model, else what the model takes.",
        at_least=1,
    )
    word_pattern: str | None = option(
        None,
        "Regular expression of a word, that of the prior. Default: as stored with the model.",
        check=check_pattern,
    )
    explained_texts: int | None = option(
        500,
        "Most texts to explain, drawn at random: faithfulness, alignment and the attributions of records are "
        "of them, all else is of all texts. `none` for all.",
        at_least=1,
    )
    records: bool = option(False, "Keep prediction, probabilities and attributions of each text.")
    seed: int = option(0, "Seed of the texts to explain and of the random masks of the soft metrics.")

    def __post_init__(self) -> None:
        check_settings(self)
        if not self.percentages or not all(0 < percent <= 100 for percent in self.percentages):
            raise ConfigError(f"`percentages` must be in (0, 100], got {self.percentages!r}.")


@settings_class
class AttackSettings:
    """Which attack, who writes it, and where its keywords come from."""

    kind: Kind = option(
        "keyword_addition",
        "keyword_addition brings a word of another class into the text, keyword_replacement puts "
        "other words in the place of the class's own keywords; the label stays right in both.",
    )
    maker: Literal["rules", "chat"] = option("rules", "Fixed rules, or a chat model with checks.")
    keywords_from: Literal["training", "prior"] = option(
        "training",
        "training takes keywords by chi-squared from the training texts alone, which favours no "
        "method, prior the words with the highest sum of prior scores.",
    )
    prior_column: str = option(PRIOR, "Column of the prior, for keywords_from=prior.")
    keywords: int = option(10, "Most keywords per class; at least 1.", at_least=1)
    keyword_texts: int = option(2, "Training texts of its class that a keyword must occur in.", at_least=1)
    keyword_half: Literal["both", "first", "second"] = option(
        "both",
        "Which keywords to use: both halves, or one of two that have no word in common: train on attacks "
        "with the first and test on those with the second.",
    )
    difficulty: Literal["any", "easy", "medium", "hard"] = option(
        "any",
        "Which classes added keywords come from, by overlap of their keywords with the text's class: "
        "the most similar third (hard), the least similar (easy), the middle (medium), or any.",
    )
    synonyms: str | None = option(None, "JSON file of synonyms, word to list of words.")
    unchanged: Literal["keep", "drop", "rules"] = option(
        "keep",
        "A text that the attack cannot change, or whose version by the chat model fails a check: "
        "keep it as it is, drop it, or let the rules write it (for maker=chat).",
    )
    model: str = option(LANGUAGE_MODEL, "Chat model for maker=chat.")
    base_url: str | None = option(None, "Root of the OpenAI-compatible server of `model`.")
    constrained: bool = option(
        False, "Hold a local chat model to the checks while it writes (arXiv 2504.05410), for maker=chat."
    )
    max_new_tokens: int = option(96, "Longest reply of the chat model, in tokens.", at_least=1)
    word_pattern: str = option(WORD_PATTERN, "Regular expression of a word.", check=check_pattern)
    seed: int = option(0, "Seed of every choice; a choice depends on it and the text alone.")

    def __post_init__(self) -> None:
        check_settings(self)
        LMSettings(model=self.model, base_url=self.base_url)  # checks them
        if self.unchanged == self.maker == "rules":
            raise ConfigError("unchanged='rules' is for maker='chat'; choose 'keep' or 'drop'.")
        if self.constrained and (self.maker == "rules" or self.base_url is not None):
            raise ConfigError(
                "`constrained` is for maker='chat' by a local model, whose tokens can be chosen here; got "
                f"maker={self.maker!r}, base_url={self.base_url!r}. Leave it out."
            )
