"""`hf-cap extract`: add prior columns to a labelled data set.

`accelerate launch -m hf_cap extract --config ...` splits the texts over several devices.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from hf_cap.cli.config import build, command_line
from hf_cap.errors import ConfigError
from hf_cap.lm.base import LMRuntime, LMSettings
from hf_cap.priors.cap import CAPPrior
from hf_cap.priors.channel import ChannelPrior
from hf_cap.priors.classifier import IntegratedGradientsPrior
from hf_cap.priors.extract import ExtractionSettings
from hf_cap.priors.keywords import KeywordsPrior, RationalePrior
from hf_cap.priors.lime import LimePrior
from hf_cap.priors.shap import ShapPrior
from hf_cap.schema import LABEL, TEXT
from hf_cap.utils import documented, option, real_path, required
from hf_cap.words import WORD_PATTERN

if TYPE_CHECKING:
    from datasets import Dataset

    from hf_cap.priors.base import Source


_logger = logging.getLogger(__name__)


@documented
@dataclass(frozen=True, kw_only=True)
class ExtractPlaces:
    """What is read and written, and which sources are asked."""

    dataset: str = required(
        "Labelled data: `embedded/...`, a folder, a file, or a Hub id. A folder with priors keeps them."
    )
    output_dir: str = required("Folder to write, one parquet file a split; may be the same.")
    sources: tuple[str, ...] = option(
        ("cap",), "Prior sources, such as cap, channel, lime, integrated_gradients, keywords."
    )
    text_column: str = option(TEXT, "Column that holds the text.")
    label_column: str = option(LABEL, "Column that holds the label.")
    labels: tuple[str, ...] = option(
        (), "The label space, in order; by default that of the data set."
    )
    train_split: str | None = option(
        None,
        "Split that the sources learn from (demonstrations, keywords), whether or not it gets priors; by "
        "default `train` where it is among the splits, else the first of them.",
    )
    limit: int | None = option(None, "At most so many texts a split, for a trial.")
    word_pattern: str = option(
        WORD_PATTERN, "Regular expression of a word, the unit that gets a score."
    )
    classifier: str | None = option(
        None,
        "For sources that explain a classifier: a folder written by `hf-cap train` (best without alignment) "
        "or a Hub id, with the label space of the data.",
    )
    classifier_revision: str | None = option(
        None, "Branch, tag or commit of a classifier on the Hub."
    )


SETTINGS = (
    ExtractPlaces,
    ExtractionSettings,
    LMSettings,
    LMRuntime,
    CAPPrior,
    ChannelPrior,
    IntegratedGradientsPrior,
    LimePrior,
    ShapPrior,
    KeywordsPrior,
    RationalePrior,
)


def run(values: dict[str, Any]) -> None:
    """Extract, write, and say what it took."""
    from hf_cap.data import load_splits
    from hf_cap.lm.base import using_runtime
    from hf_cap.priors.extract import extract_priors

    places, settings = build(ExtractPlaces, values), build(ExtractionSettings, values)
    train_split = places.train_split or split_to_learn_from(settings.splits)
    found = load_splits(
        places.dataset,
        splits=(*settings.splits, train_split),
        text_column=places.text_column,
        label_column=places.label_column,
        labels=places.labels or None,
    )
    if places.limit is not None and real_path(places.dataset) == real_path(places.output_dir):
        raise ConfigError(
            f"`limit={places.limit}` would leave only so many texts of {places.output_dir!r}, which is read "
            "and written. Name another output folder."
        )
    with using_runtime(build(LMRuntime, values)):
        # making a source may already ask the language model: `contrast` calibrates
        sources = [make_source(name, found[train_split], values) for name in places.sources]
        summary = extract_priors(
            {name: limited(found[name], places.limit) for name in settings.splits},
            sources,
            places.output_dir,
            settings,
            command=command_line(),
        )
    _logger.info("%s", summary)
    _logger.info("Wrote the priors to %s", places.output_dir)


def split_to_learn_from(splits: Sequence[str]) -> str:
    """`train` where it is among the splits, in whatever order they are named; else the first."""
    return "train" if "train" in splits else splits[0]


def limited(split: "Dataset", limit: int | None) -> "Dataset":
    """The first `limit` texts of a split."""
    return split if limit is None else split.select(range(min(limit, len(split))))


def make_source(name: str, dataset: "Dataset", values: Mapping[str, Any]) -> "Source":
    """A source that has learnt from `dataset` what it must know, with those of the settings that it has.

    Raises:
        ConfigError: there is no such source, or it explains a classifier and none is given.
    """
    from hf_cap.priors.base import source_class

    cls = source_class(name)
    names = {item.name for item in fields(cls) if item.init}
    # columns have their standard names by now, and `labels` is what the data set says
    options = {
        key: value
        for key, value in values.items()
        if key in names - {"labels", "text_column", "label_column", "revision", "model"}
    }
    if "model" in names:
        options["model"] = build(LMSettings, values)
    if "classifier" in names:
        if not options.get("classifier"):
            raise ConfigError(
                f"The source {name!r} explains a classifier: give one as `--classifier FOLDER`. Train it "
                "on the same split without alignment: `hf-cap train --alignment_weight 0 ...`."
            )
        options["revision"] = values.get("classifier_revision")
    return cls.from_dataset(dataset, **options)
