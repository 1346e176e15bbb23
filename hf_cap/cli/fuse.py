"""`hf-cap fuse`: one prior from several."""

import logging
from dataclasses import dataclass
from typing import Any

from hf_cap.cli.config import build
from hf_cap.priors.fusion import PriorFusion, fuse_priors
from hf_cap.utils import documented, required

_logger = logging.getLogger(__name__)


@documented
@dataclass(frozen=True, kw_only=True)
class FusePlaces:
    """What is read and written."""

    dataset: str = required("Folder with prior columns, as `hf-cap extract` writes it.")
    output_dir: str = required("Folder to write, one parquet file a split; may be the same.")


SETTINGS = (FusePlaces, PriorFusion)


def run(values: dict[str, Any]) -> None:
    """Add the column `prior` to every split."""
    from hf_cap.data import check_output, load_splits, save_splits

    places = build(FusePlaces, values)
    splits = load_splits(places.dataset)
    check_output(places.output_dir, splits)
    fused = fuse_priors(splits, **vars(build(PriorFusion, values)))
    save_splits(fused, places.output_dir)
    _logger.info("Wrote the fused priors to %s", places.output_dir)
