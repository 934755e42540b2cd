"""The shapes and channels that networks take and make, and the named networks: known without building one.

Plain Python, so that a configuration can be checked where torch is not installed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from lsdflow.errors import UserError
from lsdflow.roi import AXES

Shape = tuple[int, int, int]
N_LSDS = 10


def _shape(values: Sequence[int]) -> Shape:
    return tuple(int(n) for n in values)


def valid_length(size: int, factors: Sequence[int]) -> int | None:
    """Output length along one axis of a U-Net of two valid 3³ convolutions per side of a level; None if it cannot take
    an input of ``size`` voxels.

    `networks.UNet` is one, and so is `networks.CicekUNet`.
    """
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
    """As `valid_length`, of a network with padding, such as `networks.ResidualUNet`."""
    return size if size > 0 and size % math.prod(factors) == 0 else None


# A new architecture: its class in `networks.ARCHITECTURES` and, under the same name, its arithmetic here and its layers
# in `network_layers.LAYERS`.
LENGTHS = {"unet": valid_length, "unet_cicek": valid_length, "residual_unet": padded_length}


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
    architecture : ``"unet"`` (`networks.UNet`), ``"unet_cicek"`` (`networks.CicekUNet`) or ``"residual_unet"``
        (`networks.ResidualUNet`).
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
        return LENGTHS[self.architecture] is padded_length

    @property
    def can_widen(self) -> bool:
        """Whether its top right level may have another width than its top left one."""
        return self.architecture == "unet"

    def num_fmaps_out(self, head_channels: Sequence[int]) -> int | None:
        """The width of the top right level below heads of so many channels each; None if it is the network's own.

        MtLSD's has 14 maps in the paper, because more than 12 channels leave it.
        """
        return max(self.num_fmaps, sum(head_channels) + 1) if self.can_widen and len(head_channels) > 1 else None

    @property
    def period(self) -> Shape:
        """z y x voxels by which the input must move for the output to move alike: the product of all factors.

        In between, other voxels are pooled together. Blocks fit seamlessly if they lie a multiple of this apart.
        """
        return tuple(math.prod(f[axis] for f in self.downsample_factors) for axis in range(3))

    def output_shape(self, input_shape: Sequence[int]) -> Shape:
        """Output shape (z, y, x) for ``input_shape``, without building the network.

        Raises
        ------
        UserError
            If the network cannot take it; the message offers the nearest sizes that it can.
        """
        length_of = LENGTHS[self.architecture]
        return output_shape_of(length_of, input_shape, self.downsample_factors)

    def valid_input_shapes(self, low: Sequence[int], high: Sequence[int]) -> tuple[dict[int, int], ...]:
        """All that the network can take between ``low`` and ``high`` (z, y, x, both included), without building it.

        Returns
        -------
        tuple of dict
            For each axis the output length of every input length, ascending; any combination of them is a shape.

        Examples
        --------
        >>> NETWORKS["zebrafinch"].valid_input_shapes((80, 260, 268), (90, 270, 268))
        ({81: 45, 84: 48, 87: 51, 90: 54}, {268: 56}, {268: 56})
        """
        results = []
        for axis, (first, last) in enumerate(zip(low, high, strict=True)):
            made = {n: self._length(axis, n) for n in range(int(first), int(last) + 1)}
            results.append({n: length for n, length in made.items() if length})
        return tuple(results)

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
        result = []
        for axis, size in enumerate(output_shape):
            length = int(size)
            while self._length(axis, length) < size:
                length += 1
            result.append(length)
        return _shape(result)

    def _length(self, axis: int, size: int) -> int:
        """The output length along ``axis`` for an input of ``size`` voxels, 0 if there is none."""
        return LENGTHS[self.architecture](size, [f[axis] for f in self.downsample_factors]) or 0

    def _output_lengths(self, axis: int, up_to: int) -> list[int]:
        """The output lengths along ``axis`` that exist up to ``up_to``, ascending, 0 before them."""
        # A valid network's input is larger than its output by a few kernels times its factors.
        longest = up_to + 16 * self.period[axis] * (len(self.downsample_factors) + 1)
        lengths = {self._length(axis, n) for n in range(1, longest)}
        return sorted({0} | {n for n in lengths if n <= up_to})

    def as_dict(self) -> dict:
        """Plain values for a checkpoint."""
        return asdict(self)


NETWORKS = {
    # The paper's networks (Sheridan et al. 2023), for GPUs.
    "fib25": NetworkSettings("unet", 12, 6, ((2, 2, 2), (2, 2, 2), (3, 3, 3))),
    "hemibrain": NetworkSettings("unet", 12, 6, ((2, 2, 2), (2, 2, 2), (3, 3, 3))),
    "zebrafinch": NetworkSettings("unet", 12, 5, ((1, 3, 3), (1, 3, 3), (3, 3, 3))),
    # The 3-D U-Net of Çiçek et al. 2016.
    "cicek": NetworkSettings("unet_cicek", 32, 2, ((2, 2, 2), (2, 2, 2), (2, 2, 2))),
    # Modest hardware, and one GPU.
    "small": NetworkSettings("residual_unet", 8, 2, ((2, 2, 2), (2, 2, 2))),
    "medium": NetworkSettings("residual_unet", 16, 2, ((2, 2, 2), (2, 2, 2), (2, 2, 2))),
    "large": NetworkSettings("residual_unet", 32, 2, ((2, 2, 2), (2, 2, 2), (2, 2, 2))),
    # Sections about twice as thick as pixels, and about four times.
    "small_anisotropic": NetworkSettings("residual_unet", 8, 2, ((1, 2, 2), (2, 2, 2))),
    "medium_anisotropic": NetworkSettings("residual_unet", 16, 2, ((1, 2, 2), (1, 2, 2), (2, 2, 2))),
    "large_anisotropic": NetworkSettings("residual_unet", 32, 2, ((1, 2, 2), (1, 2, 2), (2, 2, 2))),
}


def n_channels(output: str, n_affinities: int) -> int:
    """Channels of ``output``, ``"affinities"`` or ``"lsds"``, of a setup with so many affinities."""
    return {"affinities": n_affinities, "lsds": N_LSDS}[output]


def n_channels_seen(inputs: Sequence[str], channels_of: Callable[[str, str], int]) -> int:
    """Channels of all ``inputs`` of a setup together: ``"raw"`` is one, of ``"<setup>.<output>"`` ``channels_of`` is
    asked."""
    parts = [source.partition(".") for source in inputs]
    return sum(channels_of(setup, output) if output else 1 for setup, _, output in parts)


def prediction_input_shape(network: NetworkSettings, block_shape: Sequence[int], context: Sequence[int]) -> Shape:
    """The input shape from which ``block_shape`` voxels are predicted.

    A valid network brings its own context, and may make a few voxels more than the block, which are thrown away; a
    padded one gets ``context`` voxels more on both sides, whose predictions are thrown away because they lack context
    themselves.

    Raises
    ------
    UserError
        If blocks of this shape would not fit seamlessly, because it is no multiple of the network's period, or if the
        padded network cannot make the block with its context; the message says which sizes it can.
    """
    if network.is_padded:
        return network.input_shape([b + 2 * c for b, c in zip(block_shape, context, strict=True)])
    for axis, (block, period) in enumerate(zip(block_shape, network.period, strict=True)):
        if block % period:
            near = [n for n in (block - block % period, block - block % period + period) if n]
            raise UserError(
                f"blocks of {block} voxels along {AXES[axis]} (shape {_shape(block_shape)}) would not fit seamlessly: "
                f"the network wants a multiple of {period}, and the nearest are {' and '.join(map(str, near))}"
            )
    return network.covering_input_shape(block_shape)
