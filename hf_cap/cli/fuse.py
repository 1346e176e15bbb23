"""One prior from several."""

from dataclasses import dataclass

from hf_cap.cli.core import Result, Values, build
from hf_cap.priors.fusion import PriorFusion, fuse_priors
from hf_cap.utils import required


@dataclass(frozen=True, kw_only=True)
class FuseArguments:
    """What is read and written."""

    dataset: str = required("Folder with prior columns, as `hf-cap extract` writes it.")
    output_dir: str = required("Folder to write, one parquet file per split; may be the same.")


EXAMPLE = "--dataset runs/priors --output_dir runs/prior"
SETTINGS = [FuseArguments, PriorFusion]


def run(values: Values) -> Result:
    """Add the column `prior` to every split."""
    from hf_cap.data import check_output, load_splits, save_splits

    given = build(FuseArguments, values)
    splits = load_splits(given.dataset)
    check_output(given.output_dir, splits)
    save_splits(fuse_priors(splits, **vars(build(PriorFusion, values))), given.output_dir)
    return Result({"output_dir": given.output_dir}, f"Wrote the prior to {given.output_dir}")
