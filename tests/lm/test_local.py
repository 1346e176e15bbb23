"""The local model gives the scores of whole prompts one at a time, whatever way it takes."""

import inspect
import math
import random
from dataclasses import fields
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel

from hf_cap.errors import ExtractError, ModelError
from hf_cap.lm import cpu
from hf_cap.lm.base import LMRuntime, LMSettings, LMStatistics, Query, Sampling, Scored
from hf_cap.lm.cache import CachedLanguageModel
from hf_cap.lm.local import LocalLanguageModel, load_local, weights_fingerprint
from hf_cap.lm.packed import declared_reach, gather_log_probs
from tests.lm.queries import ANSWERS, LONG, MODELS, all_queries, build, largest_difference
from tests.tiny import byte_tokenizer, llama

TOLERANCE = 1e-4
QUERIES = all_queries()
ABC = [Query("a", "b", "c")]
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


def opened(model: PreTrainedModel, *, packed: bool = True, **runtime: Any) -> LocalLanguageModel:
    return LocalLanguageModel(model, byte_tokenizer(), packed=packed, runtime=LMRuntime(**runtime), name="m")


@pytest.mark.parametrize("name", MODELS)
def test_packed_scores_equal_those_of_whole_prompts(name: str) -> None:
    model, queries = build(name), QUERIES if name == "llama" else QUERIES[::3]
    expected = one_at_a_time(model, queries)
    for budget in (512, 48):
        lm = opened(model, token_budget=budget)
        assert lm.reach
        assert largest_difference(lm.log_probs(queries), expected) < TOLERANCE
    lm = opened(model, packed=False)
    assert largest_difference(lm.log_probs(queries[::5]), expected[::5]) < TOLERANCE
    assert lm.statistics.tokens_computed == lm.statistics.naive_tokens


def test_a_model_attends_by_blocks_while_it_scores_packed_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    attend = Mock(side_effect=cpu._attend)
    monkeypatch.setattr(cpu, "_attend", attend)
    model = llama()
    lm = opened(model, token_budget=100)
    assert lm.reach
    attend.reset_mock()
    lm.log_probs(QUERIES)
    assert max(call.args[1].shape[2] for call in attend.call_args_list) == 100  # tokens of a run
    assert model.config._attn_implementation == "sdpa"
    blocks = cpu.pack_blocks(0, [(np.arange(1), np.ones((1, 1), bool))], torch.zeros(1))
    with pytest.raises(KeyboardInterrupt), cpu.attending(model, blocks):
        raise KeyboardInterrupt
    assert model.config._attn_implementation == "sdpa"


def test_attention_that_is_not_plain_keeps_its_mask() -> None:
    query, key, value = torch.randn(3, 1, 2, 4, 8)
    mask = torch.zeros(1, 1, 4, 4).masked_fill(torch.ones(4, 4).triu(1) > 0, -1e9)
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, mask)
    causal, everything = [[(np.arange(4), one.astype(bool))] for one in (np.tri(4), np.ones((4, 4)))]
    cases = [(causal, mask, {}), (everything, mask, {"s": 2}), (everything, mask.clone(), {})]
    for parts, given, options in cases:
        with cpu.attending(llama(), cpu.pack_blocks(0, parts, mask)):
            out, _ = cpu._attend(llama(), query, key, value, given, **options)
        torch.testing.assert_close(out, expected.transpose(1, 2))


def test_plain_linear_layers_multiply_by_onednn_while_tokens_are_packed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, sizes = llama(), set[int]()
    hooked = model.model.layers[0].mlp.up_proj
    hooked.forward = own = Mock(side_effect=hooked.forward)  # as a library hangs its hooks in

    def multiply(layer: torch.nn.Linear, inputs: torch.Tensor) -> torch.Tensor:
        assert layer is not hooked
        sizes.add(inputs.shape[:-1].numel())
        return cpu_multiply(layer, inputs)

    cpu_multiply = cpu._multiply
    monkeypatch.setattr(cpu, "_multiply", multiply)
    monkeypatch.setattr(cpu, "mkl_is_slow", lambda: False)
    expected = opened(model, token_budget=150).log_probs(QUERIES)
    assert not sizes
    monkeypatch.setattr(cpu, "mkl_is_slow", lambda: True)
    lm = opened(model, token_budget=150)
    assert largest_difference(lm.log_probs(QUERIES), expected) < TOLERANCE
    assert min(sizes) < 16 < max(sizes)  # few rows and many
    assert own.called
    assert hooked.forward is own
    assert [layer for layer in model.modules() if "forward" in vars(layer)] == [hooked]
    half = llama().bfloat16()
    with cpu.multiplying(half):
        assert not [layer for layer in half.modules() if "forward" in vars(layer)]


def test_a_score_depends_neither_on_order_nor_on_company() -> None:
    queries = all_queries()
    lm = opened(llama())
    together = dict(zip(queries, lm.log_probs(queries), strict=True))
    random.Random(0).shuffle(queries)
    again = lm.log_probs(queries + queries[:7])
    assert largest_difference(again, [together[q] for q in queries + queries[:7]]) < TOLERANCE
    alone = [lm.log_probs([query])[0] for query in queries[:12]]
    assert largest_difference(alone, [together[q] for q in queries[:12]]) < TOLERANCE
    assert lm.log_probs([]) == []
    (scored,) = lm.log_probs([Query("a", "b", " é🙂x")])
    assert scored.starts == (0, 1, 1, 2, 2, 2, 2, 3)  # characters of the answer; one token a byte


def test_every_token_is_accounted_for() -> None:
    lm = opened(llama())
    queries = [Query(LONG, text, answer) for answer in ANSWERS[:3] for text in ("my card", "my cat")]
    lm.log_probs(queries * 2)
    done = lm.statistics
    naive = 2 * sum(len((q.prefix + q.body + q.answer).encode()) - 1 for q in queries)
    assert (done.queries, done.distinct, done.naive_tokens) == (12, 6, naive)
    # the prefix once, then a trie of the texts and answers without their last tokens
    trie = len("my cardt") + 2 * len(" card losarriva")
    assert done.tokens_computed == len(LONG.encode()) + trie
    lm.log_probs([Query(LONG, "my dog", " card")])
    # the prefix is not read again: only its few uncached last tokens, the text and the answer
    assert (lm.statistics - done).tokens_computed < 40 < len(LONG)


def test_prefixes_are_forgotten_least_recently_used_first() -> None:
    one_prefix = 2 * 2 * 2 * 8 * 4 * len(LONG)  # keys and values, layers, heads, width, bytes
    lm = opened(llama(), prefix_memory=2.2 * one_prefix / 1e9)

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
    packed: bool, error: RuntimeError, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = llama()
    expected = opened(model).log_probs(QUERIES)
    lm = opened(model, packed=packed, token_budget=2048)
    lm.log_probs(QUERIES[:1])  # checks whether it packs
    forward = model.forward

    def limited(*args: Any, input_ids: torch.Tensor, **kw: Any) -> Any:
        if input_ids.numel() > 300:
            raise error
        return forward(*args, input_ids=input_ids, **kw)

    monkeypatch.setattr(model, "forward", limited)
    assert largest_difference(lm.log_probs(QUERIES), expected) < TOLERANCE
    assert lm.scorer.budget == 256
    assert "token budget of 256" in caplog.text


@pytest.mark.parametrize(
    ("raised", "expected", "words"),
    [
        (torch.OutOfMemoryError("gone"), ExtractError, "only 16 tokens"),
        (RuntimeError("shapes do not match"), RuntimeError, "shapes"),
    ],
)
def test_errors_of_the_model_are_raised(
    raised: Exception, expected: type[Exception], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = opened(llama())
    assert lm.reach

    monkeypatch.setattr(lm.model, "forward", Mock(side_effect=raised))
    with pytest.raises(expected, match=words):
        lm.log_probs(ABC)


def test_prompts_beyond_a_sliding_window_take_the_plain_path(caplog: pytest.LogCaptureFixture) -> None:
    model = build("mistral", sliding_window=90)
    lm = opened(model)
    assert lm.reach == 90
    assert "over 90 tokens" in caplog.text
    assert largest_difference(lm.log_probs(QUERIES), one_at_a_time(model, QUERIES)) < TOLERANCE
    assert lm.statistics.tokens_computed < lm.statistics.naive_tokens  # the short ones are packed


def test_a_recurrent_model_takes_the_plain_path() -> None:
    model = build("mamba", hidden_size=16, state_size=4, time_step_rank=2)
    lm = opened(model)
    assert not lm.reach
    queries = QUERIES[::9]
    assert largest_difference(lm.log_probs(queries), one_at_a_time(model, queries)) < TOLERANCE


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, ""),
        ({"alibi": True}, "position biases"),
        ({"attention_layers": ["global", "local"]}, "local attention layers"),
        ({"layer_types": ["full_attention", "linear_attention"]}, "linear_attention"),
        ({"_attn_implementation": "flash_attention_2"}, "flash_attention_2"),
    ],
)
def test_declared_limits(change: dict[str, Any], words: str) -> None:
    model = llama()
    for key, value in change.items():
        setattr(model.config, key, value)
    reach, reason = declared_reach(model)
    assert reach == (0 if change else math.inf)
    assert words in reason


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
    forward = model.forward

    def maskless(attention_mask: torch.Tensor | None = None, **kw: object) -> object:
        return forward(attention_mask=None, **kw)

    monkeypatch.setattr(maskless, "__signature__", inspect.signature(forward), raising=False)
    monkeypatch.setattr(model, "forward", maskless)
    assert not opened(model).reach
    assert "nats off" in caplog.text


def test_a_prompt_that_the_model_cannot_read_is_an_error() -> None:
    lm = opened(build("gpt2"))
    assert lm.excess(Query("p", "x" * 600, "y")) == 90
    with pytest.raises(ExtractError, match="prompt of 602 tokens is longer than the 512"):
        lm.log_probs([Query("p", "x" * 600, "y")])
    with pytest.raises(ExtractError, match="no tokens"):
        lm.log_probs([Query("", "", "y")])


def test_a_score_that_is_not_finite_is_an_error() -> None:
    lm = opened(llama())
    assert lm.reach
    with torch.no_grad():
        lm.model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(ExtractError, match="float32"):
        lm.log_probs(ABC)


def test_the_fingerprint_tells_weights_and_formats_apart() -> None:
    changed = llama()
    with torch.no_grad():
        changed.model.layers[1].mlp.up_proj.weight[3, 5] += 0.1
    models = [llama(), llama(seed=1), changed, llama().bfloat16()]
    known = {opened(model).fingerprint for model in models}
    assert len(known) == 4
    # the template is part of the prompt, not of the model
    plain = LocalLanguageModel(llama(), byte_tokenizer(chat=False), name="m")
    assert plain.fingerprint in known
    assert plain.chat_prompt("hello") is None
    with pytest.raises(ModelError, match="has no chat template"):
        plain.generate(["hello"], SHORT)


@pytest.fixture
def writer() -> LocalLanguageModel:
    return opened(llama(vocabulary=512))


def test_replies_are_those_of_the_chat_template_padded_by_the_tokenizer(writer: LocalLanguageModel) -> None:
    tokenizer: Any = byte_tokenizer()
    tokenizer.padding_side = "left"
    prompts = ["hi", "a longer prompt"]
    inputs = tokenizer.apply_chat_template(
        [[{"role": "user", "content": prompt}] for prompt in prompts],
        add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True,
    )  # fmt: skip
    model: Any = writer.model
    made = model.generate(**inputs, max_new_tokens=6, do_sample=False)
    texts = tokenizer.batch_decode(made[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    told: list[str] = []
    both = writer.generate(prompts, SHORT, lambda prompt, reply: told.append(prompt))
    assert told == prompts
    assert [reply.text for reply in both] == texts
    assert both == [writer.generate([prompt], SHORT)[0] for prompt in prompts]
    assert both[1].prompt_tokens == both[0].prompt_tokens + len(prompts[1]) - len(prompts[0])
    assert all(0 < reply.completion_tokens <= 6 for reply in both)


def test_a_sampled_reply_depends_on_the_seed_and_leaves_the_generator_alone(
    writer: LocalLanguageModel, tmp_path: Path
) -> None:
    prompts = [f"prompt {number}" for number in range(20)]
    state = torch.get_rng_state()
    expected = writer.generate(prompts, DRAWN)
    assert torch.equal(torch.get_rng_state(), state)
    kept = CachedLanguageModel(writer, tmp_path / "s.sqlite")
    kept.generate(prompts[:16], DRAWN)  # a batch, then the kill
    assert kept.generate(prompts, DRAWN) == expected
    other = Sampling(max_new_tokens=6, temperature=1.0, seed=1)
    assert expected != writer.generate(prompts, other)


def test_statistics_add_up_field_by_field() -> None:
    one = LMStatistics(*range(len(fields(LMStatistics))))
    assert one + one == LMStatistics(*(2 * i for i in range(len(fields(LMStatistics)))))
    assert one + one - one == one
    assert LMStatistics().tokens_per_second == 0
    assert LMStatistics(tokens_computed=10, seconds=2.0).tokens_per_second == 5.0


@pytest.mark.real
def test_smollm2_packed_equals_whole_prompts() -> None:
    lm = load_local(LMSettings(), LMRuntime(token_budget=64))
    rendered = lm.chat_prompt("Intents: card, card lost.\nMessage: @")
    assert rendered is not None
    prefix, end = rendered.split("@")
    texts = ("my card", "naïve 🙂\n")
    queries = [Query(p, t + end, a) for p in (prefix, "") for t in texts for a in ANSWERS]
    plain = LocalLanguageModel(lm.model, lm.tokens.tokenizer, packed=False).log_probs(queries)
    assert largest_difference(lm.log_probs(queries), plain) < TOLERANCE
