"""Fragments by the mutex watershed: long-range affinities forbid what those of neighbours would join."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from bioimage_cpp.segmentation import mutex_watershed

from lsdflow.errors import UserError
from lsdflow.fragments import NEAREST, Place, check_affinities, check_mask


def mutex_fragments(
    affinities: npt.NDArray,
    offsets: Sequence[Sequence[int]],
    *,
    mask: npt.NDArray | None = None,
    strides: Sequence[int] = (1, 1, 1),
    place: Place | None = None,
) -> npt.NDArray[np.uint64]:
    """Segments without a threshold: join and forbid in the order of how sure the affinities are.

    The three affinities of nearest neighbours join, by their value; all others forbid, by how low they are.

    Parameters
    ----------
    affinities : float (n, z, y, x) in [0, 1], or uint8 that stand for value / 255
    offsets : n times z y x, voxels
        Which voxel each channel joins a voxel to; the first three are those of its lower neighbours.
    mask : bool (z, y, x), optional
        Where fragments may be; what is outside stays 0.
    strides : z y x
        Long-range affinities of every such voxel only are heard: fewer are faster, and forbid less.
    place : where the array lies in a larger volume, optional
        Ids are then those of that volume, each that of the fragment's first voxel here.

    Returns
    -------
    uint64 (z, y, x)
        Ids 1 to n without gaps (but for ``place``); 0 outside the mask only.

    Raises
    ------
    UserError
        If the affinities are outside [0, 1], NaN, or of a wrong shape, if none is long-range, if there is not one
        offset for each channel, or if the mask has another shape.

    References
    ----------
    Wolf et al. 2018, "The mutex watershed"; 2019, arXiv:1904.12654.
    """
    offsets = [list(map(int, offset)) for offset in offsets]
    if len(offsets) <= NEAREST:
        raise UserError(
            f"the mutex watershed needs long-range affinities beside the {NEAREST} of neighbours, but there are "
            f"{len(offsets)} offsets: give the setup more (affinities.offsets), or segment it by watershed"
        )
    if len(offsets) != len(affinities):
        raise UserError(f"{len(affinities)} channels of affinities need as many offsets, not {len(offsets)}")
    values = check_affinities(affinities, len(offsets))
    mask = check_mask(mask, values.shape[1:])
    weights = values.astype(np.float32)
    if values.dtype == np.uint8:
        weights /= 255
    # Of a channel that forbids, the library wants to know how surely two voxels are apart.
    np.subtract(1, weights[NEAREST:], out=weights[NEAREST:])
    fragments = mutex_watershed(weights, offsets, NEAREST, strides=list(strides), mask=mask)
    if place is None:
        return fragments
    ids, firsts = np.unique(fragments, return_index=True)
    names = np.zeros(int(ids.max(initial=0)) + 1, np.uint64)
    names[ids] = place.ids(firsts, fragments.shape)
    names[0] = 0
    return names[fragments]
