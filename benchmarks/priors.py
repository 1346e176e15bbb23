"""Speed of the classifier-based prior sources against the per-example use of their libraries.

    python benchmarks/priors.py --data FOLDER [--quick]

FOLDER holds a labelled `train.jsonl` (with `labels.json`). The classifier is MiniLM with a fresh head of
that label space: a speed does not depend on how well it was trained. Both sides explain texts drawn at
random, ours more of them, and the scores of the texts that both explain are compared. The last line is JSON.
"""

import argparse
import json
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
from hf_cap.files import write_json
from hf_cap.priors.classifier import ReferenceClassifier
from hf_cap.priors.integrated_gradients import IntegratedGradientsPrior
from hf_cap.priors.lime import LimePrior
from hf_cap.priors.occlusion import OcclusionPrior
from hf_cap.randomness import text_seed
from hf_cap.versions import versions
from hf_cap.words import NO_WORD, keep_words, split_words, token_words, word_strings

RESULTS = Path(__file__).parent / "results" / "priors.json"
Explain = Callable[[ReferenceClassifier, str, int], Sequence[float]]


def captum_integrated_gradients(
    classifier: ReferenceClassifier, text: str, gold: int
) -> Sequence[float]:
    """One text at a time through captum's `LayerIntegratedGradients`, all 50 steps in one batch."""
    encoded = classifier.tokenizer(text, return_tensors="pt", return_offsets_mapping=True)
    spans = split_words(text)
    words = torch.tensor(token_words(encoded["offset_mapping"][0].tolist(), spans, text))
    ids = encoded["input_ids"]
    baselines = torch.where(words == NO_WORD, ids, classifier.tokenizer.pad_token_id)
    gradients = LayerIntegratedGradients(
        lambda ids: classifier.model(input_ids=ids).logits, classifier.model.get_input_embeddings()
    )
    scores = gradients.attribute(
        ids, baselines=baselines, target=classifier.outputs[gold], n_steps=50
    )
    tokens = scores[0].sum(-1)
    return [tokens[words == word].sum().item() for word in range(len(spans))]


def captum_occlusion(classifier: ReferenceClassifier, text: str, gold: int) -> Sequence[float]:
    """One text at a time through captum's `FeatureAblation` with a word as a feature."""
    spans = split_words(text)

    def log_prob(kept: torch.Tensor) -> torch.Tensor:
        shortened = keep_words(text, spans, kept[0].bool().tolist())
        outputs = classifier.model(**classifier.tokenizer(shortened, return_tensors="pt"))
        log_probs: torch.Tensor = outputs.logits.log_softmax(-1)
        return log_probs[:, classifier.outputs[gold]]

    with torch.no_grad():
        scores: list[float] = (
            FeatureAblation(log_prob).attribute(torch.ones(1, len(spans)))[0].tolist()
        )
    return scores


def library_lime(samples: int) -> Explain:
    """One text at a time through `LimeTextExplainer.explain_instance`, its texts in one padded batch."""

    def explain(classifier: ReferenceClassifier, text: str, gold: int) -> Sequence[float]:
        def predict(texts: list[str]) -> NDArray[np.float64]:
            batch = classifier.tokenizer(texts, padding=True, return_tensors="pt")
            with torch.no_grad():
                probs = classifier.model(**batch).logits.softmax(-1)[:, list(classifier.outputs)]
            found: NDArray[np.float64] = probs.double().numpy()
            return found

        explainer = LimeTextExplainer(
            bow=False,
            split_expression=word_strings,
            mask_string="",
            random_state=text_seed(0, text),
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
    """One source against its library: `ours` and `theirs` are numbers of texts."""

    source: Any
    library: Explain
    ours: int
    theirs: int

    def run(self, data: Dataset) -> dict[str, float]:
        """Speeds in texts a second, their ratio, and the largest difference of a score."""
        classifier = self.source.open()
        batch = data.select(range(self.ours))[:]
        self.source(data.select(range(2))[:])  # warm up
        start = time.perf_counter()
        made = self.source(batch)[f"prior_{self.source.name}"]
        ours = self.ours / (time.perf_counter() - start)
        self.library(classifier, batch["text"][0], batch["label"][0])
        start = time.perf_counter()
        pairs = list(zip(batch["text"], batch["label"], strict=True))[: self.theirs]
        expected = [self.library(classifier, text, label) for text, label in pairs]
        theirs = self.theirs / (time.perf_counter() - start)
        gaps = [np.abs(np.subtract(a, b)).max() for a, b in zip(expected, made, strict=False)]
        return {
            "texts_per_second": ours,
            "texts_per_second_library": theirs,
            "speedup": ours / theirs,
            "largest_difference": float(max(gaps)),
            "largest_score": float(max(np.abs(scores).max() for scores in expected)),
        }


def contests(folder: str, data: Dataset, quick: bool) -> list[Contest]:
    """The three comparisons, over fewer texts when `quick`."""
    options = {"classifier": folder}
    lime = LimePrior.from_dataset(data, **options)
    return [
        Contest(
            IntegratedGradientsPrior.from_dataset(data, **options),
            captum_integrated_gradients,
            *((24, 8) if quick else (1000, 100)),
        ),
        Contest(
            OcclusionPrior.from_dataset(data, **options),
            captum_occlusion,
            *((200, 30) if quick else (1000, 200)),
        ),
        Contest(lime, library_lime(lime.samples), *((16, 6) if quick else (1000, 50))),
    ]


def main() -> None:
    """Run the comparisons, print them, and write `results/priors.json`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", required=True, help="folder with a labelled train split")
    parser.add_argument("--quick", action="store_true", help="fewer texts, within 8 minutes")
    arguments = parser.parse_args()
    transformers_logging.set_verbosity_error()
    data = load_splits(arguments.data, splits=["train"])["train"].shuffle(seed=0)
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        save_classifier(folder, label_names(data))
        for contest in contests(folder, data, arguments.quick):
            name = contest.source.name
            results[name] = contest.run(data)
            print(name, json.dumps(results[name]), flush=True)
    setting = {"threads": torch.get_num_threads(), "quick": arguments.quick, "versions": versions()}
    write_json(RESULTS, {"results": results, "setting": setting})
    print(
        json.dumps({f"speedup_{name}": round(one["speedup"], 2) for name, one in results.items()})
    )


def save_classifier(folder: str, labels: Sequence[str]) -> None:
    """MiniLM with a seeded fresh head for these labels."""
    torch.manual_seed(0)
    encoder = resolve_model(ENCODER)
    model = AutoModelForSequenceClassification.from_pretrained(
        encoder,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
    )
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(encoder).save_pretrained(folder)


if __name__ == "__main__":
    main()
