"""Sequence classifiers as functions of texts: loading, limits, and passes that no text notices."""

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import copy
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from hf_cap.cards import RUN_FILE
from hf_cap.embedded import resolve_model
from hf_cap.errors import ConfigError, ModelError, import_extra
from hf_cap.labels import ClassifierOptions, class_names, head_phrases, label_phrases, warn_of_unclear
from hf_cap.loading import NO_LIMIT, check_finite, check_missing, check_tokens, loading
from hf_cap.progress import progress
from hf_cap.schema import CALIBRATION, AttributionSettings
from hf_cap.sentence_encoder import (
    CONFIG_ENTRY,
    SentenceEncoderClassifier,
    auto_class,
    is_sentence_classifier,
    label_config,
    new_sentence_classifier,
    read_sentence_encoder,
)
from hf_cap.utils import length_batches

TOKENS_PER_PASS: Mapping[str, int] = {"cpu": 4096, "cuda": 65536}
"""Tokens of one forward pass: enough that the weights are not read for a few tokens only."""

READ_FIRST_TOKEN = frozenset(
    f"{family}ForSequenceClassification"
    for family in ("Bert", "Camembert", "Electra", "Roberta", "XLMRoberta")
)
"""Models of the BERT family whose head reads the first token of the last layer and no other."""

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_FILES = (ADAPTER_CONFIG, "adapter_model*")
"""What a folder of an adapter holds and one of a whole model does not."""
WHOLE_FILES = ("config.json", "generation_config.json", "model*.safetensors*", "pytorch_model*")
"""What a folder of a whole model holds and one of an adapter does not."""

_logger = logging.getLogger(__name__)

Encoded: TypeAlias = dict[str, list[int]]  # model inputs of one text, not padded
Around: TypeAlias = Callable[[list[int], Mapping[str, Tensor]], AbstractContextManager[object]]
"""What is open during a pass, given the indices of its texts and its padded inputs."""


class TextClassifier:
    """A sequence classifier as a function of texts; the result of a text depends on no other text.

    Attributes:
        model: The model; it runs in evaluation mode and is put back into its own.
        tokenizer: Its tokenizer.
        max_length: Longest input in tokens, special ones included; longer ones are cut. By default the one
            stored with the model, else what the model takes.
        batch_size: Most texts of one forward pass; `None` for as many as `tokens_per_pass` allows.
        labels: Label names in the order of the outputs.
        word_pattern: Regular expression of a word, by default the one stored with the model.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_length: int | None = None,
        batch_size: int | None = None,
        word_pattern: str | None = None,
    ) -> None:
        stored = AttributionSettings.read(model.config)
        self.model, self.tokenizer, self.batch_size = model, tokenizer, batch_size
        self.max_length = max_length or stored.max_length or longest_input(model, tokenizer)
        self.labels, self.word_pattern = class_names(model.config), word_pattern or stored.word_pattern

    @property
    def tokens_per_pass(self) -> int:
        """Tokens, padding included, that one forward pass takes at most."""
        return TOKENS_PER_PASS.get(self.model.device.type, TOKENS_PER_PASS["cpu"])

    def logits(self, texts: Sequence[str]) -> Float[Tensor, "texts outputs"]:
        """Logits of each text, on the CPU; each distinct text is computed once."""
        row = {text: index for index, text in enumerate(dict.fromkeys(texts))}
        return self.run(self.encode(list(row)))[[row[text] for text in texts]]

    def run(
        self, encoded: Sequence[Encoded], around: Around = lambda rows, inputs: nullcontext()
    ) -> Float[Tensor, "texts outputs"]:
        """Logits of encoded texts, on the CPU, in batches of about equal length."""
        width = self.model.config.num_labels or 0
        with first_token_only(self.model):
            return self.passes(encoded, width, lambda inputs: self.model(**inputs).logits, around)

    def passes(
        self,
        encoded: Sequence[Encoded],
        width: int,
        answer: Callable[[Mapping[str, Tensor]], Tensor],
        around: Around = lambda rows, inputs: nullcontext(),
    ) -> Float[Tensor, "texts width"]:
        """What `answer` gives for encoded texts, `width` numbers each; otherwise as `run`."""
        found = torch.empty(len(encoded), width)
        lengths = [len(one["input_ids"]) for one in encoded]
        begun = progress(len(encoded), "texts", "Classifier")
        with begun as work, torch.inference_mode(), evaluation_mode(self.model):
            for rows in length_batches(lengths, self.tokens_per_pass, self.batch_size):
                inputs = self.pad([encoded[row] for row in rows])
                with around(rows, inputs):
                    found[rows] = answer(inputs).float().cpu()
                work.update(len(rows))
        return found

    def encode(self, texts: Sequence[str], **options: bool) -> list[Encoded]:
        """Model inputs of each text, cut at `max_length` and not padded; `options` go to the tokenizer."""
        if not texts:
            return []
        batch = self.tokenizer(
            list(texts), truncation=True, max_length=self.max_length, verbose=False, **options
        )
        check_tokens(self.model, batch["input_ids"])
        return [{name: batch[name][row] for name in batch} for row in range(len(texts))]

    def pad(self, encoded: list[Encoded]) -> dict[str, Tensor]:
        """Inputs of several texts as tensors on the model's device, padded to the longest.

        On the right, whatever the tokenizer says: there neither encoders, whose first token is read, nor
        decoders, in which no token sees a later one, notice the padding.
        """
        batch = self.tokenizer.pad(encoded, padding_side="right", return_tensors="pt")
        return {name: value.to(self.model.device) for name, value in batch.items()}


def warn_unknown(tokenizer: PreTrainedTokenizerBase, texts: Iterable[Sequence[int]], name: str) -> None:
    """Warn where a tenth or more of the tokens of some texts, `name`, stand for something unknown."""
    unk = tokenizer.unk_token_id
    # GPT-2 names its end of text as its unknown token, which is then never one
    others = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    special = set(tokenizer.all_special_ids) - {unk} | others
    tokens = Counter(token for ids in texts for token in ids if token not in special)
    unknown, total = tokens[unk], tokens.total()
    if unknown and unknown * 10 >= total:
        _logger.warning(
            "%d of %d tokens of the %s set are %s, which the model cannot tell apart; choose a model "
            "that was trained in the language of the texts.",
            *(unknown, total, name, tokenizer.unk_token),
        )


class NewClassifier(NamedTuple):
    """A classifier before training."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    fresh: tuple[str, ...]
    """Modules whose weights no checkpoint holds: a head, and what else was missing."""


def new_classifier(
    name: str,
    labels: Sequence[str],
    options: ClassifierOptions | None = None,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> NewClassifier:
    """An encoder or decoder with a head for `labels`, and its tokenizer; both know a pad token.

    The head of a checkpoint serves if it has as many outputs; else it is new.

    Args:
        name: Folder, Hub id or `embedded/...` name.
        labels: Label names, in the order of the head's outputs.
        options: Kind of the head, and where its rows start.
        revision: Branch, tag or commit on the Hub.
        trust_remote_code: Run code that comes with the model.
    """
    options = options or ClassifierOptions()
    source = resolve_model(name)
    place = {"revision": revision, "trust_remote_code": trust_remote_code}
    with loading(f"The model {name!r}"):
        tokenizer = AutoTokenizer.from_pretrained(source, **place)
        entry = None if options.head == "sequence" else read_sentence_encoder(source, revision)
        if entry is None:
            _check_head(name, options)
            model, fresh = _sequence_classifier(name, source, labels, place)
        else:
            model, new = new_sentence_classifier(source, labels, entry, **place)
            tokenizer.model_max_length = longest_input(model, tokenizer)
            fresh = ("head",) if new else ()
    check_finite(name, model)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if model.config.get_text_config().pad_token_id is None:
        # decoder classifiers find the last token of a row by it
        model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    if entry is not None and fresh:
        _start_head(model, tokenizer, labels, options)
    vars(model.config).pop(CALIBRATION, None)  # that of the model before training
    return NewClassifier(model, tokenizer, fresh)


def _check_head(name: str, options: ClassifierOptions) -> None:
    asked = "head='sentence'" if options.head == "sentence" else "label_names_in='head'"
    if options.head == "sentence" or options.label_names_in == "head":
        raise ConfigError(
            f"`{asked}` needs a sentence encoder, and {name!r} is none: it has no `modules.json`. Name one, "
            "such as 'sentence-transformers/all-MiniLM-L6-v2', or use `label_names_in='text'`."
        )


def _start_head(
    model: Any, tokenizer: PreTrainedTokenizerBase, labels: Sequence[str], options: ClassifierOptions
) -> None:
    """Let each row of the head be the unit embedding of its label's phrase, if it is told the names."""
    if phrases := head_phrases(labels, options):
        with torch.no_grad(), evaluation_mode(model):
            batch = tokenizer(phrases, padding=True, truncation=True, return_tensors="pt")
            model.head.weight.copy_(model.embed(**batch))
    if options.label_names_in == "auto":
        start = "they are a poor start of their rows" if phrases else "the head starts at random"
        warn_of_unclear(labels, label_phrases(labels, options.label_phrases), start)


def _sequence_classifier(
    name: str, source: str, labels: Sequence[str], place: Mapping[str, Any]
) -> tuple[PreTrainedModel, tuple[str, ...]]:
    auto = auto_class(AutoModelForSequenceClassification, AutoConfig.from_pretrained(source, **place))
    model, loading = auto.from_pretrained(
        source, output_loading_info=True, ignore_mismatched_sizes=True, **label_config(labels), **place
    )
    resized = {weight for weight, *_ in loading["mismatched_keys"]}
    _check_resized(name, model, resized)
    # a pooler belongs to the head, though some families keep it in the base model
    parts = [w for w in loading["missing_keys"] if _in_base(model, w) and "pooler" not in w]
    check_missing(name, parts)
    return model, _owners(model, {*loading["missing_keys"], *resized})


def add_adapters(model: Any, peft_config: Any, fresh: Sequence[str] = ()) -> Any:
    """The model with adapters of a `peft` configuration; its head and the modules `fresh` train in full."""
    peft = import_extra("peft", "Adapters need")
    peft_config = copy(peft_config)  # the caller's may serve another model
    if hasattr(peft_config, "modules_to_save"):
        # peft itself knows heads by two names only; what it does not save is random at each load
        kept = {*(peft_config.modules_to_save or ()), *fresh}
        peft_config.modules_to_save = sorted(kept) or None
    peft_config.task_type = peft_config.task_type or "SEQ_CLS"
    try:
        return peft.get_peft_model(model, peft_config)
    except ValueError as error:
        name = getattr(model.config, "_name_or_path", type(model).__name__)
        raise ConfigError(f"Cannot put adapters on {name!r}: {error}") from error


def _check_resized(name: str, model: PreTrainedModel, resized: Iterable[str]) -> None:
    """Tell that the head of a checkpoint has another size and is new, and refuse that of anything else."""
    wrong = sorted(weight for weight in resized if _in_base(model, weight))
    if wrong:
        raise ModelError(
            f"The weights {wrong[:3]!r} of the model {name!r} have other sizes than its `config.json` says. "
            "Download or save the model again."
        )
    if resized:
        _logger.info(
            "The head of %s has another number of labels than %d; a new one takes its place.",
            name, model.config.num_labels,
        )  # fmt: skip


def _owners(model: PreTrainedModel, weights: Iterable[str]) -> tuple[str, ...]:
    """Names of the modules that hold these weights; of those outside the base model, the whole head."""
    owners = {
        weight.rpartition(".")[0] if _in_base(model, weight) else weight.partition(".")[0]
        for weight in weights
    }
    return tuple(sorted(owners))


def _in_base(model: PreTrainedModel, weight: str) -> bool:
    return weight.startswith(f"{model.base_model_prefix}.")


def load_model(name: str, revision: str | None = None, *, trust_remote_code: bool = False) -> PreTrainedModel:
    """A sequence classifier from a folder, a Hub id or an `embedded/...` name; a LoRA run is merged.

    `revision` is a branch, tag or commit on the Hub; `trust_remote_code` runs code that comes with the model.
    """
    if is_lora_run(folder := Path(resolve_model(name))):
        return merged_lora(folder, trust_remote_code=trust_remote_code)
    place: Any = {"revision": revision, "trust_remote_code": trust_remote_code}
    with loading(f"The classifier {name!r}"):
        auto: Any = AutoTextClassifier
        model, info = auto.from_pretrained(str(folder), output_loading_info=True, **place)
    check_missing(name, info["missing_keys"])
    check_finite(name, model)
    return model  # type: ignore[no-any-return]


class AutoTextClassifier:
    """Loads either kind of classifier, as `AutoModelForSequenceClassification` loads its own."""

    @classmethod
    def from_pretrained(cls, name: str, config: Any = None, **options: Any) -> PreTrainedModel:
        """The classifier at a place. Arguments as for `AutoModel.from_pretrained`."""
        place = {k: v for k, v in options.items() if k in ("revision", "trust_remote_code")}
        config = config or AutoConfig.from_pretrained(name, **place)
        if not is_sentence_classifier(config):
            auto = auto_class(AutoModelForSequenceClassification, config)
            return auto.from_pretrained(name, config=config, **options)  # type: ignore[no-any-return]
        options.pop("trust_remote_code", None)
        return SentenceEncoderClassifier.from_pretrained(name, config=config, **options)


def embed_texts(name: str, texts: Sequence[str]) -> Float[np.ndarray, "texts hidden"]:
    """Unit embeddings of texts by a sentence encoder: a folder, a Hub id or an `embedded/...` name."""
    options = ClassifierOptions(head="sentence", label_names_in="none")
    model, tokenizer, _ = new_classifier(name, ["0", "1"], options)
    return text_embeddings(model, tokenizer, texts).numpy()


def text_embeddings(
    model: Any, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]
) -> Float[Tensor, "texts hidden"]:
    """Unit embeddings of texts by a `SentenceEncoderClassifier`, on the CPU."""
    classifier, width = TextClassifier(model, tokenizer), model.config.hidden_size
    encoded = classifier.encode(texts)
    return classifier.passes(encoded, width, lambda inputs: model.embed(**inputs))


def is_lora_run(folder: Path) -> bool:
    """Whether `hf-cap train --lora_rank` wrote this folder."""
    return (folder / ADAPTER_CONFIG).is_file() and (folder / RUN_FILE).is_file()


def merged_lora(folder: Path, *, trust_remote_code: bool = False) -> PreTrainedModel:
    """The base model of a LoRA run with the adapter merged into its weights.

    An adapter alone names its base, but knows neither the labels nor the pad token: `run.json` does. Whether
    code of the base is run is not read from there: the folder may be another's.
    """
    with loading(f"The adapter {str(folder)!r}"):
        run = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
        head = run["settings"].get("head", "auto")
        base = new_classifier(
            run["model"],
            run["data"]["labels"],
            ClassifierOptions(head=head, label_names_in="none"),
            revision=run["settings"].get("model_revision"),
            trust_remote_code=trust_remote_code,
        ).model
        if CALIBRATION in run:
            base.config.update({CALIBRATION: run[CALIBRATION]})
        peft = import_extra("peft", "Adapters need")
        adapted = peft.PeftModel.from_pretrained(base, str(folder))
        return adapted.merge_and_unload()  # type: ignore[no-any-return]


def load_tokenizer(
    name: str, revision: str | None = None, *, trust_remote_code: bool = False
) -> PreTrainedTokenizerBase:
    """The tokenizer in a folder, a Hub id or an `embedded/...` name. Arguments as for `load_model`."""
    place: Any = {"revision": revision, "trust_remote_code": trust_remote_code}
    with loading(f"The tokenizer {name!r}"):
        return AutoTokenizer.from_pretrained(resolve_model(name), **place)


@contextmanager
def temporarily(objects: Sequence[Any], name: str, value: Any) -> Iterator[None]:
    """Some objects with another value of an attribute, for a while."""
    before = [getattr(item, name) for item in objects]
    for item in objects:
        setattr(item, name, value)
    try:
        yield
    finally:
        for item, old in zip(objects, before, strict=True):
            setattr(item, name, old)


def evaluation_mode(model: nn.Module) -> AbstractContextManager[None]:
    """Every module as in evaluation, without dropout and checkpointing; afterwards each is as it was."""
    return temporarily([module for module in model.modules() if module.training], "training", False)


@contextmanager
def first_token_only(model: nn.Module) -> Iterator[None]:
    """Spare all but the attention of the last layer every token that the head does not read.

    Logits and their gradients stay what they are; a BERT of L layers works about 3 in 4 L less. Other
    models than `READ_FIRST_TOKEN` are left alone.
    """
    if type(model).__name__ not in READ_FIRST_TOKEN:
        yield
        return
    attention = model.base_model.encoder.layer[-1].attention  # type: ignore[union-attr, index]
    handle = attention.output.register_forward_pre_hook(
        lambda module, args: tuple(tokens[:, :1] for tokens in args)
    )
    try:
        yield
    finally:
        handle.remove()


def longest_input(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> int:
    """Number of tokens, special ones included, that tokenizer and model both allow; at most `NO_LIMIT`."""
    limits = [tokenizer.model_max_length, NO_LIMIT]
    limits += filter(None, [(getattr(model.config, CONFIG_ENTRY, None) or {}).get("max_length")])
    positions = getattr(model.config, "max_position_embeddings", None) or 0
    # RoBERTa and its kin begin to count positions behind that of the padding
    offsets = [
        module.padding_idx + 1
        for name, module in model.named_modules()
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None
    ]
    if positions > 0:  # of models without a limit, XLNet says -1
        limits.append(positions - max(offsets, default=0))
    return int(min(limits))
