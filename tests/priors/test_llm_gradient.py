import dataclasses
from typing import Any

import pytest
import torch
from captum.attr import LayerGradientXActivation
from datasets import ClassLabel, Dataset, Features, Value

from hf_cap.errors import ConfigError, ModelError
from hf_cap.lm.base import MockLanguageModel, Query
from hf_cap.lm.cache import CachedLanguageModel
from hf_cap.lm.local import LocalLanguageModel
from hf_cap.priors.llm_gradient import LLMGradientPrior
from tests.priors.conftest import LABELS
from tests.tiny import byte_tokenizer, llama

TEXTS = ["renew  my book", "card lost", "pay"]
GOLD = [0, 1, 2]


@pytest.fixture(scope="module")
def local() -> LocalLanguageModel:
    return LocalLanguageModel(llama(), byte_tokenizer())


def source(model: Any, **options: Any) -> LLMGradientPrior:
    return LLMGradientPrior(labels=LABELS, model=model, **{"sign": "signed", **options})


def test_scores_are_captums_on_the_whole_prompt(local: LocalLanguageModel) -> None:
    """The byte tokenizer has one token a character, so the words' places need no offsets."""
    prior = source(local)
    made = prior({"text": TEXTS, "label": GOLD})["prior_llm_gradient"]
    opened = prior.open()
    model = local.model
    for text, gold, scores in zip(TEXTS, GOLD, made, strict=True):
        prompt = opened.prompt(text)
        answer = list(local.tokens.answer(prompt.answer(LABELS[gold])).ids)
        body = list(local.tokens.prompt(prompt.prefix + prompt.body(text)))

        def log_prob(ids: torch.Tensor, answer: list[int] = answer) -> torch.Tensor:
            logits = model(ids).logits[:, -len(answer) :]
            picked: torch.Tensor = logits.log_softmax(-1)[0, range(len(answer)), answer]
            return picked.sum()[None]

        attribution = LayerGradientXActivation(log_prob, model.get_input_embeddings())
        ids = torch.tensor([body + answer[:-1]])
        tokens = attribution.attribute(ids)[0].sum(-1).tolist()
        text_start = len(body) - len(local.tokens.prompt(text + prompt.after))
        place = 0
        for word, score in zip(text.split(), scores, strict=True):
            place = text.index(word, place)
            first = text_start + place
            assert score == pytest.approx(sum(tokens[first : first + len(word)]), abs=1e-5)
            place += len(word)


def test_the_log_probability_is_the_models(local: LocalLanguageModel) -> None:
    prior = source(local)
    made = prior({"text": TEXTS, "label": GOLD})["llm_gradient_log_prob"]
    (prompt,) = prior.open().prompts
    queries = [
        Query(prompt.prefix, prompt.body(text), prompt.answer(LABELS[gold]))
        for text, gold in zip(TEXTS, GOLD, strict=True)
    ]
    assert made == pytest.approx([one.total for one in local.log_probs(queries)], abs=1e-4)


def test_the_batch_changes_nothing(local: LocalLanguageModel) -> None:
    prior = source(local)
    together = prior({"text": TEXTS, "label": GOLD})["prior_llm_gradient"]
    for text, gold, scores in zip(TEXTS, GOLD, together, strict=True):
        alone = prior({"text": [text], "label": [gold]})["prior_llm_gradient"][0]
        assert alone == pytest.approx(scores, abs=1e-6)


def test_the_default_prior_is_the_positive_part(local: LocalLanguageModel) -> None:
    batch: dict[str, list[Any]] = {"text": TEXTS, "label": GOLD}
    signed = source(local)(batch)["prior_llm_gradient"]
    positive = source(local, sign="positive")(batch)["prior_llm_gradient"]
    assert positive == [[max(score, 0.0) for score in scores] for scores in signed]
    assert dataclasses.replace(source(local), sign="positive") == source(local, sign="positive")


def test_from_dataset_takes_labels_and_demonstrations(local: LocalLanguageModel) -> None:
    features = Features({"text": Value("string"), "label": ClassLabel(names=list(LABELS))})
    data = Dataset.from_dict(
        {"text": [*TEXTS, *map(str.upper, "xyz")], "label": GOLD * 2}, features
    )
    prior = LLMGradientPrior.from_dataset(data, model=local)
    assert prior.labels == LABELS
    assert len(prior.demonstration_sets) == 2
    made = prior(data[:])
    assert [len(scores) for scores in made["prior_llm_gradient"]] == [3, 2, 1, 1, 1, 1]


def test_a_cached_model_is_looked_into(local: LocalLanguageModel, tmp_path: Any) -> None:
    stored = CachedLanguageModel(local, tmp_path / "scores.sqlite")
    batch: dict[str, list[Any]] = {"text": TEXTS[:1], "label": GOLD[:1]}
    expected = source(local)(batch)["prior_llm_gradient"]
    assert source(stored)(batch)["prior_llm_gradient"] == expected


def test_a_model_without_gradient_is_refused() -> None:
    with pytest.raises(ModelError, match=r"got MockLanguageModel. Leave out `base_url`"):
        source(MockLanguageModel(lambda prompt, answer: -1.0))({"text": TEXTS, "label": GOLD})


def test_label_scores_are_refused(local: LocalLanguageModel) -> None:
    with pytest.raises(ConfigError, match="scores the gold label only"):
        source(local, keep_label_scores=True)
