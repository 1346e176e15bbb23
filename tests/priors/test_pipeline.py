from collections.abc import Iterator
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, Features, Value
from transformers import pipeline as transformers_pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from hf_cap.errors import ConfigError, DataError
from hf_cap.lm.local import LocalLanguageModel
from hf_cap.priors.cap import CAPPrior
from hf_cap.priors.pipeline import TASK, ClassAwarePrior, register_prior_pipeline
from tests.tiny import byte_tokenizer, llama

# its overloads know the built-in tasks only
pipeline: Any = transformers_pipeline

LABELS = ("lost_card", "pay_fine")
FEATURES = Features({"text": Value("string"), "label": ClassLabel(names=list(LABELS))})
DATA = Dataset.from_dict(
    {"text": ["I lost it", "my card", "pay now", "a fine"], "label": [0, 0, 1, 1]},
    features=FEATURES,
)


@pytest.fixture
def pipe() -> Iterator[ClassAwarePrior]:
    register_prior_pipeline()
    register_prior_pipeline()  # twice does no harm
    try:
        yield pipeline(
            TASK, model=llama(), tokenizer=byte_tokenizer(), device="cpu", dataset=DATA, n=9
        )
    finally:
        PIPELINE_REGISTRY.supported_tasks.pop(TASK)


def test_pipeline_gives_what_the_prior_gives(pipe: ClassAwarePrior) -> None:
    scorer = LocalLanguageModel(llama(), byte_tokenizer())
    expected = CAPPrior.from_dataset(DATA, model=scorer, n=9)(DATA[:])
    assert pipe.prior.n == 9
    mapped = DATA.map(pipe, batched=True, new_fingerprint="pipe")
    assert mapped["prior_cap"][:] == expected["prior_cap"]
    row = pipe({"text": "I lost it", "label": "lost_card"})
    assert row["prior_cap"] == pytest.approx(expected["prior_cap"][0], abs=1e-4)
    rows = pipe([{"text": "I lost it", "label": 0}, {"text": "a fine", "label": 1}])
    assert [len(row["prior_cap"]) for row in rows] == [3, 2]
    assert pipe([]) == []


def test_labels_are_enough_without_a_training_split(pipe: ClassAwarePrior) -> None:
    bare = pipeline(TASK, model=llama(), tokenizer=byte_tokenizer(), device="cpu", labels=LABELS)
    assert bare.prior.demonstration_sets == ((),)
    assert len(bare({"text": "pay now", "label": 1})["prior_cap"]) == 2


def test_mistakes_say_what_to_do(pipe: ClassAwarePrior) -> None:
    with pytest.raises(ConfigError, match="either `dataset`"):
        pipeline(TASK, model=llama(), tokenizer=byte_tokenizer(), device="cpu")
    with pytest.raises(ConfigError, match="not to its call"):
        pipe({"text": "pay", "label": 1}, n=3)
    for alone in ("pay now", ["pay now"]):
        with pytest.raises(DataError, match=r"rows such as .'text': '...', 'label': '...'."):
            pipe(alone)


def test_importing_registers_nothing() -> None:
    assert TASK not in PIPELINE_REGISTRY.get_supported_tasks()
