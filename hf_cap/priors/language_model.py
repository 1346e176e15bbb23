"""An opened language model with the prompts of one prior: what it is asked, and what fits into it."""

import logging
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, ClassVar, Self, TypeAlias

from datasets import Dataset

from hf_cap.errors import ModelError
from hf_cap.lm.base import (
    LanguageModel,
    LMSettings,
    Query,
    current_runtime,
)
from hf_cap.lm.open import ModelLike, model_stamp, open_language_model, settings_or_model
from hf_cap.priors.base import LEARNED, Row, Source
from hf_cap.priors.prompts import (
    DEFAULT_TEMPLATE,
    NO_DEMONSTRATIONS,
    DemonstrationSets,
    Prompt,
    PromptSettings,
    Sign,
    build_prompt,
    choose_demonstrations,
    load_template,
    set_without,
    written_labels,
)
from hf_cap.utils import fingerprint

_logger = logging.getLogger(__name__)

SIGNS: Mapping[Sign, Callable[[float], float]] = {
    "positive": lambda score: max(score, 0.0),
    "signed": lambda score: score,
    "absolute": abs,
}

Variants: TypeAlias = Callable[[Row, int], Sequence[str]]
"""A row and a number of bytes to the texts that are asked in place of the row's and have more bytes."""


@dataclass(frozen=True)
class Asker:
    """An opened language model with the prompts of one prior, one a demonstration set.

    Attributes:
        model: The language model.
        labels: The label space as written in the prompts.
        sets: Demonstration sets, with label names.
        prompts: The prompt of each set.
        ended: Labels that begin another one; see `answer`.
    """

    model: LanguageModel
    labels: Sequence[str]
    sets: DemonstrationSets
    prompts: Sequence[Prompt]
    ended: frozenset[str]

    def prompt(self, text: str) -> Prompt:
        """The prompt whose demonstrations do not contain `text`."""
        return self.prompts[set_without(self.sets, text)]

    def answer(self, prompt: Prompt, label: str) -> str:
        """A label as the answer to score.

        A label that begins another one is followed by the end of an answer: without, it would be at least
        as likely as the other, whatever the text says.
        """
        return prompt.answer(label) + (prompt.end if label in self.ended else "")

    def query(self, prompt: Prompt, text: str, label: str) -> Query:
        """The question how likely a label is as the answer about a text."""
        return Query(prompt.prefix, prompt.body(text), self.answer(prompt, label))

    def fit(
        self,
        rows: Sequence[Row],
        query: Callable[[Prompt, str, str], Query],
        variants: Variants = lambda row, room: (),
    ) -> list[Row]:
        """The rows without the last words that the model has no room for, whatever label it is asked about.

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
        return [
            _cut(row, partial(excess, longest, self.prompt(row.text)), variants) for row in rows
        ]


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
            "The prompt leaves no room for a single word: the language model reads fewer tokens than "
            "instruction, labels and demonstrations take. Use fewer demonstrations (`demonstrations=0`), a "
            "shorter template, or a model that reads more."
        )
    raise ModelError(
        f"The word {word[:40]!r}{'...' * (len(word) > 40)} of {len(word)} characters is longer than the "
        "language model can read beside the prompt, and a text is cut between words. Give a `word_pattern` "
        r"that finds shorter words (`\w` takes each character of a text without spaces), remove the text, "
        "or use a model that reads more."
    )


def labels_that_begin_others(model: LanguageModel, answers: Mapping[str, str]) -> frozenset[str]:
    """Labels whose tokens are the first tokens of another label.

    Args:
        model: The language model that reads them.
        answers: Label to how it is answered.
    """
    tokens = {label: model.answer_tokens(answer) for label, answer in answers.items()}
    beginnings = {ids[:size] for ids in tokens.values() for size in range(1, len(ids))}
    return frozenset(label for label, ids in tokens.items() if ids in beginnings)


def open_asker(
    prior: str,
    settings: PromptSettings,
    labels: Sequence[str],
    model: LMSettings | LanguageModel,
    sets: DemonstrationSets,
) -> Asker:
    """Open the language model and write its prompts.

    Raises:
        ConfigError: the template cannot be used.
        DataError: two labels are written alike.
        ModelError: the model or its chat template cannot serve.
    """
    opened = open_language_model(model)
    template = load_template(settings.template, prior)
    written = written_labels(labels, verbalised=settings.verbalise)
    names = dict(zip(labels, written, strict=True))
    prompts = [
        build_prompt(
            template,
            written,
            [(text, names[label]) for text, label in examples],
            opened.chat_prompt if settings.chat else None,
            opened.end_of_turn(),
        )
        for examples in sets
    ]
    answers = {label: prompts[0].answer(label) for label in written}
    return Asker(opened, written, sets, prompts, labels_that_begin_others(opened, answers))


def warn_of_cuts(cuts: Sequence[int]) -> None:
    """One warning a batch for texts that were longer than the model can read."""
    texts = sum(cut > 0 for cut in cuts)
    if texts:
        _logger.warning(
            "%d of %d texts are longer than the language model reads; their last words "
            "(%d in all) get the score 0.",
            texts, len(cuts), sum(cuts),
        )  # fmt: skip


def rank_of(label: int, scores: Sequence[float]) -> int:
    """Rank of a label among the scores of all labels: 1 where it is the model's own answer."""
    return 1 + sum(score > scores[label] for score in scores)


# --- What the sources that ask a language model have in common: model, demonstrations and facts.


@dataclass(frozen=True, kw_only=True)
class LanguageModelSource(Source, PromptSettings):
    """A source that asks a language model about the rows.

    Attributes:
        model: A name, all settings, a loaded model with its tokenizer, a loaded text-generation pipeline,
            or an opened language model. The number format `auto` becomes that of the device at hand when
            the source is made, since it changes scores.
        demonstration_sets: Two disjoint sets of (text, label name), or one empty set; `from_dataset`
            chooses them.
        stamp: State of what the settings only name, when the source was made: the files of a language
            model in a folder, and the wording of a template of one's own. So a model that was adapted
            anew in the same folder, or a prompt that was edited, is asked anew, and not read from the
            cache of `Dataset.map` or the finished work of an interrupted extraction.
    """

    wording: ClassVar[str]
    """The prior whose prompt template is the default: `cap` asks for the label, `channel` for the text."""

    model: LMSettings | LanguageModel = LMSettings()  # noqa: RUF009 (frozen)
    demonstration_sets: DemonstrationSets = field(default=NO_DEMONSTRATIONS, metadata=LEARNED)
    stamp: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", settings_or_model(self.model, current_runtime()))
        object.__setattr__(self, "stamp", self._stamp())
        super().__post_init__()
        PromptSettings.__post_init__(self)

    @classmethod
    def from_dataset(
        cls,
        dataset: Dataset,
        *,
        model: ModelLike = LMSettings(),  # noqa: B008 (frozen)
        **options: Any,
    ) -> Self:
        """A source whose label space and demonstrations come from a training split.

        Args:
            dataset: Training examples, with a `ClassLabel` column.
            model: The language model: a Hub id, folder, .gguf file or embedded name, all settings, a pair of
                a loaded model and its tokenizer, a loaded text-generation pipeline, or an opened one.
            options: The settings of the source.

        Raises:
            ConfigError: an option cannot work.
            DataError: a column is missing, or a row has no text or no label of the label space.
        """
        source = super().from_dataset(dataset, model=model, **options)
        rows = source.read_rows(dataset[:])
        sets = choose_demonstrations(
            [row.text for row in rows],
            [source.labels[row.label] for row in rows],
            per_label=source.demonstrations,
            seed=source.seed,
        )
        return replace(source, demonstration_sets=sets)

    def open(self) -> Asker:
        """The language model, opened, with the prompts of this source.

        Raises:
            ConfigError: the template cannot be used.
            DataError: two labels are written alike.
            ModelError: the model or its chat template cannot serve, or the model or the prompt template
                was written anew.
        """
        if self._stamp() != self.stamp:
            raise ModelError(
                f"The language model {self.model!r} or the prompt template {self.template!r} changed on "
                "disk after the prior source was created; create it again."
            )
        return open_asker(self.wording, self, self.labels, self.model, self.demonstration_sets)

    def _stamp(self) -> str:
        model = model_stamp(self.model)
        if self.template == DEFAULT_TEMPLATE:
            return model
        return model + load_template(self.template, self.wording).digest

    def model_facts(self, asker: Asker) -> dict[str, Any]:
        """Facts of the opened language model and its prompts, for the provenance."""
        known = self.model if isinstance(self.model, LMSettings) else None
        return {
            "model": known.model if known else asker.model.fingerprint,
            "revision": known.revision if known else None,
            "fingerprint": asker.model.fingerprint,
            "template_digest": load_template(self.template, self.wording).digest,
            "prompt_digest": fingerprint(
                *(prompt.prefix + prompt.after for prompt in asker.prompts)
            ),
        }
