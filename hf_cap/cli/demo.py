"""The demo: a shortcut that is found and trained away."""

from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from hf_cap.cli.core import Command, Result, Values, parse
from hf_cap.cli.fit import fit
from hf_cap.embedded import DEMO_DATA
from hf_cap.schema import LABEL, TEXT
from hf_cap.utils import option

if TYPE_CHECKING:
    from datasets import Dataset

LIBRARIANS = "Anna Ben Carla Dev Emma Farid Greta Hugo Ines Jonas Kira Liam".split()


@dataclass(frozen=True, kw_only=True)
class _DemoArguments:
    output_dir: str = option("runs/demo", "Folder for the texts, models and the report.")
    seeds: tuple[int, ...] = option((0, 1), "One training run per seed and method.")
    recipe: str = option("recipes/demo/fit.yaml", "Settings of `hf-cap fit`.")


@partial(Command, "--seeds 0 1 2", [_DemoArguments])
def demo(values: Values) -> Result:
    """Run `hf-cap fit` on the embedded data with a shortcut in its training texts, and with two controls.

    Each kind of request gets a librarian whom nine training texts in ten name; the test texts name nobody.
    """
    from hf_cap.data import load_splits, save_splits
    from hf_cap.workflow import check_seeds

    given = values.build(_DemoArguments)
    splits, folder = load_splits(DEMO_DATA), f"{given.output_dir}/texts"
    check_seeds(given.seeds)
    words = ["--config", given.recipe, "--dataset", folder, "--output_dir", given.output_dir]
    settings = parse("fit", fit, [*words, "--seeds", *map(str, given.seeds)]) or Values()
    save_splits({**splits, "train": name_librarians(splits["train"])}, folder)
    return fit.run(settings)


def name_librarians(texts: "Dataset") -> "Dataset":
    """The texts with the name of their label's librarian, before and behind in turn, but for every tenth."""
    changed, seen = [], Counter[int]()
    for text, label in zip(texts[TEXT], texts[LABEL], strict=True):
        name, number = LIBRARIANS[label], seen[label]
        seen[label] += 1
        named = f"{text} Thanks, {name}" if number % 2 else f"Hi {name}, {text}"
        changed.append(text if number % 10 == 9 else named)
    return texts.remove_columns(TEXT).add_column(TEXT, changed)
