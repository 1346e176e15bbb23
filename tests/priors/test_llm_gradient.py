from pathlib import Path
from typing import Any

import pytest
import torch
from captum.attr import LayerGradientXActivation

from hf_cap.errors import ModelError
from hf_cap.lm.base import MockLanguageModel, Query
from hf_cap.lm.cache import CachedLanguageModel
from hf_cap.lm.local import LocalLanguageModel
from hf_cap.priors.rivals import LLMGradientPrior
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


@pytest.mark.parametrize("stored", [False, True])
def test_the_log_probability_is_the_models(local: LocalLanguageModel, stored: bool, tmp_path: Path) -> None:
    prior = source(CachedLanguageModel(local, tmp_path / "scores.sqlite") if stored else local)
    made = prior({"text": TEXTS, "label": GOLD})["llm_gradient_log_prob"]
    (prompt,) = prior.open().prompts
    queries = [
        Query(prompt.prefix, prompt.body(text), prompt.answer(LABELS[gold]))
        for text, gold in zip(TEXTS, GOLD, strict=True)
    ]
    assert made == pytest.approx([one.total for one in local.log_probs(queries)], abs=1e-4)


def test_what_has_no_gradient_is_refused() -> None:
    with pytest.raises(ModelError, match=r"got MockLanguageModel. Leave out `base_url`"):
        source(MockLanguageModel(lambda prompt, answer: -1.0))({"text": TEXTS, "label": GOLD})
