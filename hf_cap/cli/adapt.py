"""`hf-cap adapt`: teach a language model the task by LoRA, with the prompts that the prior `cap` asks.

The few training texts that a classifier will learn from are enough; the model folder that comes out is
given to `hf-cap extract --model`.
"""

import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_cap.cli.config import build, command_line
from hf_cap.errors import ConfigError, DataError
from hf_cap.lm.base import LMRuntime, LMSettings
from hf_cap.priors.prompts import PromptSettings
from hf_cap.schema import LABEL, TEXT
from hf_cap.training.adaptation import AdaptationSettings
from hf_cap.utils import check_range, documented, option, required

if TYPE_CHECKING:
    from datasets import Dataset

    from hf_cap.priors.cap import CAPPrior
    from hf_cap.priors.extract import ZeroShot


_logger = logging.getLogger(__name__)

ADAPT_FILE = "adapt.json"


@documented
@dataclass(frozen=True, kw_only=True)
class AdaptPlaces:
    """What is learnt, what the success is measured on, and where the model goes."""

    dataset: str = required("Labelled data: `embedded/...`, a folder, a file, or a Hub id.")
    output_dir: str = required(
        "Folder for the adapters (`adapter`), the model with them merged in (`model`), and `adapt.json`."
    )
    train_split: str = option("train", "Split to learn from.")
    eval_split: str | None = option(
        None,
        "Split to measure the model's own answers on, before and after. By default `holdout` training "
        "texts a label, which are neither learnt nor shown as demonstrations.",
    )
    holdout: int = option(
        1, "Training texts a label that are held out where no eval_split is given."
    )
    eval_texts: int = option(
        200, "At most so many texts are measured on, spread over the split; 0 measures nothing."
    )
    masked_copies: int = option(
        0,
        "Copies of each training text with words taken out as for the prior, so that the model learns to "
        "read perturbed texts too.",
    )
    text_column: str = option(TEXT, "Column that holds the text.")
    label_column: str = option(LABEL, "Column that holds the label.")

    def __post_init__(self) -> None:
        check_range(self, "holdout", "eval_texts", "masked_copies", at_least=0)


SETTINGS = (AdaptPlaces, AdaptationSettings, PromptSettings, LMSettings, LMRuntime)


def run(values: dict[str, Any]) -> None:
    """Measure, adapt, measure again, and write down what came of it."""
    from hf_cap.lm.base import using_runtime
    from hf_cap.priors.cap import CAPPrior

    places, chosen = build(AdaptPlaces, values), build(LMSettings, values)
    _check(places, chosen)
    train, held = load(places, seed=build(AdaptationSettings, values).seed)
    with using_runtime(build(LMRuntime, values)):
        prior = CAPPrior.from_dataset(train, model=chosen, **asdict(build(PromptSettings, values)))
        before = _measured(prior, held)
        _logger.info("before: %s", _shown(before, held))
        facts = adapt(places, build(AdaptationSettings, values), chosen, prior, train)
        adapted = LMSettings(
            model=facts["model"], dtype=chosen.dtype, trust_remote_code=chosen.trust_remote_code
        )
        after = _measured(replace(prior, model=adapted), held)
    _write(places, values, {**facts, "zero_shot": _numbers(before, after, held)})
    print(f"before: {_shown(before, held)}\nafter:  {_shown(after, held)}")
    _logger.info("Wrote the adapted model to %s", facts["model"])


def _check(places: AdaptPlaces, chosen: LMSettings) -> None:
    """Refuse what cannot work before a model is loaded."""
    if chosen.base_url is not None:
        raise ConfigError(
            f"A served model cannot be adapted, got base_url={chosen.base_url!r}. Adapt the weights here, "
            "then serve the merged model."
        )
    if chosen.quantization != "none":
        raise ConfigError(
            f"quantization={chosen.quantization!r}: adapters cannot be merged into quantised weights "
            "without loss. Adapt the whole weights, and quantise the merged model when it is used."
        )


def load(places: AdaptPlaces, *, seed: int) -> "tuple[Dataset, Dataset]":
    """The texts to learn from, and those to measure on (maybe none).

    Raises:
        DataError: something is missing, or a label has too few texts to hold any out.
    """
    from hf_cap.data import load_splits
    from hf_cap.utils import subsample

    names = [places.train_split, *([places.eval_split] if places.eval_split else [])]
    splits = load_splits(
        places.dataset,
        splits=names,
        text_column=places.text_column,
        label_column=places.label_column,
    )
    train = splits[places.train_split]
    if places.eval_split:
        held = splits[places.eval_split]
    elif places.eval_texts:
        train, held = hold_out(train, places.holdout, seed=seed)
    else:
        held = train.select([])
    return train, held.select(subsample(range(len(held)), places.eval_texts))


def hold_out(train: "Dataset", count: int, *, seed: int) -> "tuple[Dataset, Dataset]":
    """Divide a split: all but `count` texts a label, and those.

    Which ones depends on the seed and the texts alone. A text that occurs twice is never in both parts.

    Raises:
        DataError: a label has no text left to learn from.
    """
    from hf_cap.utils import rank

    texts, labels = list(train[TEXT]), list(train[LABEL])
    label_of = dict(zip(texts, labels, strict=True))
    held: dict[int, list[str]] = {label: [] for label in labels}
    for text in sorted(label_of, key=lambda text: rank(seed, "hold out", text)):
        if len(chosen := held[label_of[text]]) < count:
            chosen.append(text)
    gone = {text for chosen in held.values() for text in chosen}
    out = [text in gone for text in texts]
    if short := set(labels) - {
        label for label, is_out in zip(labels, out, strict=True) if not is_out
    }:
        raise DataError(
            f"holdout={count} leaves no text to learn {len(short)} labels from. Hold out fewer, give more "
            "texts, or measure on another split with `eval_split`."
        )
    rows = range(len(out))
    return train.select([i for i in rows if not out[i]]), train.select([i for i in rows if out[i]])


def adapt(
    places: AdaptPlaces,
    settings: AdaptationSettings,
    chosen: LMSettings,
    prior: "CAPPrior",
    train: "Dataset",
) -> dict[str, Any]:
    """Adapt the prior's language model to the training texts; facts of what came of it."""
    from hf_cap.embedded import hub_id
    from hf_cap.lm.base import current_runtime
    from hf_cap.lm.loading import choose_device, load_language_model
    from hf_cap.training.adaptation import adapt_language_model

    asker, rows = prior.open(), prior.read_rows(train[:])
    queries = prior.examples(asker, rows, copies=places.masked_copies)
    model, tokenizer = load_language_model(chosen, choose_device(current_runtime().device))
    name = hub_id(chosen.model) or chosen.model
    folder = Path(places.output_dir)
    made = adapt_language_model(model, tokenizer, queries, folder, settings, name=name)
    return {
        "base_model": chosen.model,
        "base_identity": asker.model.fingerprint,
        "model": str(made.model),
        "adapter": str(made.adapter),
        "texts": len(rows),
        "prompts": len(queries),
        "steps": made.steps,
        "trained_weights": made.trained_weights,
        "losses": made.losses,
    }


def _measured(prior: "CAPPrior", held: "Dataset") -> "ZeroShot | None":
    """How often the language model's own answer is right; `None` where there is nothing to measure on."""
    from hf_cap.priors.extract import zero_shot

    if not len(held):
        return None
    rows = prior.read_rows(held[:])
    return zero_shot(prior.label_scores(prior.open(), rows), [row.label for row in rows])


def _shown(found: "ZeroShot | None", held: "Dataset") -> str:
    if found is None:
        return "not measured"
    return (
        f"the language model's own answer is right for {found.raw:.1%} of {len(held)} texts "
        f"({found.calibrated:.1%} calibrated)"
    )


def _numbers(
    before: "ZeroShot | None", after: "ZeroShot | None", held: "Dataset"
) -> dict[str, Any]:
    return {
        "texts": len(held),
        "before": asdict(before) if before else None,
        "after": asdict(after) if after else None,
    }


def _write(places: AdaptPlaces, values: dict[str, Any], facts: dict[str, Any]) -> None:
    from hf_cap.utils import versions, write_json

    record = {
        "kind": "adapt",
        "settings": values,
        **facts,
        "versions": versions(),
        "command": command_line(),
    }
    write_json(Path(places.output_dir) / ADAPT_FILE, record)
