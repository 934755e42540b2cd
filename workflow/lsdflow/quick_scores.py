"""The score of affinities that are looked at in passing, such as while a network is trained."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lsdflow.agglomeration import build_merge_tree
from lsdflow.fragments import watershed_fragments
from lsdflow.metrics.contingency import contingency_table
from lsdflow.metrics.voi import voi_from_table

# Coarse: the threshold that results are reported at is selected later, on the whole region.
THRESHOLDS = np.round(np.arange(0.1, 1.0, 0.05), 2)


def best_voi(
    affinities: NDArray,
    truth: NDArray[np.integer],
    *,
    in_sections: bool = False,
    voxel_size: Sequence[float] | None = None,
) -> dict[str, float]:
    """VOI after watershed and agglomeration as by default, at the best of `THRESHOLDS`.

    Parameters
    ----------
    affinities, in_sections, voxel_size : as for `lsdflow.fragments.watershed_fragments`.
    truth : (z, y, x); 0 is ignored.

    Returns
    -------
    dict
        ``voi_split``, ``voi_merge`` and ``voi_sum`` in bits, and ``threshold``.
    """
    fragments = watershed_fragments(affinities, in_sections=in_sections, voxel_size=voxel_size)
    tree = build_merge_tree(affinities, fragments)
    table = contingency_table(fragments, truth)
    scores = []
    for threshold in map(float, THRESHOLDS):
        split, merge = voi_from_table(table.relabel(tree.fragments, tree.segments(threshold)))
        scores.append({"voi_split": split, "voi_merge": merge, "voi_sum": split + merge, "threshold": threshold})
    return min(scores, key=lambda score: score["voi_sum"])
