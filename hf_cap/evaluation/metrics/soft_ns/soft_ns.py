"""Soft-NS: how much of the output stays when embedding elements of unimportant words are erased at random.

Relative to erasing every element; each element is kept with probability importance, the scores of a text
scaled to [0, 1]; in [0, 1], higher is better (Zhao and Aletras 2023).
"""

import evaluate

from hf_cap.evaluation.classifier import mean_defined
from hf_cap.evaluation.metrics import EXPLAINED_TEXTS, LICENSE, SOFT_ERASURE
from hf_cap.evaluation.predict import load_classifier
from hf_cap.evaluation.soft import soft_ns

INPUTS = """
Args:
    predictions: one list of word scores a text; positive = evidence for the explained class.
    references: explained class of each text as the model numbers it, usually the predicted one.
    texts: the texts.
    model: a sequence classifier: loaded, or a folder or Hub id.
    tokenizer: its tokenizer or where it is; by default the one beside `model`.
    batch_size: texts a forward pass; changes the speed, not the result.
    word_pattern: regular expression of a word; white space separates words by default.
    per_text: also return the value of each text, as `per_text`.
    samples, seed: random masks a text, and their seed.
    distance: `probability` of the class (the paper), or `hellinger` distance of the output.
Returns:
    soft_ns: mean over the texts where it is defined, in [0, 1]; higher is better.
"""


class SoftNS(evaluate.Metric):  # type: ignore[misc]  # evaluate is untyped
    """Soft normalised sufficiency (Soft-NS)."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=__doc__ or "",
            citation=SOFT_ERASURE,
            inputs_description=INPUTS,
            features=EXPLAINED_TEXTS,
            license=LICENSE,
            reference_urls=["https://arxiv.org/abs/2305.10496"],
        )

    def _compute(  # type: ignore[no-untyped-def]  # types are those of EXPLAINED_TEXTS
        self,
        predictions,
        references,
        texts,
        model,
        tokenizer=None,
        batch_size=32,
        per_text=False,
        **options,
    ):
        classifier = load_classifier(model, tokenizer, batch_size=batch_size)
        values = soft_ns(classifier, texts, references, predictions, **options)
        result = {"soft_ns": mean_defined(values)}
        return {**result, "per_text": values.tolist()} if per_text else result
