import logging
import random

import pytest

from hf_cap.errors import ConfigError
from hf_cap.priors.prompts import NO_DEMONSTRATIONS, choose_demonstrations, set_without

TEXTS = [f"{label} text {i}" for label in ("red", "blue", "green") for i in range(6)]
LABELS = [label for label in ("red", "blue", "green") for _ in range(6)]


@pytest.mark.parametrize("per_label", [1, 2, 3])
def test_two_disjoint_sets_with_k_of_each_label(per_label: int) -> None:
    sets = choose_demonstrations(TEXTS, LABELS, per_label=per_label, seed=0)
    assert len(sets) == 2
    for part in sets:
        shown = [label for _, label in part]
        assert {label: shown.count(label) for label in shown} == dict.fromkeys(LABELS, per_label)
        assert all(text.startswith(label) for text, label in part)
    assert not {text for text, _ in sets[0]} & {text for text, _ in sets[1]}


def test_choice_depends_on_seed_not_on_order() -> None:
    chosen = choose_demonstrations(TEXTS, LABELS, per_label=1, seed=0)
    rows = list(zip(TEXTS, LABELS, strict=True))
    random.Random(0).shuffle(rows)
    texts, labels = [text for text, _ in rows], [label for _, label in rows]
    assert choose_demonstrations(texts, labels, per_label=1, seed=0) == chosen
    assert choose_demonstrations(texts, labels, per_label=1, seed=1) != chosen


def test_no_text_is_scored_under_a_set_that_it_is_in() -> None:
    sets = choose_demonstrations(TEXTS, LABELS, per_label=3, seed=0)
    for text in TEXTS:
        for variant in (text, f"  {text.upper()}\n", text.replace(" ", "  ")):
            shown = [t.casefold() for t, _ in sets[set_without(sets, variant)]]
            assert text.casefold() not in shown


def test_duplicates_share_no_sets() -> None:
    texts = ["Hello there", "hello  THERE ", "hello there", "bye"]
    labels = ["greet", "greet", "leave", "leave"]
    sets = choose_demonstrations(texts, labels, per_label=1, seed=0)
    same = [text for part in sets for text, _ in part if text.casefold() == "hello there"]
    assert len(same) == 1


def test_short_classes_are_shared_out_with_one_notice(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        sets = choose_demonstrations([*TEXTS, "only one"], [*LABELS, "rare"], per_label=1, seed=0)
    assert sorted(label for part in sets for _, label in part).count("rare") == 1
    (record,) = caplog.records
    assert "1 of 4 labels" in record.message
    assert "rare" in record.message


def test_none_asked_for() -> None:
    assert choose_demonstrations(TEXTS, LABELS, per_label=0, seed=0) == NO_DEMONSTRATIONS
    assert set_without(NO_DEMONSTRATIONS, "anything") == 0


def test_a_negative_number_is_refused() -> None:
    with pytest.raises(ConfigError, match="got -1"):
        choose_demonstrations(TEXTS, LABELS, per_label=-1, seed=0)
