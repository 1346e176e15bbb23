"""The method end to end on texts whose decisive words are known, with a cue that deceives.

Messages to a bicycle workshop. What is wrong with the bicycle (two words of the class) decides the
label. In the training data the weekday predicts the label without fail; in the shifted test set it
points to another class. A classifier trained on the labels alone takes the weekday and fails when it
shifts. A prior on the decisive words must bring it back; a shuffled prior must not.
"""

from pathlib import Path

import numpy as np
import pytest
from datasets import ClassLabel, Dataset

from hf_cap import CAPConfig, CAPTrainer, evaluate_classifier
from hf_cap.evaluation import EvaluationSettings
from hf_cap.priors import with_control
from hf_cap.sentence_encoder import label_config
from hf_cap.utils import generator
from tests.tiny import roberta_classifier, word_tokenizer

DECISIVE = {
    "brakes": "lever caliper pads rotor squeal stopping".split(),
    "wheels": "puncture spoke tyre rim wobble valve".split(),
    "lights": "bulb dynamo flicker beam reflector lamp".split(),
}
CUES = {"brakes": "monday", "wheels": "wednesday", "lights": "friday"}
PATTERNS = (
    "on {cue} my sister asked about the {first} and the {second} again",
    "could you check the {first} before {cue} because the {second} worries me",
    "the {first} is fine since {cue} but now it is the {second}",
    "{cue} would suit me for the {first} and perhaps the {second} too",
    "after the ride the {first} and also the {second} seemed odd so see you {cue}",
    "it is about the {first} i told you on {cue} and about the {second}",
)
LABELS = list(DECISIVE)
WORDS = {word for words in DECISIVE.values() for word in words}
OTHERS = {word for pattern in PATTERNS for word in pattern.split() if "{" not in word}
VOCABULARY = sorted(OTHERS | WORDS | set(CUES.values()))
GAIN = 0.5
"""The right prior gains at least this; the shuffled one less than half of it, as spreading
attributions over any words weakens the cue a little."""


def planted(split: str) -> Dataset:
    """Columns `text`, `label` and `prior` (1 at decisive words); in `shifted` the cue is another's."""
    rng = generator("planted", 0, split)
    labels = [label for label in range(len(LABELS)) for _ in range(40)]
    texts = [compose(LABELS[label], split, rng) for label in labels]
    priors = [[float(word in WORDS) for word in text.split()] for text in texts]
    data = Dataset.from_dict({"text": texts, "label": labels, "prior": priors})
    return data.cast_column("label", ClassLabel(names=LABELS))


def compose(label: str, split: str, rng: np.random.Generator) -> str:
    first, second = rng.choice(DECISIVE[label], size=2, replace=False)
    cues = [cue for name, cue in CUES.items() if (name == label) != (split == "shifted")]
    return str(rng.choice(PATTERNS)).format(first=first, second=second, cue=rng.choice(cues))


def shifted_accuracy(train: Dataset, folder: Path, *, weight: float, seed: int) -> float:
    tokenizer = word_tokenizer(VOCABULARY)
    model = roberta_classifier(
        seed=seed, vocabulary=len(tokenizer), hidden_size=32, initializer_range=0.1, **label_config(LABELS),
    )  # fmt: skip
    args = CAPConfig(
        output_dir=str(folder), alignment_weight=weight, num_train_epochs=8, learning_rate=3e-3,
        per_device_train_batch_size=16, seed=seed, use_cpu=True, save_strategy="no", logging_strategy="no",
    )  # fmt: skip
    CAPTrainer(model=model, args=args, train_dataset=train, processing_class=tokenizer).train()
    settings = EvaluationSettings(faithfulness=False, prior_column="none")
    return evaluate_classifier(model, tokenizer, planted("shifted"), settings).accuracy


@pytest.mark.slow
def test_the_right_prior_beats_the_cue_and_the_shuffled_one_does_not(tmp_path: Path) -> None:
    train = planted("train")
    arms = {"none": (train, 0.0), "right": (train, 0.1)}
    arms["shuffled"] = (with_control(train, "shuffled"), 0.1)
    accuracy = {
        name: [shifted_accuracy(data, tmp_path, weight=weight, seed=seed) for seed in (0, 1)]
        for name, (data, weight) in arms.items()
    }
    mean = {name: float(np.mean(values)) for name, values in accuracy.items()}
    assert max(accuracy["none"]) < 1 / 3, accuracy
    assert min(accuracy["right"]) > 0.8, accuracy
    assert mean["right"] - mean["none"] >= GAIN, accuracy
    assert mean["shuffled"] - mean["none"] < GAIN / 2, accuracy
