"""What a prediction costs: the floating-point operations of a network, counted from its layers without building it.

Plain Python, as `network_shapes` is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from lsdflow.network_shapes import NetworkSettings, Shape


@dataclass(frozen=True)
class NetworkPass:
    """One network with its 1³ heads, run once on one block.

    Attributes
    ----------
    settings : the network.
    input_shape : z y x, in voxels.
    in_channels : 1 for raw voxels, 10 for LSDs, 11 for both.
    head_channels : channels of all outputs together: 3 for nearest-neighbour affinities, 10 for LSDs, 13 for MtLSD.
    num_fmaps_out : feature maps below the heads, where they are not as many as at the top (`networks.UNet`).

    Raises
    ------
    ValueError
        If ``num_fmaps_out`` is given for a network that has no such option.
    """

    settings: NetworkSettings
    input_shape: Shape
    in_channels: int = 1
    head_channels: int = 3
    num_fmaps_out: int | None = None

    def __post_init__(self):
        if self.num_fmaps_out is not None and self.settings.architecture != "unet":
            raise ValueError(f"num_fmaps_out is an option of unet, not of {self.settings.architecture}")
        object.__setattr__(self, "input_shape", tuple(int(n) for n in self.input_shape))

    @property
    def output_shape(self) -> Shape:
        """z y x, in voxels; UserError if the network cannot take the input."""
        return self.settings.output_shape(self.input_shape)


class _Layer(NamedTuple):
    """A convolution, transposed or not."""

    weights_per_voxel: int  # that reach a voxel it makes, from each channel
    in_channels: int
    out_channels: int
    out_shape: Shape

    @property
    def flop(self) -> int:
        return 2 * self.weights_per_voxel * self.in_channels * self.out_channels * math.prod(self.out_shape)


def forward_flop(network: NetworkPass) -> int:
    """Floating-point operations of one forward pass; a multiplication and the addition of its result are two.

    Convolutions count, transposed ones too, and so do the zeros that padding lets them see. Biases, normalisation,
    activations and pooling do not: they are a few per cent at most. PyTorch's ``torch.utils.flop_counter`` counts
    alike.

    Raises
    ------
    UserError
        If the network cannot take the input.
    """
    shape = network.output_shape
    layers = _unet if network.settings.architecture == "unet" else _residual_unet
    head = _Layer(1, network.num_fmaps_out or network.settings.num_fmaps, network.head_channels, shape)
    return sum(layer.flop for layer in layers(network)) + head.flop


def flop_per_voxel(chain: Sequence[NetworkPass], kept_shape: Sequence[int] | None = None) -> float:
    """Floating-point operations for each voxel of a setup's result.

    Parameters
    ----------
    chain : the setup's own network, last, and before it those whose predictions it sees. Where these are stored block
        by block, each of them runs once for a block of the same size. In one go, as in training, the first has the
        larger input whose output is what the second one sees.
    kept_shape : voxels (z, y, x) of the last network's output that are kept: all by default; of padded networks, the
        block without its context.

    Examples
    --------
    The baseline and AcRLSD of the paper, in the blocks of its predictions (million operations):

    >>> from lsdflow.network_shapes import NETWORKS
    >>> network, shape = NETWORKS["zebrafinch"], (96, 484, 484)
    >>> round(flop_per_voxel([NetworkPass(network, shape)]) / 1e6, 3)
    0.913
    >>> lsd = NetworkPass(network, shape, head_channels=10)
    >>> round(flop_per_voxel([lsd, NetworkPass(network, shape, in_channels=11)]) / 1e6, 3)
    1.858
    """
    kept = chain[-1].output_shape if kept_shape is None else kept_shape
    return sum(forward_flop(network) for network in chain) / math.prod(kept)


def _widths(settings: NetworkSettings) -> list[int]:
    levels = range(len(settings.downsample_factors) + 1)
    return [settings.num_fmaps * settings.fmap_inc_factor**level for level in levels]


def _scaled(shape: Shape, factor: Shape) -> Shape:
    return tuple(n * f for n, f in zip(shape, factor, strict=True))


def _divided(shape: Shape, factor: Shape) -> Shape:
    return tuple(n // f for n, f in zip(shape, factor, strict=True))


def _valid_convolutions(in_channels: int, out_channels: int, shape: Shape) -> tuple[_Layer, _Layer]:
    """Two 3³ convolutions on ``shape``, each of which takes a voxel off every face."""
    first, second = (tuple(n - 2 * count for n in shape) for count in (1, 2))
    return _Layer(27, in_channels, out_channels, first), _Layer(27, out_channels, out_channels, second)


def _unet(network: NetworkPass) -> Iterator[_Layer]:
    """The layers of a `networks.UNet`."""
    widths, factors = _widths(network.settings), network.settings.downsample_factors
    channels, shape = network.in_channels, network.input_shape
    for width, factor in zip(widths, [*factors, (1, 1, 1)], strict=True):
        layers = _valid_convolutions(channels, width, shape)
        yield from layers
        channels, shape = width, _divided(layers[-1].out_shape, factor)
    for level in reversed(range(len(factors))):
        shape = _scaled(shape, factors[level])
        # Kernel and stride are equal: one weight reaches a voxel.
        yield _Layer(1, channels, widths[level], shape)
        channels = widths[level] if level else network.num_fmaps_out or widths[0]
        layers = _valid_convolutions(2 * widths[level], channels, shape)
        yield from layers
        shape = layers[-1].out_shape


def _residual_unet(network: NetworkPass) -> Iterator[_Layer]:
    """The layers of a `networks.ResidualUNet`."""
    widths, factors = _widths(network.settings), network.settings.downsample_factors
    shape = network.input_shape
    yield _Layer(27, network.in_channels, widths[0], shape)
    for level, factor in enumerate(factors):
        above, below = widths[level], widths[level + 1]
        # On the way up: a residual block of two convolutions, at the top a single one.
        yield _Layer(1, below, above, shape)
        yield from [_Layer(27, above, above, shape)] * (2 if level else 1)
        # On the way down.
        shape = _divided(shape, factor)
        yield _Layer(math.prod(factor), above, below, shape)
        yield from [_Layer(27, below, below, shape)] * 2
