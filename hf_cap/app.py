"""The audit app: what classifiers make of a text, word by word, and decisions about shortcuts.

What is shown comes from functions that know no gradio; `make_app` alone does.
"""

import functools
import logging
import os
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from markupsafe import escape

from hf_cap.cards import CARD, EVALUATIONS, RUN_FILE, TAGS, PushOptions
from hf_cap.classifiers import TextClassifier, load_model, load_tokenizer
from hf_cap.cues import Cue, Mark, find_cues, load_marks, save_marks
from hf_cap.embedded import resolve_model
from hf_cap.errors import CAPError, ConfigError, DataError, import_extra
from hf_cap.evaluation.calibration import Calibration
from hf_cap.hub import publish, write_model
from hf_cap.laat.models import is_tabular_model
from hf_cap.pipelines import ExplainedTextClassification
from hf_cap.report.load import found_shortcuts, load_priors, read_rows
from hf_cap.report.page import PAGE, TEMPLATES
from hf_cap.schema import LABEL, PRIOR, TEXT, WORDS, prior_column, prior_sources
from hf_cap.utils import Place, read_json, subsample, versions
from hf_cap.words import WORD_PATTERN, split_words, without_words
from hf_cap.workflow import ALIGNED, BASELINE, SHORTCUTS, read_steps

_logger = logging.getLogger(__name__)

_LISTED = 300
_LONGEST = 5000  # characters of a text
_LABELS = 5
_STEPS = 20  # path points of an attribution
Facts = dict[str, Any]


# --- What there is: models, texts, priors, decisions.


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What the app shows.

    Attributes:
        models: Name that is shown to a folder, Hub id or `embedded/...` name.
        priors: Folder of priors; its texts can be picked.
        shortcuts: YAML file of decisions.
    """

    models: Mapping[str, str]
    priors: Path | None = None
    shortcuts: Path | None = None


def find_parts(
    run: Place, *, baseline: str | None = None, priors: Place | None = None, shortcuts: Place | None = None
) -> Parts:
    """What is in a folder of `hf-cap fit` (or `DataError`), or a classifier and what is given beside it."""
    models, folder = {BASELINE: baseline, "model": os.fspath(run)}, Path(run).expanduser()
    if steps := read_steps(folder):
        done = [name for name, one in steps.items() if one["finished"]]
        models = {BASELINE: baseline}
        for role in (BASELINE, ALIGNED):
            trained = [str(folder / n) for n in done if n.startswith(f"models/{role}-seed")]
            models[role] = models.get(role) or next(iter(trained), None)
        if not models[ALIGNED]:
            raise DataError(f"{str(run)!r} has no finished aligned model; run `hf-cap fit` again.")
        priors = priors or (folder / PRIOR if PRIOR in done else None)
        shortcuts = shortcuts or (folder / SHORTCUTS if SHORTCUTS in done else None)
    return Parts(
        models={name: place for name, place in models.items() if place is not None},
        priors=Path(priors) if priors else None,
        shortcuts=Path(shortcuts) if shortcuts else None,
    )


def known_texts(parts: Parts) -> list[Facts]:
    """The evaluated texts of the models and the texts of the priors, without duplicates.

    A row has `text, label, split`, perhaps `priors` (name to a score per word), and by name of a model its
    prediction. Those that the models predict differently lead.
    """
    found: dict[str, Facts] = {}

    def row_of(row: Mapping[str, Any], split: str) -> Facts:
        new = {"text": row[TEXT], "label": str(row.get(LABEL)), "split": split, "priors": {}}
        return found.setdefault(row[TEXT], new)

    for name, place in parts.models.items():
        for file in sorted((Path(place) / EVALUATIONS).glob("*.parquet")):
            for row in read_rows(file, (TEXT, LABEL, "prediction")):
                row_of(row, file.stem)[name] = str(row["prediction"])
    for split, known in (load_priors(parts.priors).splits if parts.priors else {}).items():
        for one in known:
            row_of(one, split)["priors"] = _priors_of(one)
    predictions = [len({row.get(name) for name in parts.models}) for row in found.values()]
    ranked = sorted(zip(predictions, found.values(), strict=True), key=lambda one: -one[0])
    return [row for _, row in ranked]


def _priors_of(row: Mapping[str, Any]) -> dict[str, list[float]]:
    """The fused prior of a text, or those of its sources, by the name that is shown."""
    columns = {f"prior: {source}": prior_column(source) for source in prior_sources(row)}
    columns = {"prior": PRIOR} if row.get(PRIOR) else columns
    words = len(row.get(WORDS) or ())
    return {name: row[c] for name, c in columns.items() if row.get(c) and len(row[c]) == words}


def list_shortcuts(file: Path) -> list[Facts]:
    """The decisions in a YAML file, each as `mark`, with its numbers from the JSON file beside it.

    Where there is none, `of`, the number of texts of the label, is 0.
    """
    known = found_shortcuts(other) if (other := file.with_suffix(".json")).is_file() else {}
    none: Facts = {"of": 0, "flipped": None, "examples": []}
    return [{**known.get((m.cue, m.label), none), "mark": m} for m in load_marks(file)]


def save_decision(file: Path, cue: Cue, label: str, decision: str) -> Mark:
    """Store the decision about a cue (its kind and value) with a label, and leave all others as they are."""
    marks = load_marks(file)
    for place, mark in enumerate(marks):
        if (mark.cue, mark.label) == (cue, label) and decision in ("shortcut", "fine"):
            marks[place] = replace(mark, decision=decision)  # type: ignore[arg-type]
            save_marks(marks, file)
            return marks[place]
    raise DataError(f"{str(file)!r} has no {cue.value!r} for {label!r} any more; load the page again.")


# --- What the models say of a text.


@dataclass(frozen=True)
class Answer:
    """What a model makes of a text.

    Attributes:
        probabilities: Label to its probability, in [0, 1].
        explained: The label that the scores are about.
        words, scores: The words and one attribution per word, in logits; positive speaks for the label.
    """

    name: str
    probabilities: Mapping[str, float]
    explained: str
    words: tuple[str, ...]
    scores: tuple[float, ...]


class Explainer:
    """A classifier of texts that says which words speak for a label; answers are kept."""

    def __init__(self, name: str, place: str) -> None:
        if is_tabular_model(place):
            raise ConfigError(f"{place!r} is a model of a table; give a classifier of texts.")
        self.name = name
        self.model: Any = load_model(place)
        tokenizer: Any = load_tokenizer(place)
        self.pipeline = ExplainedTextClassification(model=self.model, tokenizer=tokenizer)
        self.classifier = TextClassifier(self.model, tokenizer)
        self.answer: Callable[[str, str | None], Answer] = functools.lru_cache(256)(self._answer)
        # attribution puts hooks on the model
        self.lock = threading.Lock()

    def _answer(self, text: str, label: str | None) -> Answer:
        with self.lock:
            said = self.pipeline(text, label=label, steps=_STEPS)
            logits = self.classifier.logits([text])
        (p,) = Calibration.read(self.model.config).probabilities(logits).tolist()
        explained, words, scores = said["label"], said["words"], said["attributions"]
        probabilities = dict(zip(self.classifier.labels, p, strict=True))
        return Answer(self.name, probabilities, explained, tuple(words), tuple(scores))


def leave_out(text: str, index: int, pattern: str = WORD_PATTERN) -> str:
    """The text without its word at an index; as it is where there is no such word, or no other."""
    return without_words(text, split_words(text, pattern), [index]) or text


# --- What is drawn, as HTML in which texts and labels are escaped.


def show_answers(
    answers: Sequence[Answer],
    before: Sequence[Answer] = (),
    known: Mapping[str, Any] | None = None,
    marks: Sequence[Mark] = (),
) -> str:
    """The probabilities and words of each model, the priors of the text, and the marked shortcuts in it.

    Args:
        answers: One per model, with the same labels.
        before: Those about the text before it was edited, if it was.
        known: The row of `known_texts` with this very text.
        marks: Decisions.
    """
    known, words = known or {"label": None, "priors": {}}, answers[0].words
    highest = {label: max(one.probabilities[label] for one in answers) for label in answers[0].probabilities}
    ranked = sorted(highest, key=lambda label: -highest[label])
    wanted = {known["label"], *ranked[:_LABELS], *(one.explained for one in answers)}
    cues = find_cues(words)
    return _draw(
        "answers",
        answers=answers,
        before=before,
        labels=[label for label in ranked if label in wanted],
        gold=known["label"],
        words=words,
        priors={name: row for name, row in known["priors"].items() if len(row) == len(words)},
        marks=[mark for mark in marks if mark.decision == "shortcut" and mark.cue in cues],
    )


def show_marks(rows: Sequence[Facts]) -> str:
    """The list of shortcuts with their decisions; `rows` as of `list_shortcuts`."""
    return _draw("marks", rows=rows)


def _draw(part: str, **values: Any) -> str:
    html = TEMPLATES.get_template("app.html.j2").render(part=part, **values, zip=zip)
    # gradio reads what it shows as a template of its own
    return html.translate({ord(mark): f"&#{ord(mark)};" for mark in "{}$"})


# --- The page.

_DECISION = ("kind", "value", "label", "decision")
_CLICKS = (PAGE / "app.js").read_text("utf-8")
_NO_TEXT = '<p class="audit soft">Type a text, or pick one.</p>'
_NO_MARKS = (
    '<p class="audit soft">There is no list of shortcuts. <code>hf-cap shortcuts</code> writes one; give it '
    "as <code>--shortcuts FILE</code>.</p>"
)


class _Session:
    """What the events of the page do: values of its fields in, values of its fields out."""

    def __init__(self, parts: Parts) -> None:
        self.file = parts.shortcuts
        self.rows = known_texts(parts)
        self.by_text = {row["text"]: row for row in self.rows}
        self.listed()  # a damaged file is found before the models are loaded
        self.models = [Explainer(name, place) for name, place in parts.models.items()]
        self.classifier = self.models[0].classifier
        self.labels = self.classifier.labels
        if any(set(model.classifier.labels) != set(self.labels) for model in self.models):
            raise ConfigError("The models have different labels; give a baseline of the same ones.")

    def marks(self) -> list[Mark]:
        return load_marks(self.file) if self.file else []

    def listed(self) -> str:
        return show_marks(list_shortcuts(self.file)) if self.file else _NO_MARKS

    def choices(self) -> list[tuple[str, int]]:
        first, others = range(len(self.rows))[:_LISTED], range(len(self.rows))[_LISTED:]
        named = [(at, self.rows[at]) for at in [*first, *subsample(others, _LISTED)]]
        return [(f"{row['text'][:80]} ({row['label']}, {row['split']})", at) for at, row in named]

    def look(self, text: str, start: str, label: str) -> str:
        if not text.strip():
            return _NO_TEXT
        answers = [model.answer(text, label or None) for model in self.models]
        edited = start not in ("", text)
        before = [model.answer(start, label or None) for model in self.models] if edited else ()
        return show_answers(answers, before, self.by_text.get(text), self.marks())

    def pick(self, at: int | None) -> tuple[str, str]:
        return self.open("" if at is None else self.rows[at]["text"])

    def open(self, text: str) -> tuple[str, str]:
        return text[:_LONGEST], text[:_LONGEST]

    def drop(self, word: int, text: str) -> str:
        return leave_out(text, word, self.classifier.word_pattern)

    def decide(self, mark: Mapping[str, str]) -> str:
        if self.file is None:
            return ""
        cue = Cue(mark["kind"], mark["value"])  # type: ignore[arg-type]
        made = save_decision(self.file, cue, mark["label"], mark["decision"])
        said = escape(f"Saved in {self.file.name}: {cue} for {made.label} is {made.decision}.")
        return f'<p class="audit soft" role="status">{said}</p>'


def make_app(parts: Parts) -> Any:
    """The page, a `gradio.Blocks`."""
    # gradio asks a server for its newest version, and counts launches
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    import_extra("app", "The app needs", "gradio")
    return _page(_Session(parts))


def _page(session: _Session) -> Any:
    import gradio as gr

    def say(act: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(act)
        def acted(*values: Any) -> Any:
            try:
                return act(*values)
            except CAPError as error:
                raise gr.Error(str(escape(error)), print_exception=False) from error

        return acted

    def drop(event: gr.EventData, text: str) -> str:
        return session.drop(event.word, text)

    def example(event: gr.EventData) -> tuple[Any, ...]:
        return gr.Tabs(selected="texts"), *session.open(event.example)

    def decide(event: gr.EventData) -> str:
        return session.decide({name: getattr(event, name) for name in _DECISION})

    with gr.Blocks(title="hf_cap audit", analytics_enabled=False) as page:
        start = gr.State("")
        own: Any = {"js_on_load": _CLICKS, "apply_default_css": False}
        with gr.Tabs() as tabs:
            with gr.Tab("Texts", id="texts"):
                picked = gr.Dropdown(session.choices(), value=None, label="Pick a text")
                text = gr.Textbox(label="or type one, and edit it", lines=2, max_length=_LONGEST)
                with gr.Row(elem_classes="controls"):
                    labels = [("the predicted label", ""), *((n, n) for n in session.labels)]
                    label = gr.Dropdown(labels, value="", label="Words for")
                    anew = gr.Button("Compare with this text")
                    back = gr.Button("Put the text back")
                shown = gr.HTML(_NO_TEXT, **own)
            with gr.Tab("Shortcuts", id="shortcuts"):
                status = gr.HTML()
                listed = gr.HTML(**own)
        seen: Any = {"show_progress": "hidden", "api_visibility": "private"}
        page.load(say(session.listed), None, listed, **seen)
        picked.change(say(session.pick), picked, [text, start], **seen)
        shown.click(say(drop), text, text, **seen)
        anew.click(lambda text: text, text, start, **seen)
        back.click(lambda start: start, start, text, **seen)
        listed.select(say(example), None, [tabs, text, start], **seen)
        changes = [text.change, label.change, start.change]
        live = {"trigger_mode": "always_last", **seen}
        gr.on(changes, say(session.look), [text, start, label], shown, **live)
        listed.apply(say(decide), None, status, **seen)
    return page


def serve(
    run: Place,
    *,
    baseline: str | None = None,
    priors: Place | None = None,
    shortcuts: Place | None = None,
    host: str | None = "127.0.0.1",
    port: int | None = None,
    share: bool = False,
    block: bool = True,
) -> Any:
    """Serve the app until it is interrupted; arguments as for `find_parts`.

    Args:
        host: Address to listen at, by default for this computer alone; `None`: `GRADIO_SERVER_NAME`.
        port: Port; by default the first free one from 7860 on.
        share: Also open a public address, through a server of gradio.
        block: Whether to wait; else the running `gradio.Blocks` is returned.
    """
    family = socket.AF_INET6 if ":" in (host or "") else socket.AF_INET
    try:  # before the models are loaded
        socket.create_server((host or "", port or 0), family=family).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(f"The app cannot listen at {host}, port {port}: {error}.") from error
    page = make_app(find_parts(run, baseline=baseline, priors=priors, shortcuts=shortcuts))
    import gradio as gr

    sheets = [(PAGE / name).read_text("utf-8") for name in ("colours.css", "app.css")]
    plain = {"font": ("system-ui", "sans-serif"), "font_mono": ("ui-monospace", "monospace")}
    _, address, public = page.launch(
        server_name=host,
        server_port=port,
        share=share,
        prevent_thread_lock=True,
        quiet=True,
        footer_links=[],
        ssr_mode=False,
        mcp_server=False,
        # fonts of the system; those of gradio's themes come from Google
        theme=gr.themes.Default(**plain),
        # gradio rewrites what it gets as `css`, and loses the dark colours
        head=f"<style>{''.join(sheets)}</style>",
    )
    _logger.info("The app is at %s (Ctrl-C ends it).", public or address)
    if block:
        page.block_thread()
    return page


# --- The app as a Space of the Hub.


def push_space(model: str, options: PushOptions, *, token: str | None = None) -> Path:
    """Stage a Space with the audit app of a model and, if `options.push` is set, upload it.

    A local model goes into the Space, with its baseline where it is of `hf-cap fit`; one on the Hub is
    loaded from there. Texts, priors and decisions stay on this machine.
    """
    resolve_model(model)  # a folder that is not there is no Hub id
    parts, folder = find_parts(model), Path(model).expanduser()
    is_local = folder.is_dir()

    def write(target: Path) -> None:
        places = {name: repr(place) for name, place in parts.models.items()}
        for name, place in parts.models.items() if is_local else ():
            (target / name).mkdir()
            record = Path(place) / RUN_FILE
            known = read_json(record, {"alignment?": dict}) if record.is_file() else {}
            write_model(Path(place), target / name, known)
            places[name] = f'str(HERE / "{name}")'
        baseline = places.pop("baseline", None)
        (shown,) = places.values()
        facts: dict[str, Any] = {"title": options.named()["name"], "sdk": "gradio", "app_file": "app.py"}
        facts |= {"sdk_version": versions(["gradio"])["gradio"], "license": options.license}
        metadata = {name: value for name, value in facts.items() if value}
        metadata |= {"tags": list(TAGS)} | ({} if is_local else {"models": [model]})
        front = yaml.safe_dump(metadata, sort_keys=False)
        about, code = ((PAGE / f"space.{kind}.in").read_text("utf-8") for kind in ("md", "py"))
        card = f"---\n{front}---\n{about.format(name=facts['title'])}"
        (target / CARD).write_text(card, encoding="utf-8")
        (target / "app.py").write_text(code.format(model=shown, baseline=baseline), encoding="utf-8")
        (target / "requirements.txt").write_text("hf-cap[app]\n", encoding="utf-8")

    place = folder / "space" if is_local else Path(f"{folder.name}-space").absolute()
    return publish(options, "space", write, place, token=token)
