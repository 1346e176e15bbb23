"""Attacked texts are further training texts, drawn anew on each epoch or all of them."""

from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset

from hf_cap.errors import DataError
from hf_cap.evaluation.attacks import AttackSettings, attack_dataset, prepare_attack
from hf_cap.training.examples import VersionSampler, with_attacked
from hf_cap.training.trainer import CAPTrainer
from tests.tiny import roberta_classifier, word_tokenizer
from tests.training.cases import config, trainer

NAMES = ClassLabel(names=["lost", "renew"])
TEXTS = ["my card is lost", "lost my card", "renew the loan", "please renew my book loan"]


def texts() -> Dataset:
    rows = {"text": TEXTS, "label": [0, 0, 1, 1], "prior": [[1.0] * 4, [1.0] * 3, None, [1.0] * 5]}
    return Dataset.from_dict(rows).cast_column("label", NAMES)


def versions(seed: int = 0, **settings: Any) -> Dataset:
    return attack_dataset(texts(), texts(), AttackSettings(seed=seed, **settings))


def test_attacked_rows_follow_the_texts_and_have_no_prior() -> None:
    both = with_attacked(texts(), [versions(0), versions(1)])
    assert both["text"][:4] == TEXTS
    assert both["text"][4:8] == versions(0)["text"][:]
    assert both["label"][:] == [0, 0, 1, 1] * 3
    assert both["prior"][:] == [*texts()["prior"][:], *[None] * 8]
    assert both["version_of"][:] == [None] * 4 + TEXTS * 2
    fixed = with_attacked(texts(), [versions(0)], fresh=False)
    assert fixed.column_names == ["text", "label", "prior"]
    assert len(fixed) == 8


def test_each_epoch_draws_one_version_of_each_text() -> None:
    sampler = VersionSampler([None, None, "a", "b", "a", "b", "a"], seed=3)
    assert len(sampler) == 4
    seen = []
    for epoch in range(30):
        sampler.set_epoch(epoch)
        rows = list(sampler)
        assert rows == list(sampler)
        assert sorted(rows)[:2] == [0, 1]
        assert len(rows) == 4
        assert len({2, 4, 6} & {*rows}) == len({3, 5} & {*rows}) == 1
        seen.append(tuple(rows))
    assert {row for rows in seen for row in rows} == set(range(7))
    assert len(set(seen)) > 20
    assert list(VersionSampler([None] * 9, 0)) != list(range(9))


def test_a_training_draws_anew_on_each_epoch(tmp_path: Path) -> None:
    data = with_attacked(texts(), [versions(seed) for seed in range(6)])
    args = config(tmp_path, max_steps=-1, num_train_epochs=3, per_device_train_batch_size=8)
    subject = CAPTrainer(
        roberta_classifier(labels=2), args, train_dataset=data, processing_class=word_tokenizer()
    )
    epochs: list[int] = []
    loader = subject.get_train_dataloader()
    for epoch in range(2):
        loader.set_epoch(epoch)  # type: ignore[attr-defined]
        (batch,) = loader
        assert batch["input_ids"].shape[0] == 8
        assert "version_of" not in batch
        assert int((batch["prior_weight"] > 0).sum()) == 3  # of the four texts one has no prior
        epochs.append(int(batch["input_ids"].sum()))
    assert epochs[0] != epochs[1]
    assert subject.train().global_step == 3
    plain = trainer(tmp_path).get_train_dataloader()
    assert not isinstance(plain.sampler, VersionSampler)


def test_only_changed_versions_of_training_texts_are_taken() -> None:
    few = texts().select([1, 2])
    taken = with_attacked(few, [versions()])
    assert taken["version_of"][:] == [None, None, TEXTS[1], TEXTS[2]]
    kept = versions().map(lambda row: {"changed": row["original"] == TEXTS[2]})
    assert with_attacked(few, [kept])["version_of"][2:] == [TEXTS[2]]
    with pytest.raises(DataError, match="hf-cap attack --split train"):
        with_attacked(texts().select([0]), [versions().select([1])])
    for bad in (texts(), versions().cast_column("label", ClassLabel(names=["renew", "lost"]))):
        with pytest.raises(DataError, match="An attacked set needs the column 'original'"):
            with_attacked(texts(), [bad])


def test_the_halves_of_the_keywords_have_no_word_in_common() -> None:
    words: list[set[str]] = []
    for half in ("both", "first", "second"):
        found = prepare_attack(texts(), AttackSettings(keyword_half=half, keyword_texts=1))
        words.append({word for of_class in found.keywords for word in of_class})
    assert words[1] | words[2] == words[0]
    assert words[1]
    assert words[2]
    assert not words[1] & words[2]
