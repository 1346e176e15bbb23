"""Cues: what a text shows apart from its meaning, such as a word, its first word, its ending, its length.

A cue with a label is a candidate for a shortcut. What a person decides about it is kept in a YAML file.
"""

import random
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import Any, Literal, NamedTuple, get_args

import yaml

from hf_cap.errors import ConfigError, DataError
from hf_cap.utils import Place, option, read_yaml, settings_class, text_seed, write_text
from hf_cap.words import WORD_PATTERN, check_pattern, fold, split_words, without_words

Kind = Literal["word", "phrase", "first", "last", "ending", "number", "capitals", "length"]
Decision = Literal["shortcut", "fine", ""]
LENGTHS = (("up to 4 words", 0, 4), ("over 15 words", 16, 10**9))
"""Values of the kind `length`: their name, and the fewest and most words."""

_DIGIT, _ENDING = re.compile(r"\d"), re.compile(r"[^\w\s]+$")


class Cue(NamedTuple):
    """A property of a text: of a `kind`, with a `value`, such as `("first", "hello")`."""

    kind: Kind
    value: str

    def __str__(self) -> str:
        named = {"first": "first word", "last": "last word", "ending": "ends with"}
        plain = self.kind in ("word", "phrase", "length")
        return self.value if plain else f"{named.get(self.kind, self.kind)} {self.value}".strip()


def find_cues(words: Sequence[str]) -> dict[Cue, list[int]]:
    """The cues of a text's words, each with the words that carry it (none for its length).

    Words are compared as `fold` gives them: in lower case, without punctuation at their ends.
    """
    folded = [fold(word) for word in words]
    found: defaultdict[Cue, list[int]] = defaultdict(list)
    for index, word in enumerate(folded):
        found[Cue("word", word)].append(index)
        if index:
            found[Cue("phrase", f"{folded[index - 1]} {word}")] += [index - 1, index]
        if _DIGIT.search(word):
            found[Cue("number", "")].append(index)
        if len(word) > 1 and words[index].isupper():
            found[Cue("capitals", "")].append(index)
    if not words:
        return {}
    last = len(words) - 1
    found[Cue("first", folded[0])] = [0]
    found[Cue("last", folded[-1])] = [last]
    ending = _ENDING.search(words[-1])
    found[Cue("ending", ending.group() if ending else "no punctuation")] = [last] if ending else []
    long = (name for name, fewest, most in LENGTHS if fewest <= len(words) <= most)
    return {**found, **{Cue("length", name): [] for name in long}}


def remove_cue(text: str, cue: Cue, pattern: str = WORD_PATTERN) -> str:
    """The text without what carries a cue; as it is where nothing is left, or no word carries it."""
    spans = split_words(text, pattern)
    words = [text[start:end] for start, end in spans]
    carried = set(find_cues(words).get(cue, []))
    if cue.kind == "ending" and carried:
        return _ENDING.sub("", text.rstrip())
    if cue.kind == "capitals":
        return " ".join(w.lower() if i in carried else w for i, w in enumerate(words))
    return without_words(text, spans, carried) or text


def add_cue(text: str, cue: Cue) -> str:
    """The text with a cue: words in front, a last word or an ending behind; `length` changes nothing."""
    added: Mapping[Kind, Callable[[str], str]] = {
        "last": lambda text: f"{text} {cue.value}",
        "ending": lambda text: (
            _ENDING.sub("", text.rstrip()) + ("" if cue.value == "no punctuation" else cue.value)
        ),
        "number": lambda text: f"{text} 7",
        "capitals": lambda text: text.upper(),
        "length": lambda text: text,
    }
    if cue.kind in added:
        return added[cue.kind](text)
    return f"{cue.value} {text}"


def change_cues(
    texts: Sequence[str], labels: Sequence[str], marks: Iterable["Mark"], pattern: str = WORD_PATTERN
) -> dict[str, list[str]]:
    """Test texts that a shortcut cannot help with: it is `removed`, or `shifted` to that of another label.

    `removed` lacks the cues that are marked as shortcuts of a text's label. `shifted` lacks them too and has
    one of other labels alone, which the text determines. `pattern` is the regular expression of a word.
    """
    shortcuts = [mark for mark in marks if mark.decision == "shortcut"]
    removed, shifted = [], []
    for text, label in zip(texts, labels, strict=True):
        bare, own = text, {mark.cue: None for mark in shortcuts if mark.label == label}
        for cue in own:
            bare = remove_cue(bare, cue, pattern)
        others = [mark for mark in shortcuts if mark.cue not in own]
        chosen = random.Random(text_seed(0, text)).sample(others, min(1, len(others)))
        removed.append(bare)
        shifted.append(add_cue(bare, chosen[0].cue) if chosen else bare)
    return {"removed": removed, "shifted": shifted}


@settings_class
class ShortcutSettings:
    """What counts as a shortcut."""

    false_discovery_rate: float = option(
        0.01, "Expected part of the associations that are chance, in (0, 1).", above=0, below=1
    )
    relevant: float = option(
        0.98,
        "A cue is no shortcut if a judge ranks it for the label above this part of the words, in (0, 1].",
        above=0,
        at_most=1,
    )
    fewest_texts: int = option(3, "Texts of the label that have the cue, at least 1.", at_least=1)
    background: int = option(
        500, "Words of the data, drawn at random, that a cue is ranked among; at least 1.", at_least=1
    )
    top: int = option(200, "Most shortcuts that are listed.", at_least=1)
    word_pattern: str = option(WORD_PATTERN, "Regular expression of a word.", check=check_pattern)
    label_phrases: dict[str, str] | None = option(None, "Label to what it is called in words.")


# --- What was decided about cues.


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A cue, the label that it goes with, and whether it is a shortcut."""

    kind: Kind
    value: str
    label: str
    decision: Decision = "shortcut"

    @property
    def cue(self) -> Cue:
        """The cue itself."""
        return Cue(self.kind, self.value)


_HEAD = """\
# What goes with a label in the training texts though its meaning does not. Edit `decision`:
# `shortcut` gets score 0 in the prior, `fine` keeps its score.
"""


def save_marks(marks: Iterable[Mark], file: Place) -> None:
    """Write decisions to a YAML file that a person edits."""
    rows = [asdict(mark) for mark in marks]
    write_text(file, _HEAD + yaml.safe_dump(rows, sort_keys=False, allow_unicode=True))


def load_marks(file: Place, labels: Collection[str] = ()) -> list[Mark]:
    """Read decisions.

    Raises:
        DataError: the file is missing, or is not a list of marks, one per cue and label; or a label is not
            among `labels`, if there are any. The message names the entry.
    """
    try:
        rows = read_yaml(file) or []
    except ConfigError as error:
        raise DataError(f"The shortcuts cannot be read: {error}") from error
    if not isinstance(rows, list):
        raise DataError(f"The shortcuts {str(file)!r} hold {type(rows).__name__}, not a list.")
    marks = [_read_mark(row, f"{file}, entry {number}") for number, row in enumerate(rows, 1)]
    first: dict[tuple[Cue, str], int] = {}
    for number, mark in enumerate(marks, 1):
        if (other := first.setdefault((mark.cue, mark.label), number)) != number:
            raise DataError(
                f"{file}, entry {number}: entry {other} has the same cue and label; keep one of them."
            )
        if labels and mark.label not in labels:
            raise DataError(
                f"{file}, entry {number}: the data have no label {mark.label!r}, but {sorted(labels)[:8]!r}."
            )
    return marks


def _read_mark(row: Any, where: str) -> Mark:
    names = ("kind", "value", "label", "decision")
    texts = isinstance(row, dict) and all(isinstance(value, str) for value in row.values())
    if not texts or not {"value", "label"} <= set(row) <= set(names):
        raise DataError(f"{where}: expected {', '.join(names)}, got {row!r}.")
    values = {name: row.get(name, "") for name in names}
    for name, choices in (("kind", get_args(Kind)), ("decision", get_args(Decision))):
        values[name] = values[name] or ("word" if name == "kind" else "")
        if values[name] not in choices:
            raise DataError(f"{where}: `{name}` must be one of {choices}, got {values[name]!r}.")
    if values["kind"] == "length" and values["value"] not in (known := [name for name, *_ in LENGTHS]):
        raise DataError(f"{where}: a length is one of {known}, got {values['value']!r}.")
    if values["kind"] in ("word", "phrase", "first", "last"):
        values["value"] = " ".join(map(fold, values["value"].split(" ")))
    return Mark(**values)


def find_marked(words: Sequence[str], marks: Iterable[Mark]) -> dict[str, list[int]]:
    """Label to the words that carry its shortcuts, for each label that the text has a shortcut of.

    No word carries the length of a text. What was decided to be `fine` is no shortcut.
    """
    found, marked = find_cues(words), dict[str, list[int]]()
    for mark in marks:
        if mark.decision == "shortcut" and mark.cue in found:
            marked[mark.label] = sorted({*marked.get(mark.label, ()), *found[mark.cue]})
    return marked


def cue_mass(scores: Sequence[float], marked: Mapping[str, Sequence[int]]) -> float | None:
    """Part of the absolute scores of a text, in [0, 1], on the words that carry a shortcut.

    `None` where no word does, or all scores are 0.
    """
    carried = {index for indices in marked.values() for index in indices}
    total = sum(map(abs, scores))
    return sum(abs(scores[index]) for index in carried) / total if carried and total else None


def mean_cue_mass(texts: Iterable[tuple[Sequence[float], Mapping[str, Sequence[int]]]]) -> float | None:
    """Mean of `cue_mass` over the scores of some texts and what is marked in them; `None` without any."""
    known = [mass for one in texts if (mass := cue_mass(*one)) is not None]
    return fmean(known) if known else None


def without_shortcuts(
    words: Sequence[str], label: str, scores: Sequence[float] | None, marks: Sequence[Mark]
) -> list[float]:
    """The prior of a text with 0 at the words of its label's shortcuts; without scores, 1 elsewhere."""
    carried = find_marked(words, marks).get(label, ())
    given = [1.0] * len(words) if scores is None else scores
    return [0.0 if index in carried else score for index, score in enumerate(given)]


def decided(marks: Iterable[Mark], earlier: Iterable[Mark]) -> list[Mark]:
    """Marks with the decisions that were made about the same cue and label before."""
    before = {(mark.cue, mark.label): mark.decision for mark in earlier}
    return [replace(m, decision=before.get((m.cue, m.label), m.decision)) for m in marks]
