"""Scores of one label file against another, block by block, so that neither need fit into memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from lsdflow.blocks import BlockGrid
from lsdflow.errors import UserError
from lsdflow.metrics.contingency import ContingencyTable, contingency_table
from lsdflow.metrics.cremi import border_mask
from lsdflow.metrics.label_files import LabelFile, Zyx, agreed_voxel_size, compared_region, spans
from lsdflow.metrics.run_length import crop_skeletons, run_length_scores
from lsdflow.metrics.scores import overlap_scores
from lsdflow.metrics.skeleton_files import check_inside
from lsdflow.metrics.skeletons import SkeletonArrays, skeleton_arrays, skeletonize
from lsdflow.progress import progress
from lsdflow.roi import Roi

# Voxels along each axis of the blocks that are counted one by one: 16.8 million, 270 MB for two volumes of 64-bit ids.
BLOCK_LENGTH = 256


def compare_files(
    truth: LabelFile,
    segmentation: LabelFile,
    *,
    roi: Roi | None = None,
    ignore_segment_zero: bool = False,
    border_tolerance: float = 0.0,
    voxel_size: Zyx | None = None,
    skeletons: nx.Graph | None = None,
    make_skeletons: bool = False,
) -> dict[str, Any]:
    """What was compared and the scores, as plain values that JSON can hold.

    Parameters
    ----------
    truth, segmentation : LabelFile
    roi : Roi, optional
        Part of the truth to compare, in voxels of it.
    ignore_segment_zero, border_tolerance : as for `count_overlaps`
    voxel_size : nm, z y x order
        Replaces what the files tell.
    skeletons : networkx.Graph, optional
        Score run lengths on what of these lies in the region; positions count from where the files' offset does.
    make_skeletons : bool
        Score run lengths on skeletons made of the truth, whose region is then held in memory.

    Returns
    -------
    dict
        ``scores`` has what `lsdflow.metrics.scores.overlap_scores` gives, and on skeletons ``expected_run_length`` and
        ``maximum_run_length`` (nm), and ``normalized_run_length``.  ``voxels`` and ``true_objects`` are the numbers of
        those counted, ``skeletons`` and ``skeleton_length_nm`` those of connected pieces of skeleton.

    Raises
    ------
    UserError
        If the two files cannot be compared.
    """
    voxel_size = voxel_size or agreed_voxel_size(truth, segmentation)
    has_skeletons = skeletons is not None or make_skeletons
    if voxel_size is None and (border_tolerance or has_skeletons):
        what = "skeletons are" if has_skeletons else "the border tolerance is"
        raise UserError(f"{what} in nm, and neither file tells a voxel size: add --voxel-size Z Y X")
    regions = compared_region(truth, segmentation, roi, voxel_size=voxel_size)
    table = count_overlaps(
        truth,
        segmentation,
        regions,
        ignore_segment_zero=ignore_segment_zero,
        border_tolerance=border_tolerance,
        voxel_size=voxel_size,
    )
    result = {
        "truth": truth.name,
        "segmentation": segmentation.name,
        "region": spans(regions[0]),
        "voxel_size_nm": voxel_size,
        "ignore_segment_zero": ignore_segment_zero,
        "border_tolerance_nm": border_tolerance,
        "voxels": table.total,
        "true_objects": len(table.truths),
        "scores": overlap_scores(table),
    }
    if has_skeletons:
        corner = np.add(truth.offset or segmentation.offset or 0, np.multiply(regions[0].begin, voxel_size))
        arrays = _skeletons_in(truth, regions[0], corner, voxel_size, skeletons)
        # Rounding may carry a node at the far end of the region beyond it.
        voxels = np.floor((arrays.positions - corner) / voxel_size).clip(max=np.subtract(regions[0].shape, 1))
        lengths = run_length_scores(arrays, ids_at(segmentation, regions[1], voxels.astype(np.int64)))
        result |= {"skeletons": len(np.unique(arrays.components)), "skeleton_length_nm": lengths.total_length}
        result["scores"] |= {
            "expected_run_length": lengths.expected_run_length,
            "maximum_run_length": lengths.maximum,
            "normalized_run_length": lengths.normalized,
        }
    return result


def count_overlaps(
    truth: LabelFile,
    segmentation: LabelFile,
    regions: tuple[Roi, Roi],
    *,
    ignore_segment_zero: bool = False,
    border_tolerance: float = 0.0,
    voxel_size: Sequence[float] | None = None,
    block_length: int = BLOCK_LENGTH,
) -> ContingencyTable:
    """The contingency table of two files, of which one block at a time is in memory where they are stored in Zarr.

    Parameters
    ----------
    truth, segmentation : LabelFile
    regions : as from `compared_region`
    ignore_segment_zero : bool
        Ignore the voxels of segment 0, which otherwise count as one segment.
    border_tolerance : nm
        Voxels this near to a border of the truth are ignored, see `lsdflow.metrics.cremi.border_mask`; the region is
        taken for the whole image.
    voxel_size : nm, z y x order; needed for the border tolerance only.
    block_length : voxels along each axis of a block, more or less: blocks are whole chunks.

    Raises
    ------
    UserError
        If ids are negative, or no voxel with a true label is left.
    """
    region, region_of_segmentation = regions
    shift = np.subtract(region_of_segmentation.begin, region.begin).tolist()
    context = (0, 0, 0)
    if border_tolerance:
        # One voxel more, because a voxel is known to lie on a border by its neighbour.
        context = (0, *(math.floor(border_tolerance / v) + 1 for v in voxel_size[1:]))
    grid = BlockGrid(region, _block_shape(np.maximum(truth.chunk_zyx, segmentation.chunk_zyx), block_length))
    blocks = [grid[index] for index in range(len(grid))]
    tables = []
    for block in progress(blocks, "counting overlaps", "block") if len(blocks) > 1 else blocks:
        surrounding = block.grow(context).intersect(region)
        inside = block.shift([-b for b in surrounding.begin]).slices
        truth_ids = truth.read(surrounding)
        if border_tolerance:
            truth_ids = truth_ids * border_mask(truth_ids, border_tolerance, voxel_size)
        segment_ids = segmentation.read(block.shift(shift))
        tables.append(contingency_table(segment_ids, truth_ids[inside], ignore_segment_zero=ignore_segment_zero))
    table = ContingencyTable.merge(tables)
    if border_tolerance and table.total == 0:
        raise UserError(
            f"no labelled voxel of {truth.name} is farther than {border_tolerance:g} nm from a border: "
            "choose a smaller --border-tolerance"
        )
    table.require_labels()
    return table


def ids_at(
    labels: LabelFile, region: Roi, voxels: NDArray[np.int64], *, block_length: int = BLOCK_LENGTH
) -> NDArray[np.uint64]:
    """The ids at ``voxels`` (n, 3), which count from the first voxel of ``region`` and lie in it."""
    voxels = voxels + np.array(region.begin)
    block_shape = np.array(_block_shape(labels.chunk_zyx, block_length))
    blocks, block_of = np.unique(voxels // block_shape, axis=0, return_inverse=True)
    by_block = np.split(np.argsort(block_of, kind="stable"), np.cumsum(np.bincount(block_of))[:-1])
    ids = np.zeros(len(voxels), np.uint64)
    for block, members in zip(blocks, by_block, strict=True):
        begin = block * block_shape
        box = Roi(tuple(begin.tolist()), tuple((begin + block_shape).tolist())).intersect(region)
        ids[members] = labels.read(box)[tuple((voxels[members] - box.begin).T)]
    return ids


def _skeletons_in(
    truth: LabelFile, region: Roi, corner: NDArray[np.float64], voxel_size: Zyx, skeletons: nx.Graph | None
) -> SkeletonArrays:
    if skeletons is None:
        return skeleton_arrays(skeletonize(truth.read(region), voxel_size, offset=corner))
    end = corner + np.multiply(region.shape, voxel_size)
    check_inside(skeletons, corner, end)
    return skeleton_arrays(crop_skeletons(skeletons, corner, end))


def _block_shape(chunk_zyx: Sequence[int], length: int) -> tuple[int, int, int]:
    # Whole chunks, so that none is decoded twice; where they are broad in y and x, blocks are thin in z.
    y, x = (-(-length // int(c)) * int(c) for c in chunk_zyx[1:])
    z_chunk = int(chunk_zyx[0])
    return max(length**3 // (y * x) // z_chunk, 1) * z_chunk, y, x
