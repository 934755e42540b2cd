"""Predictions averaged over symmetries of the voxel grid: what a network sees is turned, what it says is turned back.

A grey value stays what it is when a volume is mirrored. A descriptor's directions turn, and an affinity comes to belong
to another pair of voxels: mirrored along x, the affinity of a voxel to its left neighbour is that to its right one,
which is stored with that neighbour.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lsdflow.augment import Symmetry, symmetries
from lsdflow.errors import UserError
from lsdflow.network_shapes import Shape

AUGMENTATIONS = ("none", "flips", "all")


def symmetries_of(augment: str, voxel_size: Sequence[float]) -> list[Symmetry]:
    """The symmetries to average over, the identity first.

    Parameters
    ----------
    augment : ``"none"``; ``"flips"``, the 8 mirror images; or ``"all"``, these with y and x exchanged too, which are 16
        where voxels are as long along y as along x, else the same 8.
    voxel_size : nm, z y x.
    """
    if augment not in AUGMENTATIONS:
        raise ValueError(f"augment must be one of {', '.join(AUGMENTATIONS)}, not {augment!r}")
    orders = {"none": [], "flips": [(0, 1, 2)], "all": [(0, 1, 2), (0, 2, 1)]}[augment]
    return [s for s in symmetries(voxel_size) if s.axes in orders] or [Symmetry()]


def check_offsets(offsets: Sequence[Shape], chosen: Sequence[Symmetry], name: str) -> None:
    """Refuse affinities that are not among one another's mirror images.

    Raises
    ------
    UserError
        Naming the setup ``name`` and the offset that its mirror image has, but no affinity.
    """
    for symmetry in chosen:
        for offset in offsets:
            if _source(offset, offsets, symmetry) is None:
                known = ", ".join(str(tuple(o)) for o in offsets)
                raise UserError(
                    f"prediction.augment: setup {name!r} has affinities to {known}, but not to "
                    f"{_turned(offset, symmetry.inverse)}, which a mirrored or transposed volume asks for: set it to "
                    "none, or to flips if that was y and x exchanged"
                )


def reach_of(offsets: Sequence[Shape]) -> Shape:
    """Voxels beyond a box from which its affinities may come when the volume is turned."""
    longest = max((abs(o) for offset in offsets for o in offset), default=0)
    return (longest,) * 3


def transform(values: torch.Tensor, symmetry: Symmetry) -> torch.Tensor:
    """The transformed ``(batch, channel, z, y, x)`` tensor, as `Symmetry.apply` does with arrays."""
    moved = values.permute(0, 1, *(2 + axis for axis in symmetry.axes))
    return moved.flip([2 + axis for axis, is_flipped in enumerate(symmetry.flips) if is_flipped])


def transform_lsds(lsds: torch.Tensor, symmetry: Symmetry) -> torch.Tensor:
    """Descriptors ``(batch, 10, z, y, x)`` of the transformed volume, as `lsd.transform_descriptors` makes them."""
    axes, flips = symmetry.axes, symmetry.flips
    pairs = [(0, 1), (0, 2), (1, 2)]
    sources = [*axes, *(3 + axis for axis in axes)]
    sources += [6 + pairs.index(tuple(sorted((axes[i], axes[j])))) for i, j in pairs] + [9]
    moved = transform(lsds[:, sources], symmetry)
    is_reflected = [*flips, *[False] * 3, *(flips[i] != flips[j] for i, j in pairs), False]
    channels = [channel for channel, reflected in enumerate(is_reflected) if reflected]
    # Background, 0 in all channels, has no direction.
    is_object = (moved != 0).any(dim=1, keepdim=True)
    moved[:, channels] = torch.where(is_object, 1 - moved[:, channels], moved[:, channels])
    return moved


def transform_affinities(
    affinities: torch.Tensor, offsets: Sequence[Shape], symmetry: Symmetry
) -> tuple[torch.Tensor, torch.Tensor]:
    """Affinities of the transformed volume from those of the volume as it was.

    Parameters
    ----------
    affinities : (batch, len(offsets), z, y, x) tensor, channels to ``offsets``.

    Returns
    -------
    values, is_known : the affinities, to the same offsets, 0 where their pair reaches beyond the tensor; and where it
        does not, bool (len(offsets), z, y, x).
    """
    moved = transform(affinities, symmetry)
    values = torch.zeros_like(moved)
    is_known = torch.zeros(moved.shape[1:], dtype=torch.bool, device=moved.device)
    for channel, offset in enumerate(offsets):
        source, is_reversed = _source(offset, offsets, symmetry)
        # The affinity to -o is stored with the voxel at o.
        shift = offset if is_reversed else (0, 0, 0)
        here = tuple(slice(max(0, -s), max(0, n - max(0, s))) for s, n in zip(shift, moved.shape[2:], strict=True))
        there = tuple(slice(max(0, s), max(0, n + min(0, s))) for s, n in zip(shift, moved.shape[2:], strict=True))
        values[:, channel][(..., *here)] = moved[:, source][(..., *there)]
        is_known[channel][here] = True
    return values, is_known


def _turned(offset: Shape, symmetry: Symmetry) -> Shape:
    """What becomes of an offset when the volume is transformed."""
    signs = (-1 if is_flipped else 1 for is_flipped in symmetry.flips)
    return tuple(sign * offset[axis] for axis, sign in zip(symmetry.axes, signs, strict=True))


def _source(offset: Shape, offsets: Sequence[Shape], symmetry: Symmetry) -> tuple[int, bool] | None:
    """The channel that holds before ``symmetry`` what is the affinity to ``offset`` after it, and if it is reversed."""
    before, known = _turned(offset, symmetry.inverse), [tuple(o) for o in offsets]
    if before in known:
        return known.index(before), False
    opposite = tuple(-o for o in before)
    return (known.index(opposite), True) if opposite in known else None
