"""Found shortcuts on the page: where texts show them, and how far models follow them."""

from collections.abc import Mapping, Sequence
from statistics import fmean

from hf_cap.cues import Cue, find_cues
from hf_cap.report.load import Facts, Rows
from hf_cap.schema import LABEL, WORDS
from hf_cap.words import split_words

SHORTCUT = "shortcut"


def mark_cues(words: Sequence[str], shortcuts: Sequence[Facts]) -> dict[str, list[int]]:
    """Label to the words that carry its shortcuts in a text, for each label that the text has a cue of."""
    found, marked = find_cues(words), {}
    for one in shortcuts:
        carried = found.get(Cue(one["kind"], one["value"]))
        if carried is not None and one["decision"] == SHORTCUT:
            marked[one["label"]] = sorted({*marked.get(one["label"], ()), *carried})
    return marked


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
    decided = [one for one in shortcuts if one["decision"] == SHORTCUT]
    return {
        "names": names,
        "rows": [
            {
                **one,
                "examples": [mark_text(text, one) for text in one["examples"]],
                "models": {
                    key: follow(rows, [{**one, "decision": SHORTCUT}])
                    for key, rows in models.items()
                },
            }
            for one in shortcuts
        ],
        "total": {key: follow(rows, decided) for key, rows in models.items()},
    }


def follow(rows: Rows, shortcuts: Sequence[Facts]) -> Facts:
    """How far a model follows some cues on evaluated texts.

    Returns:
        `texts` that have a cue; `mass`, the mean part of their absolute attribution that lies on it, in
        [0, 1]; `misled`, the texts of other labels that are predicted as the label of the cue, `of` all
        texts that have a cue of another label only. `mass` is `None` where no word carries a cue.
    """
    marked = [(row, found) for row in rows if (found := mark_cues(row[WORDS], shortcuts))]
    masses = []
    for row, found in marked:
        carried = {index for indices in found.values() for index in indices}
        total = sum(map(abs, row["attributions"]))
        if carried and total:
            masses.append(sum(abs(row["attributions"][index]) for index in carried) / total)
    others = [(row, found) for row, found in marked if str(row[LABEL]) not in found]
    return {
        "texts": len(marked),
        "mass": fmean(masses) if masses else None,
        "misled": sum(str(row["prediction"]) in found for row, found in others),
        "of": len(others),
    }


def mark_text(text: str, shortcut: Facts) -> list[tuple[str, bool]]:
    """A text in pieces, each with whether it is a word that carries the cue."""
    spans = split_words(text)
    found = find_cues([text[start:end] for start, end in spans])
    pieces, at = [], 0
    for index in found.get(Cue(shortcut["kind"], shortcut["value"]), ()):
        start, end = spans[index]
        pieces += [(text[at:start], False), (text[start:end], True)]
        at = end
    return [*pieces, (text[at:], False)]
