"""How well a small language model foretells what a larger one's scores have beside their additive part.

    python -m benchmarks.variate --data FOLDER --large MODEL [--small MODEL] [--texts 6]

A control variate fits the difference of both models, z - c h, on few masks, and h on many. The prior is
linear, so that only the parts of z and h beside their own regressions on the words make noise; with a
correlation r of these parts, the best c takes the share r² of the noise away and 1 / (1 - r²) times fewer
masks do. All masks of texts of 8 words (210) are asked, under the gold label. FOLDER holds `train.jsonl`
and `labels.json`, such as Banking77. Nothing of it depends on the machine.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.budget import REFERENCE, RESULTS, Answers, answers_by_mask, asked, chosen_texts
from hf_cap.lm.base import LMRuntime, LMSettings
from hf_cap.lm.open import open_language_model
from hf_cap.priors.masks import draw_masks, fit_words
from hf_cap.utils import versions, write_json
from hf_cap.words import split_words

OUT = RESULTS.parent / "variate.json"
Array = NDArray[np.float64]


def parts(row: dict[str, str], answers: Answers) -> tuple[Array, Array]:
    """Coefficient of each word, and what each mask's score has beside them, times the root of its weight."""
    text = row["text"]
    masks = draw_masks(text, len(split_words(text)), REFERENCE, 0)
    by_mask = answers_by_mask([row], answers)[text]
    scores = [by_mask[kept.tobytes()] for kept in masks.kept]
    (fit,) = fit_words([masks], [scores], 1e-6)  # all masks: nothing to shrink
    left = np.array(scores) - masks.kept @ np.array(fit.coefficients)
    share = masks.weights / masks.weights.sum()
    return np.array(fit.coefficients), (left - share @ left) * np.sqrt(share)


def compared(pairs: Sequence[tuple[Array, Array]]) -> dict[str, float | list[float]]:
    """Correlations of vectors of the small and the large model: of each text, and pooled with one c."""
    small, large = (np.concatenate(each) for each in zip(*pairs, strict=True))
    cosine = float(small @ large / np.linalg.norm(small) / np.linalg.norm(large))
    return {
        "per_text": [float(np.corrcoef(*pair)[0, 1]) for pair in pairs],
        "pooled": cosine,
        "c": float(small @ large / (small @ small)),
        "times_fewer": 1 / (1 - cosine**2),
    }


def main() -> None:
    """Ask, compare and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--small", default=LMSettings().model)
    parser.add_argument("--large", required=True, help="language model that the prior is wanted of")
    parser.add_argument("--words", type=int, default=8)
    parser.add_argument("--texts", type=int, default=6)
    parser.add_argument("--store", default="default", help="file that keeps the answers")
    parser.add_argument("--name", default="larger model", help="what the result calls it")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    rows, labels = chosen_texts(options.data, [options.words], [options.texts])
    runtime = LMRuntime(device="cpu", store=options.store)
    small, large = (
        asked(rows, labels, open_language_model(LMSettings(model=name, dtype="float32"), runtime))
        for name in (options.small, options.large)
    )
    found = [[parts(row, answers) for answers in (small, large)] for row in rows]
    linear, rest = (compared([(a[part], b[part]) for a, b in found]) for part in (0, 1))
    facts = {
        "small": options.small,
        "large": options.name,
        "texts": len(rows),
        "masks_per_text": len(found[0][0][1]),
        "words": linear,
        "beside_the_words": rest,
        "versions": versions(),
    }
    write_json(options.out, facts)
    for name in ("words", "beside_the_words"):
        print(name, facts[name])


if __name__ == "__main__":
    main()
