"""Tokens, words and priors stay together, and bad rows are refused by name."""

import logging
import math
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from hf_cap.errors import DataError, ModelError, PriorError
from hf_cap.schema import add_provenance
from hf_cap.training.collator import CAPCollator, encode_dataset, take_priors
from hf_cap.utils import fingerprint
from tests.tiny import word_tokenizer
from tests.training.cases import LABEL2ID


def rows(**columns: Any) -> Dataset:
    return Dataset.from_dict(
        {"text": ["my card, please", "it"], "label": [2, 0], "prior": [[1.0, 2.0, 3.0], [4.0]], **columns}
    )


def encode(data: Dataset, **settings: Any) -> Dataset:
    return encode_dataset(data, word_tokenizer(), LABEL2ID, **settings)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_on_paper(side: str) -> None:
    tokenizer = word_tokenizer()
    tokenizer.padding_side = side
    batch = CAPCollator(tokenizer)(list(encode(rows())))
    words = [[-1, 0, 1, 1, 2, -1], [-1, -1, -1, -1, 0, -1] if side == "left" else [-1, 0, -1, -1, -1, -1]]
    assert batch["token_words"].tolist() == words
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (2, 6)
    assert batch["labels"].tolist() == [2, 0]
    assert batch["prior"].tolist() == [[1, 2, 3], [4, 0, 0]]
    assert batch["prior_mask"].tolist() == [[True] * 3, [True, False, False]]
    assert batch["prior_weight"].tolist() == [1.0, 1.0]


def test_words_cut_off_leave_prior_and_loss_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        data = encode(rows(), max_length=4)
    batch = CAPCollator(word_tokenizer())(list(data))
    assert batch["prior_mask"].tolist() == [[True, True, False], [True, False, False]]
    assert [r.getMessage()[:33] for r in caplog.records] == ["1 of 2 texts of the training set "]


def test_words_that_share_a_token_are_aligned_as_one(caplog: pytest.LogCaptureFixture) -> None:
    data = rows(text=["取消信用卡 card", "it is"], prior=[[1.0, 2.0, 4.0], [4.0, 5.0]])
    batch = CAPCollator(word_tokenizer())(list(encode(data)))
    assert batch["token_words"].tolist() == [[-1, 0, 2, -1], [-1, 0, 1, -1]]
    assert batch["prior"].tolist() == [[3.0, 0.0, 4.0], [4.0, 5.0, 0.0]]
    assert batch["prior_mask"].tolist() == [[True, False, True], [True, True, False]]
    assert "1 of 4 tokens of the training set are <unk>" in caplog.text


@pytest.mark.parametrize("none", [None, [0.0, 0.0, 0.0]])
def test_a_null_or_zero_prior_has_weight_zero(none: list[float] | None) -> None:
    batch = CAPCollator(word_tokenizer())(list(encode(rows(prior=[none, [4.0]]))))
    assert batch["prior_weight"].tolist() == [0.0, 1.0]
    assert not batch["prior_mask"][0].any()
    assert encode(rows().remove_columns("prior"))["prior_weight"][:] == [0.0, 0.0]
    behind = encode(rows(prior=[[0.0, 0.0, 3.0], [4.0]]), max_length=4)  # cut with its text
    assert behind["prior_weight"][:] == [0.0, 1.0]


def test_columns_by_name() -> None:
    data = rows(prior_lime=[[5.0, 6.0, 7.0], None], certainty=[0.25, 1.0])
    encoded = encode(data, prior_column="prior_lime", weight_column="certainty")
    assert encoded["prior"][0] == [5.0, 6.0, 7.0]
    assert list(encoded["prior_weight"]) == [0.25, 0.0]


def test_labels_by_name_and_by_class_label_follow_the_model() -> None:
    assert list(encode(rows(label=["LABEL_2", "LABEL_1"]))["labels"]) == [2, 1]
    features = Features(
        text=Value("string"), label=ClassLabel(names=["LABEL_1", "LABEL_0"]), prior=List(Value("float32"))
    )
    data = rows(label=[0, 1]).cast(features)
    assert list(encode(data)["labels"]) == [1, 0]
    # foreign names are taken by their order, but only for a head without names
    foreign = rows(label=[1, 0]).cast_column("label", ClassLabel(names=["refund", "loss", "fine"]))
    assert list(encode(foreign)["labels"]) == [1, 0]
    with pytest.raises(DataError, match="are not among the model's"):
        encode_dataset(foreign, word_tokenizer(), {"lost": 0, "renew": 1, "pay": 2})


def test_rows_without_words_are_padded_as_ever() -> None:
    batch = CAPCollator(word_tokenizer())(
        [{"input_ids": [0, 2], "label": 1}, {"input_ids": [0, 5, 2], "label": 0}]
    )
    assert batch["labels"].tolist() == [1, 0]
    assert batch["input_ids"].tolist() == [[0, 2, 1], [0, 5, 2]]
    inputs, priors = take_priors(batch)
    assert priors is None
    assert inputs.keys() == batch.keys()


BAD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"text": ["  ", "it"]}, DataError, r"Row 0: the text is '  '"),
    ({"label": [7, 0]}, DataError, r"Row 0: the label 7 is outside"),
    ({"label": ["refund", "LABEL_0"]}, DataError, r"the label 'refund' is outside"),
    ({"prior": [[1.0], [4.0]]}, PriorError, r"row 0: 1 scores for 3 words"),
    ({"prior": [[1.0, math.nan, 1.0], [4.0]]}, PriorError, r"word 1 \('card,'\) is nan"),
    ({"prior": [[1.0, None, 1.0], [4.0]]}, PriorError, r"word 1 \('card,'\) is None"),
    ({"prior": [[1.0, 1.0, 1.0], [math.inf]]}, PriorError, r"row 1: the score of word 0 \('it'\) is inf"),
    ({"words": [["my", "card", ", please"], ["it"]]}, PriorError, r"'card', ', please'.*word_pattern"),
]  # fmt: skip


@pytest.mark.parametrize(("columns", "error", "message"), BAD)
def test_bad_rows_are_refused(columns: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        encode(rows(**columns))


def test_a_prior_of_another_label_space_is_refused() -> None:
    facts = {"label_space": fingerprint("LABEL_0", "LABEL_1")}
    fused, cap = (add_provenance(None, source, facts) for source in ("prior", "cap"))
    data = rows(label=[0, 1], provenance=[fused, None])
    encode(data)  # plain integers name no label space
    same = data.cast_column("label", ClassLabel(names=["LABEL_0", "LABEL_1"]))
    assert encode(same)["prior"][:] == encode(data)["prior"][:]
    other = data.cast_column("label", ClassLabel(names=["LABEL_1", "LABEL_0"]))
    with pytest.raises(PriorError, match=r"'prior' was made for the label space .*'LABEL_1', 'LABEL_0'"):
        encode(other)
    of_cap = other.rename_column("prior", "prior_cap").remove_columns("provenance")
    of_cap = of_cap.add_column("provenance", [cap, fused])
    with pytest.raises(PriorError, match="'prior_cap' was made for the label space"):
        encode(of_cap, prior_column="prior_cap")


def test_missing_columns_and_empty_splits_are_refused() -> None:
    with pytest.raises(DataError, match=r"has the columns \['utterance'.*lacks \['text'\]"):
        encode(rows().rename_column("text", "utterance"))
    with pytest.raises(DataError, match=r"lacks \['label'\]"):
        encode(rows().remove_columns("label"))
    assert "labels" not in encode(rows().remove_columns("label"), labelled=False).column_names
    with pytest.raises(DataError, match="The validation set is empty"):
        encode(rows().select([]), name="validation")
    with pytest.raises(DataError, match=r"labels .* are not among the model's"):
        encode(rows(label=[0, 1]).cast_column("label", ClassLabel(names=["LABEL_0", "refund"])))


def test_bad_weights_and_tokenizers_are_refused() -> None:
    for weight in (-1.0, math.nan):
        with pytest.raises(PriorError, match=r"'sure', row 1: the weight"):
            encode(rows(sure=[1.0, weight]), weight_column="sure")
    with pytest.raises(ModelError, match="fast tokenizer"):
        encode_dataset(rows(), object(), LABEL2ID)  # type: ignore[arg-type]
