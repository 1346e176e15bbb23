"""Word dropout guided by the prior: words that it gives little are left out of many training passes."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hf_cap.attribution import TokenWords, random_uniform

Words = Float[Tensor, "batch words"]


def keep_probability(
    scores: Words, mask: Bool[Tensor, "batch words"], dropout: float, saturation: float
) -> Words:
    """Probability that a word stays: 1 − dropout at score 0, 1 from `saturation` · highest score on.

    Args:
        scores: Prior of each word; those below 0 count as 0.
        mask: Which entries are words.
        dropout: Highest probability to leave a word out, in [0, 1].
        saturation: Part of the text's highest score from which on a word always stays, in (0, 1].

    Returns:
        Probabilities in [1 − dropout, 1]; 1 in texts whose prior is zero everywhere.
    """
    scores = scores.clamp(min=0) * mask
    highest = scores.amax(1, keepdim=True)
    part = torch.where(highest > 0, scores / (saturation * highest).clamp(min=1e-12), 1.0)
    return 1 - dropout * (1 - part.clamp(max=1))


def drop_words(
    inputs: dict[str, Tensor], words: TokenWords, keep: Words, *, pad: int, seed: int
) -> dict[str, Tensor]:
    """The inputs without the tokens of the words that are left out; the rest moves up, as if never written.

    What is left out depends on the seed, the text and the word alone, so that resumed, accumulated and
    distributed training leave out the same. One word stays at least.

    Args:
        inputs: Model inputs with one entry per token, padded on the right; other entries stay as they are.
        words: Word of each token, −1 for none.
        keep: Probability that each word stays, in [0, 1].
        pad: Id of the pad token.
        seed: Of this step.
    """
    ids, attended = inputs["input_ids"], inputs["attention_mask"].bool()
    margin = keep - random_uniform(ids, attended, keep.shape[1], seed).T
    real = torch.zeros_like(margin).scatter_add_(1, words.clamp(min=0), (words >= 0).to(margin))
    margin = margin.masked_fill(real == 0, -2)  # words that were cut off cannot stay alone
    stays = (margin > 0) | (margin == margin.amax(1, keepdim=True))
    of_token = stays.gather(1, words.clamp(min=0)) | (words < 0)
    kept = of_token & attended
    order = (~kept).long().argsort(dim=1, stable=True)
    width = int(kept.sum(1).max())
    found = dict(inputs)
    for name, value in inputs.items():
        if value.shape == ids.shape:
            found[name] = value.gather(1, order)[:, :width]
    found["attention_mask"] = kept.gather(1, order)[:, :width].to(inputs["attention_mask"].dtype)
    found["input_ids"] = found["input_ids"].masked_fill(found["attention_mask"] == 0, pad)
    return found
