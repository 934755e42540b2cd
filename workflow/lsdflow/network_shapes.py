"""The shapes that networks take and make, and the named networks: known without building one.

Plain Python, so that a configuration can be checked where torch is not installed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from lsdflow.errors import UserError
from lsdflow.roi import AXES

Shape = tuple[int, int, int]


def _shape(values: Sequence[int]) -> Shape:
    return tuple(int(n) for n in values)


def valid_length(size: int, factors: Sequence[int]) -> int | None:
    """Output length along one axis of a `networks.UNet` with an input of ``size`` voxels; None if it cannot take it."""
    for factor in factors:
        size -= 4
        if size < factor or size % factor:
            return None
        size //= factor
    size -= 4
    for factor in reversed(factors):
        size = size * factor - 4
    return size if size > 0 else None


def padded_length(size: int, factors: Sequence[int]) -> int | None:
    """As `valid_length`, of a `networks.ResidualUNet`."""
    return size if size > 0 and size % math.prod(factors) == 0 else None


LENGTHS = {"unet": valid_length, "residual_unet": padded_length}


def output_shape_of(
    length_of: Callable[[int, Sequence[int]], int | None],
    input_shape: Sequence[int],
    downsample_factors: Sequence[Sequence[int]],
) -> Shape:
    """Output shape by the arithmetic of one axis, `valid_length` or `padded_length`; UserError if there is none."""
    shape = _shape(input_shape)
    result = []
    for axis, size in enumerate(shape):
        factors = [f[axis] for f in downsample_factors]
        out = length_of(size, factors)
        if out is None:
            # The smallest input of a valid network is a few kernels times its factors.
            longest = 2 * max(size, 0) + 16 * math.prod(factors) * (len(factors) + 1)
            fitting = [n for n in range(1, longest) if length_of(n, factors) is not None]
            near = sorted(sorted(fitting, key=lambda n: abs(n - size))[:4])
            raise UserError(
                f"the network cannot take an input of {size} voxels along {AXES[axis]} (shape {shape}): "
                f"the nearest it can are {', '.join(map(str, near))}"
            )
        result.append(out)
    return _shape(result)


@dataclass(frozen=True)
class NetworkSettings:
    """What defines a network but for the number of its input channels.

    Attributes
    ----------
    architecture : ``"unet"`` (`networks.UNet`) or ``"residual_unet"`` (`networks.ResidualUNet`).
    num_fmaps, fmap_inc_factor, downsample_factors : see `networks.UNet`.
    """

    architecture: str
    num_fmaps: int
    fmap_inc_factor: int
    downsample_factors: tuple[Shape, ...]

    def __post_init__(self):
        if self.architecture not in LENGTHS:
            raise UserError(f"there is no network architecture {self.architecture!r}: {', '.join(LENGTHS)} exist")
        object.__setattr__(self, "downsample_factors", tuple(_shape(f) for f in self.downsample_factors))

    @property
    def is_padded(self) -> bool:
        """Whether the output is as large as the input (and unreliable near its border)."""
        return self.architecture != "unet"

    def output_shape(self, input_shape: Sequence[int]) -> Shape:
        """Output shape (z, y, x) for ``input_shape``, without building the network.

        Raises
        ------
        UserError
            If the network cannot take it; the message offers the nearest sizes that it can.
        """
        length_of = LENGTHS[self.architecture]
        return output_shape_of(length_of, input_shape, self.downsample_factors)

    def input_shape(self, output_shape: Sequence[int]) -> Shape:
        """The input shape that yields exactly ``output_shape``; UserError with the nearest sizes if there is none."""
        sizes = self.covering_input_shape(output_shape)
        made = self.output_shape(sizes)
        for axis, (asked, got) in enumerate(zip(output_shape, made, strict=True)):
            if asked != got:
                near = sorted({self._output_lengths(axis, asked)[-1], got} - {0})
                raise UserError(
                    f"the network cannot make an output of {asked} voxels along {AXES[axis]} "
                    f"(shape {_shape(output_shape)}): the nearest it can are {' and '.join(map(str, near))}"
                )
        return sizes

    def covering_input_shape(self, output_shape: Sequence[int]) -> Shape:
        """The smallest input shape whose output is at least ``output_shape``.

        The paper's auto-context nets need it: the second net's input of 196³ is the centre of the first's 200³.
        """
        length_of = LENGTHS[self.architecture]
        result = []
        for axis, size in enumerate(output_shape):
            factors = [f[axis] for f in self.downsample_factors]
            length = int(size)
            while (length_of(length, factors) or 0) < size:
                length += 1
            result.append(length)
        return _shape(result)

    def _output_lengths(self, axis: int, up_to: int) -> list[int]:
        """The output lengths along ``axis`` that exist up to ``up_to``, ascending, 0 before them."""
        length_of = LENGTHS[self.architecture]
        factors = [f[axis] for f in self.downsample_factors]
        # A valid network's input is larger than its output by a few kernels times its factors.
        longest = up_to + 16 * math.prod(factors) * (len(factors) + 1)
        lengths = {length_of(n, factors) or 0 for n in range(1, longest)}
        return sorted({0} | {n for n in lengths if n <= up_to})

    def as_dict(self) -> dict:
        """Plain values for a checkpoint."""
        return asdict(self)


NETWORKS = {
    # The paper's networks (Sheridan et al. 2023), for GPUs.
    "fib25": NetworkSettings("unet", 12, 6, ((2, 2, 2), (2, 2, 2), (3, 3, 3))),
    "hemibrain": NetworkSettings("unet", 12, 6, ((2, 2, 2), (2, 2, 2), (3, 3, 3))),
    "zebrafinch": NetworkSettings("unet", 12, 5, ((1, 3, 3), (1, 3, 3), (3, 3, 3))),
    # Modest hardware.
    "small": NetworkSettings("residual_unet", 8, 2, ((2, 2, 2), (2, 2, 2))),
    "medium": NetworkSettings("residual_unet", 16, 2, ((2, 2, 2), (2, 2, 2), (2, 2, 2))),
    "small_anisotropic": NetworkSettings("residual_unet", 8, 2, ((1, 2, 2), (2, 2, 2))),
}


def prediction_input_shape(network: NetworkSettings, block_shape: Sequence[int], context: Sequence[int]) -> Shape:
    """The input shape from which ``block_shape`` voxels are predicted.

    A valid network brings its own context; a padded one gets ``context`` voxels more on both sides, whose predictions
    are thrown away because they lack context themselves.

    Raises
    ------
    UserError
        If the network cannot make such a block; the message says which sizes it can.
    """
    if not network.is_padded:
        return network.input_shape(block_shape)
    return network.input_shape([b + 2 * c for b, c in zip(block_shape, context, strict=True)])


def required_context(network: NetworkSettings, block_shape: Sequence[int], context: Sequence[int]) -> Shape:
    """Voxels that a block reads beyond itself on each side (the larger side, where they differ)."""
    shape = prediction_input_shape(network, block_shape, context)
    return tuple(-(-(i - b) // 2) for i, b in zip(shape, block_shape, strict=True))
