"""Speed of the classifier-based prior sources against the per-example use of their libraries.

    python benchmarks/priors.py --data FOLDER [--classifier FOLDER] [--quick]

The data is a labelled folder such as Banking77. The classifier is MiniLM with a fresh head of that label
space: a speed does not depend on how well it was trained. Texts are drawn at random. Both sides explain the
same ones in turn, round by round; a speedup is the median of the rounds' ratios. The scores must be equal.
The last line is JSON.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from captum.attr import FeatureAblation, LayerIntegratedGradients
from datasets import Dataset
from lime.lime_text import LimeTextExplainer
from numpy.typing import NDArray
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging as transformers_logging

from hf_cap.data import label_names, load_splits
from hf_cap.embedded import ENCODER, resolve_model
from hf_cap.priors.classifier import IntegratedGradientsPrior, LimePrior, OcclusionPrior, ReferenceClassifier
from hf_cap.utils import text_seed, versions, write_json
from hf_cap.words import NO_WORD, keep_words, split_words, token_words, word_strings

RESULTS = Path(__file__).parent / "results" / "priors.json"
Explain = Callable[[ReferenceClassifier, str, int], Sequence[float]]

ROUNDS = 5
TEXTS = {
    "integrated_gradients": {"quick": 16, "whole": 200},
    "occlusion": {"quick": 96, "whole": 200},
    "lime": {"quick": 8, "whole": 200},
}
"""Texts of a round. `Dataset.map` gives a source up to 1,000 at a time."""
TOLERANCE = 1e-4
"""Largest difference of two scores that counts as equal, as a share of the largest score."""


def captum_integrated_gradients(classifier: ReferenceClassifier, text: str, gold: int) -> Sequence[float]:
    """One text at a time through captum's `LayerIntegratedGradients`, all 50 steps in one batch."""
    encoded = classifier.text_classifier.tokenizer(text, return_tensors="pt", return_offsets_mapping=True)
    spans = split_words(text)
    ids = encoded["input_ids"].to(classifier.text_classifier.model.device)
    words = torch.tensor(token_words(encoded["offset_mapping"][0].tolist(), spans, text)).to(ids)
    baselines = torch.where(words == NO_WORD, ids, classifier.text_classifier.tokenizer.pad_token_id)
    gradients = LayerIntegratedGradients(
        lambda ids: classifier.text_classifier.model(input_ids=ids).logits,
        classifier.text_classifier.model.get_input_embeddings(),
    )
    scores = gradients.attribute(ids, baselines=baselines, target=classifier.outputs[gold], n_steps=50)
    tokens = scores[0].sum(-1)
    return [tokens[words == word].sum().item() for word in range(len(spans))]


def captum_occlusion(classifier: ReferenceClassifier, text: str, gold: int) -> Sequence[float]:
    """One text at a time through captum's `FeatureAblation` with a word as a feature."""
    spans = split_words(text)

    def log_prob(kept: torch.Tensor) -> torch.Tensor:
        shortened = keep_words(text, spans, kept[0].bool().tolist())
        inputs = classifier.text_classifier.tokenizer(shortened, return_tensors="pt").to(
            classifier.text_classifier.model.device
        )
        log_probs: torch.Tensor = classifier.text_classifier.model(**inputs).logits.log_softmax(-1).cpu()
        return log_probs[:, classifier.outputs[gold]]

    with torch.no_grad():
        scores: list[float] = FeatureAblation(log_prob).attribute(torch.ones(1, len(spans)))[0].tolist()
    return scores


def library_lime(samples: int) -> Explain:
    """One text at a time through `LimeTextExplainer.explain_instance`, its texts in one padded batch."""

    def explain(classifier: ReferenceClassifier, text: str, gold: int) -> Sequence[float]:
        def predict(texts: list[str]) -> NDArray[np.float64]:
            batch = classifier.text_classifier.tokenizer(texts, padding=True, return_tensors="pt")
            with torch.no_grad():
                logits = classifier.text_classifier.model(
                    **batch.to(classifier.text_classifier.model.device)
                ).logits
            probs = logits.softmax(-1)[:, list(classifier.outputs)]
            found: NDArray[np.float64] = probs.double().cpu().numpy()
            return found

        explainer = LimeTextExplainer(
            bow=False, split_expression=word_strings, mask_string="", random_state=text_seed(0, text)
        )
        words = len(word_strings(text))
        explained = explainer.explain_instance(
            text, predict, labels=(gold,), num_features=words, num_samples=samples
        )
        weights = dict(explained.as_map()[gold])
        return [weights[word] for word in range(words)]

    return explain


@dataclass(frozen=True)
class Contest:
    """One source against its library."""

    source: Any
    library: Explain

    def run(self, data: Dataset, texts: int) -> dict[str, float]:
        """Median texts a second of both sides, their ratio, and the largest difference of a score."""
        self._round(data.select(range(2))[:])  # warm up
        found = [
            self._round(data.select(range(start, start + texts))[:])
            for start in range(0, ROUNDS * texts, texts)
        ]
        ours, theirs, differences, scores = zip(*found, strict=True)
        return {
            "speedup": statistics.median(b / a for a, b in zip(ours, theirs, strict=True)),
            "texts_a_second": texts / statistics.median(ours),
            "texts_a_second_library": texts / statistics.median(theirs),
            "largest_difference": max(differences),
            "largest_score": max(scores),
            "texts": ROUNDS * texts,
        }

    def _round(self, batch: dict[str, Any]) -> tuple[float, float, float, float]:
        """Seconds of both sides on one batch, largest difference, largest score."""
        classifier = self.source.open()
        start = time.perf_counter()
        made = self.source(batch)[f"prior_{self.source.name}"]
        middle = time.perf_counter()
        expected = [
            self.library(classifier, text, label)
            for text, label in zip(batch["text"], batch["label"], strict=True)
        ]
        end = time.perf_counter()
        difference = max(np.abs(np.subtract(*p)).max() for p in zip(made, expected, strict=True))
        largest = max(np.abs(scores).max() for scores in expected)
        return middle - start, end - middle, float(difference), float(largest)


def contests(folder: str, data: Dataset) -> list[Contest]:
    """The three comparisons."""
    options = {"classifier": folder}
    lime = LimePrior.from_dataset(data, **options)
    return [
        Contest(IntegratedGradientsPrior.from_dataset(data, **options), captum_integrated_gradients),
        Contest(OcclusionPrior.from_dataset(data, **options), captum_occlusion),
        Contest(lime, library_lime(lime.samples)),
    ]


def main() -> None:
    """Run the comparisons, print them, and write `results/priors.json`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", required=True, help="folder with a labelled train split")
    parser.add_argument("--classifier", help="folder of a classifier of these labels")
    parser.add_argument("--quick", action="store_true", help="fewer texts, within 8 minutes")
    arguments = parser.parse_args()
    transformers_logging.set_verbosity_error()
    size = "quick" if arguments.quick else "whole"
    data = load_splits(arguments.data, splits=["train"])["train"].shuffle(seed=0)
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        if not arguments.classifier:
            save_classifier(folder, label_names(data))
        for contest in contests(arguments.classifier or folder, data):
            name = contest.source.name
            results[name] = contest.run(data, TEXTS[name][size])
            print(name, json.dumps(results[name]), flush=True)
    setting = {
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        "size": size,
        "versions": versions(),
    }
    write_json(RESULTS, {"results": results, "setting": setting})
    for name, one in results.items():
        if one["largest_difference"] > TOLERANCE * one["largest_score"]:
            raise SystemExit(f"The scores of {name} are not the library's: {one}")
    print(json.dumps({f"speedup_{name}": round(one["speedup"], 2) for name, one in results.items()}))


def save_classifier(folder: str, labels: Sequence[str]) -> None:
    """MiniLM with a seeded fresh head for these labels, wide enough that words move its outputs."""
    torch.manual_seed(0)
    encoder = resolve_model(ENCODER)
    model = AutoModelForSequenceClassification.from_pretrained(
        encoder,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
    )
    torch.nn.init.normal_(model.classifier.weight)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(encoder).save_pretrained(folder)


if __name__ == "__main__":
    main()
