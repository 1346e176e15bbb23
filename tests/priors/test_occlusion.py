import json

import pytest
from datasets import ClassLabel, Dataset, Features, Value

from hf_cap.priors.classifier import OcclusionPrior
from tests.priors.conftest import LABELS

TEXTS = ["please renew  my book", "card lost", "pay", "i need to pay the fine now"]
GOLD = ["renew", "lost", "pay", "pay"]


def source(reference: str) -> OcclusionPrior:
    return OcclusionPrior(labels=LABELS, classifier=reference)


def test_a_word_scores_what_its_absence_costs(reference: str) -> None:
    made = source(reference)({"text": TEXTS[:1], "label": GOLD[:1]})
    shortened = [
        "please renew  my book",
        "renew  my book",
        "please  my book",
        "please renew  book",
        "please renew  my",
    ]
    whole, *without = source(reference).open().log_probs(shortened)[:, 0].tolist()
    assert made["prior_occlusion"][0] == pytest.approx([whole - one for one in without], abs=1e-6)
    assert made["occlusion_log_prob"][0] == pytest.approx(whole, abs=1e-6)


def test_a_single_word_is_compared_with_the_empty_text(reference: str) -> None:
    made = source(reference)({"text": ["pay"], "label": [2]})
    log_probs = source(reference).open().log_probs(["pay", ""])[:, 2].tolist()
    assert made["prior_occlusion"] == [[pytest.approx(log_probs[0] - log_probs[1], abs=1e-6)]]


def test_of_a_word_that_comes_twice_only_one_is_left_out(reference: str) -> None:
    made = source(reference)({"text": ["pay my pay"], "label": [2]})
    texts = ["pay my pay", "my pay", "pay pay", "pay my"]
    whole, *without = source(reference).open().log_probs(texts)[:, 2].tolist()
    assert made["prior_occlusion"][0] == pytest.approx([whole - one for one in without], abs=1e-6)


def test_the_scores_of_a_text_do_not_depend_on_its_batch(reference: str) -> None:
    prior = source(reference)
    together = prior({"text": TEXTS, "label": GOLD})["prior_occlusion"]
    for text, gold, scores in zip(TEXTS, GOLD, together, strict=True):
        alone = prior({"text": [text], "label": [gold]})["prior_occlusion"][0]
        assert alone == pytest.approx(scores, abs=1e-5)


def test_it_maps_over_a_data_set_with_names_words_and_provenance(reference: str) -> None:
    features = Features({"text": Value("string"), "label": ClassLabel(names=list(LABELS))})
    data = Dataset.from_dict({"text": TEXTS, "label": [0, 1, 2, 2]}, features)
    prior = OcclusionPrior.from_dataset(data, classifier=reference)
    assert prior.labels == LABELS
    mapped = data.map(prior, batched=True, batch_size=2)
    assert mapped.column_names == [
        "text",
        "label",
        "words",
        "prior_occlusion",
        "occlusion_log_prob",
        "provenance",
    ]
    assert mapped["words"][0] == ["please", "renew", "my", "book"]
    facts = json.loads(mapped["provenance"][0])["occlusion"]
    assert facts["classifier"] == reference
    assert facts["identity"] == prior.open().identity
    assert facts["word_pattern"] == r"\S+"
    assert "labels" not in facts
