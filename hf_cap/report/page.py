"""Write the report: one HTML page that needs nothing else and requests nothing from the network."""

import base64
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from hf_cap.cards import CONFIDENCE, METRICS
from hf_cap.errors import ConfigError
from hf_cap.report import figures
from hf_cap.report.contents import number_text, report_contents
from hf_cap.report.load import SHORTCUTS_FILE, ReportSettings, load_priors, load_run, load_shortcuts
from hf_cap.utils import Place, real_path, subsample, write_text

PAGE = Path(__file__).parent / "page"
TEMPLATES = Environment(loader=FileSystemLoader(PAGE), autoescape=True, undefined=StrictUndefined)
"""What is written into them is escaped; a name that is missing is an error."""
# `</script>` and `<!--` must not end or change the element, nor old line separators a string in it
_ESCAPES = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}


def write_report(
    runs: Sequence[Place],
    output: Place,
    *,
    baselines: Sequence[Place] = (),
    priors: Place | Sequence[Place] | None = None,
    audit: Place | None = None,
    shortcuts: Place | None = None,
    settings: ReportSettings | None = None,
) -> None:
    """Write one self-contained HTML page on some training runs.

    Args:
        runs: Folders that `hf-cap train` wrote, with what `hf-cap evaluate` added. Runs that differ
            only in their seed are one group; those with an alignment weight of 0 are the baseline.
        baselines: Further runs that are baselines, whatever their settings.
        priors: Folder of the priors, or several, for the heat maps of each source; the first for its audit.
        audit: Folder that `hf-cap audit` wrote; by default that of the priors, or the one beside it.
        shortcuts: `shortcuts.json` of `hf-cap shortcuts`, or its folder; by default that in a run's folder.

    Raises:
        DataError: a folder is not what it should be, or a file is damaged.
        ConfigError: there is no run, or the runs cannot be compared.
        MissingExtra: matplotlib is not installed.
    """
    settings = settings or ReportSettings()
    single = isinstance(priors, str | os.PathLike)
    folders: Sequence[Any] = [priors] if single else priors or ()  # type: ignore[assignment]
    if audit is not None and not folders:
        raise ConfigError(f"`audit` ({str(audit)!r}) is of priors; give their folder as `priors`.")
    of_baseline = {real_path(folder): load_run(folder) for folder in baselines}
    others = {real_path(folder): load_run(folder) for folder in runs}
    held = (path for path in (*others, *of_baseline) if (path / SHORTCUTS_FILE).is_file())
    found = next(held, None) if shortcuts is None else shortcuts
    contents = report_contents(
        [run for path, run in others.items() if path not in of_baseline],
        list(of_baseline.values()),
        load_priors(*folders, audit=audit) if folders else None,
        settings,
        None if found is None else load_shortcuts(found),
    )
    write_text(output, render_report(contents, megabytes=settings.megabytes))


def render_report(contents: Mapping[str, Any], *, megabytes: float = 4.0) -> str:
    """The page that shows what `report_contents` returned, with at most so many `megabytes` of texts."""
    colours, style, script = (
        (PAGE / name).read_text("utf-8") for name in ("colours.css", "report.css", "report.js")
    )
    of_style, of_script = (
        base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
        for code in (colours + style, script)
    )
    data = embed_examples(contents["examples"], int(megabytes * 1e6))
    known = {"metrics": METRICS, "confidence": CONFIDENCE, "number_text": number_text}
    page = TEMPLATES.get_template("report.html.j2").render(
        known,
        report=contents,
        names=[group["name"] for group in contents["groups"]],
        # our own style and script run, nothing is loaded from anywhere
        policy=f"default-src 'none'; style-src 'sha256-{of_style}'; script-src 'sha256-{of_script}'; "
        "img-src data:; base-uri 'none'; form-action 'none'",
        style=Markup(colours + style),
        script=Markup(script),
        data=Markup(script_json(data)),
        shown=len(data["examples"]),
        figures=figures,
    )
    # a lone surrogate, which JSON can carry, has no place in UTF-8
    return page.encode("utf-8", "replace").decode()


def script_json(value: Any) -> str:
    """JSON that HTML and JavaScript parsers leave alone, whatever the strings in it hold."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.translate(_ESCAPES)


def embed_examples(examples: Mapping[str, Any], bytes_at_most: int) -> dict[str, Any]:
    """The examples as compact values, as many as there is room for, evenly spread.

    An example is `[set, gold, words, text, rows, before, after, cues, change]`: labels are indices, `text`
    is null where it is the words with single spaces, a row of scores is null or has three digits a score,
    a prediction is null or `[label, probability in thousandths]`, and `cues` are pairs of a label and the
    words that carry a shortcut of it.
    """
    labels: dict[str, int] = {}
    keys = [row["key"] for row in examples["rows"]]
    rows = [_compact(example, keys, labels) for example in examples["examples"]]
    sizes = [len(script_json(row).encode("utf-8", "replace")) + 1 for row in rows]
    kept = list(range(len(rows)))
    while kept and (size := sum(sizes[number] for number in kept)) > bytes_at_most:
        kept = subsample(kept, min(len(kept) - 1, len(kept) * bytes_at_most // size))
    shown = {"labels": list(labels), "examples": [rows[number] for number in kept]}
    return {key: examples[key] for key in ("sets", "rows", "total")} | shown


def _compact(example: Mapping[str, Any], keys: Sequence[str], labels: dict[str, int]) -> list[Any]:
    def index(label: str) -> int:
        return labels.setdefault(label, len(labels))

    gold, words, known = index(example["label"]), list(example["words"]), example["scores"]
    text = None if example["text"] == " ".join(words) else example["text"]
    scores = [[float(f"{s:.3g}") for s in known[key]] if key in known else None for key in keys]
    said = (example["before"], example["after"])
    told = [one and [index(one[0]), round(1000 * one[1])] for one in said]
    cues = [[index(label), words] for label, words in (example.get("cues") or {}).items()]
    moved = example.get("change")
    moved = None if moved is None else round(moved, 3)
    return [example["set"], gold, words, text, scores, *told, cues, moved]
