"""`hf-cap fit` on the embedded models and data, with a shuffled prior as control."""

from dataclasses import dataclass

from hf_cap.cli import fit
from hf_cap.cli.core import Result, Values, build, parse
from hf_cap.utils import option


@dataclass(frozen=True, kw_only=True)
class DemoArguments:
    """Where the demo works and how often it trains."""

    output_dir: str = option("runs/demo", "Folder for priors, models and the report.")
    seeds: tuple[int, ...] = option((0, 1), "One training run per seed and method.")
    recipe: str = option("recipes/demo/fit.yaml", "Settings of `hf-cap fit`.")


EXAMPLE = "--seeds 0 1 2"
SETTINGS = [DemoArguments]


def run(values: Values) -> Result:
    """Run `fit` with the settings of the recipe."""
    given = build(DemoArguments, values)
    words = ["--config", given.recipe, "--output_dir", given.output_dir]
    words += ["--seeds", *map(str, given.seeds)]
    return fit.run(parse("fit", fit, words) or {})
