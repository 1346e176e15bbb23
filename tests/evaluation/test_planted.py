"""The planted benchmark: its data, its judgement, and the method end to end on it."""

from pathlib import Path

import pytest
from datasets import Dataset

from hf_cap.errors import ConfigError, DataError
from hf_cap.evaluation.evaluate import EvaluationSettings, evaluate_classifier
from hf_cap.priors.keywords import with_control
from hf_cap.training.config import CAPConfig
from hf_cap.training.trainer import CAPTrainer
from tests.evaluation.planted import (
    CUES,
    DECISIVE,
    PATTERNS,
    SHIFTED,
    TEST,
    TRAIN,
    judge,
    planted_splits,
    rationale_of,
)
from tests.tiny import roberta_classifier, word_tokenizer

LABELS = list(DECISIVE)
VOCABULARY = sorted(
    {word for pattern in PATTERNS for word in pattern.split() if "{" not in word}
    | {word for words in DECISIVE.values() for word in words}
    | set(CUES.values())
)


def rows(split: Dataset) -> list[tuple[list[str], str, list[float]]]:
    return [(row["text"].split(), LABELS[row["label"]], row["prior"]) for row in split]


def test_decisive_words_belong_to_one_label_and_to_no_pattern() -> None:
    words = [word for group in DECISIVE.values() for word in group]
    assert len(words) == len(set(words))
    assert not set(words) & {word for pattern in PATTERNS for word in pattern.split()}


def test_the_prior_marks_two_decisive_words_of_the_label() -> None:
    for split in planted_splits(texts_per_label=10).values():
        for words, label, prior in rows(split):
            marked = [word for word, score in zip(words, prior, strict=True) if score]
            assert len(marked) == 2
            assert set(marked) <= set(DECISIVE[label])


def test_the_cue_tells_the_label_until_it_shifts() -> None:
    splits = planted_splits(texts_per_label=10)
    for name in (TRAIN, TEST):
        assert all(CUES[label] in words for words, label, _ in rows(splits[name]))
    for words, label, _ in rows(splits[SHIFTED]):
        assert CUES[label] not in words
        assert len(set(CUES.values()) & set(words)) == 1


def test_the_same_seed_gives_the_same_data() -> None:
    first, again, other = (planted_splits(texts_per_label=5, seed=seed) for seed in (0, 0, 1))
    assert first[TRAIN].to_list() == again[TRAIN].to_list()
    assert first[TRAIN]["text"][:] != other[TRAIN]["text"][:]
    assert first[TRAIN]["text"][:] != first[TEST]["text"][:]


def test_rationale_of_any_text() -> None:
    assert rationale_of("the lever on monday") == [0.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("right", "shuffled", "passed"),
    [
        ([0.9, 0.8], [0.2, 0.1], True),
        ([0.5, 0.4], [0.2, 0.1], False),
        ([0.9, 0.8], [0.6, 0.5], False),
    ],
)
def test_judgement(right: list[float], shuffled: list[float], passed: bool) -> None:
    verdict = judge([0.1, 0.1], right, shuffled)
    assert verdict.passed is passed
    assert verdict.right.mean == pytest.approx(sum(right) / 2 - 0.1)
    assert verdict.shuffled.mean == pytest.approx(sum(shuffled) / 2 - 0.1)


def test_bad_input_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        planted_splits(texts_per_label=0)
    with pytest.raises(DataError, match="Pairs are needed"):
        judge([0.1], [0.9, 0.9], [0.1])


def shifted_accuracy(
    train: Dataset, shifted: Dataset, folder: Path, *, weight: float, seed: int
) -> float:
    tokenizer = word_tokenizer(VOCABULARY)
    model = roberta_classifier(
        seed=seed,
        vocabulary=len(tokenizer),
        hidden_size=32,
        initializer_range=0.1,
        id2label=dict(enumerate(LABELS)),
        label2id={name: index for index, name in enumerate(LABELS)},
    )
    args = CAPConfig(
        output_dir=str(folder),
        alignment_weight=weight,
        num_train_epochs=8,
        learning_rate=3e-3,
        per_device_train_batch_size=16,
        seed=seed,
        use_cpu=True,
        save_strategy="no",
        logging_strategy="no",
    )
    CAPTrainer(model=model, args=args, train_dataset=train, processing_class=tokenizer).train()
    settings = EvaluationSettings(faithfulness=False, prior_column="none")
    return evaluate_classifier(model, tokenizer, shifted, settings=settings).accuracy


@pytest.mark.slow
def test_the_right_prior_beats_the_cue_and_the_shuffled_one_does_not(tmp_path: Path) -> None:
    splits = planted_splits()
    arms = {
        "none": (splits[TRAIN], 0.0),
        "right": (splits[TRAIN], 0.1),
        "shuffled": (with_control(splits[TRAIN], "shuffled"), 0.1),
    }
    accuracy = {
        name: [
            shifted_accuracy(train, splits[SHIFTED], tmp_path, weight=weight, seed=seed)
            for seed in (0, 1)
        ]
        for name, (train, weight) in arms.items()
    }
    verdict = judge(accuracy["none"], accuracy["right"], accuracy["shuffled"])
    assert verdict.passed, (accuracy, verdict)
    assert max(accuracy["none"]) < 1 / 3
    assert min(accuracy["right"]) > 0.8
