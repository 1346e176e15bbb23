"""A planted benchmark: texts whose decisive words are known, and a cue that deceives.

Messages to a bicycle workshop. What is wrong with the bicycle (two words of the class) decides the label. In
the training data the weekday tells the label too, without fail; in the shifted test set it points to another
class. A classifier trained on the labels alone takes the easy way, the weekday, and fails when it shifts. A
prior on the decisive words must bring it back; the same scores on shuffled words must not. This guards the
whole method: an attribution, loss or gradient that does not reach the model cannot pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from datasets import Sequence as ListOf

from hf_cap.errors import ConfigError
from hf_cap.evaluation.results import Interval, paired_difference
from hf_cap.schema import LABEL, PRIOR, TEXT
from hf_cap.utils import generator
from hf_cap.words import word_strings

DECISIVE = {
    "brakes": "lever caliper pads rotor squeal stopping".split(),
    "wheels": "puncture spoke tyre rim wobble valve".split(),
    "lights": "bulb dynamo flicker beam reflector lamp".split(),
}
"""Label to the words that decide for it."""
CUES = {"brakes": "monday", "wheels": "wednesday", "lights": "friday"}
"""Label to the weekday that comes with it in the training data."""
PATTERNS = (
    "on {cue} my sister asked about the {first} and the {second} again",
    "could you check the {first} before {cue} because the {second} worries me",
    "the {first} is fine since {cue} but now it is the {second}",
    "{cue} would suit me for the {first} and perhaps the {second} too",
    "after the ride the {first} and also the {second} seemed odd so see you {cue}",
    "it is about the {first} i told you on {cue} and about the {second}",
)
TRAIN, TEST, SHIFTED = "train", "test", "shifted"


def planted_splits(*, texts_per_label: int = 40, seed: int = 0) -> DatasetDict:
    """The benchmark's data: columns `text`, `label` and `prior`, 1 at decisive words and 0 elsewhere.

    Args:
        texts_per_label: Texts a label in each split, at least 1.
        seed: Seed of the composition; `train`, `test` and `shifted` are drawn apart.

    Returns:
        `train` and `test`, where the cue is that of the label, and `shifted`, where it is another's.

    Raises:
        ConfigError: `texts_per_label` is below 1.
    """
    if texts_per_label < 1:
        raise ConfigError(f"`texts_per_label` must be at least 1, got {texts_per_label!r}.")
    return DatasetDict(
        {split: _split(split, texts_per_label, seed) for split in (TRAIN, TEST, SHIFTED)}
    )


def rationale_of(text: str) -> list[float]:
    """The planted prior of a text: 1 for each decisive word of any label, 0 for every other."""
    decisive = {word for words in DECISIVE.values() for word in words}
    return [float(word in decisive) for word in word_strings(text)]


@dataclass(frozen=True, slots=True)
class PlantedVerdict:
    """Whether the right prior lifts accuracy on the shifted texts, and the shuffled one does not."""

    passed: bool
    right: Interval
    """Gain of the right prior over no alignment, in accuracy."""
    shuffled: Interval
    """Gain of the shuffled prior over no alignment."""
    least_gain: float
    """What the right prior must exceed, and the shuffled one must stay half below."""


def judge(
    none: Sequence[float],
    right: Sequence[float],
    shuffled: Sequence[float],
    *,
    least_gain: float = 0.5,
) -> PlantedVerdict:
    """Judge accuracies on `shifted`, one a training seed, the same seeds in the same order.

    Args:
        none: Without alignment.
        right: Aligned with the planted prior.
        shuffled: Aligned with the planted scores on shuffled words.
        least_gain: The right prior must gain at least this in the mean; the shuffled one less than half of it
            (spreading attributions over any words weakens the cue a little, so nothing would ask too much).

    Raises:
        DataError: the lists differ in length or are empty.
    """
    of_right, of_shuffled = paired_difference(right, none), paired_difference(shuffled, none)
    passed = of_right.mean >= least_gain and of_shuffled.mean < least_gain / 2
    return PlantedVerdict(passed, of_right, of_shuffled, least_gain)


def _split(split: str, texts_per_label: int, seed: int) -> Dataset:
    rng = generator("planted", seed, split)
    labels = list(DECISIVE)
    rows = [
        (_compose(label, split, rng), label) for label in labels for _ in range(texts_per_label)
    ]
    columns = {
        TEXT: [text for text, _ in rows],
        LABEL: [labels.index(label) for _, label in rows],
        PRIOR: [rationale_of(text) for text, _ in rows],
    }
    features = Features(
        {TEXT: Value("string"), LABEL: ClassLabel(names=labels), PRIOR: ListOf(Value("float64"))}
    )
    return Dataset.from_dict(columns, features=features)


def _compose(label: str, split: str, rng: np.random.Generator) -> str:
    first, second = rng.choice(DECISIVE[label], size=2, replace=False)
    cues = [cue for name, cue in CUES.items() if (name == label) != (split == SHIFTED)]
    return str(rng.choice(PATTERNS)).format(first=first, second=second, cue=rng.choice(cues))
