"""The figures of a prior audit, from `audit.json`, for the page."""

from collections.abc import Mapping
from typing import Any

from ...schema import PRIOR
from .values import AuditTable, ClassPair, Figure, PriorAudit
from .writing import number_text

FUSED = "fused prior"
_PAIRS = 12
_DEGENERATE = {
    "missing": "have no prior, or one of zeros",
    "constant": "have the same score on every word",
    "one_word": "have a score on a single word",
    "label_copied": "have a word of the label's name as their highest",
}


def prior_audit(audit: Mapping[str, Any]) -> PriorAudit:
    """What the page shows of an audit; what it does not hold is left out.

    Args:
        audit: The content of `audit.json`.
    """
    correlations = audit.get("rank_correlation") or {}
    overlaps = (audit.get("confused_classes") or {}).get(PRIOR) or ()
    return PriorAudit(
        texts=audit.get("texts"),
        sources=tuple(map(_name, correlations)),
        correlations={
            (_name(one), _name(other)): float(value)
            for one, row in correlations.items()
            for other, value in row.items()
            if value is not None
        },
        tables=tuple(table for table in _tables(audit) if table.figures),
        keywords=audit_keywords(audit),
        overlaps=tuple(map(_pair, overlaps[:_PAIRS])),
        warnings=tuple(
            f"{_name(source)}: {number_text(share, True)} % of the texts {what}."
            for source, shares in (audit.get("degenerate") or {}).items()
            for case, what in _DEGENERATE.items()
            if (share := float(shares.get(case) or 0)) > 0
        ),
    )


def audit_keywords(audit: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Keywords of each label by the fused prior, else by the first source; empty where there are none."""
    by_source = audit.get("keywords") or {}
    found: Mapping[str, Any] = by_source.get(PRIOR) or next(iter(by_source.values()), {})
    return {label: tuple(str(word) for word, _ in words) for label, words in found.items()}


def _tables(audit: Mapping[str, Any]) -> list[AuditTable]:
    log_odds, marked = audit.get("log_odds") or {}, audit.get("rationales") or {}
    return [
        AuditTable(
            "What is a source worth?",
            "Mean rank correlation of its scores with the log-odds of each word for the label in reference "
            "data. A prior should beat random scores and word length.",
            _figures(_means(log_odds, "rank_correlation")),
        ),
        AuditTable(
            "Does it mark what people mark?",
            "Mean average precision of the words that people marked, ranked by the source.",
            _figures(_means(marked, "average_precision")),
        ),
        AuditTable(
            "How much lies on stop words?",
            "Share of the absolute scores that falls on stop words.",
            _figures(
                {name: row.get("stop word") for name, row in (audit.get("mass") or {}).items()}
            ),
        ),
        AuditTable(
            "Do labels share keywords?",
            "Mean Jaccard index of the keywords of two labels; high values confuse classes.",
            _figures(audit.get("class_overlap") or {}),
        ),
    ]


def _means(rows: Mapping[str, Any], measure: str) -> dict[str, float | None]:
    """Mean of a measure for each source; `None` where it could not be taken."""
    return {name: (row.get(measure) or {}).get("value") for name, row in rows.items()}


def _pair(pair: Mapping[str, Any]) -> ClassPair:
    one, other = pair["classes"]
    return ClassPair(one, other, float(pair["overlap"]), tuple(pair["shared"]))


def _figures(values: Mapping[str, float | None]) -> tuple[Figure, ...]:
    return tuple(Figure(_name(name), float(v)) for name, v in values.items() if v is not None)


def _name(source: str) -> str:
    return FUSED if source == PRIOR else source
