"""What the sources that ask a language model have in common: the model, its prompts, and cutting."""

import logging
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from hf_cap.errors import ModelError
from hf_cap.lm.base import LanguageModel, LMSettings, Query, current_runtime
from hf_cap.lm.open import model_stamp, open_language_model, settings_or_model
from hf_cap.priors.base import LEARNED, Row, Source
from hf_cap.priors.prompts import (
    DEFAULT_TEMPLATE,
    NO_DEMONSTRATIONS,
    DemonstrationSets,
    Prompt,
    build_prompt,
    choose_demonstrations,
    held_out_demonstrations,
    load_template,
    written_labels,
)
from hf_cap.utils import check_range, documented, fingerprint, option

if TYPE_CHECKING:
    from datasets import Dataset

_logger = logging.getLogger(__name__)

Sign = Literal["positive", "signed", "absolute"]

SIGNS: Mapping[Sign, Callable[[float], float]] = {
    "positive": lambda score: max(score, 0.0),
    "signed": lambda score: score,
    "absolute": abs,
}

Variants = Callable[[Row, int], Sequence[str]]
"""A row and a number of bytes to the texts that are asked in place of the row's and have more."""


@dataclass(frozen=True)
class PromptedModel:
    """A language model with the prompts of one source, one per demonstration set.

    `labels` are written as in the prompts. The tokens of `prefix_labels` begin another label.
    """

    model: LanguageModel
    labels: Sequence[str]
    sets: DemonstrationSets
    prompts: Sequence[Prompt]
    prefix_labels: frozenset[str]

    def prompt(self, text: str) -> Prompt:
        """The prompt whose demonstrations do not contain `text`."""
        return self.prompts[held_out_demonstrations(self.sets, text)]

    def answer(self, prompt: Prompt, label: str) -> str:
        """A label as the answer to score.

        A label that begins another one is followed by the end of an answer: without, it would be at
        least as likely as the other, whatever the text says.
        """
        return prompt.answer(label) + (prompt.end if label in self.prefix_labels else "")

    def query(self, prompt: Prompt, text: str, label: str) -> Query:
        """The question how likely a label is as the answer about a text."""
        return Query(prompt.prefix, prompt.body(text), self.answer(prompt, label))

    def fit(
        self,
        rows: Sequence[Row],
        query: Callable[[Prompt, str, str], Query],
        variants: Variants = lambda row, room: (),
    ) -> list[Row]:
        """Cut the last words that the model has no room for, whatever label it is asked about.

        Args:
            rows: The whole rows.
            query: What is asked about a text and a label.
            variants: Texts that are asked in place of that of a row.

        Raises:
            ModelError: not even the first word of a row fits.
        """

        def excess(label: str, prompt: Prompt, text: str) -> int:
            return self.model.excess(query(prompt, text, label))

        longest = max(self.labels, key=partial(excess, prompt=self.prompts[0], text="a"))
        fitting = [
            _cut(row, partial(excess, longest, self.prompt(row.text)), variants) for row in rows
        ]
        cuts = [count_cut(*pair) for pair in zip(rows, fitting, strict=True)]
        if any(cuts):
            _logger.warning(
                "%d of %d texts are longer than the language model reads; their last words "
                "(%d in all) get the score 0.",
                sum(map(bool, cuts)), len(cuts), sum(cuts),
            )  # fmt: skip
        return fitting


def count_cut(row: Row, fitting: Row) -> int:
    """Words of a row that did not fit."""
    return len(row.spans) - len(fitting.spans)


def _cut(row: Row, excess: Callable[[str], int], variants: Variants) -> Row:
    """The first words of a row for which `excess`, in tokens, is at most 0 with every variant."""

    def most(words: int) -> int:
        part = row.first_words(words)
        whole = excess(part.text)
        # no text has more tokens than bytes, so few variants need be looked at
        return max([whole, *map(excess, variants(part, -whole))])

    if most(len(row.spans)) <= 0:
        return row
    kept = bisect_left(range(1, len(row.spans)), 1, key=most)
    if kept:
        return row.first_words(kept)
    word = row.words[0]
    if excess(word[0]) > 0:
        raise ModelError(
            "The prompt leaves no room for a single word: the language model reads fewer tokens "
            "than instruction, labels and demonstrations take. Use fewer demonstrations "
            "(`demonstrations=0`), a shorter template, or a model that reads more."
        )
    raise ModelError(
        f"The word {word[:40]!r}{'...' * (len(word) > 40)} of {len(word)} characters is longer "
        "than the language model can read beside the prompt, and a text is cut between words. Give "
        r"a `word_pattern` that finds shorter words (`\w` takes each character of a text without "
        "spaces), remove the text, or use a model that reads more."
    )


@documented
@dataclass(frozen=True, kw_only=True)
class LanguageModelSource(Source):
    """A source that asks a language model about the rows.

    Attributes:
        model: The language model: a Hub id, folder, `.gguf` file or embedded name, `LMSettings`, a
            loaded model with its tokenizer, a `transformers.pipeline("text-generation")`, or a
            `LanguageModel`. The number format `auto` becomes that of the device at hand, since it
            changes scores.
        demonstration_sets: Two disjoint sets of (text, label name), or one empty set;
            `from_dataset` chooses them.
        stamp: State of the files that the settings only name: the model's folder and a template of
            your own. So the cache of `Dataset.map` does not outlive a change of these.
    """

    wording: ClassVar[str]
    """Name of the default template: `cap` asks for the label, `channel` for the text."""

    model: Any = field(default_factory=LMSettings)
    template: str = option(
        DEFAULT_TEMPLATE,
        "Prompt template: 'default' (the file that comes with the prior) or the path of a YAML "
        "file like it.",
    )
    chat: bool = option(
        True, "Put the prompt into the model's chat template, where it has one; else plain text."
    )
    verbalise: bool = option(
        True, "Write labels as words in the prompt: card_arrival becomes 'card arrival'."
    )
    demonstrations: int = option(
        1,
        "Labelled training texts per label in the prompt, at least 0. Two disjoint sets are kept, "
        "and no text is scored under a set that it is in.",
    )
    sign: Sign = option(
        "positive",
        "Which scores the prior keeps: evidence for the label only, signed scores, or absolute "
        "values.",
    )
    keep_label_scores: bool = option(
        False,
        "Also score every label on the whole text: the language model's own answer, as a "
        "diagnostic.",
    )
    seed: int = option(0, "Determines the demonstrations and the perturbations of every text.")
    demonstration_sets: DemonstrationSets = field(default=NO_DEMONSTRATIONS, metadata=LEARNED)
    stamp: str = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "demonstrations", at_least=0)
        object.__setattr__(self, "model", settings_or_model(self.model, current_runtime()))
        object.__setattr__(self, "stamp", self._stamp())

    @classmethod
    def from_dataset(cls, dataset: "Dataset", **options: Any) -> Self:
        """Create the source with the label space and the demonstrations of a training split.

        Args:
            dataset: Training examples, with a `ClassLabel` column.
            options: The settings of the source, among them `model`.

        Raises:
            ConfigError: an option cannot work.
            DataError: a column is missing, or a row has no text or no label of the label space.
        """
        source = super().from_dataset(dataset, **options)
        rows = source.read_rows(dataset[:])
        sets = choose_demonstrations(
            [row.text for row in rows],
            [source.labels[row.label] for row in rows],
            per_label=source.demonstrations,
            seed=source.seed,
        )
        return replace(source, demonstration_sets=sets)

    def open(self) -> PromptedModel:
        """Open the language model, once per process, and write its prompts.

        Raises:
            ConfigError: the template cannot be used.
            DataError: two labels are written alike.
            ModelError: the model or its chat template cannot be used, or the model or the template
                changed on disk.
        """
        if self._stamp() != self.stamp:
            raise ModelError(
                f"The language model {self.model!r} or the prompt template {self.template!r} "
                "changed on disk after the prior source was created; create it again."
            )
        model = open_language_model(self.model)
        template = load_template(self.template, self.wording)
        labels = written_labels(self.labels, verbalise=self.verbalise)
        names = dict(zip(self.labels, labels, strict=True))
        prompts = [
            build_prompt(
                template,
                labels,
                [(text, names[label]) for text, label in examples],
                model.chat_prompt if self.chat else None,
                model.end_of_turn(),
            )
            for examples in self.demonstration_sets
        ]
        answers = {label: prompts[0].answer(label) for label in labels}
        return PromptedModel(
            model, labels, self.demonstration_sets, prompts, _prefix_labels(model, answers)
        )

    def signed(self, scores: Iterable[float]) -> list[float]:
        """Scores after `sign`."""
        return [*map(SIGNS[self.sign], scores)]

    def model_facts(self, opened: PromptedModel) -> dict[str, Any]:
        """Facts of the opened language model and its prompts, for the provenance."""
        named = self.model if isinstance(self.model, LMSettings) else None
        return {
            "model": named.model if named else opened.model.fingerprint,
            "revision": named.revision if named else None,
            "fingerprint": opened.model.fingerprint,
            "template_digest": load_template(self.template, self.wording).digest,
            "prompt_digest": fingerprint(
                *(prompt.prefix + prompt.after for prompt in opened.prompts)
            ),
        }

    def _stamp(self) -> str:
        stamp = model_stamp(settings_or_model(self.model, current_runtime()))
        if self.template == DEFAULT_TEMPLATE:
            return stamp
        return stamp + load_template(self.template, self.wording).digest


def _prefix_labels(model: LanguageModel, answers: Mapping[str, str]) -> frozenset[str]:
    """Labels (by their answers) whose tokens are the first tokens of another label."""
    tokens = {label: model.answer_tokens(answer) for label, answer in answers.items()}
    beginnings = {ids[:size] for ids in tokens.values() for size in range(1, len(ids))}
    return frozenset(label for label, ids in tokens.items() if ids in beginnings)


def rank_of(label: int, scores: Sequence[float]) -> int:
    """Rank of a label among the scores of all labels: 1 where it is the model's own answer."""
    return 1 + sum(score > scores[label] for score in scores)
