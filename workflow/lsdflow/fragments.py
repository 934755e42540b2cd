"""Fragments (supervoxels): a seeded watershed on the distance to the boundaries that affinities show."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from bioimage_cpp.distance import distance_transform
from bioimage_cpp.segmentation import watershed
from scipy import ndimage

from lsdflow.errors import UserError

# The nearest-neighbour channels come first: offsets [-1, 0, 0], [0, -1, 0], [0, 0, -1].
NEAREST = 3
MAXIMUM_ID = np.iinfo(np.uint64).max


def check_affinities(affinities: npt.NDArray, channels: int = NEAREST) -> npt.NDArray:
    """The first ``channels`` channels of ``affinities`` ``(n, z, y, x)``, as uint8 or float32.

    Raises
    ------
    UserError
        If the array does not have that shape with enough channels, holds no voxel, is neither floating point in
        [0, 1] nor uint8 (0–255), or has NaN.
    """
    affinities = np.asarray(affinities)
    if affinities.ndim != 4 or affinities.shape[0] < channels:
        raise UserError(
            f"affinities must be (n, z, y, x) with at least {channels} channels, those of the nearest neighbours along "
            f"z, y and x first, not {affinities.shape}"
        )
    if affinities.size == 0:
        raise UserError(f"affinities must hold voxels, but their shape is {affinities.shape}")
    affinities = affinities[:channels]
    if affinities.dtype == np.uint8:
        return affinities
    if not np.issubdtype(affinities.dtype, np.floating):
        raise UserError(f"affinities must be uint8 (0–255) or floating point (0–1), not {affinities.dtype}")
    low, high = affinities.min(), affinities.max()
    if not (low >= 0 and high <= 1):
        found = "NaN among them" if np.isnan(low) or np.isnan(high) else f"from {low:g} to {high:g}"
        raise UserError(f"affinities must lie in 0–1, but are {found}: predict again, or divide them by their range")
    return affinities.astype(np.float32, copy=False)


def watershed_fragments(
    affinities: npt.NDArray,
    *,
    mask: npt.NDArray | None = None,
    threshold: float = 0.5,
    minimum_seed_distance: int | Sequence[int] = 10,
    in_sections: bool = False,
    minimum_size: int = 0,
    channels: int = NEAREST,
    voxel_size: Sequence[float] | None = None,
) -> npt.NDArray[np.uint64]:
    """Over-segment a volume: flood from the voxels that are farthest from a boundary.

    Voxels whose mean affinity is above ``threshold`` are inside a neuron. Where their Euclidean distance to the
    outside is largest within a window is a seed, and seeds flood the inverted distance, over the boundaries too, until
    every voxel of the mask has a fragment. That is ``lsd.post.fragments`` of the LSD paper's code, with three
    differences: the window is odd, hence symmetric; only the channels of nearest neighbours enter the mean; and what
    is flooded continues outside by the distance to the inside, less the mean affinity around the voxel, so that
    fragments meet in the middle of a boundary and not where the order of a queue happens to put them.

    Parameters
    ----------
    affinities : float (n, z, y, x) in [0, 1], or uint8 that stand for value / 255
        The first three channels join a voxel to its lower neighbour along z, y and x.
    mask : bool (z, y, x), optional
        Where fragments may be; what is outside counts as boundary and stays 0.
    threshold : mean affinity above which a voxel is inside.
    minimum_seed_distance : voxels, one number or z y x
        Edge length of the window in which a seed must have the largest distance; even numbers are rounded up.
    in_sections : work in every z section by itself, on the affinities along y and x: for thick sections.
    minimum_size : voxels
        Smaller fragments give their voxels to their neighbours; one without a neighbour stays.
    channels : how many of the first channels are averaged; of no concern in sections.
    voxel_size : z y x, optional
        Distances are measured in voxels of this shape (any unit); cubic by default.

    Returns
    -------
    uint64 (z, y, x)
        Ids 1 to n without gaps; 0 outside the mask only.

    Raises
    ------
    UserError
        If the affinities are outside [0, 1], NaN, or of a wrong shape, if the mask has another shape, or if a number
        is outside its range.
    """
    inside = check_affinities(affinities, max(channels, NEAREST))
    inside = inside[1:NEAREST] if in_sections else inside[:channels]
    shape = inside.shape[1:]
    if mask is not None:
        mask = np.asarray(mask).astype(bool)
        if mask.shape != shape:
            raise UserError(f"the mask must have the shape of the affinities, {shape}, not {mask.shape}")
    if not 0 <= threshold <= 1:
        raise UserError(f"the threshold of the mean affinity must be in 0–1, not {threshold}")
    window = tuple(int(n) | 1 for n in _three(minimum_seed_distance, "minimum_seed_distance"))
    sampling = _three(1.0 if voxel_size is None else voxel_size, "voxel_size")
    # In lengths of the finest axis, distances keep their meaning beside the affinities (0–1) that break ties.
    sampling = tuple(s / min(sampling[1:] if in_sections else sampling) for s in sampling)

    mean = inside.mean(axis=0, dtype=np.float32)
    if inside.dtype == np.uint8:
        mean /= 255
    if not in_sections:
        return _flood(mean, mask, threshold, window, sampling, minimum_size)
    fragments = np.zeros(shape, np.uint64)
    n_before = 0
    for z in range(shape[0]):
        section_mask = None if mask is None else mask[z]
        section = _flood(mean[z], section_mask, threshold, window[1:], sampling[1:], minimum_size)
        n_here = int(section.max())
        section[section > 0] += np.uint64(n_before)
        fragments[z] = section
        n_before += n_here
    return fragments


def global_ids(fragments: npt.NDArray[np.uint64], index: int, voxels_per_block: int) -> npt.NDArray[np.uint64]:
    """Ids that no other block uses, with no counter shared between jobs: ``id + index * voxels_per_block``.

    A block cannot have more fragments than voxels, so ids 1 to ``voxels_per_block`` of block ``index`` never meet
    those of another. Zero stays zero. With uint64 this is good for 1.8e19 voxels, but a volume of that many would
    wrap round, so it is checked.

    Parameters
    ----------
    fragments : uint64 (z, y, x)
        Of one block, ids 1 to n.
    index : the block's index in its grid.
    voxels_per_block : `BlockGrid.voxels_per_block`; of a whole block, also where this one is cut.

    Raises
    ------
    ValueError
        If an id is larger than ``voxels_per_block`` (fragments of block and context: relabel after cropping), or the
        index is negative.
    UserError
        If the ids would exceed uint64.
    """
    fragments = np.asarray(fragments)
    highest = int(fragments.max(initial=0))
    if index < 0 or highest > voxels_per_block:
        raise ValueError(
            f"block {index} has id {highest}, but must have ids of at most {voxels_per_block}, one for each voxel: "
            "relabel its fragments 1 to n after cutting the context off"
        )
    first = index * voxels_per_block
    if first + voxels_per_block > MAXIMUM_ID:
        raise UserError(
            f"fragment ids of block {index} would exceed {MAXIMUM_ID}, the largest of uint64: "
            f"use blocks of fewer than {voxels_per_block} voxels, or a smaller region"
        )
    return np.where(fragments > 0, fragments.astype(np.uint64) + np.uint64(first), np.uint64(0))


def _three(value: float | Sequence[float], name: str) -> tuple[float, ...]:
    """A number for each axis, z y x."""
    values = tuple(value) if np.ndim(value) else (value,) * 3
    if len(values) != 3 or not all(np.isfinite(v) and v > 0 for v in values):
        raise UserError(f"{name} must be a positive number or three of them (z, y, x), not {value}")
    return values


def _distance(inside: npt.NDArray[np.bool_], sampling: tuple[float, ...]) -> npt.NDArray[np.float32]:
    """Distance of every inside voxel to the nearest outside one, 0 outside."""
    if inside.all():
        # There is no outside to be far from: all are equal.
        return np.ones(inside.shape, np.float32)
    return distance_transform(inside, sampling=sampling)


def _flood(
    mean: npt.NDArray[np.float32],
    mask: npt.NDArray[np.bool_] | None,
    threshold: float,
    window: tuple[int, ...],
    sampling: tuple[float, ...],
    minimum_size: int,
) -> npt.NDArray[np.uint64]:
    """Seeds and watershed in as many dimensions as ``mean`` has."""
    inside = mean > np.float32(threshold)
    if mask is not None:
        inside &= mask
    distance = _distance(inside, sampling)
    is_seed = ndimage.maximum_filter(distance, size=window) == distance
    if mask is not None:
        is_seed &= mask
    seeds = ndimage.label(is_seed)[0].astype(np.uint64)
    # On plateaus (all of the outside, and many equal distances inside) this watershed lets the last seed to arrive run
    # off with everything. With a height that has no plateaus its fragments are purer than those of the plain inverted
    # distance by scikit-image, several times sooner. The mean affinity is averaged over neighbours because it may be
    # saturated, the same for all voxels of a boundary.
    height = _distance(~inside, sampling)
    height[inside] = 0
    height -= distance
    height -= ndimage.uniform_filter(mean, size=3)
    fragments = _fill(height, seeds, mask)
    if minimum_size > 1:
        sizes = np.bincount(fragments.ravel())
        is_kept = sizes >= minimum_size
        is_kept[0] = False
        if is_kept.any():
            fragments = _fill(height, np.where(is_kept[fragments], fragments, 0), mask)
    return _relabel(fragments)


def _fill(
    height: npt.NDArray[np.float32], seeds: npt.NDArray[np.uint64], mask: npt.NDArray[np.bool_] | None
) -> npt.NDArray[np.uint64]:
    """Flood from ``seeds``; parts of the mask that no seed reaches become fragments of their own."""
    fragments = watershed(height, seeds, mask=mask)
    missed = fragments == 0 if mask is None else mask & (fragments == 0)
    if missed.any():
        more = ndimage.label(missed)[0].astype(np.uint64)
        fragments = np.where(missed, more + fragments.max(), fragments)
    return fragments


def _relabel(fragments: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The same fragments with ids 1 to n, in the order of the old ids."""
    is_used = np.bincount(fragments.ravel()) > 0
    is_used[0] = False
    return np.where(is_used, np.cumsum(is_used), 0).astype(np.uint64)[fragments]
