"""Find shortcuts: cues that go with a label in the training texts though its meaning does not.

A cue is listed for a label if (1) the two go together more often than chance allows, and (2) no judge that
has not seen the training texts (a language model, a sentence encoder) finds its words relevant for the label.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from jaxtyping import Float
from scipy.stats import false_discovery_control, hypergeom, rankdata

from hf_cap import cues
from hf_cap.attribution import attribute_words
from hf_cap.classifiers import TextClassifier, embed_texts
from hf_cap.data import label_names
from hf_cap.embedded import resolve_model
from hf_cap.errors import DataError
from hf_cap.labels import label_phrases
from hf_cap.priors.channel import LexiconPrior
from hf_cap.schema import LABEL, TEXT
from hf_cap.sentence_encoder import read_sentence_encoder
from hf_cap.utils import subsample, write_json
from hf_cap.words import log_odds_ratio, word_strings

Relevance = Callable[[Sequence[str], Sequence[str]], Float[np.ndarray, "words labels"]]
"""Words and label phrases to how much each word speaks for each label; only the order in a column counts."""

_STEPS = 8
"""Points of integrated gradients: a share of absolute scores needs no more."""


@dataclass(frozen=True, kw_only=True)
class Shortcut:
    """A cue that goes with a label and that no judge finds relevant for it.

    Attributes:
        cue: What it is.
        label: The label that it goes with.
        texts: Texts of the label that have it.
        of: Texts of the label.
        elsewhere: Texts of other labels that have it.
        log_odds: Of having it, label against the others, in nats; a half is added to each count.
        q: False discovery rate at which the association is found (one-sided permutation test of each cue and
            label, exact by the hypergeometric distribution; Benjamini-Hochberg).
        relevance: Highest rank that a judge gives its words among all words for the label, in [0, 1].
        mass: Part of the absolute attribution by a plain classifier that is on the words which carry the cue,
            in the label's texts that have it, in [0, 1]; `None` without a classifier, or where no word does.
        removed: Mean fall of the label's probability in a plain classifier when the cue is taken out of the
            label's texts, in [−1, 1]; `None` without a classifier.
        flipped: Part of the texts of other labels that get this label once they have the cue.
        examples: A few texts of the label that have it.
    """

    cue: cues.Cue
    label: str
    texts: int
    of: int
    elsewhere: int
    log_odds: float
    q: float
    relevance: float
    mass: float | None = None
    removed: float | None = None
    flipped: float | None = None
    examples: tuple[str, ...] = field(default=(), repr=False)

    @property
    def score(self) -> float:
        """−log10 q, the order of the list; times the part of other texts that flip, where that is known."""
        strength = -math.log10(max(self.q, 1e-300))
        return strength if self.flipped is None else strength * self.flipped

    @property
    def mark(self) -> cues.Mark:
        """The entry of the YAML file."""
        return cues.Mark(kind=self.cue.kind, value=self.cue.value, label=self.label)

    def to_dict(self) -> dict[str, Any]:
        """All numbers as JSON values."""
        values = {**asdict(self), "cue": str(self.cue), "score": self.score}
        return {"kind": self.cue.kind, "value": self.cue.value, **values}


def find_shortcuts(
    dataset: Dataset,
    judges: Sequence[Relevance] = (),
    *,
    classifier: TextClassifier | None = None,
    settings: cues.ShortcutSettings | None = None,
) -> list[Shortcut]:
    """The shortcuts of a training set, the strongest first.

    Args:
        dataset: Columns `text` and `label` (a `ClassLabel`).
        judges: What finds words relevant; see `hf_cap.shortcuts.language_model_judge` and `encoder_judge`.
            Without a judge every strong association is listed, also those that mean something.
        classifier: A plain classifier, trained on the same texts, to tell how much it relies on each cue.

    Raises:
        DataError: there are fewer than two labels with texts.
    """
    settings = settings or cues.ShortcutSettings()
    data = _Texts(dataset[TEXT][:], list(dataset[LABEL]), label_names(dataset), settings, classifier)
    texts, labels, totals = data.texts, data.labels, Counter(data.labels)
    if len(totals) < 2:
        raise DataError("Shortcuts are found by comparing labels, and the texts have only one.")
    candidates = data.associated()
    relevance = data.relevance(candidates, judges)
    suspicious = [one for one in candidates if relevance.get(one[:2], 0.0) < settings.relevant]
    chosen = [
        (cue, label, q, [row for row in data.has[cue] if labels[row] == label])
        for cue, label, q in data.simplest(suspicious)
    ]
    scores = data.attributions(sorted({row for *_, rows in chosen for row in rows}))
    found = [
        Shortcut(
            cue=cue,
            label=data.names[label],
            texts=len(rows),
            of=totals[label],
            elsewhere=len(data.has[cue]) - len(rows),
            log_odds=log_odds_ratio(len(rows), totals[label], len(data.has[cue]), len(texts)),
            q=q,
            relevance=relevance.get((cue, label), 0.0),
            examples=tuple(texts[row] for row in rows[:3]),
            mass=data.mass(cue, [row for row in rows if row in scores], scores),
            **data.reliance(cue, label, rows),
        )
        for cue, label, q, rows in chosen
    ]
    return sorted(found, key=lambda one: -one.score)[: settings.top]


_Association = tuple[cues.Cue, int, float]  # a cue, a label, and the q at which they go together


@dataclass(frozen=True)
class _Texts:
    """Labelled texts, what is looked for in them, and a classifier that was trained on them."""

    texts: list[str]
    labels: list[int]
    names: list[str]
    settings: cues.ShortcutSettings
    classifier: TextClassifier | None

    @cached_property
    def has(self) -> Mapping[cues.Cue, list[int]]:
        """Cue to the rows of the texts that have it."""
        has = defaultdict[cues.Cue, list[int]](list)
        for row, text in enumerate(self.texts):
            for cue in cues.find_cues(word_strings(text, self.settings.word_pattern)):
                has[cue].append(row)
        return has

    def associated(self) -> list[_Association]:
        """The associations beyond chance, the clearest first."""
        totals, count = Counter(self.labels), len(self.labels)
        pairs, counts = [], []
        for cue, rows in self.has.items():
            for label, inside in Counter(self.labels[row] for row in rows).items():
                pairs.append((cue, label))
                counts.append((inside, len(rows), totals[label]))
        inside, having, of = np.array(counts).T
        p = hypergeom.sf(inside - 1, count, having, of)
        # all pairs that never meet have p = 1
        tests = len(self.has) * len(totals)
        q = false_discovery_control(np.r_[p, np.ones(tests - len(p))])[: len(p)]
        kept = [
            (*pair, float(value))
            for pair, value, number in zip(pairs, q, inside, strict=True)
            if value <= self.settings.false_discovery_rate and number >= self.settings.fewest_texts
        ]
        return sorted(kept, key=lambda one: (one[2], one[0].kind != "word", one[0]))

    def simplest(self, candidates: Sequence[_Association]) -> Iterator[_Association]:
        """Of several cues of a label in the same texts, or with the same word, only the first.

        Two words that always come together, as in "Hi Anna", are both kept: each alone gives the label away.
        """
        listed: dict[int, list[cues.Cue]] = defaultdict(list)
        for cue, label, q in candidates:
            rows, words = set(self.has[cue]), set(cue.value.split())
            for other in listed[label]:
                more = set(self.has[other])
                as_many = cue.kind != "word" and len(rows) >= len(more) - 1
                if rows <= more and (as_many or words & set(other.value.split())):
                    break
            else:
                listed[label].append(cue)
                yield cue, label, q

    def relevance(
        self, candidates: Sequence[_Association], judges: Sequence[Relevance]
    ) -> dict[tuple[cues.Cue, int], float]:
        """The highest rank of each candidate among words drawn from the data, over the judges, in [0, 1]."""
        worded = ("word", "phrase", "first", "last")
        asked = list(dict.fromkeys(cue.value for cue, *_ in candidates if cue.kind in worded))
        vocabulary = sorted(cue.value for cue in self.has if cue.kind == "word")
        words = list(dict.fromkeys([*asked, *subsample(vocabulary, self.settings.background)]))
        place = {word: row for row, word in enumerate(words)}
        phrases = label_phrases(self.names, self.settings.label_phrases)
        ranks = np.zeros((len(words), len(self.names)))
        for judge in judges:
            scores = judge(words, phrases)
            ranks = np.maximum(ranks, (rankdata(scores, axis=0) - 1) / max(len(words) - 1, 1))
        return {
            (cue, label): float(ranks[place[cue.value], label])
            for cue, label, _ in candidates
            if cue.kind in worded
        }

    def attributions(self, rows: Sequence[int]) -> dict[int, list[float]]:
        """Row to the classifier's attributions of its words for its label; empty without a classifier."""
        if self.classifier is None or not rows:
            return {}
        explained = [self.texts[row] for row in rows], [self.labels[row] for row in rows]
        how: dict[str, Any] = {"steps": _STEPS, "word_pattern": self.settings.word_pattern}
        found = attribute_words(self.classifier.model, self.classifier.tokenizer, *explained, **how)
        return dict(zip(rows, found, strict=True))

    def mass(self, cue: cues.Cue, rows: Sequence[int], scores: Mapping[int, Sequence[float]]) -> float | None:
        """Mean part of the attributions of some texts that is on the words which carry a cue."""
        words = {row: word_strings(self.texts[row], self.settings.word_pattern) for row in rows}
        return cues.mean_cue_mass((scores[row], {"": cues.find_cues(words[row])[cue]}) for row in rows)

    def reliance(self, cue: cues.Cue, label: int, rows: Sequence[int]) -> dict[str, float]:
        """How the classifier answers where the cue is taken out, and where it is put in."""
        if self.classifier is None:
            return {}
        own = [self.texts[row] for row in rows]
        pairs = zip(self.texts, self.labels, strict=True)
        others = subsample([text for text, gold in pairs if gold != label], 100)
        bare = [cues.remove_cue(text, cue, self.settings.word_pattern) for text in own]
        p = self.classifier.logits([*own, *bare]).softmax(-1)[:, label]
        fall = float((p[: len(own)] - p[len(own) :]).mean())
        with_cue = self.classifier.logits([cues.add_cue(text, cue) for text in others]).argmax(-1)
        return {"removed": fall, "flipped": float((with_cue == label).float().mean())}


def write_shortcuts(found: Sequence[Shortcut], file: Path, **facts: Any) -> dict[str, Any]:
    """Write the YAML `file`, where earlier decisions stay, and all numbers as JSON beside it.

    Returns:
        The content of the JSON file: the `shortcuts`, and `facts`.

    Raises:
        DataError: the earlier decisions cannot be read.
    """
    earlier = cues.load_marks(file) if file.exists() else []
    content = {**facts, "shortcuts": [one.to_dict() for one in found]}
    write_json(file.with_suffix(".json"), content)
    cues.save_marks(cues.decided([one.mark for one in found], earlier), file)
    return content


# --- Judges of relevance, which have not seen the training texts.


def make_judges(language_model: Any, encoder: str | None, **prompt: Any) -> list[Relevance]:
    """The judges that there are: a language model, and an encoder if it is a sentence encoder.

    Args:
        language_model: As for every source that asks one.
        encoder: Folder, Hub id or `embedded/...` name.
        prompt: Settings of the prompt, as for `LexiconPrior`.
    """
    prompt.pop("demonstrations", None)  # training texts would give their shortcuts away
    judges = [language_model_judge(language_model, **prompt)]
    if encoder and read_sentence_encoder(resolve_model(encoder)):
        judges.append(encoder_judge(encoder))
    return judges


def language_model_judge(model: Any, **options: Any) -> Relevance:
    """What a language model answers to each word alone: the probabilities of the source `lexicon`.

    Args:
        model: As for every source that asks a language model.
        options: More settings of `LexiconPrior`.
    """

    def judge(words: Sequence[str], phrases: Sequence[str]) -> Float[np.ndarray, "words labels"]:
        source = LexiconPrior(labels=tuple(phrases), model=model, **options)
        return np.array([*source.probabilities(words).values()])

    return judge


def encoder_judge(model: str) -> Relevance:
    """Cosine of a word and a label's phrase in a sentence encoder, less the word's mean over the labels."""

    def judge(words: Sequence[str], phrases: Sequence[str]) -> Float[np.ndarray, "words labels"]:
        vectors = embed_texts(model, [*words, *phrases])  # the model is loaded once
        cosines = vectors[: len(words)] @ vectors[len(words) :].T
        centred: Float[np.ndarray, "words labels"] = cosines - cosines.mean(1, keepdims=True)
        return centred

    return judge
