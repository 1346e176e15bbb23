"""The local lm gives the scores of whole prompts one at a time, whatever way it takes."""

import inspect
import math
import random
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode
from transformers import (
    GPTNeoConfig,
    GPTNeoForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
)

from hf_cap.errors import ExtractError, ModelError
from hf_cap.lm.base import LMRuntime, LMStatistics, Query, Sampling, Scored
from hf_cap.lm.cache import CachedLanguageModel
from hf_cap.lm.local import LocalLanguageModel, weights_fingerprint
from hf_cap.lm.packed import declared_reach, gather_log_probs
from tests.lm.queries import (
    ANSWERS,
    LONG,
    MODELS,
    SMALL,
    all_queries,
    build,
    largest_difference,
)
from tests.tiny import byte_tokenizer, llama

TOLERANCE = 1e-4
SHORT = Sampling(max_new_tokens=6)
DRAWN = Sampling(max_new_tokens=6, temperature=1.0)


@torch.no_grad()
def one_at_a_time(model: PreTrainedModel, queries: list[Query]) -> list[Scored]:
    """The definition of a score, written without any of the package's code."""
    tokenizer = byte_tokenizer()
    results = []
    for query in queries:
        prompt = tokenizer(query.prefix + query.body, add_special_tokens=False)["input_ids"]
        answer = tokenizer(query.answer, add_special_tokens=False)["input_ids"]
        logits = model(torch.tensor([[*prompt, *answer]])).logits[0].float().log_softmax(-1)
        values = [float(logits[len(prompt) - 1 + i, token]) for i, token in enumerate(answer)]
        results.append(Scored(tuple(values), tuple(range(len(answer)))))
    return results


@pytest.mark.parametrize("name", MODELS)
def test_packed_scores_equal_those_of_whole_prompts(name: str) -> None:
    model, queries = build(name), all_queries()
    if name != "llama":
        queries = queries[::3]
    expected = one_at_a_time(model, queries)
    for budget in (512, 48):
        runtime = LMRuntime(token_budget=budget)
        lm = LocalLanguageModel(model, byte_tokenizer(), runtime=runtime)
        assert lm.reach
        assert largest_difference(lm.log_probs(queries), expected) < TOLERANCE


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt"])
def test_the_plain_path_gives_the_same_scores(name: str) -> None:
    model, queries = build(name), all_queries()[::5]
    lm = LocalLanguageModel(model, byte_tokenizer(), packed=False)
    assert largest_difference(lm.log_probs(queries), one_at_a_time(model, queries)) < TOLERANCE
    assert lm.statistics.tokens_computed == lm.statistics.naive_tokens


def test_a_score_depends_neither_on_order_nor_on_company() -> None:
    queries = all_queries()
    lm = LocalLanguageModel(llama(), byte_tokenizer())
    together = dict(zip(queries, lm.log_probs(queries), strict=True))
    random.Random(0).shuffle(queries)
    again = lm.log_probs(queries + queries[:7])
    assert largest_difference(again, [together[q] for q in queries + queries[:7]]) < TOLERANCE
    alone = [lm.log_probs([query])[0] for query in queries[:12]]
    assert largest_difference(alone, [together[q] for q in queries[:12]]) < TOLERANCE
    assert lm.log_probs([]) == []


def test_starts_are_the_characters_of_the_answer() -> None:
    (scored,) = LocalLanguageModel(llama(), byte_tokenizer()).log_probs([Query("a", "b", " é🙂x")])
    assert scored.starts == (0, 1, 1, 2, 2, 2, 2, 3)  # one token a byte


def test_every_token_is_accounted_for() -> None:
    lm = LocalLanguageModel(llama(), byte_tokenizer())
    queries = [
        Query(LONG, text, answer) for text in ("my card", "my cat") for answer in ANSWERS[:3]
    ]
    lm.log_probs(queries * 2)
    done = lm.statistics
    naive = 2 * sum(len((q.prefix + q.body + q.answer).encode()) - 1 for q in queries)
    assert (done.queries, done.distinct, done.naive_tokens) == (12, 6, naive)
    # the prefix once, then a trie of the texts and answers without their last tokens
    trie = len("my cardt") + 2 * len(" card losarriva")
    assert done.tokens_computed == len(LONG.encode()) + trie
    before = done.tokens_computed
    lm.log_probs([Query(LONG, "my dog", " card")])
    # the prefix is not read again: only its few uncached last tokens, the text and the answer
    assert lm.statistics.tokens_computed - before < 40 < len(LONG)


def test_prefixes_are_forgotten_least_recently_used_first() -> None:
    model = llama()
    one_prefix = 2 * 2 * 2 * 8 * 4 * len(LONG)  # keys and values, layers, heads, width, bytes
    runtime = LMRuntime(prefix_memory=2.2 * one_prefix / 1e9)
    lm = LocalLanguageModel(model, byte_tokenizer(), runtime=runtime)

    def tokens_for(letter: str) -> int:
        before = lm.statistics.tokens_computed
        lm.log_probs([Query(letter + LONG[1:], "card", " x")])
        return lm.statistics.tokens_computed - before

    first = [tokens_for(letter) for letter in "ABABCAB"]
    new, known = max(first), min(first)
    assert first == [new, new, known, known, new, new, new]


@pytest.mark.parametrize(
    ("packed", "error"),
    [(True, torch.OutOfMemoryError("gone")), (False, RuntimeError("DefaultCPUAllocator: gone"))],
)
def test_out_of_memory_halves_the_budget_and_changes_no_score(
    packed: bool,
    error: RuntimeError,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    model, queries = llama(), all_queries()
    expected = LocalLanguageModel(model, byte_tokenizer()).log_probs(queries)
    runtime = LMRuntime(token_budget=2048)
    lm = LocalLanguageModel(model, byte_tokenizer(), packed=packed, runtime=runtime)
    lm.log_probs(queries[:1])  # checks whether it packs
    forward = model.forward

    def limited(*args: Any, input_ids: torch.Tensor, **kw: Any) -> Any:
        if input_ids.numel() > 300:
            raise error
        return forward(*args, input_ids=input_ids, **kw)

    monkeypatch.setattr(model, "forward", limited)
    assert largest_difference(lm.log_probs(queries), expected) < TOLERANCE
    assert lm.scorer.budget == 256
    assert "token budget of 256" in caplog.text


def test_out_of_memory_for_a_single_token_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = LocalLanguageModel(llama(), byte_tokenizer())
    assert lm.reach

    def full(**kw: object) -> object:
        raise torch.OutOfMemoryError("gone")

    monkeypatch.setattr(lm.model, "forward", full)
    with pytest.raises(ExtractError, match="only 16 tokens"):
        lm.log_probs([Query("a", "b", "c")])


def test_other_errors_of_the_model_are_not_taken_for_a_lack_of_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lm = LocalLanguageModel(llama(), byte_tokenizer())
    assert lm.reach

    def broken(**kw: object) -> object:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(lm.model, "forward", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        lm.log_probs([Query("a", "b", "c")])


def test_prompts_beyond_a_sliding_window_take_the_plain_path(
    caplog: pytest.LogCaptureFixture,
) -> None:
    torch.manual_seed(0)
    model = MistralForCausalLM(MistralConfig(**SMALL, sliding_window=90)).train(False)
    queries = all_queries()
    lm = LocalLanguageModel(model, byte_tokenizer())
    assert lm.reach
    assert "over 90 tokens" in caplog.text
    assert largest_difference(lm.log_probs(queries), one_at_a_time(model, queries)) < TOLERANCE
    assert lm.statistics.tokens_computed < lm.statistics.naive_tokens  # the short ones are packed


def test_a_recurrent_model_takes_the_plain_path(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    config = MambaConfig(
        vocab_size=260, hidden_size=16, num_hidden_layers=2, state_size=4, time_step_rank=2
    )
    model = MambaForCausalLM(config).train(False)
    queries = all_queries()[::9]
    lm = LocalLanguageModel(model, byte_tokenizer())
    assert not lm.reach
    assert largest_difference(lm.log_probs(queries), one_at_a_time(model, queries)) < TOLERANCE


@pytest.mark.parametrize(("kinds", "reach"), [(["global", "local"], 0), (["global"], math.inf)])
def test_a_model_with_local_layers_takes_the_plain_path(kinds: list[str], reach: float) -> None:
    torch.manual_seed(0)
    model = GPTNeoForCausalLM(
        GPTNeoConfig(
            vocab_size=260, hidden_size=32, num_layers=2, num_heads=4, window_size=8,
            attention_types=[[kinds, 2 // len(kinds)]], max_position_embeddings=512,
            initializer_range=0.2, bos_token_id=1, eos_token_id=2,
        )
    )  # fmt: skip
    assert declared_reach(model)[0] == reach


class WithoutDoubles(TorchFunctionMode):
    """Tensors seem to lie on a device without double precision until they are brought to the CPU."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = torch.device(device)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        brought = func is torch.Tensor.cpu or getattr(args[0], "brought", False)
        if func == torch.Tensor.device.__get__ and not brought:
            return self.device
        if func is torch.Tensor.double or kwargs.get("dtype") is torch.float64:
            assert brought, "float64 on the device"
        result = func(*args, **kwargs)
        if brought and isinstance(result, torch.Tensor):
            result = result.view_as(result)
            result.brought = True  # type: ignore[attr-defined]
        return result


def test_a_device_without_double_precision_gives_the_same() -> None:
    model = llama()
    expected = weights_fingerprint(model)
    with WithoutDoubles("mps"):
        assert weights_fingerprint(model) == expected
    logits, places = torch.randn(4, 7), np.arange(4)
    plain = gather_log_probs(logits, places, places)
    with WithoutDoubles("cpu"):
        assert (gather_log_probs(logits, places, places) == plain).all()


def test_the_self_check_finds_a_model_that_ignores_its_mask(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = llama()
    assert declared_reach(model) == (math.inf, "")
    forward = model.forward

    def maskless(attention_mask: torch.Tensor | None = None, **kw: object) -> object:
        return forward(attention_mask=None, **kw)

    monkeypatch.setattr(maskless, "__signature__", inspect.signature(forward), raising=False)
    monkeypatch.setattr(model, "forward", maskless)
    lm = LocalLanguageModel(model, byte_tokenizer())
    assert not lm.reach
    assert "nats off" in caplog.text


def test_declared_limits() -> None:
    model = llama()
    for change, part in (
        ({"alibi": True}, "position biases"),
        ({"layer_types": ["full_attention", "linear_attention"]}, "linear_attention"),
        ({"_attn_implementation": "flash_attention_2"}, "flash_attention_2"),
    ):
        model = llama()
        for key, value in change.items():
            setattr(model.config, key, value)
        reach, reason = declared_reach(model)
        assert reach == 0
        assert part in reason


def test_a_prompt_that_the_model_cannot_read_is_refused() -> None:
    lm = LocalLanguageModel(build("gpt2"), byte_tokenizer())
    with pytest.raises(ExtractError, match="prompt of 602 tokens is longer than the 512"):
        lm.log_probs([Query("p", "x" * 600, "y")])
    with pytest.raises(ExtractError, match="no tokens"):
        lm.log_probs([Query("", "", "y")])


def test_a_score_that_is_not_finite_is_refused() -> None:
    model = llama()
    lm = LocalLanguageModel(model, byte_tokenizer())
    assert lm.reach
    with torch.no_grad():
        model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(ExtractError, match="float32"):
        lm.log_probs([Query("a", "b", "c")])


def test_identity_tells_models_tokenizers_and_formats_apart() -> None:
    def identity(model: PreTrainedModel, **kw: bool) -> str:
        return LocalLanguageModel(model, byte_tokenizer(**kw), name="m").fingerprint

    changed = llama()
    with torch.no_grad():
        changed.model.layers[1].mlp.up_proj.weight[3, 5] += 0.1
    known = {
        identity(llama()),
        identity(llama(seed=1)),
        identity(changed),
        identity(llama().bfloat16()),
    }
    assert len(known) == 4
    assert identity(llama()) in known
    assert (
        identity(llama(), chat=False) in known
    )  # the template is part of the prompt, not of the model


def test_chat_template() -> None:
    with_chat = LocalLanguageModel(llama(), byte_tokenizer())
    rendered = with_chat.chat_prompt("hello")
    assert rendered == "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
    without = LocalLanguageModel(llama(), byte_tokenizer(chat=False))
    assert without.chat_prompt("hello") is None
    with pytest.raises(ModelError, match="has no chat template"):
        without.generate(["hello"], SHORT)


@pytest.fixture
def writer() -> LocalLanguageModel:
    return LocalLanguageModel(llama(vocabulary=512), byte_tokenizer())


def test_the_most_likely_reply_does_not_depend_on_the_batch(writer: LocalLanguageModel) -> None:
    alone = [writer.generate([prompt], SHORT)[0] for prompt in ("hi", "a longer prompt")]
    told: list[str] = []
    both = writer.generate(
        ["hi", "a longer prompt"], SHORT, lambda prompt, reply: told.append(prompt)
    )
    assert both == alone
    assert told == ["hi", "a longer prompt"]
    assert alone[1].prompt_tokens == alone[0].prompt_tokens + len("a longer prompt") - len("hi")
    assert all(0 < reply.completion_tokens <= 6 for reply in alone)


def test_replies_are_those_of_the_chat_template_padded_by_the_tokenizer(
    writer: LocalLanguageModel,
) -> None:
    tokenizer: Any = byte_tokenizer()
    tokenizer.padding_side = "left"
    prompts = ["hi", "a longer prompt"]
    inputs = tokenizer.apply_chat_template(
        [[{"role": "user", "content": prompt}] for prompt in prompts],
        add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True,
    )  # fmt: skip
    model: Any = writer.model
    made = model.generate(**inputs, max_new_tokens=6, do_sample=False)
    texts = tokenizer.batch_decode(
        made[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
    )
    assert [reply.text for reply in writer.generate(prompts, SHORT)] == texts


def test_a_sampled_reply_depends_on_the_seed_and_leaves_the_generator_alone(
    writer: LocalLanguageModel,
) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    once = writer.generate(["a", "bbb"], DRAWN)
    assert torch.equal(torch.get_rng_state(), state)
    assert once == writer.generate(["a", "bbb"], DRAWN)
    other = Sampling(max_new_tokens=6, temperature=1.0, seed=1)
    assert once != writer.generate(["a", "bbb"], other)


def test_a_stopped_run_ends_as_it_would_have(writer: LocalLanguageModel, tmp_path: Path) -> None:
    prompts = [f"prompt {number}" for number in range(20)]
    expected = writer.generate(prompts, DRAWN)
    kept = CachedLanguageModel(writer, tmp_path / "s.sqlite")
    kept.generate(prompts[:16], DRAWN)  # a batch, then the kill
    assert kept.generate(prompts, DRAWN) == expected


def test_statistics_add_up_field_by_field() -> None:
    one = LMStatistics(*range(len(fields(LMStatistics))))
    assert one + one == LMStatistics(*(2 * i for i in range(len(fields(LMStatistics)))))
    assert one + one - one == one
    assert LMStatistics().tokens_per_second == 0
    assert LMStatistics(tokens_computed=10, seconds=2.0).tokens_per_second == 5.0


@pytest.mark.real
def test_smollm2_packed_equals_whole_prompts() -> None:
    from hf_cap.lm.base import LMSettings
    from hf_cap.lm.local import load_local

    lm = load_local(LMSettings(), LMRuntime(token_budget=64))
    rendered = lm.chat_prompt("Intents: card, card lost.\nMessage: @")
    assert rendered is not None
    prefix, end = rendered.split("@")
    queries = [
        Query(p, t + end, a)
        for p in (prefix, "")
        for t in ("my card", "naïve 🙂\n")
        for a in ANSWERS
    ]
    plain = LocalLanguageModel(lm.model, lm.tokens.tokenizer, packed=False).log_probs(queries)
    assert largest_difference(lm.log_probs(queries), plain) < TOLERANCE
