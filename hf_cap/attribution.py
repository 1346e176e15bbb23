"""Word attributions of a classifier: Integrated Gradients and its relatives, plain and differentiable.

Tensor roles are named types with shapes: `batch` texts, `tokens` positions of the padded batch, `words`
of the longest text in the batch, `hidden` embedding width, `labels` size of the label space.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple, TypeAlias, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import BatchEncoding, PreTrainedTokenizerBase

from hf_cap.classifiers import evaluation_mode, first_token_only, longest_input
from hf_cap.errors import ConfigError, ModelError
from hf_cap.progress import progress
from hf_cap.schema import AttributionMethod
from hf_cap.utils import choose
from hf_cap.words import WORD_PATTERN, share_scores, split_words, token_hosts, token_words

TokenIds: TypeAlias = Int[Tensor, "batch tokens"]
TokenScores: TypeAlias = Float[Tensor, "batch tokens"]
TokenMask: TypeAlias = Bool[Tensor, "batch tokens"] | Int[Tensor, "batch tokens"]
TokenWords: TypeAlias = Int[Tensor, "batch tokens"]
"""Index of the word that a token belongs to, -1 for none."""
Embeddings: TypeAlias = Float[Tensor, "batch tokens hidden"]
WordScores: TypeAlias = Float[Tensor, "batch words"]
WordMask: TypeAlias = Bool[Tensor, "batch words"]
"""True where a word exists and takes part; padding and truncated words are False."""
Logits: TypeAlias = Float[Tensor, "batch labels"]
Labels: TypeAlias = Int[Tensor, " batch"]
PerExample: TypeAlias = Float[Tensor, " batch"]
Scalar: TypeAlias = Float[Tensor, ""]


# --- What is attributed, and how the scores of tokens become scores of words.


def _gold(logits: Logits, labels: Labels) -> PerExample:
    return logits.gather(1, labels[:, None])[:, 0]


def _contrast(logits: Logits, labels: Labels) -> PerExample:
    rivals = logits.scatter(1, labels[:, None], -torch.inf)
    return _gold(logits, labels) - rivals.logsumexp(1)


TARGETS: dict[str, Callable[[Logits, Labels], PerExample]] = {"gold": _gold, "contrast": _contrast}
"""`gold`: the label's logit. `contrast`: its log-odds, that minus the logsumexp of all other logits."""


def target_score(logits: Logits, labels: Labels, target: str = "gold") -> PerExample:
    """The score of each example that is attributed to its words, in at least single precision."""
    return choose(TARGETS, target, "attribution target")(at_least_float32(logits), labels)


def at_least_float32(values: Tensor) -> Tensor:
    """Half-precision values as float32; sums of many of them need it."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def pool_words(scores: TokenScores, words: TokenWords, count: int) -> WordScores:
    """Sum of the token scores of each of `count` words; tokens of no word (index -1) are left out."""
    pooled = scores.new_zeros(len(scores), count + 1).scatter_add(1, words + 1, scores)
    return pooled[:, 1:]


# --- Where on the path from baseline to text the gradient is taken: quadratures and random points.


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
"""Rule name to points α_k in (0, 1], increasing, and weights q_k, of sum 1, for a number of steps."""


def random_points(ids: TokenIds, mask: TokenMask, steps: int, seed: int) -> Float[Tensor, "steps batch"]:
    """One random α in each of `steps` equal parts of [0, 1], from the text and the seed alone.

    The points of a text do not depend on its batch, padding or process, and no generator is advanced, so that
    resumed, accumulated and distributed training see the very same points.
    """
    strata = torch.arange(steps, device=ids.device)[:, None]
    return ((strata + random_uniform(ids, mask, steps, seed)) / steps).float()


def random_uniform(ids: TokenIds, mask: TokenMask, count: int, seed: int) -> Float[Tensor, "count batch"]:
    """`count` numbers in [0, 1) for each text, from its tokens and the seed alone, in float64."""
    place = mask.long().cumsum(-1)
    tokens = (_mix(place * 0x9E3779B1 + ids) * mask).sum(-1)
    key = _mix(tokens + _mix(torch.full_like(ids[:, 0], seed)))
    number = torch.arange(count, device=ids.device)[:, None]
    return (_mix(key + number) >> 9).double() / 2**23  # 23 bits: exact in float32


def _mix(number: Tensor) -> Tensor:
    """32 well mixed bits of each integer (Mulvey's lowbias32 finaliser)."""
    number = number & 0xFFFFFFFF
    number = ((number ^ (number >> 16)) * 0x21F0AAAD) & 0xFFFFFFFF
    number = ((number ^ (number >> 15)) * 0x735A2D97) & 0xFFFFFFFF
    return number ^ (number >> 15)


Points = tuple[Float[Tensor, "steps batch"], Float[Tensor, " steps"]]
"""Positions α_k of each example on its path, and the weights q_k."""

METHODS = get_args(AttributionMethod)


def path_points(
    method: str, ids: TokenIds, mask: TokenMask, *, steps: int = 1, rule: str = "midpoint", seed: int = 0
) -> Points:
    """The points at which `method` takes the gradient for each example of a batch."""
    if method not in METHODS:
        raise ConfigError(f"There is no attribution method {method!r}; there are {METHODS}.")
    if steps < 1:
        raise ConfigError(f"An attribution needs at least 1 step, got {steps!r}.")
    if method == "expected_gradients":
        positions, weights = random_points(ids, mask, steps, seed), [1 / steps] * steps
    else:
        quadrature = choose(QUADRATURES, rule, "quadrature")
        alpha, weights = ([1.0], [1.0]) if method == "input_x_gradient" else quadrature(steps)
        column = torch.tensor(alpha, dtype=torch.float32, device=ids.device)[:, None]
        positions = column.expand(-1, len(ids))
    return positions, torch.tensor(weights, dtype=torch.float32, device=ids.device)


def split_points(points: Points, rows: int | None) -> Iterator[Points]:
    """The points in groups of whole steps, none with more than `rows` rows unless a single step has."""
    alpha, weights = points
    per_pass = max(1, (rows or alpha.numel()) // max(alpha.shape[1], 1))
    return zip(alpha.split(per_pass), weights.split(per_pass), strict=True)


# --- A forward pass at a point of the path instead of at the text, by a hook on the word embeddings.


class Path(NamedTuple):
    """What one forward pass at a point of the path left behind."""

    point: Embeddings
    """Embeddings that the model went on with: b + α (e − b). The gradient is taken with respect to these."""
    difference: Embeddings  # e − b, zero at tokens of no word


Shift = Callable[[Path], Embeddings]


def pad_token(model: nn.Module) -> int:
    """Id of the token whose embedding is the baseline; a `ModelError` where the model has none."""
    pad = getattr(getattr(model, "config", None), "pad_token_id", None)
    if pad is None:
        raise ModelError(
            "The attribution's baseline is the pad embedding, but `model.config.pad_token_id` is None. "
            "Set it, for instance to `tokenizer.pad_token_id`."
        )
    return int(pad)


@contextmanager
def on_path(
    model: nn.Module, words: TokenWords, alpha: PerExample, shift: Shift | None = None
) -> Iterator[list[Path]]:
    """Run the model's next forward pass at a point of the path, and yield a list that gets its record.

    A hook on the word-embedding layer keeps the pass the model's own: position ids, masks and pooling
    follow the real tokens, on either side of padding, and sharded weights are whole when they are read.
    `shift` gives what to add to the point, as a constant.
    """
    seen: list[Path] = []
    pad = pad_token(model)

    def add_pad(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if seen:  # an encoder-decoder embeds a second time, for its decoder
            return None
        # The baseline is looked up as one more token: a second look-up would cost a second gradient of the
        # size of the table, and find the weights of a sharded layer already freed.
        ids = args[0]
        return torch.cat([ids, ids.new_full((len(ids), 1), pad)], dim=1), *args[1:]

    def move(module: nn.Module, args: tuple[Any, ...], embedded: Tensor) -> Tensor:
        if seen:
            return embedded
        embeddings, baseline = embedded[:, :-1], embedded[:, -1:]
        difference = (embeddings - baseline) * (words >= 0)[..., None]
        point = embeddings + (alpha.to(embeddings.dtype) - 1)[:, None, None] * difference
        if not point.requires_grad:  # frozen embeddings, as under LoRA
            point = point.detach().requires_grad_()
        path = Path(point, difference)
        seen.append(path)
        return point if shift is None else point + shift(path).detach().to(point.dtype)

    table: nn.Module = model.get_input_embeddings()  # type: ignore[operator]
    # T5's encoder reads the shared table by a layer of its own
    twins = [m for m in model.modules() if type(m) is type(table) and m.weight is table.weight]
    with ExitStack() as hooks:
        for layer in twins or [table]:
            hooks.callback(layer.register_forward_pre_hook(add_pad).remove)
            hooks.callback(layer.register_forward_hook(move).remove)
        yield seen


# --- Passes through the classifier and the token scores that their gradients give.


class TextBatch(NamedTuple):
    """A batch of tokenised texts and what is attributed to their words."""

    inputs: Mapping[str, Tensor]
    """Arguments of the classifier's forward, one row per example; no labels."""
    labels: Labels
    words: TokenWords
    target: str = "gold"


def score_points(
    model: nn.Module, batch: TextBatch, alpha: Float[Tensor, "steps batch"], shift: Shift | None = None
) -> tuple[Float[Tensor, "steps batch"], Path]:
    """Target scores at the positions `alpha` of each text's path, in one forward pass.

    Args:
        model: The classifier itself, not a distributed wrapper around it.
        alpha: Positions on the path, one row per step.

    Returns:
        The scores, and the record of the pass with `steps · batch` rows, step by step.
    """
    steps = len(alpha)
    repeated = {name: value.repeat(steps, *[1] * (value.dim() - 1)) for name, value in batch.inputs.items()}
    with on_path(model, batch.words.repeat(steps, 1), alpha.flatten(), shift) as seen:
        outputs = model(**repeated)
    if not seen:
        raise ModelError(
            f"{type(model).__name__} does not embed `input_ids` by its `get_input_embeddings()` "
            "layer, so its words cannot be attributed. Use another model."
        )
    logits = outputs["logits"] if isinstance(outputs, dict) else outputs[0]
    scores = target_score(logits, batch.labels.repeat(steps), batch.target)
    return scores.view(steps, -1), seen[0]


def path_scores(
    model: nn.Module, batch: TextBatch, points: Points, *, rows: int | None = None, create_graph: bool = False
) -> tuple[TokenScores, Embeddings]:
    """Token scores Σ_k q_k ∇f(x_k) · (e − b), and the mean gradient Σ_k q_k ∇f(x_k).

    At most `rows` points (steps · batch) are in one pass, but at least one step; all by default. With
    `create_graph` the scores can be differentiated.
    """
    scores, gradients = [], []
    for alpha, weights in split_points(points, rows):
        score, path = score_points(model, batch, alpha)
        (gradient,) = torch.autograd.grad(score.sum(), path.point, create_graph=create_graph)
        gradient = torch.einsum(
            "k,kbth->bth", weights.to(gradient.dtype), gradient.unflatten(0, (len(weights), -1))
        )
        scores.append(at_least_float32(gradient * path.difference[: len(gradient)]).sum(-1))
        gradients.append(gradient)
    return torch.stack(scores).sum(0), torch.stack(gradients).sum(0)


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
    on_batch: Callable[[list[int], TextBatch], object] = lambda rows, batch: None,
) -> list[list[float]]:
    """Attribution scores of the words of some texts, without a graph; a token's words share its score.

    Args:
        model, tokenizer: A sequence classifier, which runs in evaluation mode, and its fast tokenizer.
        texts, targets: What to explain, and the label to explain for each text.
        method, steps, rule, seed, target: As for `path_points`, and one of `TARGETS`. The defaults give
            captum's `LayerIntegratedGradients` of the word embeddings, summed over each word.
        batch_size: Path points (texts · steps) in one pass.
        word_pattern, max_length: Of a word and, in tokens, of a text; words cut off score 0.
        on_batch: Called with the places of some texts and their tokens.

    Returns:
        One list per text, one score per word, in logits; positive speaks for the target.

    Raises:
        ConfigError: there is no such method, rule or target, or fewer than one step.
        ModelError: there is no pad token, the model embeds no `input_ids`, or the tokenizer is slow.
    """
    check_offsets(tokenizer)
    max_length, device = max_length or longest_input(model, tokenizer), next(model.parameters()).device
    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
    size = max(1, batch_size // (1 if method == "input_x_gradient" else max(1, steps)))
    found, path = dict[int, list[float]](), {"steps": steps, "rule": rule, "seed": seed}
    with progress(len(order), "texts", "Attributions") as work:
        for rows in (order[start : start + size] for start in range(0, len(order), size)):
            some = [texts[row] for row in rows]
            inputs, words, hosts = _encode(tokenizer, some, word_pattern, max_length)
            labels = torch.tensor([targets[row] for row in rows], device=device)
            batch = TextBatch(inputs.to(device), labels, words.to(device), target)
            scores = _word_scores(model, batch, hosts, batch_size, method, **path)
            found |= dict(zip(rows, scores, strict=True))
            on_batch(rows, batch)
            work.update(len(rows))
    return [found[row] for row in range(len(texts))]


def _word_scores(
    model: nn.Module, batch: TextBatch, hosts: Sequence[Sequence[int]], rows: int, method: str, **path: Any
) -> Iterator[list[float]]:
    points = path_points(method, batch.inputs["input_ids"], batch.inputs["attention_mask"], **path)
    with evaluation_mode(model), first_token_only(model), torch.enable_grad():
        scores, _ = path_scores(model, batch, points, rows=rows)
    pooled = pool_words(scores, batch.words, max(map(len, hosts))).tolist()
    for one, words in zip(pooled, hosts, strict=True):
        yield share_scores(one[: len(words)], words)


def _encode(
    tokenizer: Any, texts: list[str], pattern: str, max_length: int
) -> tuple[BatchEncoding, TokenWords, list[list[int]]]:
    """The tokenised texts, the word of each token, and for each word the one whose tokens it shares."""
    # on the right, as the head may read the first token
    options = {"truncation": True, "max_length": max_length, "padding": True, "padding_side": "right"}
    encoded = tokenizer(texts, return_offsets_mapping=True, return_tensors="pt", **options)
    offsets = encoded.pop("offset_mapping").tolist()
    spans = [split_words(text, pattern) for text in texts]
    words = list(map(token_words, offsets, spans, texts))
    return encoded, torch.tensor(words), list(map(token_hosts, offsets, words, spans))


def check_offsets(tokenizer: Any) -> None:
    """Raise `ModelError` if a tokenizer does not give the place of its tokens in the text."""
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(
            f"Words are found by character offsets, which {type(tokenizer).__name__} does not give. "
            "Load a fast tokenizer: `AutoTokenizer.from_pretrained(..., use_fast=True)`."
        )
