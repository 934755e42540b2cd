"""Fragments (supervoxels): a seeded watershed on the distance to the boundaries that affinities show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from bioimage_cpp.distance import distance_transform
from scipy import ndimage

from lsdflow.errors import UserError
from lsdflow.watershed import Basins, flood

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


@dataclass(frozen=True)
class Place:
    """Where an array lies in a larger volume.

    Attributes
    ----------
    begin : z y x
        The array's first voxel, in voxels of the volume.
    volume_shape : z y x

    Raises
    ------
    UserError
        If the volume has more voxels than there are ids.
    """

    begin: tuple[int, int, int]
    volume_shape: tuple[int, int, int]

    def __post_init__(self) -> None:
        if math.prod(self.volume_shape) > MAXIMUM_ID:
            raise UserError(
                f"fragment ids of a volume of {self.volume_shape} voxels would exceed {MAXIMUM_ID}, the largest of "
                "uint64: segment it in several regions"
            )

    def ids(self, indices: npt.NDArray[np.integer], shape: Sequence[int]) -> npt.NDArray[np.uint64]:
        """Ids of the voxels ``indices`` of an array of ``shape``: the index in the whole volume, and 1.

        No two voxels of a volume share one, and none is 0: jobs name fragments by a voxel of theirs, with no counter
        between them.
        """
        ids = np.zeros(np.shape(indices), np.uint64)
        for along, begin, n in zip(np.unravel_index(indices, shape), self.begin, self.volume_shape, strict=True):
            ids = ids * np.uint64(n) + (along + begin).astype(np.uint64)
        return ids + np.uint64(1)


def watershed_fragments(
    affinities: npt.NDArray,
    *,
    mask: npt.NDArray | None = None,
    threshold: float = 0.5,
    minimum_seed_distance: int | Sequence[int] = 10,
    in_sections: bool = False,
    minimum_size: int = 0,
    minimum_affinity: float = 0,
    channels: int = NEAREST,
    voxel_size: Sequence[float] | None = None,
    place: Place | None = None,
) -> npt.NDArray[np.uint64]:
    """Over-segment a volume: flood from the voxels that are farthest from a boundary.

    Voxels whose mean affinity is above ``threshold`` are inside a neuron. Where their Euclidean distance to the
    outside is largest within a window is a seed, and seeds flood the inverted distance, over the boundaries too, until
    every voxel of the mask has a fragment. That is ``lsd.post.fragments`` of the LSD paper's code, with these
    differences: the window is odd, hence symmetric; only the channels of nearest neighbours enter the mean; of equal
    distances the one with the higher affinities around it is larger; an inside without a seed gets one, where it would
    be flooded from another neuron; and what is flooded continues outside by the distance to the inside, so that
    fragments meet in the middle of a boundary and not where the order of a queue happens to put them. An outside that
    is wider than the window has fragments of its own.

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
        Smaller fragments join a neighbour; one without a neighbour stays.
    minimum_affinity : of a fragment
        Fragments with a lower mean affinity are taken away (0): what lies outside of all neurons.
    channels : how many of the first channels are averaged; of no concern in sections.
    voxel_size : z y x, optional
        Distances are measured in voxels of this shape (any unit); cubic by default.
    place : where the array lies in a larger volume, optional
        Ids are then those of that volume (`Place.ids`), the same from every block that sees enough of a fragment.

    Returns
    -------
    uint64 (z, y, x)
        Ids 1 to n without gaps (but for ``place``); 0 outside the mask, or where a fragment was taken away.

    Raises
    ------
    UserError
        If the affinities are outside [0, 1], NaN, or of a wrong shape, if the mask has another shape, or if a number
        is outside its range.
    """
    inside = check_affinities(affinities, max(channels, NEAREST))
    inside = inside[1:NEAREST] if in_sections else inside[:channels]
    shape = inside.shape[1:]
    mask = check_mask(mask, shape)
    for name, value in (("threshold", threshold), ("minimum_affinity", minimum_affinity)):
        if not 0 <= value <= 1:
            raise UserError(f"{name}, a mean affinity, must be in 0–1, not {value}")
    reach = tuple(int(n) // 2 for n in _three(minimum_seed_distance, "minimum_seed_distance"))
    sampling = _three(1.0 if voxel_size is None else voxel_size, "voxel_size")
    # In lengths of the finest axis, distances keep their meaning beside the affinities (0–1) that break ties.
    sampling = tuple(s / min(sampling[1:] if in_sections else sampling) for s in sampling)

    mean = inside.mean(axis=0, dtype=np.float32)
    if inside.dtype == np.uint8:
        mean /= 255
    fragments, n_before = np.zeros(shape, np.uint64), 0
    # A section by itself knows no z: distances do not cross it, and seeds are the deepest of their own.
    for begin, end in [(z, z + 1) for z in range(shape[0])] if in_sections else [(0, shape[0])]:
        part, part_mask = mean[begin:end], None if mask is None else mask[begin:end]
        basins = flood(
            _height(part, part_mask, threshold, reach, sampling), part_mask, reach=reach, minimum_size=minimum_size
        )
        is_kept = _is_kept(basins, part, minimum_affinity)
        if place is None:
            ids = n_before + np.cumsum(is_kept & basins.are_seeds).astype(np.uint64)
            n_before = ids[-1] if len(ids) else n_before
        else:
            there = Place((place.begin[0] + begin, *place.begin[1:]), place.volume_shape)
            ids = there.ids(basins.roots, part.shape)
        basins.write(np.where(is_kept, ids, np.uint64(0))[basins.fragment], fragments[begin:end])
    return fragments


def check_mask(mask: npt.NDArray | None, shape: tuple[int, ...]) -> npt.NDArray[np.bool_] | None:
    """``mask`` as bool, refused (`UserError`) if it has another shape; None stays None."""
    if mask is None:
        return None
    mask = np.asarray(mask)
    if mask.shape != shape:
        raise UserError(f"the mask must have the shape of the affinities, {shape}, not {mask.shape}")
    return np.ascontiguousarray(mask, bool)


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


def _height(
    mean: npt.NDArray[np.float32],
    mask: npt.NDArray[np.bool_] | None,
    threshold: float,
    reach: tuple[int, ...],
    sampling: tuple[float, ...],
) -> npt.NDArray[np.float32]:
    """What is flooded: below 0 inside, the deeper the farther from the boundary."""
    inside = mean > np.float32(threshold)
    if mask is not None:
        inside &= mask
    height = _distance(~inside, sampling)
    # Beyond half a window from all neurons the outside falls again: it is no boundary, but something else.
    # Across a single section there is no window.
    across = slice(int(len(inside) == 1), None)
    half = max((r + 0.5) * s for r, s in zip(reach[across], sampling[across], strict=True))
    np.minimum(height, 2 * half - height, out=height)
    height[inside] = 0
    height -= _distance(inside, sampling)
    # Averaged over neighbours, because a voxel's own affinities may be saturated, the same for many.
    height -= ndimage.uniform_filter(mean, size=3)
    return height


def _is_kept(basins: Basins, mean: npt.NDArray[np.float32], minimum_affinity: float) -> npt.NDArray[np.bool_]:
    """Of each piece that is a fragment's seed, whether the fragment's mean affinity is high enough."""
    if minimum_affinity == 0:
        return np.ones(len(basins.roots), bool)
    return basins.sums(mean) >= minimum_affinity * basins.sums()
