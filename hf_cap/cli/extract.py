"""Add prior columns to a labelled data set.

`accelerate launch -m hf_cap extract --config ...` splits the texts over several devices.
"""

import logging
from dataclasses import dataclass

import yaml

from hf_cap.cli.core import Group, Result, Values, build, command_line, group_of
from hf_cap.embedded import LANGUAGE_MODEL
from hf_cap.errors import ConfigError
from hf_cap.lm.base import LMRuntime, LMSettings
from hf_cap.priors.base import SOURCES, source_class
from hf_cap.priors.extract import ExtractionSettings
from hf_cap.priors.language_model import LanguageModelSource
from hf_cap.schema import LABEL, TEXT
from hf_cap.utils import option, real_path, required
from hf_cap.words import WORD_PATTERN

_logger = logging.getLogger(__name__)

PROMPT = ("chat", "verbalise", "demonstrations")
"""What all sources that ask a language model share; the rest is each one's own."""
SHARED = (*PROMPT, "word_pattern", "text_column", "label_column", "model")
EXPLAINED = ("classifier", "revision", "trust_remote_code")


@dataclass(frozen=True, kw_only=True)
class ExtractArguments:
    """What is read and written, and by which sources."""

    dataset: str = required(
        "Labelled data: `embedded/...`, a folder, a file, or a Hub id. Priors that it has are kept."
    )
    output_dir: str = required("Folder to write, one parquet file per split; may be the same.")
    sources: tuple[str, ...] = option(
        ("cap",), f"Prior sources: {', '.join(SOURCES)}, or your own as `module:Class`."
    )
    model: str = option(LANGUAGE_MODEL, "Language model: Hub id, folder, .gguf or embedded name.")
    classifier: str | None = option(
        None,
        "For sources that explain a classifier: a folder written by `hf-cap train` (best without alignment) "
        "or a Hub id, with the label space of the data.",
    )
    classifier_revision: str | None = option(None, "Branch, tag or commit of that classifier.")
    classifier_trust_remote_code: bool = option(False, "Run code that comes with that classifier.")
    train_split: str | None = option(
        None,
        "Split that the sources learn from (demonstrations, keywords), whether or not it gets priors. "
        "Default: `train` where it is among the splits, else the first of them.",
    )
    limit: int | None = option(None, "Number of texts per split, for a trial. Default: all.")
    text_column: str = option(TEXT, "Column that holds the text.")
    label_column: str = option(LABEL, "Column that holds the label.")
    labels: tuple[str, ...] = option((), "The label space, in order. Default: that of the data.")
    word_pattern: str = option(WORD_PATTERN, "Regular expression of a word, the unit of a score.")
    options: dict[str, str] = option(
        factory=dict, help="Settings of a source of your own: `NAME.setting=value` (YAML values)."
    )


def source_groups(*without: type) -> list[Group]:
    """One group of settings per source, but for the subclasses of `without`."""
    classes = [source_class(name) for name in SOURCES]
    offered = [cls for cls in classes if not issubclass(cls, without)]
    groups = [Group(cls.name, cls, without=(*SHARED, *EXPLAINED)) for cls in offered]
    return [group for group in groups if group.settings]


LM_GROUPS = [
    Group("prompt", LanguageModelSource, only=PROMPT),
    Group("lm", LMSettings, LMRuntime, without=("model",)),
]
EXAMPLE = "--dataset data --output_dir runs/priors --sources cap lime --cap.n 50"
SETTINGS = [ExtractArguments, ExtractionSettings, *LM_GROUPS, *source_groups()]
PROGRESS = ("progress",)


def run(values: Values) -> Result:
    """Extract and write."""
    from hf_cap.data import load_splits
    from hf_cap.lm.base import using_runtime
    from hf_cap.priors.extract import extract_priors
    from hf_cap.workflow import make_sources

    given, settings = build(ExtractArguments, values), build(ExtractionSettings, values)
    learn_from = given.train_split
    if learn_from is None:
        learn_from = "train" if "train" in settings.splits else settings.splits[0]
    found = load_splits(
        given.dataset,
        splits=(*settings.splits, learn_from),
        text_column=given.text_column,
        label_column=given.label_column,
        labels=given.labels or None,
    )
    if given.limit is not None and real_path(given.dataset) == real_path(given.output_dir):
        raise ConfigError(
            f"`limit={given.limit}` would leave only so many texts of {given.output_dir!r}, which is read "
            "and written. Name another output folder."
        )
    limited = {
        name: found[name].select(range(min(given.limit or len(found[name]), len(found[name]))))
        for name in settings.splits
    }
    with using_runtime(build(LMRuntime, values, "lm")):
        # making a source may already ask the language model: `contrast` calibrates
        sources = make_sources(
            given.sources,
            found[learn_from],
            _groups(given, values),
            model=given.model,
            word_pattern=given.word_pattern,
        )
        summary = extract_priors(
            limited, sources, given.output_dir, settings, command=command_line()
        )
    _logger.info("Wrote the priors to %s", given.output_dir)
    return Result({"output_dir": given.output_dir}, str(summary))


def _groups(given: ExtractArguments, values: Values) -> dict[str, dict[str, object]]:
    groups = {group.name: group_of(values, group.name) for group in [*LM_GROUPS, *source_groups()]}
    groups["classifier"] = {
        "classifier": given.classifier,
        "revision": given.classifier_revision,
        "trust_remote_code": given.classifier_trust_remote_code,
    }
    for name, value in given.options.items():
        source, _, setting = name.rpartition(".")
        groups.setdefault(source, {})[setting] = yaml.safe_load(value)
    return groups
