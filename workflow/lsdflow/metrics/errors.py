"""Where a segmentation is wrong: its worst splits and merges, each with its share of the VOI and a place to look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from lsdflow.blocks import BlockGrid
from lsdflow.metrics.contingency import ContingencyTable
from lsdflow.roi import AXES, Roi

# The columns of the table that `error_rows` makes.
COLUMNS = ("kind", "truth", "segment", "other", "voxels", "bits", *AXES, *(f"{axis}_nm" for axis in AXES))


@dataclass(frozen=True)
class ErrorPair:
    """The part of a true object that lies in a segment where it should not.

    Attributes
    ----------
    kind : ``"split"``, the part is cut off from most of its object, or ``"merge"``, it is joined to most of another.
    truth, segment : ids; the part is what they share. Segment 0 is none at all: the object has lost the part.
    other : of a split, the main segment of the object; of a merge, the main object of the segment. Main is what
        shares most voxels, of equal ones the lowest id.
    voxels : size of the part.
    bits : what it adds to the split or merge VOI, see `worst_errors`.
    """

    kind: str
    truth: int
    segment: int
    other: int
    voxels: int
    bits: float


@dataclass(frozen=True)
class Location:
    """Where an error is, in voxels.

    Attributes
    ----------
    position : z, y, x of the voxel of the part that is nearest to the centre of where the part meets the main one: of
        the same object in a split, of the same segment in a merge. Where the two do not touch, it is where the part
        meets anything else of that object or segment; where it meets nothing, the middle of the part.
    box : the smallest box that holds the part.
    """

    position: tuple[int, int, int]
    box: Roi


def worst_errors(table: ContingencyTable, *, count: int = 20) -> list[ErrorPair]:
    """The ``count`` worst merges, then the ``count`` worst splits, each from the worst on.

    An object lies in a main segment and, if it is split, other parts. These share its term of the split VOI,
    H(segmentation | truth), which without them would be 0: of N voxels in all and T of the object, a part of n brings
    n/N log₂(T/n) and, in proportion to its size, n/(T - M) of the M/N log₂(T/M) of the main part of M voxels. Merges
    are treated alike: a segment, the objects in it, H(truth | segmentation). So the bits of all splits add up to the
    split VOI and those of all merges to the merge VOI, and where one part alone is wrong, its bits are what that VOI
    falls by when it is put right.

    Parameters
    ----------
    table : voxel counts of the segmentation and the truth.
    count : the most errors of each kind.

    Returns
    -------
    list of ErrorPair
        Segment 0 merges nothing, though its term is in the merge VOI. A part can be listed twice: cut off from its
        object, it may be joined to another.

    Raises
    ------
    UserError
        If nothing was counted.
    """
    table.require_labels()
    segments, truths = table.segments[table.rows], table.truths[table.columns]
    result = []
    for kind, groups, others in (("merge", table.rows, truths), ("split", table.columns, segments)):
        pairs, mains, bits = _errors(table, groups)
        if kind == "merge":
            is_merged = segments[pairs] != 0
            pairs, mains, bits = pairs[is_merged], mains[is_merged], bits[is_merged]
        # Pairs are in the order of ids, and a stable sort leaves equal errors so.
        for i in np.argsort(-bits, kind="stable")[:count]:
            ids = (truths[pairs[i]], segments[pairs[i]], others[mains[i]])
            result.append(ErrorPair(kind, *map(int, ids), int(table.counts[pairs[i]]), float(bits[i])))
    return result


def _errors(
    table: ContingencyTable, groups: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Indices of the pairs that are not the largest of their group, that largest pair of each, and their bits."""
    counts = table.counts.astype(np.float64)
    # Later assignments win: the largest is assigned last, of equal ones the one of the lowest ids.
    by_size = np.lexsort((-np.arange(len(counts)), counts))
    main_of_group = np.empty(groups.max() + 1, np.int64)
    main_of_group[groups[by_size]] = by_size
    mains = main_of_group[groups]
    pairs = np.flatnonzero(mains != np.arange(len(counts)))
    mains, whole = mains[pairs], np.bincount(groups, weights=counts)[groups[pairs]]
    part, main = counts[pairs], counts[mains]
    share_of_main = part / (whole - main) * main * np.log2(whole / main)
    return pairs, mains, (part * np.log2(whole / part) + share_of_main) / table.total


def locate(
    errors: Sequence[ErrorPair],
    read: Callable[[Roi], tuple[NDArray, NDArray]],
    grid: BlockGrid,
    *,
    voxel_size: Sequence[float] = (1, 1, 1),
) -> list[Location]:
    """Find each of ``errors``, in two passes over blocks; the second visits only blocks that may hold one.

    Parameters
    ----------
    errors : of the volume that the blocks cover.
    read : called with a box; returns segmentation and truth there.
    grid : the blocks. What is read reaches one voxel beyond a block, where the region has it, so that an error at the
        face of a block is not missed; blocks of another shape give the same result.
    voxel_size : nm, z y x order, by which near and far are told.

    Raises
    ------
    ValueError
        If an error is not in the volume.
    """
    extents = [[_Extent() for _ in range(3)] for _ in errors]
    for index in range(len(grid)):
        for i, places in _places(errors, range(len(errors)), read, grid, index):
            for extent, voxels in zip(extents[i], places, strict=True):
                extent.add(voxels)
    missing = [error for error, (*_, part) in zip(errors, extents, strict=True) if part.count == 0]
    if missing:
        raise ValueError(f"no voxel of the volume belongs to {missing[0]}")
    boxes = [part.box for *_, part in extents]
    best = [next(k for k in range(3) if found[k].count) for found in extents]
    nearest = [(np.inf, (0, 0, 0)) for _ in errors]
    for index in range(len(grid)):
        wanted = [i for i, box in enumerate(boxes) if box.overlaps(grid[index])]
        for i, places in _places(errors, wanted, read, grid, index):
            voxels = places[best[i]]
            if len(voxels):
                # The distance first, then the position: equal ones are told apart the same way in any blocks.
                nearest[i] = min(nearest[i], _nearest(voxels, extents[i][best[i]].centroid, voxel_size))
    return [Location(position, box) for (_, position), box in zip(nearest, boxes, strict=True)]


class _Extent:
    """Number, centroid and bounding box of voxels that come in portions."""

    def __init__(self) -> None:
        self.count = 0
        self.sum = np.zeros(3, np.int64)
        self.begin = np.full(3, np.iinfo(np.int64).max)
        self.end = np.zeros(3, np.int64)

    def add(self, voxels: NDArray[np.int64]) -> None:
        """Take in ``voxels`` (n, 3), which may be none."""
        if len(voxels):
            self.count += len(voxels)
            self.sum += voxels.sum(axis=0)
            self.begin = np.minimum(self.begin, voxels.min(axis=0))
            self.end = np.maximum(self.end, voxels.max(axis=0) + 1)

    @property
    def centroid(self) -> NDArray[np.float64]:
        return self.sum / self.count

    @property
    def box(self) -> Roi:
        return Roi(tuple(self.begin.tolist()), tuple(self.end.tolist()))


def _places(
    errors: Sequence[ErrorPair], wanted: Sequence[int], read: Callable, grid: BlockGrid, index: int
) -> Iterator[tuple[int, tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]]:
    """Of each wanted error, voxels (n, 3) of the part in a block: where it touches the main one, where any, all."""
    if not wanted:
        return
    block = grid[index]
    seen = block.grow((1, 1, 1)).intersect(grid.roi)
    segmentation, truth = read(seen)
    inside = block.shift([-b for b in seen.begin])
    segmentation, truth = np.ravel(segmentation), np.ravel(truth)
    # Indices of voxels; segments share none, so that these are no more than the block has.
    of_segment = {name: np.flatnonzero(segmentation == name) for name in {errors[i].segment for i in wanted}}
    for i in wanted:
        part = of_segment[errors[i].segment]
        part = part[truth[part] == errors[i].truth]
        voxels = np.stack(np.unravel_index(part, seen.shape), axis=1)
        is_inside = ((voxels >= inside.begin) & (voxels < inside.end)).all(axis=1)
        part, voxels = part[is_inside], voxels[is_inside]
        at_main, at_rest = np.zeros((2, len(part)), bool)
        for beside in _neighbours(part, voxels, seen.shape):
            is_main, is_rest = _is_other(errors[i], segmentation[beside], truth[beside])
            at_main |= is_main
            at_rest |= is_rest
        voxels += seen.begin
        yield i, (voxels[at_main], voxels[at_rest], voxels)


def _neighbours(
    indices: NDArray[np.int64], voxels: NDArray[np.int64], shape: Sequence[int]
) -> Iterator[NDArray[np.int64]]:
    """Indices of the six face neighbours of voxels given as indices (n,) and positions (n, 3), one after the other.

    Beyond the border there is none: the voxel itself stands in for it.
    """
    for axis, stride in enumerate((shape[1] * shape[2], shape[2], 1)):
        yield indices - stride * (voxels[:, axis] > 0)
        yield indices + stride * (voxels[:, axis] < shape[axis] - 1)


def _is_other(error: ErrorPair, segments: NDArray, truths: NDArray) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether voxels of these ids belong to the main part, and whether to any part but that of the error."""
    if error.kind == "split":
        in_object = truths == error.truth
        return in_object & (segments == error.other), in_object & (segments != error.segment)
    in_segment = segments == error.segment
    return in_segment & (truths == error.other), in_segment & (truths != error.truth) & (truths != 0)


def _nearest(
    voxels: NDArray[np.int64], centroid: NDArray[np.float64], voxel_size: Sequence[float]
) -> tuple[float, tuple[int, int, int]]:
    """Squared distance and position of the one of ``voxels``, in C order, that is nearest to ``centroid``."""
    distances = (((voxels - centroid) * voxel_size) ** 2).sum(axis=1)
    first = int(np.argmin(distances))
    return float(distances[first]), tuple(voxels[first].tolist())


def error_rows(
    errors: Sequence[ErrorPair],
    locations: Sequence[Location],
    voxel_size: Sequence[float],
    offset: Sequence[float] = (0, 0, 0),
) -> list[dict[str, str | int | float]]:
    """A row of the table per error, by the names in `COLUMNS`.

    Parameters
    ----------
    locations : in voxels of a volume; columns z, y, x.
    voxel_size, offset : of that volume, nm, z y x order. Columns z_nm, y_nm, x_nm are the middle of the voxel, in the
        world.
    """
    rows = []
    for error, location in zip(errors, locations, strict=True):
        middle = [float(o + (p + 0.5) * v) for p, v, o in zip(location.position, voxel_size, offset, strict=True)]
        rows.append(dict(zip(COLUMNS, [*asdict(error).values(), *location.position, *middle], strict=True)))
    return rows
