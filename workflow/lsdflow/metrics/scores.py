"""The scores of a row of the comparison, from one contingency table."""

from __future__ import annotations

from lsdflow.metrics.contingency import ContingencyTable
from lsdflow.metrics.cremi import cremi_score
from lsdflow.metrics.rand import rand_from_table
from lsdflow.metrics.voi import normalized_voi_from_table, voi_from_table


def overlap_scores(table: ContingencyTable) -> dict[str, float]:
    """VOI (bits, and normalised), Rand and CREMI scores and the number of segments, as score tables name them."""
    split, merge = voi_from_table(table)
    normalized = normalized_voi_from_table(table)
    rand = rand_from_table(table)
    return {
        "voi_split": split,
        "voi_merge": merge,
        "voi_sum": split + merge,
        "rand_split": rand.split,
        "rand_merge": rand.merge,
        "adapted_rand_error": rand.adapted_error,
        "nvi_split": normalized.split,
        "nvi_merge": normalized.merge,
        "nid": normalized.distance,
        "cremi_score": cremi_score(split + merge, rand.adapted_error),
        "segments": len(table.segments),
    }
