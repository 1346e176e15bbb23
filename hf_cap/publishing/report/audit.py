"""The figures of a prior audit, as `hf-cap audit` writes them, for the page."""

from collections.abc import Mapping
from typing import Any

from .values import PriorAudit


def prior_audit(audit: Mapping[str, Any]) -> PriorAudit:
    """What the page shows of an audit."""
    return PriorAudit((), {}, (), ())
