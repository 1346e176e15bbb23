"""What the sources that ask a language model have in common: the model, its prompts, and cutting."""

import logging
import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from hf_cap.errors import ModelError
from hf_cap.labels import label_phrases, warn_of_unclear
from hf_cap.lm.base import LanguageModel, LMSettings, Query, Scored, current_runtime
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
)
from hf_cap.progress import progress
from hf_cap.utils import check_settings, fingerprint, option, settings_class, subsample

if TYPE_CHECKING:
    from datasets import Dataset

_logger = logging.getLogger(__name__)

_TOGETHER = 10  # texts that are looked at together, between which a progress bar moves

Sign = Literal["positive", "signed", "absolute"]

Chat = Literal["auto", True, False]

SIGNS: Mapping[Sign, Callable[[float], float]] = {
    "positive": lambda score: max(score, 0.0),
    "signed": lambda score: score,
    "absolute": abs,
}


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
        """A label as the answer to score."""
        # without an end, a label that begins another is at least as likely, whatever the text says
        return prompt.answer(label) + (prompt.end if label in self.prefix_labels else "")

    def query(self, prompt: Prompt, text: str, label: str) -> Query:
        """The question how likely a label is as the answer about a text."""
        return Query(prompt.prefix, prompt.body(text), self.answer(prompt, label))

    def label_scores(self, parts: Sequence[Row], prompts: Sequence[Prompt]) -> list[list[float]]:
        """`(rows, labels)`: log-probability of every label as the answer, in nats."""
        every = [range(len(self.labels))] * len(parts)
        found = self.ask(prompts, [[part.text] for part in parts], every)
        return [[one.total for one in of_labels] for (of_labels,) in found]

    def ask(
        self, prompts: Sequence[Prompt], texts: Sequence[Sequence[str]], labels: Sequence[Sequence[int]]
    ) -> list[list[list[Scored]]]:
        """The answer for each text and label that go with a prompt: `(prompts, texts, labels)`."""
        groups = list(zip(prompts, texts, labels, strict=True))
        queries = [
            self.query(prompt, text.strip(), self.labels[label])
            for prompt, some, asked in groups
            for text in some
            for label in asked
        ]
        answers = iter(self.model.log_probs(queries))
        return [[[next(answers) for _ in asked] for _ in some] for _, some, asked in groups]

    def fit(
        self,
        rows: Sequence[Row],
        query: Callable[[Prompt, str, str], Query],
        variants: Callable[[Row, int], Sequence[str]] = lambda row, room: (),
    ) -> list[Row]:
        """Cut the last words that the model has no room for, whatever label it is asked about.

        `query` is what is asked about a text and a label; `variants` gives the texts that are asked
        in place of a row's and have more than a number of bytes. A first word must fit.
        """

        def excess(prompt: Prompt, text: str, label: str) -> int:
            return self.model.excess(query(prompt, text, label))

        longest = max(self.labels, key=lambda label: excess(self.prompts[0], "a", label))

        def row_excess(row: Row, prompt: Prompt, words: int) -> int:
            part = row.first_words(words)
            whole = excess(prompt, part.text, longest)
            # no text has more tokens than bytes, so few variants need be looked at
            longer = variants(part, -whole)
            return max([whole, *(excess(prompt, text, longest) for text in longer)])

        fitting = []
        for row in rows:
            size, most = len(row.spans), partial(row_excess, row, self.prompt(row.text))
            kept = size if most(size) <= 0 else bisect_left(range(1, size), 1, key=most)
            if not kept:
                word = row.words[0]
                raise ModelError(
                    f"The prompt leaves no room for the word {word[:40]!r} of {len(word)} "
                    "characters. Use fewer demonstrations (`demonstrations=0`), a shorter template, "
                    "a `word_pattern` that finds shorter words, or a model that reads more."
                )
            fitting.append(row.first_words(kept))
        cuts = [len(row.spans) - len(part.spans) for row, part in zip(rows, fitting, strict=True)]
        if any(cuts):
            _logger.warning(
                "%d of %d texts are longer than the language model reads; their last words score 0.",
                sum(map(bool, cuts)), len(cuts),
            )  # fmt: skip
        return fitting


@settings_class
class LanguageModelSource(Source):
    """A source that asks a language model about the rows.

    Attributes:
        model: The language model: a Hub id, folder, `.gguf` file or embedded name, `LMSettings`, a
            loaded model with its tokenizer, a `transformers.pipeline("text-generation")`, or a
            `LanguageModel`. The number format `auto` becomes that of the device at hand.
        demonstration_sets: See `DemonstrationSets`; `from_dataset` chooses them.
        stamp: State of the files that the settings only name, for the cache of `Dataset.map`.
    """

    wording: ClassVar[str]
    """Name of the default template: `cap` asks for the label, `channel` for the text."""

    model: Any = field(default_factory=LMSettings)
    template: str = option(DEFAULT_TEMPLATE, "Prompt template: 'default' or a YAML file like it.")
    chat: Chat = option(
        "auto",
        "Put the prompt into the model's chat template. `auto` does so where the model has one, unless it "
        "ranks the right label of some training texts better without (`probe_texts`).",
    )
    verbalise: bool = option(
        True, "Write labels as words: card_arrival and CardArrival become 'card arrival'."
    )
    label_phrases: Mapping[str, str] | None = option(
        None, "What a label is called in the prompt, where its name does not say it: label to phrase."
    )
    demonstrations: int = option(
        0,
        "Labelled training texts per label in the prompt, at least 0. What goes with a label by accident in "
        "them leaks into the scores. There are two disjoint sets, and no text is scored under a set that it "
        "is in.",
        at_least=0,
    )
    sign: Sign = option("positive", "Keep evidence for the label only, all scores, or their size.")
    keep_label_scores: bool = option(
        False, "Also keep the score of every label on the whole text: the model's own answer."
    )
    probe_texts: int = option(
        50,
        "Most training texts of which the model is asked every label, to choose `chat` and to warn where it "
        "is at chance on the task; at least 0.",
        at_least=0,
    )
    seed: int = option(0, "Determines the demonstrations and the perturbations of every text.")
    demonstration_sets: DemonstrationSets = field(default=NO_DEMONSTRATIONS, metadata=LEARNED)
    stamp: str = field(init=False)

    def __post_init__(self) -> None:
        check_settings(self)
        self.phrases()  # labels that cannot be written are found before any work
        object.__setattr__(self, "model", settings_or_model(self.model, current_runtime()))
        object.__setattr__(self, "stamp", self._stamp())

    @classmethod
    def from_dataset(cls, dataset: "Dataset", **options: Any) -> Self:
        """The source with the label space and the demonstrations of a training split."""
        source = super().from_dataset(dataset, **options)
        rows = source.read_rows(dataset[:])
        texts, labels = [row.text for row in rows], [source.labels[row.label] for row in rows]
        warn_of_unclear(source.labels, source.phrases(), "the language model can hardly name them")
        per_label, seed = source.demonstrations, source.seed
        sets = choose_demonstrations(texts, labels, per_label=per_label, seed=seed)
        source = replace(source, demonstration_sets=sets)
        return source._probed(subsample(rows, source.probe_size))

    @property
    def probe_size(self) -> int:
        """Texts on which the model's own answer is looked at: few where each is asked of many labels."""
        return min(self.probe_texts, max(10, 2000 // len(self.labels)))

    def _probed(self, rows: Sequence[Row]) -> Self:
        """The source with the prompt that the model answers better; logs where that is at chance."""
        tried, size = [self], len(self.labels)
        if self.chat == "auto" and rows:
            has_template = open_language_model(self.model).chat_prompt("a") is not None
            tried = [replace(self, chat=chat) for chat in (True, False)[not has_template :]]
        chance = (size + 1) / 2
        # 95 % of the means of so many ranks drawn at random are higher; few texts can show nothing
        edge = chance - 1.645 * math.sqrt((size**2 - 1) / 12 / max(1, len(rows)))
        if len(tried) == 1 and edge <= 1:
            return tried[0]
        with progress(len(tried) * len(rows), "texts", f"{self.name}: choosing the prompt") as work:
            ranks = [source.mean_rank(rows, work.update) for source in tried]
        if len(tried) > 1:
            _logger.info(
                "%s: the language model is asked in %s. Over %d texts the right label has the mean rank "
                "%.2f of %d there, %.2f the other way.", self.name,
                "its chat template" if ranks[0] <= ranks[1] else "plain lines",
                len(rows), min(ranks), size, max(ranks),
            )  # fmt: skip
        if 1 < edge < min(ranks):
            _logger.warning(
                "The language model is at chance on this task: over %d texts the right label has the mean "
                "rank %.1f of %d, where chance has %.1f, so %r knows little of the words. Use a larger "
                "model, more `demonstrations`, or `label_phrases` that say what the labels mean.",
                len(rows), min(ranks), size, chance, self.name,
            )  # fmt: skip
        return tried[ranks.index(min(ranks))]

    def mean_rank(self, rows: Sequence[Row], on_rows: Callable[[int], object] = lambda count: None) -> float:
        """Mean rank of the gold label in the model's own answers, 1 at best, ties sharing theirs.

        It is asked for the label as `cap` asks. Each label's mean over the rows is taken off first: what
        the model likes whatever the text says. `on_rows` is told how many rows more are answered.
        """
        import numpy as np
        from scipy.stats import rankdata

        opened = self.open("cap")
        parts, found = opened.fit(rows, opened.query), []
        for start in range(0, len(parts), _TOGETHER):
            some = parts[start : start + _TOGETHER]
            found += opened.label_scores(some, [opened.prompt(row.text) for row in some])
            on_rows(len(some))
        scores = np.array(found)
        ranks = rankdata(-(scores - scores.mean(0)).round(9), axis=1)
        return float(np.mean([of_row[row.label] for of_row, row in zip(ranks, rows, strict=True)]))

    def phrases(self) -> list[str]:
        """The labels as written in the prompts."""
        return label_phrases(self.labels, self.label_phrases, verbalise=self.verbalise)

    def open(self, wording: str | None = None) -> PromptedModel:
        """The language model, opened once per process, and its prompts, by default those of the source.

        A `ModelError` where the model or its chat template cannot be used, or changed on disk.
        """
        if self._stamp() != self.stamp:
            raise ModelError(
                f"The language model {self.model!r} or the prompt template {self.template!r} "
                "changed on disk after the prior source was created; create it again."
            )
        model, sets = open_language_model(self.model), self.demonstration_sets
        own = wording in (None, self.wording)
        file = self.template if own else DEFAULT_TEMPLATE
        template = load_template(file, wording or self.wording)
        labels = self.phrases()
        names = dict(zip(self.labels, labels, strict=True))
        shown = [[(text, names[label]) for text, label in examples] for examples in sets]
        chat, end = model.chat_prompt if self.chat else None, model.end_of_turn()
        prompts = [build_prompt(template, labels, examples, chat, end, model.as_data) for examples in shown]
        tokens = {label: model.answer_tokens(prompts[0].answer(label)) for label in labels}
        beginnings = {ids[:size] for ids in tokens.values() for size in range(1, len(ids))}
        prefix_labels = frozenset(label for label in labels if tokens[label] in beginnings)
        return PromptedModel(model, labels, sets, prompts, prefix_labels)

    def signed(self, scores: Iterable[float]) -> list[float]:
        """Scores after `sign`."""
        return [*map(SIGNS[self.sign], scores)]

    def model_facts(self, opened: PromptedModel) -> dict[str, Any]:
        """Facts of the opened language model and its prompts, for the provenance."""
        named = self.model if isinstance(self.model, LMSettings) else None
        written = [prompt.prefix + prompt.after for prompt in opened.prompts]
        return {
            "model": named.model if named else opened.model.fingerprint,
            "revision": named.revision if named else None,
            "fingerprint": opened.model.fingerprint,
            "template_digest": load_template(self.template, self.wording).digest,
            "prompt_digest": fingerprint(*written),
        }

    def _stamp(self) -> str:
        stamp = model_stamp(settings_or_model(self.model, current_runtime()))
        if self.template == DEFAULT_TEMPLATE:
            return stamp
        return stamp + load_template(self.template, self.wording).digest


def rank_of(label: int, scores: Sequence[float]) -> int:
    """Rank of a label among the scores of all labels: 1 where it is the model's own answer."""
    return 1 + sum(score > scores[label] for score in scores)
