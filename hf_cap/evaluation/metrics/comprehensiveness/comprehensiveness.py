"""Comprehensiveness: drop of the class's probability when the highest-scoring words are taken out.

`p(y|x) - p(y|x without r)`, r the top 1, 5, 10, 20 and 50 % of the words (rounded up), averaged over these
sizes (AOPC) and the texts; in [-1, 1], higher is better (DeYoung et al. 2020).
"""

import evaluate

from hf_cap.evaluation.classifier import mean_defined
from hf_cap.evaluation.faithfulness import comprehensiveness
from hf_cap.evaluation.metrics import ERASER, EXPLAINED_TEXTS, LICENSE
from hf_cap.evaluation.predict import load_classifier

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
    percentages: sizes of the rationale in percent of the words.
Returns:
    comprehensiveness: mean over the texts, in [-1, 1]; higher is better.
"""


class Comprehensiveness(evaluate.Metric):  # type: ignore[misc]  # evaluate is untyped
    """Comprehensiveness of word attributions."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=__doc__ or "",
            citation=ERASER,
            inputs_description=INPUTS,
            features=EXPLAINED_TEXTS,
            license=LICENSE,
            reference_urls=["https://arxiv.org/abs/1911.03429"],
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
        values = comprehensiveness(classifier, texts, references, predictions, **options)
        result = {"comprehensiveness": mean_defined(values)}
        return {**result, "per_text": values.tolist()} if per_text else result
