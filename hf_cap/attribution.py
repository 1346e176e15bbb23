"""Word attributions of a text classifier: how much each word moves the score of a label.

The members of the family differ in the points of the straight path from baseline to text at which
the gradient is taken. With `e` the word embeddings, `b` the baseline and `f` the score of the label,

    score of a token = (e − b) · Σ_k q_k ∇f(b + α_k (e − b)),    score of a word = sum over its tokens

Integrated Gradients (Sundararajan et al. 2017, arXiv 1703.01365) takes the α_k and weights q_k of a
quadrature rule, expected gradients (Erion et al. 2021, arXiv 1906.10670) random ones, and
`input_x_gradient` the single point α = 1. Scores are in units of the logit; positive = evidence *for* the
label. The baseline puts the pad embedding at every token of a word and leaves all other tokens (special
tokens, padding, what the word pattern skips) and the position embeddings as they are, so that the word
scores add up to f(text) − f(baseline).

Everything is a function of tensors and differentiable on request; `attribute_words` is the plain use.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedTokenizerBase

from .errors import ConfigError, ModelError
from .types import (
    Embeddings,
    Labels,
    Logits,
    PerExample,
    TokenIds,
    TokenMask,
    TokenScores,
    TokenWords,
    WordScores,
)
from .words import WORD_PATTERN, split_words, token_words

Inputs = Mapping[str, Tensor]
"""Arguments of the classifier's forward, one row an example; no labels."""
Shift = Callable[["Path"], Embeddings]
"""What to add to a point of the path, as a constant."""


# --- points on the path ---------------------------------------------------------------------------


def _midpoint(steps: int) -> tuple[list[float], list[float]]:
    return [(k + 0.5) / steps for k in range(steps)], [1 / steps] * steps


def _gauss_legendre(steps: int) -> tuple[list[float], list[float]]:
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    return ((nodes + 1) / 2).tolist(), (weights / 2).tolist()


def _gauss_radau(steps: int) -> tuple[list[float], list[float]]:
    # Inner nodes: roots of (P_{n-1} − P_n) / (1 − x); Abramowitz & Stegun 25.4.31, mirrored.
    legendre = np.polynomial.legendre.Legendre.basis
    inner = (legendre(steps - 1) - legendre(steps)).roots().real
    nodes = np.append(np.sort(inner)[:-1], 1.0)
    weights = (1 + nodes) / (steps * legendre(steps - 1)(nodes)) ** 2
    return ((nodes + 1) / 2).tolist(), (weights / 2).tolist()


QUADRATURES: dict[str, Callable[[int], tuple[list[float], list[float]]]] = {
    "midpoint": _midpoint,
    "gauss_legendre": _gauss_legendre,
    "gauss_radau": _gauss_radau,
}
"""Rule name to (α_k, q_k) for a number of steps; the weights add up to 1. `gauss_radau` ends at α = 1."""


def quadrature(rule: str, steps: int) -> tuple[list[float], list[float]]:
    """Points α_k in (0, 1], increasing, and weights q_k of a rule.

    Raises:
        ConfigError: there is no such rule, or fewer than one step.
    """
    if rule not in QUADRATURES:
        raise ConfigError(f"There is no quadrature {rule!r}; there are {sorted(QUADRATURES)}.")
    if steps < 1:
        raise ConfigError(f"An attribution needs at least 1 step, got {steps!r}.")
    return QUADRATURES[rule](steps)


def random_points(
    ids: TokenIds, mask: TokenMask, steps: int, seed: int
) -> Float[Tensor, "steps batch"]:
    """One random α in each of `steps` equal parts of [0, 1], from the text and the seed alone.

    The points of a text do not depend on its batch, padding or process, and no generator is advanced, so that
    resumed, accumulated and distributed training see the very same points.
    """
    place = mask.long().cumsum(-1)
    key = _mix(
        (_mix(place * 0x9E3779B1 + ids) * mask).sum(-1) + _mix(torch.full_like(ids[:, 0], seed))
    )
    strata = torch.arange(steps, device=ids.device)[:, None]
    uniform = (_mix(key + strata) >> 9).double() / 2**23  # 23 bits: exact in float32
    return ((strata + uniform) / steps).float()


def _mix(number: Tensor) -> Tensor:
    """32 well mixed bits of each integer (Mulvey's lowbias32 finaliser)."""
    number = number & 0xFFFFFFFF
    number = ((number ^ (number >> 16)) * 0x21F0AAAD) & 0xFFFFFFFF
    number = ((number ^ (number >> 15)) * 0x735A2D97) & 0xFFFFFFFF
    return number ^ (number >> 15)


Points = tuple[Float[Tensor, "steps batch"], Float[Tensor, " steps"]]
"""Positions α_k of each example on its path, and the weights q_k."""


def _fixed(alpha: Sequence[float], weights: Sequence[float], like: Tensor) -> Points:
    column = torch.tensor(alpha, dtype=torch.float32, device=like.device)[:, None]
    return column.expand(-1, len(like)), torch.tensor(
        weights, dtype=torch.float32, device=like.device
    )


METHODS: dict[str, Callable[[TokenIds, TokenMask, int, str, int], Points]] = {
    "integrated_gradients": lambda ids, mask, steps, rule, seed: _fixed(
        *quadrature(rule, steps), ids
    ),
    "expected_gradients": lambda ids, mask, steps, rule, seed: (
        random_points(ids, mask, steps, seed),
        torch.full((steps,), 1 / steps, device=ids.device),
    ),
    "input_x_gradient": lambda ids, mask, steps, rule, seed: _fixed([1.0], [1.0], ids),
}
"""Method name to a function (ids, attention mask, steps, rule, seed) -> points on the path."""


def path_points(
    method: str,
    ids: TokenIds,
    mask: TokenMask,
    *,
    steps: int = 1,
    rule: str = "midpoint",
    seed: int = 0,
) -> Points:
    """The points at which `method` takes the gradient for each example of a batch.

    Raises:
        ConfigError: there is no such method or rule.
    """
    if method not in METHODS:
        raise ConfigError(
            f"There is no attribution method {method!r}; there are {sorted(METHODS)}."
        )
    return METHODS[method](ids, mask, steps, rule, seed)


# --- what is explained ----------------------------------------------------------------------------


def _gold(logits: Logits, labels: Labels) -> PerExample:
    return logits.gather(1, labels[:, None])[:, 0]


def _contrast(logits: Logits, labels: Labels) -> PerExample:
    rivals = logits.scatter(1, labels[:, None], -torch.inf)
    return _gold(logits, labels) - rivals.logsumexp(1)


TARGETS: dict[str, Callable[[Logits, Labels], PerExample]] = {"gold": _gold, "contrast": _contrast}
"""`gold`: the label's logit. `contrast`: its log-odds, that minus the logsumexp of all other logits."""


def target_score(logits: Logits, labels: Labels, target: str = "gold") -> PerExample:
    """The score of each example that is attributed to its words.

    Raises:
        ConfigError: there is no such target.
    """
    if target not in TARGETS:
        raise ConfigError(
            f"There is no attribution target {target!r}; there are {sorted(TARGETS)}."
        )
    return TARGETS[target](at_least_float32(logits), labels)


def at_least_float32(values: Tensor) -> Tensor:
    """Half-precision values as float32; sums of many of them need it."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def pool_words(scores: TokenScores, words: TokenWords, count: int) -> WordScores:
    """Sum of the token scores of each of `count` words; tokens of no word (index -1) are left out."""
    pooled = scores.new_zeros(len(scores), count + 1).scatter_add(1, words + 1, scores)
    return pooled[:, 1:]


# --- passes through the model ---------------------------------------------------------------------


class Path(NamedTuple):
    """What one forward pass at a point of the path left behind."""

    point: Embeddings
    """Embeddings that the model went on with: b + α (e − b). The gradient is taken with respect to these."""
    difference: Embeddings
    """e − b, zero at tokens of no word."""


def pad_token(model: nn.Module) -> int:
    """Id of the token whose embedding is the baseline.

    Raises:
        ModelError: the model's configuration names no pad token.
    """
    pad = getattr(getattr(model, "config", None), "pad_token_id", None)
    if pad is None:
        raise ModelError(
            "The attribution's baseline is the pad embedding, but the model's `config.pad_token_id` is None. "
            "Set it, for instance `model.config.pad_token_id = tokenizer.pad_token_id`."
        )
    return int(pad)


@contextmanager
def on_path(
    model: nn.Module, words: TokenWords, alpha: PerExample | None = None, shift: Shift | None = None
) -> Iterator[list[Path]]:
    """While open, the model's next forward pass runs at a point of the path instead of at its input.

    A hook on the word-embedding layer does it. So the forward pass stays the model's own: position ids, masks
    and pooling follow the real tokens, on the left and on the right of padding, and sharded weights are whole
    when they are read.

    Args:
        model: The classifier itself, not a distributed wrapper around it.
        words: Word of each token.
        alpha: Position of each row on the path; `None` leaves the input as it is (α = 1).
        shift: Moves the point, for finite differences.

    Yields:
        A list to which the pass adds its record.
    """
    seen: list[Path] = []
    pad = pad_token(model)

    def move(module: nn.Module, args: tuple[Any, ...], embeddings: Tensor) -> Tensor:
        if seen:  # an encoder-decoder embeds a second time, for its decoder
            return embeddings
        ids = args[0]
        # `forward`, because calling the module would run this hook again
        baseline = module.forward(torch.where(words >= 0, pad, ids))
        difference = (embeddings - baseline) * (words >= 0)[..., None]
        point = embeddings
        if alpha is not None:
            point = embeddings + (alpha.to(embeddings.dtype) - 1)[:, None, None] * difference
        if not point.requires_grad:  # frozen embeddings, as under LoRA
            point = point.detach().requires_grad_()
        path = Path(point, difference)
        seen.append(path)
        return point if shift is None else point + shift(path).detach().to(point.dtype)

    handles = [layer.register_forward_hook(move) for layer in _embedding_layers(model)]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _embedding_layers(model: nn.Module) -> list[nn.Module]:
    """The word-embedding layer and its twins: T5's encoder reads the shared table by one of its own."""
    layer: nn.Module = model.get_input_embeddings()  # type: ignore[operator]
    twins = [m for m in model.modules() if type(m) is type(layer) and m.weight is layer.weight]
    return twins or [layer]


def only_path(seen: list[Path], model: nn.Module) -> Path:
    """The record of the pass that ran under `on_path`.

    Raises:
        ModelError: the pass did not go through the word-embedding layer.
    """
    if not seen:
        raise ModelError(
            f"{type(model).__name__} did not use its `get_input_embeddings()` layer in the forward "
            "pass, so its words cannot be attributed. Give a model that embeds `input_ids` itself."
        )
    return seen[0]


def math_attention() -> AbstractContextManager[Any]:
    """Attention by the kernel that has a second derivative; to be open during the forward pass."""
    return sdpa_kernel(SDPBackend.MATH)


@contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """Every module as in evaluation, because a difference of two scores needs the same network twice.

    It also switches off checkpointing, which would make the layers again outside of this context.
    """
    modules = [module for module in model.modules() if module.training]
    for module in modules:
        module.training = False
    try:
        yield
    finally:
        for module in modules:
            module.training = True


@dataclass(frozen=True)
class Explained:
    """A classifier, a batch and the labels to explain; calling it runs a pass at points of the path."""

    model: nn.Module
    inputs: Inputs
    labels: Labels
    words: TokenWords
    target: str = "gold"

    def __call__(
        self, alpha: Float[Tensor, "steps batch"], shift: Shift | None = None
    ) -> tuple[Float[Tensor, "steps batch"], Path]:
        """Scores at several points of each example's path, in one forward pass.

        Args:
            alpha: Positions on the path, a row for each step.
            shift: As for `on_path`.

        Returns:
            The scores, and the record of the pass with `steps · batch` rows, step by step.
        """
        steps = len(alpha)
        repeated = {
            name: value.repeat(steps, *[1] * (value.dim() - 1))
            for name, value in self.inputs.items()
        }
        with on_path(self.model, self.words.repeat(steps, 1), alpha.flatten(), shift) as seen:
            outputs = self.model(**repeated)
        path = only_path(seen, self.model)
        logits = outputs["logits"] if isinstance(outputs, dict) else outputs[0]
        scores = target_score(logits, self.labels.repeat(steps), self.target)
        return scores.view(steps, -1), path


def token_scores(
    score: Float[Tensor, "steps batch"],
    path: Path,
    weights: Float[Tensor, " steps"],
    *,
    create_graph: bool = False,
    keep: bool = False,
) -> tuple[TokenScores, Embeddings]:
    """Token scores from one forward pass at points of the path.

    Args:
        score: Scores of the pass.
        path: Its record.
        weights: q_k of each step.
        create_graph: Keep the graph of the gradient, so that the scores can be differentiated.
        keep: Keep the graph of the forward pass, for another use of it.

    Returns:
        Token scores Σ_k q_k ∇f · (e − b), and the mean gradient Σ_k q_k ∇f that they are made of.
    """
    (gradient,) = torch.autograd.grad(
        score.sum(), path.point, create_graph=create_graph, retain_graph=create_graph or keep
    )
    gradient = torch.einsum(
        "k,kbth->bth", weights.to(gradient.dtype), gradient.unflatten(0, (len(weights), -1))
    )
    return at_least_float32(gradient * path.difference[: len(gradient)]).sum(-1), gradient


def path_scores(
    explained: Explained, points: Points, *, rows: int | None = None, create_graph: bool = False
) -> tuple[TokenScores, Embeddings]:
    """Token scores and mean gradient over a whole path.

    Args:
        explained: Model, batch and labels.
        points: Where the gradient is taken, and with what weights.
        rows: Most path points (steps · batch) in one pass; one step at least, all by default.
        create_graph: As for `token_scores`.
    """
    parts = [
        token_scores(*explained(alpha), weights, create_graph=create_graph)
        for alpha, weights in split_points(points, rows)
    ]
    return torch.stack([s for s, _ in parts]).sum(0), torch.stack([g for _, g in parts]).sum(0)


def split_points(points: Points, rows: int | None) -> Iterator[Points]:
    """The points in groups of whole steps, none with more than `rows` rows unless a single step has."""
    alpha, weights = points
    per_pass = max(1, (rows or alpha.numel()) // max(alpha.shape[1], 1))
    return zip(alpha.split(per_pass), weights.split(per_pass), strict=True)


# --- plain attributions ---------------------------------------------------------------------------


def attribute_words(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    targets: Sequence[int],
    *,
    method: str = "integrated_gradients",
    steps: int = 50,
    rule: str = "gauss_legendre",
    target: str = "gold",
    batch_size: int = 32,
    word_pattern: str = WORD_PATTERN,
    max_length: int | None = None,
    seed: int = 0,
) -> list[list[float]]:
    """Attribution scores of the words of some texts; nothing can be differentiated through them.

    With the defaults they are captum's `LayerIntegratedGradients` on the word embeddings, summed over the
    hidden dimension and the tokens of each word.

    Args:
        model: A sequence classifier; runs in evaluation mode and is put back into its own.
        tokenizer: Its fast tokenizer.
        texts: The texts.
        targets: The label to explain, for each text.
        method: One of `METHODS`.
        steps: Points on the path.
        rule: One of `QUADRATURES`; used by `integrated_gradients`.
        target: One of `TARGETS`.
        batch_size: Path points (texts · steps) in one pass.
        word_pattern: Regular expression of a word.
        max_length: Tokens that a text is cut at; the tokenizer's own limit by default. Words cut off score 0.
        seed: Of the random points of `expected_gradients`.

    Returns:
        One list a text, one score a word, in logits; positive speaks for the target.
    """
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    per_batch = max(1, batch_size // (1 if method == "input_x_gradient" else steps))
    result: list[list[float]] = [[]] * len(texts)
    with _evaluating(model), torch.enable_grad():
        for start in range(0, len(order), per_batch):
            rows = order[start : start + per_batch]
            inputs, words = _encode([texts[i] for i in rows], tokenizer, word_pattern, max_length)
            inputs, words = _to(inputs, words, next(model.parameters()).device)
            labels = torch.tensor([targets[i] for i in rows], device=words.device)
            points = path_points(
                method,
                inputs["input_ids"],
                inputs["attention_mask"],
                steps=steps,
                rule=rule,
                seed=seed,
            )
            scores, _ = path_scores(
                Explained(model, inputs, labels, words, target), points, rows=batch_size
            )
            counts = [len(split_words(texts[i], word_pattern)) for i in rows]
            for i, count, row in zip(
                rows, counts, pool_words(scores, words, max(counts)).tolist(), strict=True
            ):
                result[i] = row[:count]
    return result


def check_offsets(tokenizer: Any) -> None:
    """Refuse a tokenizer that cannot say where in the text its tokens come from.

    Raises:
        ModelError: the tokenizer is not a fast one.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(
            f"Words are found by character offsets, which {type(tokenizer).__name__} does not give. "
            "Load a fast tokenizer: `AutoTokenizer.from_pretrained(..., use_fast=True)`."
        )


def _encode(
    texts: list[str], tokenizer: PreTrainedTokenizerBase, pattern: str, max_length: int | None
) -> tuple[dict[str, Tensor], TokenWords]:
    check_offsets(tokenizer)
    batch = tokenizer(
        texts,
        truncation=True,
        max_length=max_length,
        padding=True,
        return_offsets_mapping=True,
        return_tensors="pt",
    )
    offsets = batch.pop("offset_mapping").tolist()
    words = [
        token_words(map(tuple, spans), split_words(text, pattern), text)
        for text, spans in zip(texts, offsets, strict=True)
    ]
    return dict(batch), torch.tensor(words)


def _to(
    inputs: Inputs, words: TokenWords, device: torch.device
) -> tuple[dict[str, Tensor], TokenWords]:
    return {name: value.to(device) for name, value in inputs.items()}, words.to(device)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
