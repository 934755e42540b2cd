"""Affinities between neighbouring voxels of a label volume, their masks and weights, and the growing of boundaries.

The definitions are those that Sheridan et al. (Nature Methods 2023) trained with: the nodes ``AddAffinities``,
``GrowBoundary`` and ``BalanceLabels`` of gunpowder.

There is hardly anything to compute, so what counts is how often the labels come from memory: once, in blocks of rows
that stay in the cache while they are compared with all their neighbours.  Affinities are made of labels cut to 16 bits,
or 32, where these hold them all: more of them fit into the cache, and into a vector register.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from lsdflow.errors import UserError

# Voxels compared at a time: few enough to stay in the cache, enough to go through memory in long runs.
BLOCK = 16384

compiled = njit(cache=True, nogil=True)


def offsets_on_axes(distances: Sequence[int | Sequence[int]], *, ndim: int = 3) -> list[list[int]]:
    """Neighbourhood of the paper: one step backwards along every axis for each distance.

    Parameters
    ----------
    distances : sequence of int, or of int per axis
        Voxels; a sequence as an entry gives each axis its own distance, z y x order.
    ndim : int
        Number of axes.

    Returns
    -------
    list of list of int
        ``len(distances) * ndim`` offsets, z y x order within each distance.

    Examples
    --------
    >>> offsets_on_axes([1])
    [[-1, 0, 0], [0, -1, 0], [0, 0, -1]]
    >>> offsets_on_axes([(5, 9, 9)])
    [[-5, 0, 0], [0, -9, 0], [0, 0, -9]]
    """
    offsets = []
    for distance in distances:
        per_axis = [distance] * ndim if np.ndim(distance) == 0 else list(distance)
        if len(per_axis) != ndim or min(per_axis) < 1:
            raise UserError(f"an affinity distance must be a positive integer or {ndim} of them, not {distance}")
        offsets += [[-int(per_axis[axis]) if a == axis else 0 for a in range(ndim)] for axis in range(ndim)]
    return offsets


def affinities(labels: NDArray, offsets: ArrayLike, *, threads: int = 1) -> NDArray[np.uint8]:
    """Affinity of every voxel to its neighbours: 1 where both carry the same label, and that label is not 0.

    Parameters
    ----------
    labels : (z, y, x) array of integers
        Or (y, x); 0 is background.
    offsets : (n, 3) array-like of int
        From the voxel to its neighbour, voxels, z y x order.
    threads : int
        Workers that share the sections.

    Returns
    -------
    (n, z, y, x) uint8
        ``labels[v] == labels[v + offset] != 0``; 0 where the neighbour lies outside the array.

    Raises
    ------
    UserError
        If the labels are not integers of 2 or 3 axes, or the offsets do not have one number per axis.
    """
    labels = _checked_labels(labels)
    offsets = _checked_offsets(offsets, labels.ndim)
    same = np.empty((len(offsets), *labels.shape), dtype=np.uint8)
    if same.size == 0:
        return same
    bits = _bits(labels)
    n_z, n_y, n_x = bits.shape
    offsets_zyx = np.pad(offsets, ((0, 0), (3 - labels.ndim, 0)))
    above = min(n_z, max(0, -int(offsets_zyx[:, 0].min())))
    below = min(n_z, max(0, int(offsets_zyx[:, 0].max())))
    same_in_sections = same.reshape(len(offsets), n_z, n_y * n_x)

    def compare(dtype: type, begin: int, end: int) -> bool:
        window = np.empty((min(n_z, above + 1 + below), n_y * n_x), dtype)
        highest = np.uint64(np.iinfo(dtype).max)
        return _compare_sections(bits, begin, end, offsets_zyx, above, below, highest, window, same_in_sections)

    for dtype in (np.uint16, np.uint32, np.uint64):
        if all(_share_sections(partial(compare, dtype), n_z, threads)):
            break
    return same


def affinities_mask(shape: Sequence[int], offsets: ArrayLike) -> NDArray[np.uint8]:
    """Where an affinity is known: 1 where the neighbour lies inside the array.

    Parameters
    ----------
    shape : (z, y, x) of the labels, in voxels.
    offsets : (n, 3) array-like of int, as for `affinities`.

    Returns
    -------
    (n, z, y, x) uint8
    """
    return affinities(np.ones(shape, np.uint8), offsets)


def grow_boundary(
    labels: NDArray, steps: int = 1, *, only_xy: bool = False, mask: NDArray | None = None, threads: int = 1
) -> NDArray[np.integer]:
    """Widen the background between objects: erode each label by itself.

    Equal to ``scipy.ndimage.binary_erosion(labels == label, iterations=steps, border_value=1)`` for every label, in one
    go for all of them.  Voxels beyond the array count as the label, so objects do not shrink from its border.

    Parameters
    ----------
    labels : (z, y, x) array of integers
        Or (y, x).
    steps : int
        Number of erosions with the face neighbours.
    only_xy : bool
        Leave the z axis alone: each section is eroded by itself, as for anisotropic volumes.
    mask : (z, y, x) array, optional
        Voxels where it is 0 count as any label, so objects do not shrink from the edge of the mask either.
    threads : int
        Workers that share the sections; with a mask there is one.

    Returns
    -------
    Array like ``labels``
        0 where a voxel was eroded.
    """
    labels = _checked_labels(labels)
    if steps < 0:
        raise UserError(f"the steps of boundary growing must be at least 0, not {steps}")
    if mask is not None:
        axes = range(labels.ndim)[-2:] if only_xy else range(labels.ndim)
        return np.where(_has_one_label_around(labels, steps, axes, mask), labels, labels.dtype.type(0))
    if steps == 0 or labels.size == 0:
        return labels.copy()
    bits = _bits(labels)
    for _ in range(steps):
        grown = np.empty_like(bits)
        _share_sections(partial(_erode_sections, bits, grown, not only_xy), len(bits), threads)
        bits = _bits(grown)
    return grown.view(labels.dtype).reshape(labels.shape)


def affinity_weights(
    target: NDArray, mask: NDArray, *, clip: tuple[float, float] = (0.05, 0.95)
) -> NDArray[np.float32]:
    """Weights that let affinities of 0 and of 1 count alike in a loss.

    One fraction for the whole array: with ``f`` the share of ones among the masked-in affinities, clipped, ones weigh
    ``1 / (2 f)`` and zeros ``1 / (2 (1 - f))``.

    Parameters
    ----------
    target : (n, z, y, x) array of 0 and 1
    mask : array that broadcasts to ``target``
        Affinities where it is 0 weigh 0.
    clip : tuple of float
        Limits of the fraction.

    Returns
    -------
    (n, z, y, x) float32
    """
    target, mask = np.asarray(target), np.asarray(mask)
    is_one, is_known = _flags(target), _flags(np.broadcast_to(mask, target.shape))
    n_known, n_one = _count(is_one, is_known)
    fraction = n_one / n_known if n_known else 0.0
    fraction = min(max(fraction, clip[0]), clip[1])
    one, zero = np.float32(1 / (2 * fraction)), np.float32(1 / (2 * (1 - fraction)))
    weights = np.empty(target.shape, dtype=np.float32)
    _weigh(is_one, is_known, one, zero, weights.reshape(is_one.shape))
    return weights


def _checked_labels(labels: NDArray) -> NDArray:
    labels = np.asarray(labels)
    if not np.issubdtype(labels.dtype, np.integer):
        raise UserError(f"labels must be integers, not {labels.dtype}: cast them when they hold whole numbers")
    if labels.ndim not in (2, 3):
        raise UserError(f"labels must be (z, y, x) or (y, x), not {labels.shape}")
    return labels


def _checked_offsets(offsets: ArrayLike, ndim: int) -> NDArray[np.int64]:
    offsets = np.asarray(offsets)
    if offsets.ndim != 2 or offsets.shape[1] != ndim or not np.issubdtype(offsets.dtype, np.integer):
        raise UserError(
            f"affinity offsets must be (n, {ndim}) integers for labels of {ndim} axes, "
            f"not {offsets.shape} {offsets.dtype}"
        )
    return offsets.astype(np.int64)


def _bits(labels: NDArray) -> NDArray[np.unsignedinteger]:
    """The labels as they lie in memory, C-ordered (z, y, x): equality, and being 0, need neither sign nor byte order.

    Read-only, as numba compiles once more for arrays that are not; so there are four types of labels.
    """
    bits = np.require(labels, requirements=["C", "ALIGNED"]).view(f"u{labels.itemsize}")
    bits = bits.reshape((1,) * (3 - labels.ndim) + labels.shape)
    bits.flags.writeable = False
    return bits


def _flags(values: NDArray) -> NDArray[np.uint8]:
    """What is not 0, as (n, z, y, x), read-only; of 0 and 1 in one byte a view."""
    if values.dtype not in (np.bool_, np.uint8):
        values = values != 0
    shape = (1, 1, 1, *values.shape)
    flags = values.view(np.uint8).reshape(math.prod(shape[:-3]), *shape[-3:])
    flags.flags.writeable = False
    return flags


def _share_sections(function: Callable, n_z: int, threads: int) -> list:
    """Results of ``function(begin, end)`` for as many shares of the sections as threads."""
    if threads == 1:
        return [function(0, n_z)]
    bounds = [n_z * n // threads for n in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(function, bounds[:-1], bounds[1:]))


def _neighbour_slices(ndim: int, axis: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Slices of all voxels but the last, and of all but the first, along ``axis``."""
    low = [slice(None)] * ndim
    high = [slice(None)] * ndim
    low[axis], high[axis] = slice(None, -1), slice(1, None)
    return tuple(low), tuple(high)


def _has_one_label_around(labels: NDArray, steps: int, axes: Sequence[int], mask: NDArray) -> NDArray[np.bool_]:
    """Whether at most one label, and no background, is masked in within ``steps`` face steps of a voxel."""
    if np.shape(mask) != labels.shape:
        raise ValueError(f"the mask must have the shape of the labels, {labels.shape}, not {np.shape(mask)}")
    is_known = np.asarray(mask) != 0
    limits = np.iinfo(labels.dtype)
    lowest = np.where(is_known, labels, limits.max)
    highest = np.where(is_known, labels, limits.min)
    for _ in range(steps):
        lowest_before, highest_before = lowest.copy(), highest.copy()
        for axis in axes:
            low, high = _neighbour_slices(labels.ndim, axis)
            for target, source in ((low, high), (high, low)):
                np.minimum(lowest[target], lowest_before[source], out=lowest[target])
                np.maximum(highest[target], highest_before[source], out=highest[target])
    # Nothing masked in leaves lowest above highest.
    return (lowest > highest) | ((lowest == highest) & (highest != 0))


# The innermost loops below go along views of one length, because so the compiler sees that no index is negative and
# finds out with few checks that results overlap nothing that is read, and uses vector instructions.


@compiled
def _compare_sections(labels, begin, end, offsets, above, below, highest, window, same):
    """Affinities, (offset, section, voxel), of some sections; False as soon as a label is above ``highest``.

    ``window`` is a ring buffer for the labels, in a narrower type, of as many sections as are compared with each other:
    each waits there from when it is first a neighbour until it is last one.
    """
    n_z, n_y, n_x = labels.shape
    flat = labels.reshape(n_z, n_y * n_x)
    rows = max(1, BLOCK // n_x)
    ready = max(0, begin - above)
    for z in range(begin, end):
        while ready < min(n_z, z + below + 1):
            if not _narrow(flat[ready], highest, window[ready % len(window)]):
                return False
            ready += 1
        for y in range(0, n_y, rows):
            y_stop = min(n_y, y + rows)
            for n in range(len(offsets)):
                dz, dy, dx = offsets[n]
                # Rows whose neighbours are in the array follow one another in memory, and so do these neighbours.
                y_first = min(max(y, -dy), y_stop)
                y_last = max(y_first, min(y_stop, n_y - dy))
                if not (0 <= z + dz < n_z and -n_x < dx < n_x):
                    y_last = y_first
                first, last = y_first * n_x, y_last * n_x
                target = same[n, z]
                target[y * n_x : first] = 0
                target[last : y_stop * n_x] = 0
                if first == last:
                    continue
                low, high, shift = first + max(-dx, 0), last - max(dx, 0), dy * n_x + dx
                there = window[(z + dz) % len(window)]
                _compare(window[z % len(window)][low:high], there[low + shift : high + shift], target[low:high])
                # Where a row ends, its neighbour is not in the row of the others, but in the one before or after.
                x_end = 0 if dx < 0 else n_x - dx
                for x in range(x_end, x_end + abs(dx)):
                    target[first + x : last : n_x] = 0
    return True


@compiled
def _narrow(labels, highest, narrow):
    """Copy labels to an array of narrower integers, and whether they fit."""
    bits = labels.dtype.type(0)
    for i in range(len(narrow)):
        bits |= labels[i]
        narrow[i] = labels[i]
    return bits <= highest


@compiled
def _compare(here, there, same):
    for i in range(len(same)):
        same[i] = (here[i] == there[i]) & (here[i] != 0)


@compiled
def _erode_sections(labels, grown, is_3d, begin, end):
    """One erosion of some sections."""
    n_z, n_y, n_x = labels.shape
    flat, flat_grown = labels.reshape(labels.size), grown.reshape(labels.size)
    rows = max(1, BLOCK // n_x)
    for z in range(begin, end):
        # Steps to the neighbours; where that would leave the array, to the voxel itself, which spares it.
        above = -n_y * n_x if is_3d and z > 0 else 0
        below = n_y * n_x if is_3d and z < n_z - 1 else 0
        y = 0
        while y < n_y:
            before = -n_x if y > 0 else 0
            after = n_x if y < n_y - 1 else 0
            y_stop = min(n_y - 1, y + rows) if 0 < y < n_y - 1 else y + 1
            low, high = (z * n_y + y) * n_x, (z * n_y + y_stop) * n_x
            _erode(
                flat[low:high],
                flat[low + above : high + above],
                flat[low + below : high + below],
                flat[low + before : high + before],
                flat[low + after : high + after],
                flat_grown[low:high],
            )
            # The first and the last voxel of a row have no neighbours in the rows before and after.
            inwards = 1 if n_x > 1 else 0
            for first in range(low, high, n_x):
                last = first + n_x - 1
                flat_grown[first] = _eroded(flat, first, (above, below, before, after, inwards))
                flat_grown[last] = _eroded(flat, last, (above, below, before, after, -inwards))
            y = y_stop


@compiled
def _erode(here, above, below, before, after, grown):
    """Erosion of all but the first and the last of consecutive voxels."""
    nothing = here.dtype.type(0)
    for i in range(1, len(here) - 1):
        label = here[i]
        is_kept = (
            (above[i] == label)
            & (below[i] == label)
            & (before[i] == label)
            & (after[i] == label)
            & (here[i - 1] == label)
            & (here[i + 1] == label)
        )
        grown[i] = label if is_kept else nothing


@compiled
def _eroded(flat, voxel, steps):
    for step in steps:
        if flat[voxel + step] != flat[voxel]:
            return flat.dtype.type(0)
    return flat[voxel]


@compiled
def _count(is_one, is_known):
    """How many affinities are known, and how many of them are 1."""
    n_known, n_one = 0, 0
    for n in range(is_one.shape[0]):
        for z in range(is_one.shape[1]):
            for y in range(is_one.shape[2]):
                ones, known = is_one[n, z, y], is_known[n, z, y]
                # Counters of 32 bits: with wider ones fewer fit into a vector register.
                known_in_row, ones_in_row = np.uint32(0), np.uint32(0)
                for x in range(len(ones)):
                    known_here = known[x] != 0
                    known_in_row = np.uint32(known_in_row + known_here)
                    ones_in_row = np.uint32(ones_in_row + (known_here & (ones[x] != 0)))
                n_known += known_in_row
                n_one += ones_in_row
    return n_known, n_one


@compiled
def _weigh(is_one, is_known, one, zero, weights):
    nothing = np.float32(0)
    for n in range(is_one.shape[0]):
        for z in range(is_one.shape[1]):
            for y in range(is_one.shape[2]):
                ones, known, row = is_one[n, z, y], is_known[n, z, y], weights[n, z, y]
                for x in range(len(row)):
                    # Both are read before anything is decided, so that there is no branch.
                    one_here, known_here = ones[x], known[x]
                    weight = one if one_here != 0 else zero
                    row[x] = weight if known_here != 0 else nothing
