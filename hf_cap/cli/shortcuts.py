"""Find shortcuts in training texts."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from hf_cap.cli.core import DATA, Columns, Command, Result, Values, next_command
from hf_cap.cli.priors import LM_GROUPS, beside
from hf_cap.cues import ShortcutSettings
from hf_cap.embedded import ENCODER, LANGUAGE_MODEL
from hf_cap.utils import option, required

if TYPE_CHECKING:
    from hf_cap.shortcuts import Shortcut


@dataclass(frozen=True, kw_only=True)
class _ShortcutArguments:
    dataset: str = required(DATA)
    output_dir: str = required(
        "Folder for `shortcuts.json` and for `shortcuts.yaml`, which you edit; decisions in it are kept."
    )
    split: str = option("train", "Split to look at.")
    model: str | None = option(
        None,
        "A classifier trained on these texts without alignment: how far it relies on each shortcut.",
    )
    language_model: str = option(LANGUAGE_MODEL, "Language model that judges what is relevant.")
    encoder: str | None = option(ENCODER, "Sentence encoder that judges it as well.")


SHORTCUTS = "--dataset data --output_dir runs/shortcuts"


@partial(Command, SHORTCUTS, [_ShortcutArguments, Columns, ShortcutSettings, *LM_GROUPS])
def shortcuts(values: Values) -> Result:
    """Find words and other cues that go with a label in the texts though its meaning does not.

    Edit `shortcuts.yaml`, then: `hf-cap fuse --shortcuts runs/shortcuts/shortcuts.yaml ...` and
    `hf-cap train --word_dropout 0.9 ...`.
    """
    from hf_cap.classifiers import TextClassifier, load_model, load_tokenizer
    from hf_cap.cues import load_marks
    from hf_cap.data import load_splits
    from hf_cap.lm.base import LMRuntime, using_runtime
    from hf_cap.shortcuts import find_shortcuts, make_judges, write_shortcuts
    from hf_cap.workflow import SHORTCUTS, name_model

    given = values.build(_ShortcutArguments)
    data = load_splits(given.dataset, splits=[given.split], **values.columns())[given.split]
    file = Path(given.output_dir) / SHORTCUTS
    if file.exists():
        load_marks(file)  # what cannot be kept is an error before any work
    classifier = None
    if given.model:
        classifier = TextClassifier(load_model(given.model), load_tokenizer(given.model))
    asked = name_model(given.language_model, values.group("lm"))
    judges = make_judges(asked, given.encoder, **values.group("prompt"))
    with using_runtime(values.build(LMRuntime, "lm")):
        found = find_shortcuts(
            data, judges, classifier=classifier, settings=values.build(ShortcutSettings)
        )
    facts = write_shortcuts(found, file, dataset=given.dataset)
    if not found:
        return Result(facts, f"No shortcuts were found; {file} is empty.")
    text = f"{_shown(found)}\n\nWrote {file}: mark what is no shortcut as `fine` in it."
    marked = beside(given.output_dir, "marked")
    then = next_command("fuse", dataset=given.dataset, output_dir=marked, shortcuts=file)
    return Result(facts, text, then)


def _shown(found: "list[Shortcut]") -> str:
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
            **({} if one.flipped is None else {"flips": f"{100 * one.flipped:.0f} %"}),
        }
        for one in found
    ]
    return str(pd.DataFrame(rows).to_string(index=False))
