"""The fragments of one block of a volume, as if the whole volume had been segmented at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lsdflow.agglomeration import build_merge_tree
from lsdflow.fragments import NEAREST, Place, watershed_fragments
from lsdflow.mutex import mutex_fragments
from lsdflow.roi import Roi
from lsdflow.volumes import Volume

# Within a block, fragments are joined by what the LSD paper's code joins them by.
EPSILON_MERGE_FUNCTION = "hist_quant_25"


@dataclass(frozen=True)
class FragmentSettings:
    """How affinities become fragments.

    Attributes
    ----------
    method : ``"watershed"`` or ``"mutex_watershed"``.
    foreground_threshold, minimum_seed_distance, in_sections, minimum_size, minimum_affinity
        Of the watershed; see `watershed_fragments`.
    mutex_strides : of the mutex watershed; see `mutex_fragments`.
    epsilon : merge score
        Up to it, fragments are joined at once: fewer go into the region graph. 0 joins none.
    """

    method: str = "watershed"
    foreground_threshold: float = 0.5
    minimum_seed_distance: int | Sequence[int] = 10
    in_sections: bool = False
    minimum_size: int = 0
    minimum_affinity: float = 0
    mutex_strides: tuple[int, int, int] = (4, 4, 4)
    epsilon: float = 0


def fragments_of_block(
    affinities: Volume,
    block: Roi,
    settings: FragmentSettings,
    *,
    within: Roi,
    context: Sequence[int],
    offsets: Sequence[Sequence[int]],
    mask: Volume | None = None,
) -> npt.NDArray[np.uint64]:
    """The fragments in ``block``, named so that those of all blocks fit together.

    The block is segmented with ``context`` voxels around it. A fragment is named by its seed, so that two blocks that
    both see it whole, and what decides about it, give it the same name; one that is larger is cut at their face, into
    pieces with high affinities between them, which agglomeration joins first.

    Parameters
    ----------
    affinities : channels of `offsets`; they may reach beyond ``within``.
    block : in voxels of ``affinities``, inside ``within``.
    within : the region that is segmented, in the same voxels; nothing outside is looked at.
    context : z y x, voxels
        About the radius of the largest neurite, and the reach of seeds. Sections by themselves need none along z.
    offsets : of all channels of the affinities, voxels.
    mask : bool, optional
        Of any extent that holds ``within``.

    Returns
    -------
    uint64, of the block's shape; 0 where there is no fragment.

    Raises
    ------
    UserError
        If the affinities are not what they must be (see `watershed_fragments`), or ``within`` has more voxels than
        there are ids.
    """
    is_mutex = settings.method == "mutex_watershed"
    strides = settings.mutex_strides if is_mutex else (1, 1, 1)
    # The voxels that strides leave are counted from the region's first, whatever the block.
    begin = tuple(
        w + max(0, b - c - w) // s * s for b, c, w, s in zip(block.begin, context, within.begin, strides, strict=True)
    )
    seen = Roi(begin, block.grow(context).intersect(within).end)
    place = Place(tuple(b - w for b, w in zip(begin, within.begin, strict=True)), within.shape)
    inside = None
    if mask is not None:
        inside = mask.read(seen.shift(mask.position_of(affinities))).astype(bool)
        if not inside.any():
            return np.zeros(block.shape, np.uint64)
    values = affinities.read(seen, channels=slice(None if is_mutex else NEAREST))
    if is_mutex:
        fragments = mutex_fragments(values, offsets, mask=inside, strides=strides, place=place)
    else:
        fragments = watershed_fragments(
            values,
            mask=inside,
            threshold=settings.foreground_threshold,
            minimum_seed_distance=settings.minimum_seed_distance,
            in_sections=settings.in_sections,
            minimum_size=settings.minimum_size,
            minimum_affinity=settings.minimum_affinity,
            voxel_size=affinities.voxel_size,
            place=place,
        )
    if settings.epsilon > 0 and fragments.any():
        tree = build_merge_tree(
            values[:NEAREST], fragments, merge_function=EPSILON_MERGE_FUNCTION, highest_score=settings.epsilon
        )
        fragments = tree.segmentation(fragments, settings.epsilon)
    return fragments[block.shift([-b for b in begin]).slices]
