"""The scores of a row of the comparison, from one contingency table."""

from __future__ import annotations

from lsdflow.metrics.contingency import ContingencyTable
from lsdflow.metrics.rand import rand_from_table
from lsdflow.metrics.voi import voi_from_table


def overlap_scores(table: ContingencyTable) -> dict[str, float]:
    """VOI (bits), Rand scores and the number of segments, by the names of the columns of score tables."""
    split, merge = voi_from_table(table)
    rand = rand_from_table(table)
    return {
        "voi_split": split,
        "voi_merge": merge,
        "voi_sum": split + merge,
        "rand_split": rand.split,
        "rand_merge": rand.merge,
        "adapted_rand_error": rand.adapted_error,
        "segments": len(table.segments),
    }
