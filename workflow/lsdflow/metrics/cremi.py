"""The score of the CREMI challenge, and its tolerance for borders that annotators draw differently (https://cremi.org)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from lsdflow.errors import UserError


def cremi_score(voi_sum: float, adapted_rand_error: float) -> float:
    """The geometric mean of the VOI sum (bits) and the adapted Rand error; 0 is perfect.

    The leaderboard's own adapted Rand error differs in two ways from ours, which is scikit-image's: it takes voxels of
    segment 0 for segments of their own, and counts a voxel as its own partner.
    """
    # Rounding may leave the error of a nearly perfect segmentation just below 0.
    return math.sqrt(max(0.0, voi_sum * adapted_rand_error))


def border_mask(truth: ArrayLike, distance_nm: float, voxel_size: Sequence[float]) -> NDArray[np.bool_]:
    """The voxels that CREMI counts: those farther than a tolerance from every border in their own section.

    A voxel lies on a border if one of its four neighbours in the section has another id; 0 is an id like any other.
    The edge of the image is no border.

    Parameters
    ----------
    truth : integer (z, y, x)
    distance_nm : float
        Voxels at this distance or less from a voxel on a border, centre to centre, are not counted, nor are voxels on
        borders; 0 counts everything.
    voxel_size : nm, z y x order

    Returns
    -------
    bool (z, y, x)
        True where voxels are counted.

    Raises
    ------
    UserError
        If the truth is not 3-D, the distance negative, or a voxel size not positive.
    """
    truth, voxel_size = np.asarray(truth), np.asarray(voxel_size, np.float64)
    if truth.ndim != 3:
        raise UserError(f"the truth must be (z, y, x), not {truth.shape}")
    if not distance_nm >= 0:
        raise UserError(f"the border tolerance must be a length in nm of 0 or more, not {distance_nm}")
    if voxel_size.shape != (3,) or not np.all(voxel_size > 0):
        raise UserError(f"the voxel size must be three positive lengths in nm, z y x, not {voxel_size.tolist()}")
    counted = np.ones(truth.shape, bool)
    if distance_nm == 0:
        return counted
    # In units of y: whole numbers where voxels are square, so that the limit is met exactly.
    sampling, limit = (1, voxel_size[2] / voxel_size[1]), distance_nm / voxel_size[1]
    for section, section_counted in zip(truth, counted, strict=True):
        inner = _off_border(section)
        if not inner.all():  # a section of one id has no border to be far from
            section_counted[...] = ndimage.distance_transform_edt(inner, sampling) > limit
    return counted


def _off_border(section: NDArray) -> NDArray[np.bool_]:
    inner = np.ones(section.shape, bool)
    same_y, same_x = section[1:] == section[:-1], section[:, 1:] == section[:, :-1]
    inner[1:] &= same_y
    inner[:-1] &= same_y
    inner[:, 1:] &= same_x
    inner[:, :-1] &= same_x
    return inner
