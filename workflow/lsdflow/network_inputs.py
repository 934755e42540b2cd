"""What a network sees of a volume: grey values and stored predictions of others, mirrored at the border."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lsdflow.errors import UserError
from lsdflow.network_shapes import Shape
from lsdflow.setups import Setup
from lsdflow.volumes import Roi, Volume


@dataclass(frozen=True)
class NetworkInput:
    """Channels that a network sees.

    Attributes
    ----------
    volume : the voxels, ``([channel,] z, y, x)``: uint8, or floats in 0–1. Beyond its border it is mirrored.
    origin : its first voxel, in voxels of the raw volume.
    output : ``"affinities"`` or ``"lsds"`` for stored predictions, ``"raw"`` for grey values, which the network gets as
        −1 to 1.
    offsets : z y x of affinities; only needed for symmetries.
    """

    volume: Volume
    origin: Shape = (0, 0, 0)
    output: str = "raw"
    offsets: tuple[Shape, ...] = ()

    def read(self, box: Roi) -> NDArray:
        """The voxels ``(channel, z, y, x)`` of ``box``, in voxels of the raw volume.

        Raises
        ------
        UserError
            If one of them is not a number.
        """
        data = read_mirrored(self.volume, box.shift([-o for o in self.origin]))
        if np.issubdtype(data.dtype, np.floating) and not np.isfinite(data).all():
            raise UserError(
                f"the network's input {self.output!r} holds values that are not finite numbers (NaN or infinity) in "
                f"{box}: look at the file it was made from"
            )
        return data if data.ndim == 4 else data[None]


def read_mirrored(volume: Volume, box: Roi) -> NDArray:
    """The voxels of ``box``, which may reach beyond the volume; it goes on as ``numpy.pad(mode="reflect")`` has it.

    What a voxel beyond the border is does not depend on the box.
    """
    indices = []
    for begin, end, length in zip(box.begin, box.end, volume.shape_zyx, strict=True):
        place = np.arange(begin, end) % max(1, 2 * (length - 1))
        indices.append(np.minimum(place, 2 * (length - 1) - place) if length > 1 else place)
    inside = Roi(tuple(int(i.min()) for i in indices), tuple(int(i.max()) + 1 for i in indices))
    data = volume.read(inside)
    for axis, (index, begin) in enumerate(zip(indices, inside.begin, strict=True), start=data.ndim - 3):
        if data.shape[axis] != len(index) or (np.diff(index) < 0).any():
            data = data.take(index - begin, axis)
    return data


def inputs_of(
    setup: Setup, setups: Mapping[str, Setup], raw: Volume, stored: Callable[[str, str], Volume]
) -> list[NetworkInput]:
    """What ``setup`` sees, in its order; ``stored(setup, output)`` opens the predictions of another setup."""
    inputs = []
    for source in setup.inputs:
        other, _, output = source.partition(".")
        if output:
            volume = stored(other, output)
            inputs.append(NetworkInput(volume, raw.position_of(volume), output, setups[other].offsets))
        else:
            inputs.append(NetworkInput(raw))
    return inputs
