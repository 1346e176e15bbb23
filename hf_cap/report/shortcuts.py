"""Found shortcuts on the page: where texts show them, and how far models follow them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean

from hf_cap.cues import Cue, Mark, cue_mass, find_cues, find_marked
from hf_cap.report.load import Facts, Rows
from hf_cap.schema import LABEL, WORDS
from hf_cap.words import split_words


def shortcut_section(
    shortcuts: Sequence[Facts] | None, models: Mapping[str, Rows], names: Mapping[str, str]
) -> Facts | None:
    """The found shortcuts beside what each model does with them; `None` where none were looked for.

    Args:
        shortcuts: As `load_shortcuts` reads them.
        models: `before` and `after` to the evaluated texts of all their runs.
        names: `before` and `after` to the name of the model.

    Returns:
        `names`; `rows`, the shortcuts with `models` (`follow` for each model) and their `examples` as
        `mark_text` cuts them; `total`, `follow` for all that were decided to be shortcuts.
    """
    if shortcuts is None:
        return None
    rows = [
        {
            **one,
            "examples": [mark_text(text, one["mark"].cue) for text in one["examples"]],
            "models": {
                key: follow(texts, [replace(one["mark"], decision="shortcut")])
                for key, texts in models.items()
            },
        }
        for one in shortcuts
    ]
    marks = [one["mark"] for one in shortcuts]
    total = {key: follow(texts, marks) for key, texts in models.items()}
    return {"names": names, "rows": rows, "total": total}


def follow(rows: Rows, marks: Sequence[Mark]) -> Facts:
    """How far a model follows some shortcuts on evaluated texts.

    Returns:
        `texts` that have one; `mass`, the mean of `cue_mass` of their attributions; `misled`, the texts of
        other labels that are predicted as the label of the shortcut, `of` all texts that have a shortcut of
        another label only. `mass` is `None` where no word carries one.
    """
    marked = [(row, found) for row in rows if (found := find_marked(row[WORDS], marks))]
    known = (cue_mass(row["attributions"], found) for row, found in marked)
    masses = [mass for mass in known if mass is not None]
    others = [(row, found) for row, found in marked if str(row[LABEL]) not in found]
    return {
        "texts": len(marked),
        "mass": fmean(masses) if masses else None,
        "misled": sum(str(row["prediction"]) in found for row, found in others),
        "of": len(others),
    }


def mark_text(text: str, cue: Cue) -> list[tuple[str, bool]]:
    """A text in pieces, each with whether it is a word that carries the cue."""
    spans = split_words(text)
    found = find_cues([text[start:end] for start, end in spans])
    pieces, at = [], 0
    for index in found.get(cue, ()):
        start, end = spans[index]
        pieces += [(text[at:start], False), (text[start:end], True)]
        at = end
    return [*pieces, (text[at:], False)]
