"""Found shortcuts on the page: where texts show them, how far models follow them, what changes by that."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from hf_cap.cues import Cue, Mark, find_cues, find_marked, mean_cue_mass
from hf_cap.report.load import Facts, Rows, Run
from hf_cap.schema import LABEL, TEXT, WORDS
from hf_cap.words import split_words


def shortcut_section(
    shortcuts: Sequence[Facts] | None, models: Mapping[str, Mapping[str, Rows]], names: Mapping[str, str]
) -> Facts | None:
    """The found shortcuts beside what each model does with them; `None` where none were looked for.

    Args:
        shortcuts: As `load_shortcuts` reads them.
        models: `before` and `after` to the evaluated texts of all their runs, by the name of the set.
        names: `before` and `after` to the name of the model.

    Returns:
        `names`; `set`, the evaluated texts that have most shortcuts of another label, and on these: `rows`,
        the shortcuts with `models` (`follow` for each model) and their `examples` as `mark_text` cuts them;
        `total`, `follow` for all that were decided to be shortcuts.
    """
    if shortcuts is None:
        return None
    marks = [one["mark"] for one in shortcuts]
    sets = [*models.values()][-1] if models else {}
    told = max(sets, key=lambda name: follow(sets[name], marks)["of"], default="")
    texts_of = {key: one[told] for key, one in models.items() if told in one}
    rows = [
        {
            **one,
            "examples": [mark_text(text, one["mark"].cue) for text in one["examples"]],
            "models": {
                key: follow(texts, [replace(one["mark"], decision="shortcut")])
                for key, texts in texts_of.items()
            },
        }
        for one in shortcuts
    ]
    total = {key: follow(texts, marks) for key, texts in texts_of.items()}
    return {"names": names, "set": told, "rows": rows, "total": total}


def follow(rows: Rows, marks: Sequence[Mark]) -> Facts:
    """How far a model follows some shortcuts on evaluated texts.

    Returns:
        `texts` that have one; `mass`, the mean of `cue_mass` of their attributions; `misled`, the texts of
        other labels that are predicted as the label of the shortcut, `of` all texts that have a shortcut of
        another label only. `mass` is `None` where no word carries one.
    """
    marked = [(row, found) for row in rows if (found := find_marked(row[WORDS], marks))]
    others = [(row, found) for row, found in marked if str(row[LABEL]) not in found]
    return {
        "texts": len(marked),
        "mass": mean_cue_mass((row["attributions"], found) for row, found in marked if is_explained(row)),
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


def is_right(row: Mapping[str, Any]) -> bool:
    """Whether the prediction on an evaluated text is its gold label."""
    return str(row[LABEL]) == str(row["prediction"])


def is_explained(*rows: Mapping[str, Any]) -> bool:
    """Whether all models that were evaluated on a text have attributions of it."""
    return all(row["attributions"] is not None for row in rows)


def change_of(before: Mapping[str, Any], after: Mapping[str, Any], marks: Sequence[Mark] = ()) -> float:
    """How far two models differ on a text: 1 − cosine of their attributions, in [0, 2].

    3 more where they predict different labels, and another 3 where the first was wrong because of a
    shortcut (it predicts the label of one in the text) and the second is right.
    """
    a, b = (np.array(row["attributions"], dtype=float) for row in (before, after))
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    apart = 1 - float(a @ b / lengths) if lengths else 1.0
    misled = str(before["prediction"]) in find_marked(before[WORDS], marks)
    caught = misled and is_right(after) and not is_right(before)
    return apart + 3.0 * bool(before["prediction"] != after["prediction"]) + 3.0 * caught


def most_changed(before: Run, after: Run, marks: Sequence[Mark], most: int) -> dict[str, str]:
    """The explained texts on which two models differ most, by `change_of`, each with its label.

    Texts of the set `train` are left out.
    """
    known = {row[TEXT]: row for name, rows in after.records.items() if name != "train" for row in rows}
    rows = {row[TEXT]: row for rows in before.records.values() for row in rows if row[TEXT] in known}
    pairs = {text: (row, known[text]) for text, row in rows.items() if is_explained(row, known[text])}
    moved = {text: change_of(*pair, marks) for text, pair in pairs.items()}
    chosen = sorted(moved, key=moved.__getitem__, reverse=True)[:most]
    return {text: str(rows[text][LABEL]) for text in chosen}
