"""The concepts that the predictions of a classifier are made of, and the words that carry them.

After CRAFT (Fel et al. 2023, https://arxiv.org/abs/2211.10154) and its form for texts, COCKATIEL
(Jourdan et al. 2023, https://arxiv.org/abs/2305.06754): what the last layer reads of all texts that are
predicted as one label is factorized into non-negative amounts of a few concepts; the words of a concept
are those without which a text has less of it.

Both need activations that are not negative. Those of a pooled embedding are signed, so each is split into
its positive part and the size of its negative one, `[max(a, 0), max(-a, 0)]`. ReLU would drop half of what
the last layer reads; the split drops nothing, and a concept is the difference of its halves. As the layer
is linear, gradient times amount is exact where both papers estimate Sobol indices: concepts, what they
leave over and the bias sum to the logit.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.optimize import nnls
from sklearn.decomposition import NMF
from sklearn.preprocessing import normalize
from torch import Tensor, nn

from hf_cap.errors import ModelError
from hf_cap.evaluation.classifier import Classifier, FloatArray
from hf_cap.sentence_encoder import CosineHead
from hf_cap.words import fold, is_punctuation, split_words, without_words

_TEXTS, _WORDS = 10, 6
"""Texts with most of a concept whose words are left out in turn, and words that are named."""


def split_signs(activations: FloatArray) -> FloatArray:
    """Positive parts beside the sizes of negative ones: `(texts, hidden)` to `(texts, 2 * hidden)`."""
    return np.hstack([np.maximum(activations, 0), np.maximum(-activations, 0)])


def find_concepts(activations: FloatArray, count: int, seed: int = 0) -> FloatArray:
    """At most `count` concepts in signed activations, as unit vectors `(concepts, 2 * hidden)`.

    They have no negative values and are laid out as by `split_signs`; there are never more than texts.
    """
    values = split_signs(activations)
    options = {"init": "nndsvda", "max_iter": 2000, "tol": 1e-3, "random_state": seed}
    parts = NMF(min(count, *values.shape), **options).fit(values).components_
    found: FloatArray = normalize(parts[parts.any(axis=1)])
    return found[amounts(found, activations).any(axis=0)]  # what no text has is left out


def amounts(concepts: FloatArray, activations: FloatArray) -> FloatArray:
    """How much of each concept is in each text: non-negative least squares, `(texts, concepts)`."""
    rows = [nnls(concepts.T, row)[0] for row in split_signs(activations)]
    return np.array(rows).reshape(-1, len(concepts))


def directions(concepts: FloatArray) -> FloatArray:
    """Concepts as signed vectors of activations, `(concepts, hidden)`."""
    positive, negative = np.hsplit(concepts, 2)
    return positive - negative


def contributions(
    concepts: FloatArray, activations: FloatArray, weight: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """What each concept adds to a linear output with these weights `(hidden,)`, and what is left over.

    The `(texts, concepts)` and the `(texts,)` that are returned sum to `activations @ weight`.
    """
    given, parts = amounts(concepts, activations), directions(concepts)
    return given * (parts @ weight), (activations - given @ parts) @ weight


class LastLayer:
    """The linear last layer of a classifier: `weights`, `(labels, hidden)`, and what it reads of texts."""

    def __init__(self, classifier: Classifier) -> None:
        layers = [m for m in classifier.model.modules() if isinstance(m, nn.Linear | CosineHead)]
        if not layers or len(layers[-1].weight) != len(classifier.labels):
            raise ModelError("Concepts need a classifier whose last layer is linear.")
        self.classifier, self.layer = classifier, layers[-1]
        scaled = getattr(self.layer, "scale", 1.0) * self.layer.weight
        self.weights: FloatArray = scaled.detach().double().cpu().numpy()

    def __call__(self, texts: Sequence[str]) -> FloatArray:
        """What the layer reads of each text, `(texts, hidden)`; a `ModelError` if that is no vector."""
        read: list[Tensor] = []

        def answer(inputs: Mapping[str, Tensor]) -> Tensor:
            self.classifier.model(**inputs)
            if read[-1].ndim != 2:
                raise ModelError("Concepts need a last layer that reads one vector per text.")
            return read.pop()

        encoded, width = self.classifier.encode(texts), self.weights.shape[1]
        with self.layer.register_forward_pre_hook(lambda module, given: read.append(given[0])):
            return self.classifier.passes(encoded, width, answer).double().numpy()


def concept_audit(
    classifier: Classifier, texts: Sequence[str], gold: Sequence[int], count: int
) -> dict[str, Any]:
    """The concepts of each predicted label, and those by which labels are confused.

    Args:
        classifier: Its last layer is linear and reads one vector per text.
        texts: What it is asked about.
        gold: Index of the right label of each.
        count: Most concepts per label.

    Returns:
        `labels`: for each predicted label its `texts`, `left` (size of what the concepts leave over, as a
        share of the activations', in [0, 1]) and `concepts`, the largest first: `importance` (mean addition
        to the label's logit above the mean of all logits, which is what a softmax sees), `words` (without
        which it is less), `text` (with most of it), `nearest` (concept of another label with the highest
        cosine: `label`, `concept`, `cosine`). `confusions`: for pairs of labels, the most frequent first,
        `gold`, `predicted`, `texts`, and the `concept` of the predicted label that adds most to its logit
        above the gold one's, `by` so much. `shared`: the mean cosine of the nearest concepts.
    """
    names, layer = classifier.labels, LastLayer(classifier)
    read, right = layer(texts), np.asarray(gold)
    logits = classifier.logits(texts).numpy()
    if np.ptp(logits - read @ layer.weights.T, axis=0).max() > 1e-2:
        raise ModelError("Concepts need a classifier whose logits are those of its last layer.")
    found, labels, confusions = dict[str, FloatArray](), dict[str, dict[str, Any]](), []
    for label in np.unique(predicted := logits.argmax(axis=1)).tolist():
        own, weight = predicted == label, layer.weights[label]
        above, concepts = weight - layer.weights.mean(axis=0), find_concepts(read[own], count)
        added, _ = contributions(concepts, read[own], above)
        concepts = concepts[(-added.mean(axis=0)).argsort(kind="stable")]
        told = [texts[row] for row in np.flatnonzero(own).tolist()]
        labels[names[label]] = _of_label(layer, concepts, read[own], told, above)
        found[names[label]] = directions(concepts)
        for other in sorted({*right[own].tolist()} - {label}):
            rows = own & (right == other)
            pull = contributions(concepts, read[rows], weight - layer.weights[other])[0].mean(0)
            one = {"gold": names[other], "predicted": names[label], "texts": int(rows.sum())}
            confusions.append({**one, "concept": int(pull.argmax()), "by": float(pull.max())})
    nearest = _nearest(found)
    for (name, place), near in nearest.items():
        labels[name]["concepts"][place]["nearest"] = near
    confusions.sort(key=lambda one: -one["texts"])
    cosines = [near["cosine"] for near in nearest.values()]
    shared = float(np.mean(cosines)) if cosines else None
    return {"labels": labels, "confusions": confusions, "shared": shared}


def _of_label(
    layer: LastLayer, concepts: FloatArray, read: FloatArray, texts: Sequence[str], weight: FloatArray
) -> dict[str, Any]:
    """What is told of the concepts of a label, by the texts that are predicted as it."""
    given = amounts(concepts, read)
    added = contributions(concepts, read, weight)[0].mean(axis=0).tolist()
    left = np.linalg.norm(read - given @ directions(concepts)) / np.linalg.norm(read)
    told = zip(added, _words(layer, concepts, texts, given), given.argmax(0), strict=True)
    rows = [
        {"importance": size, "words": words, "text": texts[most], "nearest": None}
        for size, words, most in told
    ]
    return {"texts": len(texts), "left": float(left), "concepts": rows}


def _words(
    layer: LastLayer, concepts: FloatArray, texts: Sequence[str], given: FloatArray
) -> list[list[str]]:
    """The words of each concept: those without which the texts with most of it have less."""
    top = (-given).argsort(axis=0, kind="stable")[:_TEXTS]
    lost: list[tuple[int, str, str]] = []
    for row in np.unique(top).tolist():
        text, spans = texts[row], split_words(texts[row], layer.classifier.word_pattern)
        for place, (start, end) in enumerate(spans):
            if len(spans) > 1 and not is_punctuation(text[start:end]):
                lost.append((row, fold(text[start:end]), without_words(text, spans, [place])))
    falls: list[dict[str, float]] = [defaultdict(float) for _ in concepts]
    after = amounts(concepts, layer([text for _, _, text in lost]))
    for (row, word, _), left in zip(lost, after, strict=True):
        for concept in np.flatnonzero((top == row).any(axis=0)):
            falls[concept][word] += float(given[row, concept] - left[concept])
    best = [sorted(fall, key=lambda word: (-fall[word], word))[:_WORDS] for fall in falls]
    return [[w for w in some if fall[w] > 0] for fall, some in zip(falls, best, strict=True)]


def _nearest(found: Mapping[str, FloatArray]) -> dict[tuple[str, int], dict[str, Any]]:
    """Label and place of each concept to the nearest concept of another label; empty for one label."""
    places = [(label, place) for label, parts in found.items() for place in range(len(parts))]
    vectors = normalize(np.vstack([*found.values()]))
    labels, cosines = np.array([label for label, _ in places]), vectors @ vectors.T
    cosines[labels[:, None] == labels] = -np.inf
    best = [places[at] for at in cosines.argmax(axis=1)]
    told = [
        {"label": label, "concept": concept, "cosine": cosine}
        for (label, concept), cosine in zip(best, cosines.max(axis=1).tolist(), strict=True)
    ]
    return dict(zip(places, told, strict=True)) if len(found) > 1 else {}
