"""The layers of each architecture: what its parameters, operations and memory are counted from.

Each function of `LAYERS` runs its network on paper, as the class of the same name in `networks` does with arrays. Plain
Python, as `network_shapes` is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lsdflow.network_shapes import NetworkSettings, Shape

CUBE = (3, 3, 3)


@dataclass(frozen=True)
class Layer:
    """A step of a network that makes an array.

    Attributes
    ----------
    kind : ``"input"``, ``"convolution"`` (transposed or not), ``"normalisation"``, ``"pooling"``, ``"join"`` of
        channels, ``"sum"`` or ``"sigmoid"``.
    inputs : the layers whose arrays it reads, by number.
    channels, shape : of its array, of one member of the batch.
    weights : of its kernel.
    biases : its other parameters: biases, or scales and shifts.
    flop : operations of its convolution, of one member of the batch.
    has_relu : whether a ReLU follows, in place.
    is_full : whether mixed precision leaves its array in float32.
    """

    kind: str
    inputs: tuple[int, ...]
    channels: int
    shape: Shape
    weights: int = 0
    biases: int = 0
    flop: int = 0
    has_relu: bool = False
    is_full: bool = False

    @property
    def size(self) -> int:
        """Numbers in its array."""
        return self.channels * math.prod(self.shape)


class Tape:
    """Writes down the layers of a network as it runs on paper; each method returns the number of its layer.

    Parameters
    ----------
    channels, shape : of the input, which is layer 0.
    """

    def __init__(self, channels: int, shape: Shape):
        self.layers = [Layer("input", (), channels, shape, is_full=True)]

    def _add(self, *args, **options) -> int:
        self.layers.append(Layer(*args, **options))
        return len(self.layers) - 1

    def shape(self, x: int) -> Shape:
        """z y x of the array of layer ``x``."""
        return self.layers[x].shape

    def convolution(
        self,
        x: int,
        channels: int,
        kernel: Shape = CUBE,
        *,
        stride: Shape = (1, 1, 1),
        is_padded: bool = False,
        has_bias: bool = True,
        has_relu: bool = False,
    ) -> int:
        lost = (0, 0, 0) if is_padded else tuple(k - s for k, s in zip(kernel, stride, strict=True))
        shape = tuple((n - k) // s for n, k, s in zip(self.shape(x), lost, stride, strict=True))
        weights = math.prod(kernel) * self.layers[x].channels * channels
        flop = 2 * weights * math.prod(shape)
        return self._add("convolution", (x,), channels, shape, weights, channels * has_bias, flop, has_relu)

    def enlargement(
        self, x: int, channels: int, factor: Shape, *, has_bias: bool = True, has_relu: bool = False
    ) -> int:
        """A transposed convolution whose kernel and stride are ``factor``: one weight reaches a voxel."""
        shape = tuple(n * f for n, f in zip(self.shape(x), factor, strict=True))
        weights = math.prod(factor) * self.layers[x].channels * channels
        flop = 2 * self.layers[x].channels * channels * math.prod(shape)
        return self._add("convolution", (x,), channels, shape, weights, channels * has_bias, flop, has_relu)

    def normalisation(self, x: int, *, is_full: bool, has_relu: bool = False) -> int:
        channels, options = self.layers[x].channels, {"is_full": is_full, "has_relu": has_relu}
        return self._add("normalisation", (x,), channels, self.shape(x), biases=2 * channels, **options)

    def pooling(self, x: int, factor: Shape) -> int:
        shape = tuple(n // f for n, f in zip(self.shape(x), factor, strict=True))
        return self._add("pooling", (x,), self.layers[x].channels, shape)

    def join(self, skip: int, x: int) -> int:
        """The centre of ``skip`` with the channels of ``x`` behind its own."""
        return self._add("join", (skip, x), self.layers[skip].channels + self.layers[x].channels, self.shape(x))

    def sum(self, skip: int, x: int) -> int:
        """Of two arrays, followed by ReLU."""
        is_full = self.layers[skip].is_full or self.layers[x].is_full
        return self._add("sum", (skip, x), self.layers[x].channels, self.shape(x), has_relu=True, is_full=is_full)

    def sigmoid(self, x: int) -> int:
        return self._add("sigmoid", (x,), self.layers[x].channels, self.shape(x), is_full=True)


def kernel_in_sections(factor: Sequence[int]) -> Shape:
    """3³, or 1 along the axes that a step down by ``factor`` leaves as they are while it shrinks others."""
    return tuple(1 if n == 1 and max(factor) > 1 else 3 for n in factor)


def _unet(tape: Tape, settings: NetworkSettings, num_fmaps_out: int | None) -> int:
    """The layers of a `networks.UNet`."""
    widths, factors = _widths(settings), settings.downsample_factors

    def two_convolutions(x: int, channels: int) -> int:
        return tape.convolution(tape.convolution(x, channels, has_relu=True), channels, has_relu=True)

    skips, x = [], 0
    for width, factor in zip(widths, factors, strict=False):
        skips.append(two_convolutions(x, width))
        x = tape.pooling(skips[-1], factor)
    x = two_convolutions(x, widths[-1])
    for level in reversed(range(len(factors))):
        x = tape.join(skips[level], tape.enlargement(x, widths[level], factors[level], has_relu=True))
        x = two_convolutions(x, widths[level] if level else num_fmaps_out or widths[0])
    return x


def _unet_cicek(tape: Tape, settings: NetworkSettings, num_fmaps_out: None) -> int:
    """The layers of a `networks.CicekUNet`."""
    between, factors = _widths(settings), settings.downsample_factors
    widths = [n * settings.fmap_inc_factor for n in between]

    def two_convolutions(x: int, *channels: int) -> int:
        for width in channels:
            x = tape.normalisation(tape.convolution(x, width, has_bias=False), is_full=False, has_relu=True)
        return x

    skips, x = [], 0
    for first, second, factor in zip(between, widths, factors, strict=False):
        skips.append(two_convolutions(x, first, second))
        x = tape.pooling(skips[-1], factor)
    x = two_convolutions(x, between[-1], widths[-1])
    for level in reversed(range(len(factors))):
        x = tape.join(skips[level], tape.enlargement(x, widths[level + 1], factors[level], has_bias=False))
        x = two_convolutions(x, widths[level], widths[level])
    return x


def _residual_unet(tape: Tape, settings: NetworkSettings, num_fmaps_out: None) -> int:
    """The layers of a `networks.ResidualUNet`."""
    widths, factors = _widths(settings), settings.downsample_factors
    kernels = [kernel_in_sections(factor) for factor in [*factors, (1, 1, 1)]]

    def convolution(x: int, channels: int, kernel: Shape = CUBE, *, has_relu: bool = True, **options) -> int:
        x = tape.convolution(x, channels, kernel, is_padded="stride" not in options, has_bias=False, **options)
        # Mixed precision of PyTorch computes group normalisation in float32.
        return tape.normalisation(x, is_full=True, has_relu=has_relu)

    def block(x: int, width: int, kernel: Shape) -> int:
        return tape.sum(x, convolution(convolution(x, width, kernel), width, has_relu=False))

    x, skips = convolution(0, widths[0], kernels[0]), []
    for width, factor, kernel in zip(widths[1:], factors, kernels[1:], strict=True):
        skips.append(x)
        x = block(convolution(x, width, factor, stride=factor), width, kernel)
    for level in reversed(range(len(factors))):
        x = tape.sum(skips[level], tape.enlargement(x, widths[level], factors[level]))
        x = block(x, widths[level], kernels[level]) if level else convolution(x, widths[0])
    return x


LAYERS = {"unet": _unet, "unet_cicek": _unet_cicek, "residual_unet": _residual_unet}


def layers_of(
    settings: NetworkSettings,
    input_shape: Shape,
    in_channels: int,
    head_channels: int,
    num_fmaps_out: int | None = None,
) -> list[Layer]:
    """All layers of a network with its heads, in the order in which they run.

    Parameters
    ----------
    settings, input_shape, in_channels, head_channels, num_fmaps_out : see `network_cost.NetworkPass`; the network can
        take the input.

    Returns
    -------
    list of Layer
        First the input, last the heads, all as one 1³ convolution, and their sigmoid.
    """
    tape = Tape(in_channels, input_shape)
    features = LAYERS[settings.architecture](tape, settings, num_fmaps_out)
    tape.sigmoid(tape.convolution(features, head_channels, (1, 1, 1)))
    return tape.layers


def _widths(settings: NetworkSettings) -> list[int]:
    levels = range(len(settings.downsample_factors) + 1)
    return [settings.num_fmaps * settings.fmap_inc_factor**level for level in levels]
