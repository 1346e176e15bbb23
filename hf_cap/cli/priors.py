"""Prior columns: extract, fuse and audit, and the shortcuts that they shall not follow."""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_cap.cli import core
from hf_cap.cues import ShortcutSettings, load_marks
from hf_cap.embedded import ENCODER, LANGUAGE_MODEL
from hf_cap.errors import ConfigError
from hf_cap.lm.base import LMRuntime, LMSettings, using_runtime
from hf_cap.priors.base import SOURCES, AuditSettings, ExtractionSettings, source_class
from hf_cap.priors.fusion import PriorFusion, fuse_priors
from hf_cap.priors.language_model import LanguageModelSource
from hf_cap.schema import TEXT
from hf_cap.utils import check_writable, option, parse_yaml, real_path, required, settings_class, write_json
from hf_cap.words import WORD_PATTERN

if TYPE_CHECKING:
    from datasets import Dataset

    from hf_cap.shortcuts import Shortcut

_logger = logging.getLogger(__name__)

# what all sources that ask a language model share; the rest is each one's own
PROMPT = ("chat", "verbalise", "label_phrases", "demonstrations", "probe_texts")
SHARED = (*PROMPT, "word_pattern", "text_column", "label_column", "model")
EXPLAINED = ("classifier", "revision", "trust_remote_code")


@settings_class
class ExtractArguments:
    """What is read and written, and by which sources."""

    dataset: str = required(f"{core.DATA} Priors that it has are kept.")
    output_dir: str = required("Folder to write, one parquet file per split; may be the same.")
    sources: tuple[str, ...] = option(
        ("cap",), f"Prior sources: {', '.join(SOURCES)}, or your own as `module:Class`."
    )
    model: str = option(LANGUAGE_MODEL, "Language model: Hub id, folder, .gguf or embedded name.")
    classifier: str | None = option(
        None, "For sources that explain one: Hub id, or folder of `hf-cap train` without alignment."
    )
    classifier_revision: str | None = option(None, "Branch, tag or commit of that classifier.")
    classifier_trust_remote_code: bool = option(False, "Run code that comes with that classifier.")
    train_split: str | None = option(
        None, "Split that the sources learn from. Default: `train`, or else the first of the splits."
    )
    limit: int | None = option(None, "Number of texts per split, for a trial. Default: all.", at_least=1)
    budget: int | None = option(
        None, "Number of texts per split that get priors and are written: those most like `like`.", at_least=1
    )
    like: str | None = option(
        None, "File of unlabelled texts, one per line, such as a day's traffic; with `budget`."
    )
    selection_seed: int = option(0, "Determines which texts `budget` chooses.")
    shard: str | None = option(
        None,
        "Part of each split that gets priors and is written, such as 3/8, for an array of 8 jobs, each "
        "with an output folder of its own.",
    )
    labels: tuple[str, ...] = option((), "The label space, in order. Default: that of the data.")
    word_pattern: str = option(WORD_PATTERN, "Regular expression of a word, the unit of a score.")
    options: dict[str, str] = option(
        factory=dict, help="Settings of a source of your own: `NAME.setting=value` (YAML values)."
    )


def source_groups(*without: type) -> list[core.Group]:
    """One group of settings per source, but for the subclasses of `without`."""
    classes = [source_class(name) for name in SOURCES]
    offered = [cls for cls in classes if not issubclass(cls, without)]
    groups = [core.Group(cls.name, cls, without=(*SHARED, *EXPLAINED)) for cls in offered]
    return [group for group in groups if group.settings]


LM_GROUPS = [
    core.Group("prompt", LanguageModelSource, only=PROMPT),
    core.Group("lm", LMSettings, LMRuntime, without=("model",)),
]
GROUPS = [*LM_GROUPS, *source_groups()]
EXTRACT = "--dataset data --output_dir runs/priors --sources cap lime --cap.n 50"


@partial(core.Command, EXTRACT, [ExtractArguments, core.Columns, ExtractionSettings, *GROUPS])
def extract(values: core.Values) -> core.Result:
    """Add prior columns to a labelled data set.

    `accelerate launch -m hf_cap extract --config ...` splits the texts over several devices.
    """
    from hf_cap.data import check_output, load_splits
    from hf_cap.priors.extract import extract_priors
    from hf_cap.workflow import make_sources

    given, settings = values.build(ExtractArguments), values.build(ExtractionSettings)
    _check_part(given)
    usual = "train" if "train" in settings.splits else settings.splits[0]
    learn_from, labels = given.train_split or usual, given.labels or None
    names = (*settings.splits, learn_from)
    found = load_splits(given.dataset, splits=names, labels=labels, **values.columns())
    check_output(given.output_dir, settings.splits)
    chosen = {name: _part(found[name], name, given) for name in settings.splits}
    groups = {group.name: values.group(group.name) for group in GROUPS}
    explained = (given.classifier, given.classifier_revision, given.classifier_trust_remote_code)
    groups["classifier"] = dict(zip(EXPLAINED, explained, strict=True))
    own = {key: cls for name in given.sources for cls in [source_class(name)] for key in (name, cls.name)}
    kinds = {f"{k}.{n}": leaf[0] for k, cls in own.items() for n, leaf in core.Group(k, cls).settings.items()}
    for name, value in given.options.items():
        source, _, setting = name.rpartition(".")
        label, kind = f"`--options {name}`", kinds.get(name, Any)
        groups.setdefault(source, {})[setting] = core.converted(label, parse_yaml(value, label), kind)
    named: dict[str, Any] = {"model": given.model, "word_pattern": given.word_pattern}
    with using_runtime(values.build(LMRuntime, "lm")):
        # making a source may already ask the language model: `contrast` calibrates
        sources = make_sources(given.sources, found[learn_from], groups, **named)
        facts = {"command": core.command_line(), "dataset": given.dataset}
        summary = extract_priors(chosen, sources, given.output_dir, settings, **facts)
    output = given.output_dir
    then = train_next(output)
    if len(given.sources) > 1:
        then = core.next_command("fuse", dataset=output, output_dir=core.beside(output, "prior"))
    return core.Result({"output_dir": output}, f"{summary}\nWrote the priors to {output}", then)


def _check_part(given: ExtractArguments) -> None:
    """Raise `ConfigError` for settings by which the wrong texts would get priors, or texts would be lost."""
    _shard(given)
    if (given.budget is None) != (given.like is None):
        raise ConfigError(
            f"`budget` and `like` go together, got {given.budget!r} and {given.like!r}; give both, or "
            "`limit` for the first texts."
        )
    if given.budget and given.limit:
        raise ConfigError(
            f"`limit={given.limit}` and `budget={given.budget}` both choose the texts; leave one out."
        )
    parts = {"limit": given.limit, "budget": given.budget, "shard": given.shard}
    some = [f"{name}={value}" for name, value in parts.items() if value is not None]
    if some and real_path(given.dataset) == real_path(given.output_dir):
        raise ConfigError(
            f"`{some[0]}` would leave only a part of the texts of {given.output_dir!r}, which is read and "
            "written; name another output folder."
        )


def _shard(given: ExtractArguments) -> tuple[int, int]:
    """Index, from 0, and number of the parts that each split is cut into."""
    found = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", given.shard or "1/1")
    if not found or int(found[1]) > int(found[2]):
        raise ConfigError(
            f"`shard={given.shard}` is no part of a whole; give two numbers such as 1/8 up to 8/8."
        )
    return int(found[1]) - 1, int(found[2])


def _part(data: "Dataset", split: str, given: ExtractArguments) -> "Dataset":
    """The texts of a split that get priors."""
    index, count = _shard(given)
    chosen = _chosen(data, split, given)
    if count > len(chosen):
        raise ConfigError(
            f"`shard={given.shard}` cuts the {len(chosen)} texts of the split {split!r} into more parts than "
            "there are texts; use fewer."
        )
    return chosen.shard(num_shards=count, index=index, contiguous=True) if count > 1 else chosen


def _chosen(data: "Dataset", split: str, given: ExtractArguments) -> "Dataset":
    """The texts of a split that `limit` or `budget` leaves."""
    if given.budget is None or given.like is None:
        return data.select(range(min(given.limit or len(data), len(data))))
    from hf_cap.priors.extract import read_lines, select_texts

    place = (given.budget, given.selection_seed, given.word_pattern)
    found = select_texts(data[TEXT][:], read_lines(given.like), *place)
    _logger.info(
        "%s: chose %d of %d texts. Their n-grams have a KL divergence of %.3f nats from those of %s; that of "
        "as many texts at random is %.3f.",
        split, len(found.indices), len(data), found.divergence, given.like, found.random_divergence,
    )  # fmt: skip
    return data.select(found.indices)


def train_next(dataset: str, **settings: Any) -> str:
    """The command that trains on a folder with priors."""
    place = {"dataset": dataset, "output_dir": core.beside(dataset, "model")}
    return core.next_command("train", **place, model=ENCODER, **settings)


@dataclass(frozen=True, kw_only=True)
class _FuseArguments:
    dataset: str = required("Folder with prior columns, as `hf-cap extract` writes it.")
    output_dir: str = required("Folder to write, one parquet file per split; may be the same.")


@partial(core.Command, "--dataset runs/priors --output_dir runs/prior", [_FuseArguments, PriorFusion])
def fuse(values: core.Values) -> core.Result:
    """Add the column `prior`, one prior from several, to every split."""
    from hf_cap.data import check_output, load_splits, save_splits

    given = values.build(_FuseArguments)
    splits = load_splits(given.dataset)
    check_output(given.output_dir, splits)
    how = values.build(PriorFusion)
    settings = {item.name: getattr(how, item.name) for item in fields(how) if item.metadata}
    save_splits(fuse_priors(splits, **settings), given.output_dir)
    output = given.output_dir
    marked = {"alignment_weight": "0", "word_dropout": 0.9, "shortcuts": how.shortcuts}
    then = train_next(output, **(marked if how.shortcuts else {}))
    return core.Result({"output_dir": output}, f"Wrote the prior to {output}", then)


@dataclass(frozen=True, kw_only=True)
class _AuditArguments:
    dataset: str = required("Folder with prior columns, of `hf-cap extract` or `hf-cap fuse`.")
    split: str = option("train", "Split to audit.")
    reference: str | None = option(
        None, "Larger labelled data with the same labels, for the log-odds of each word and class."
    )
    reference_split: str = option("train", "Split of the reference; the columns are its own too.")
    shortcuts: str | None = option(
        None,
        "`shortcuts.yaml` of `hf-cap shortcuts`: how much each prior gives to words that only the data links "
        "to the label.",
    )
    output_dir: str | None = option(
        None, "Folder for `audit.json` and the figures (SVG). Default: `DATASET-audit`."
    )


@partial(
    core.Command, "--dataset runs/prior --reference data", [_AuditArguments, core.Columns, AuditSettings]
)
def audit(values: core.Values) -> core.Result:
    """Inspect the priors of a data set, and how well each source agrees with a reference."""
    from hf_cap.data import label_names, load_splits
    from hf_cap.priors.audit import audit_dataset
    from hf_cap.report.figures import audit_figures, save_figures

    given = values.build(_AuditArguments)
    dataset, reference = load_splits(given.dataset, splits=[given.split])[given.split], None
    if (split := given.reference_split) and given.reference is not None:
        space = label_names(dataset)
        found = load_splits(given.reference, splits=[split], labels=space, **values.columns())
        reference = found[split]
    folder = Path(given.output_dir or f"{given.dataset.rstrip('/')}-audit")
    check_writable(folder)
    marks = load_marks(given.shortcuts, label_names(dataset)) if given.shortcuts else []
    facts = audit_dataset(dataset, reference, values.build(AuditSettings), shortcuts=marks)
    write_json(folder / "audit.json", facts)
    save_figures(audit_figures(facts), folder)
    log_odds = {
        source: (found["rank_correlation"]["value"], found["top_word"]["value"])
        for source, found in (facts["log_odds"] or {}).items()
    }
    lines = [f"Wrote audit.json and the figures to {folder}"]
    lines += _shown(
        "Agreement with the log-odds of the reference's words (rank correlation, top word):", log_odds
    )
    leak = facts["leak"] or {}
    lines += _shown(
        "Share of the scores on words of shortcuts (and that of equal scores):",
        {source: (found["share"], found["uniform"]) for source, found in leak.items()},
    )
    for source in facts["sources"]:
        excess = leak.get(source, {}).get("excess") or {}
        if excess.get("half_width") is not None and excess["value"] > excess["half_width"]:
            _logger.warning(
                "The prior %r leaks: %.0f %% of it are on words that only the data links to the label, where "
                "equal scores have %.0f %%. Fuse it with `--shortcuts %s`.", source,
                100 * leak[source]["share"], 100 * leak[source]["uniform"], given.shortcuts,
            )  # fmt: skip
    return core.Result(facts, "\n".join(lines), train_next(given.dataset))


def _shown(heading: str, table: Mapping[str, Sequence[float | None]]) -> list[str]:
    """The lines of a table of numbers by source; none where it is empty."""
    lines = [heading] if table else []
    for source, numbers in table.items():
        shown = ["-" if number is None else f"{number:.3f}" for number in numbers]
        lines.append(f"  {source:<22}" + "".join(f"{one:>7}" for one in shown))
    return lines


@dataclass(frozen=True, kw_only=True)
class _ShortcutArguments:
    dataset: str = required(core.DATA)
    output_dir: str = required(
        "Folder for `shortcuts.json` and for `shortcuts.yaml`, which you edit; decisions in it are kept."
    )
    split: str = option("train", "Split to look at.")
    model: str | None = option(
        None, "A classifier trained on these texts without alignment: how far it relies on each shortcut."
    )
    language_model: str = option(LANGUAGE_MODEL, "Language model that judges what is relevant.")
    encoder: str | None = option(ENCODER, "Sentence encoder that judges it as well.")


SHORTCUTS = "--dataset data --output_dir runs/shortcuts"


@partial(core.Command, SHORTCUTS, [_ShortcutArguments, core.Columns, ShortcutSettings, *LM_GROUPS])
def shortcuts(values: core.Values) -> core.Result:
    """Find words and other cues that go with a label in the texts though its meaning does not.

    Edit `shortcuts.yaml`, then: `hf-cap fuse --shortcuts runs/shortcuts/shortcuts.yaml ...` and
    `hf-cap train --word_dropout 0.9 ...`.
    """
    from hf_cap.classifiers import TextClassifier, load_model, load_tokenizer
    from hf_cap.data import load_splits
    from hf_cap.shortcuts import find_shortcuts, make_judges, write_shortcuts
    from hf_cap.workflow import SHORTCUTS, name_model

    given = values.build(_ShortcutArguments)
    data = load_splits(given.dataset, splits=[given.split], **values.columns())[given.split]
    file = Path(given.output_dir) / SHORTCUTS
    check_writable(given.output_dir)
    if file.exists():
        load_marks(file)  # what cannot be kept is an error before any work
    classifier = None
    if given.model:
        classifier = TextClassifier(load_model(given.model), load_tokenizer(given.model))
    asked = name_model(given.language_model, values.group("lm"))
    judges = make_judges(asked, given.encoder, **values.group("prompt"))
    with using_runtime(values.build(LMRuntime, "lm")):
        found = find_shortcuts(data, judges, classifier=classifier, settings=values.build(ShortcutSettings))
    facts = write_shortcuts(found, file, dataset=given.dataset)
    if not found:
        return core.Result(facts, f"No shortcuts were found; {file} is empty.")
    text = f"{_listed(found)}\n\nWrote {file}: mark what is no shortcut as `fine` in it."
    marked = core.beside(given.output_dir, "marked")
    then = core.next_command("fuse", dataset=given.dataset, output_dir=marked, shortcuts=file)
    return core.Result(facts, text, then)


def _listed(found: "list[Shortcut]") -> str:
    """The shortcuts as a table."""
    import pandas as pd

    rows = [
        {
            "cue": str(one.cue),
            "label": one.label,
            "texts": f"{one.texts} of {one.of}",
            "elsewhere": one.elsewhere,
            "q": f"{one.q:.0e}",
            "relevance": f"{one.relevance:.2f}",
            **_relied(one),
        }
        for one in found
    ]
    return str(pd.DataFrame(rows).to_string(index=False))


def _relied(one: "Shortcut") -> dict[str, str]:
    """What the table says of a classifier's reliance, if there was one."""
    if one.flipped is None:
        return {}
    mass = "none" if one.mass is None else f"{100 * one.mass:.0f} %"
    return {"attribution": mass, "flips": f"{100 * one.flipped:.0f} %"}
