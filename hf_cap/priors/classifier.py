"""Sources that explain a reference classifier: its base class, integrated gradients and occlusion."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

from hf_cap.embedded import resolve_model
from hf_cap.errors import ModelError
from hf_cap.priors.base import Row, Source, SourceResult
from hf_cap.utils import check_range, documented, folder_stamp, length_batches, option, required
from hf_cap.words import NO_WORD, share_scores, token_hosts, token_words, without_words

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from hf_cap.attribution import TextBatch
    from hf_cap.classifiers import Encoded, TextClassifier


@documented
@dataclass(frozen=True, kw_only=True)
class ClassifierSource(Source):
    """A source that explains a classifier, best one trained on the same split without alignment.

    Attributes:
        stamp: State of the classifier's files, for the cache of `Dataset.map`.
    """

    classifier: str = required("Classifier with the label space of the data: folder or Hub id.")
    revision: str | None = option(None, "Branch, tag or commit of a classifier on the Hub.")
    trust_remote_code: bool = option(False, "Run code that comes with the classifier.")
    stamp: str = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "stamp", folder_stamp(resolve_model(self.classifier)))

    def open(self) -> "ReferenceClassifier":
        """The classifier, loaded once per process, or a `ModelError` where it does not serve."""
        return _open(
            self.classifier, self.revision, self.trust_remote_code, self.stamp, self.labels
        )


@dataclass(frozen=True, eq=False)
class ReferenceClassifier:
    """A sequence classifier whose labels are those of the data, its weights frozen.

    `outputs` are the model's outputs for the labels of the data, in their order; `identity` is its
    fingerprint.
    """

    text_classifier: "TextClassifier"
    outputs: tuple[int, ...]
    identity: str

    def log_probs(self, texts: Sequence[str]) -> "Float[Tensor, 'texts labels']":
        """Log-probability of each label of the data, in nats, on the CPU."""
        return self.text_classifier.logits(texts).log_softmax(-1)[:, self.outputs]


@lru_cache(maxsize=2)
def _open(
    name: str, revision: str | None, trust_remote_code: bool, stamp: str, labels: tuple[str, ...]
) -> ReferenceClassifier:
    import torch

    from hf_cap.attribution import check_offsets
    from hf_cap.classifiers import TextClassifier, load_model, load_tokenizer
    from hf_cap.lm.local import model_fingerprint

    if folder_stamp(resolve_model(name)) != stamp:
        raise ModelError(
            f"{name!r} changed on disk after the prior source was created; create it again."
        )
    model = load_model(name, revision, trust_remote_code=trust_remote_code)
    tokenizer = load_tokenizer(name, revision, trust_remote_code=trust_remote_code)
    check_offsets(tokenizer)
    names: dict[int, str] = model.config.id2label  # type: ignore[assignment]  # None in no classifier
    output = {label: index for index, label in names.items()}
    missing, extra = sorted(set(labels) - set(output)), sorted(set(output) - set(labels))
    if missing or extra:
        raise ModelError(
            f"The classifier {name!r} has other labels than the data: it lacks {missing[:5]!r} and "
            f"has {extra[:5]!r} besides. Train one on this data, or set its `config.id2label`."
        )
    module: torch.nn.Module = model.requires_grad_(False).train(False)
    module.to("cuda" if torch.cuda.is_available() else "cpu")
    outputs = tuple(output[label] for label in labels)
    identity = model_fingerprint(model, tokenizer, name)
    return ReferenceClassifier(TextClassifier(model, tokenizer), outputs, identity)


@documented
@dataclass(frozen=True, kw_only=True)
class IntegratedGradientsPrior(ClassifierSource):
    """Scores each word by its part of the gold logit, in logits.

    The path runs from the pad embedding at every token of a word to the text, by a Gauss-Legendre
    rule. The scores of a text add up to its gold logit minus that of the baseline, but for the
    diagnostic `integrated_gradients_gap`: where that is large compared with the scores, take more
    `steps`. Words beyond the classifier's limit get 0.
    """

    name: ClassVar[str] = "integrated_gradients"

    steps: int = option(50, "Points on the path from the baseline to the text, at least 1.")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range(self, "steps", at_least=1)

    def score_words(self, rows: Sequence[Row]) -> SourceResult:
        """Score the words of some rows."""
        opened = self.open()
        classifier = opened.text_classifier
        encoded = classifier.encode([row.text for row in rows], return_offsets_mapping=True)
        offsets: list[Any] = [one.pop("offset_mapping") for one in encoded]
        spans = [row.spans for row in rows]
        owners = list(map(token_words, offsets, spans, [row.text for row in rows]))
        hosts = list(map(token_hosts, offsets, owners, spans))
        scores: list[list[float]] = [[]] * len(rows)
        gaps = [0.0] * len(rows)
        lengths = [len(one["input_ids"]) * self.steps for one in encoded]
        for batch in length_batches(lengths, classifier.tokens_per_pass):
            some = [(rows[index], encoded[index], owners[index]) for index in batch]
            widest = max(len(spans[index]) for index in batch)
            pooled, some_gaps = self._integrate(classifier, _text_batch(opened, some), widest)
            for index, row_scores, gap in zip(batch, pooled, some_gaps, strict=True):
                scores[index] = share_scores(row_scores[: len(spans[index])], hosts[index])
                gaps[index] = gap
        return SourceResult(scores, {"gap": gaps}, {"identity": opened.identity})

    def _integrate(
        self, classifier: "TextClassifier", batch: "TextBatch", words: int
    ) -> tuple[list[list[float]], list[float]]:
        """Scores of so many words of each text, and what the tokens' scores fail to add up to."""
        import torch

        from hf_cap.attribution import path_points, path_scores, pool_words, score_points
        from hf_cap.classifiers import first_token_only

        model, method = classifier.model, "integrated_gradients"
        ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
        points = path_points(method, ids, mask, steps=self.steps, rule="gauss_legendre")
        passes = classifier.tokens_per_pass // ids.shape[1]
        with first_token_only(model):
            with torch.enable_grad():
                tokens, _ = path_scores(model, batch, points, rows=passes)
            with torch.no_grad():
                ends = torch.tensor([[0.0], [1.0]], device=ids.device).expand(-1, len(ids))
                baseline, text = score_points(model, batch, ends)[0]
        gaps = tokens.sum(1) - (text - baseline)
        return pool_words(tokens, batch.words, words).tolist(), gaps.tolist()


def _text_batch(
    classifier: ReferenceClassifier, some: Sequence[tuple[Row, "Encoded", list[int]]]
) -> "TextBatch":
    """Some rows, their tokens, padded, and the word of each token."""
    import torch

    from hf_cap.attribution import TextBatch

    inputs = classifier.text_classifier.pad([encoded for _, encoded, _ in some])
    ids = inputs["input_ids"]
    words = torch.full(ids.shape, NO_WORD)
    for number, (_, _, owners) in enumerate(some):
        words[number, : len(owners)] = torch.tensor(owners)
    gold = torch.tensor([classifier.outputs[row.label] for row, _, _ in some])
    return TextBatch(inputs, gold.to(ids.device), words.to(ids.device))


@documented
@dataclass(frozen=True, kw_only=True)
class OcclusionPrior(ClassifierSource):
    """Scores each word by the gold label's log-probability with the word minus that without it, in nats.

    The logarithm distinguishes words where the classifier is so sure that the probability hardly
    moves. The diagnostic `occlusion_log_prob` is the gold label's log-probability on the whole text.
    """

    name: ClassVar[str] = "occlusion"

    def score_words(self, rows: Sequence[Row]) -> SourceResult:
        """Score the words of some rows, with one prediction per word and one per text."""
        classifier = self.open()
        texts = [text for row in rows for text in (row.text, *self._without_each_word(row))]
        gold = [row.label for row in rows for _ in range(1 + len(row.spans))]
        log_probs = classifier.log_probs(texts)[range(len(gold)), gold]
        scores, whole = [], []
        for part in log_probs.split([1 + len(row.spans) for row in rows]):
            scores.append((part[0] - part[1:]).tolist())
            whole.append(part[0].item())
        return SourceResult(scores, {"log_prob": whole}, {"identity": classifier.identity})

    def _without_each_word(self, row: Row) -> list[str]:
        return [without_words(row.text, row.spans, [one]) for one in range(len(row.spans))]
