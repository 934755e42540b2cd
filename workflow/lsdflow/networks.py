"""Networks that turn raw voxels (and LSDs) into feature maps.

`UNet` is the plain network of the paper (valid convolutions, no normalisation), `CicekUNet` the first 3-D U-Net (valid
convolutions, batch normalisation), and `ResidualUNet` a small padded one that learns faster per minute on modest
hardware.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from lsdflow.network_layers import kernel_in_sections
from lsdflow.network_shapes import NETWORKS, NetworkSettings, Shape, output_shape_of, padded_length, valid_length

__all__ = ["NETWORKS", "CicekUNet", "NetworkSettings", "ResidualUNet", "UNet", "build_network", "crop"]


def crop(features: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """The centre of ``features`` ``(batch, channels, z, y, x)``, or of such an array, spatially cut to ``shape``."""
    begin = [(n - m) // 2 for n, m in zip(features.shape[2:], shape, strict=True)]
    box = tuple(slice(b, b + m) for b, m in zip(begin, shape, strict=True))
    return features[(slice(None), slice(None), *box)]


class _ConvPass(nn.Sequential):
    """Two valid 3³ convolutions, each followed by ReLU."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(
            nn.Conv3d(in_channels, out_channels, 3),
            nn.ReLU(inplace=True),
            nn.Conv3d(out_channels, out_channels, 3),
            nn.ReLU(inplace=True),
        )


class _ValidUNet(nn.Module):
    """What U-Nets of valid convolutions share: how features go down the left side and up the right one.

    Subclasses set ``left``, ``up`` and ``right``, from the top level down, and ``downsample_factors``.
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features ``(batch, out_channels, z, y, x)`` of ``x`` ``(batch, in_channels, z, y, x)``."""
        skips = []
        # Layer by layer, because a call of a whole pass would hold its input in memory until the end.
        for conv, factor in zip(self.left, self.downsample_factors, strict=False):
            for layer in conv:
                x = layer(x)
            skips.append(x)
            x = functional.max_pool3d(x, factor)
        for layer in self.left[-1]:
            x = layer(x)
        for up, conv in zip(reversed(self.up), reversed(self.right), strict=True):
            x = up(x)
            x = torch.cat([crop(skips.pop(), x.shape[2:]), x], dim=1)
            for layer in conv:
                x = layer(x)
        return x

    def output_shape(self, input_shape: Sequence[int]) -> Shape:
        """Spatial shape (z, y, x) of the output for an input of ``input_shape``; UserError if there is none."""
        return output_shape_of(valid_length, input_shape, self.downsample_factors)


class UNet(_ValidUNet):
    """The U-Net of the paper: valid convolutions, max-pooling, transposed convolutions with ReLU, cropped skips.

    Level ``l`` has ``num_fmaps * fmap_inc_factor**l`` feature maps; each side of a level is two 3³ convolutions.

    Parameters
    ----------
    in_channels : channels of the input.
    num_fmaps, fmap_inc_factor : feature maps of the top level and their growth per level.
    downsample_factors : one z y x triple per step down.
    num_fmaps_out : feature maps of the result (`num_fmaps` by default); the paper takes 14 for MtLSD.

    References
    ----------
    Funke et al. 2019, "Large scale image segmentation with structured loss based deep learning for connectome
    reconstruction" (the network called mala); Sheridan et al. 2023 use it throughout.
    """

    def __init__(
        self,
        in_channels: int,
        num_fmaps: int,
        fmap_inc_factor: int,
        downsample_factors: Sequence[Sequence[int]],
        *,
        num_fmaps_out: int | None = None,
    ):
        super().__init__()
        self.downsample_factors = [tuple(int(n) for n in f) for f in downsample_factors]
        self.out_channels = num_fmaps_out or num_fmaps
        widths = [num_fmaps * fmap_inc_factor**level for level in range(len(self.downsample_factors) + 1)]
        rights = [self.out_channels, *widths[1:-1]]
        self.left = nn.ModuleList(
            _ConvPass(below, width) for below, width in zip([in_channels, *widths[:-1]], widths, strict=True)
        )
        lower = [*rights[1:], widths[-1]] if len(widths) > 1 else []
        self.up = nn.ModuleList(
            nn.Sequential(nn.ConvTranspose3d(below, width, factor, stride=factor), nn.ReLU(inplace=True))
            for below, width, factor in zip(lower, widths, self.downsample_factors, strict=False)
        )
        self.right = nn.ModuleList(
            _ConvPass(2 * width, right) for width, right in zip(widths[:-1], rights, strict=False)
        )


class _NormalisedConvPass(nn.Sequential):
    """Two valid 3³ convolutions, each followed by batch normalisation and ReLU."""

    def __init__(self, in_channels: int, between: int, out_channels: int):
        # The shift of the normalisation is the convolution's bias.
        super().__init__(
            nn.Conv3d(in_channels, between, 3, bias=False),
            nn.BatchNorm3d(between),
            nn.ReLU(inplace=True),
            nn.Conv3d(between, out_channels, 3, bias=False),
            nn.BatchNorm3d(out_channels),
            nn.ReLU(inplace=True),
        )


class CicekUNet(_ValidUNet):
    """The 3-D U-Net: valid convolutions, batch normalisation before each ReLU, concatenated skips.

    The first convolution of level ``l`` on the way down has ``num_fmaps * fmap_inc_factor**l`` feature maps; all others
    of the level have ``fmap_inc_factor`` times as many, so that maps are added before voxels are lost to pooling.

    With 32 maps, a factor of 2, three steps of 2³, three channels in and three out, it has the 19,069,955 parameters of
    the paper, which are the weights of all convolutions and one bias for each map that the 3³ and the last ones make.
    Here the shift of a normalisation is the bias of the convolution before it; the 2,336 scales come on top.

    In training, a batch is normalised over its voxels, so that a batch of one will do; once training is over (`eval`),
    by running means, so that the result of a block depends on its own voxels only.

    Parameters
    ----------
    in_channels, num_fmaps, fmap_inc_factor, downsample_factors : as for `UNet`.

    References
    ----------
    Çiçek et al. 2016, "3D U-Net: learning dense volumetric segmentation from sparse annotation".
    """

    def __init__(
        self,
        in_channels: int,
        num_fmaps: int,
        fmap_inc_factor: int,
        downsample_factors: Sequence[Sequence[int]],
    ):
        super().__init__()
        self.downsample_factors = [tuple(int(n) for n in f) for f in downsample_factors]
        between = [num_fmaps * fmap_inc_factor**level for level in range(len(self.downsample_factors) + 1)]
        widths = [n * fmap_inc_factor for n in between]
        self.out_channels = widths[0]
        self.left = nn.ModuleList(
            _NormalisedConvPass(*channels)
            for channels in zip([in_channels, *widths[:-1]], between, widths, strict=True)
        )
        self.up = nn.ModuleList(
            nn.ConvTranspose3d(below, below, factor, stride=factor, bias=False)
            for below, factor in zip(widths[1:], self.downsample_factors, strict=True)
        )
        self.right = nn.ModuleList(
            _NormalisedConvPass(width + below, width, width)
            for width, below in zip(widths[:-1], widths[1:], strict=True)
        )


def _norm(channels: int) -> nn.Module:
    # Groups of about eight maps: independent of the batch size, which is small in 3-D.
    groups = max(g for g in range(1, max(2, channels // 8 + 1)) if channels % g == 0)
    return nn.GroupNorm(groups, channels)


def _convolution(in_channels: int, out_channels: int, kernel: Shape = (3, 3, 3)) -> nn.Conv3d:
    """A convolution that keeps the shape, without the bias that a normalisation would take away."""
    return nn.Conv3d(in_channels, out_channels, kernel, padding=tuple(n // 2 for n in kernel), bias=False)


def _sum(skip: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """``skip + x``, written over ``skip``, which nobody else needs, where no gradient will ask for it."""
    return skip + x if torch.is_grad_enabled() else skip.add_(x)


class _ResidualBlock(nn.Module):
    """Two padded convolutions with group normalisation around an identity; the first one's kernel is given."""

    def __init__(self, channels: int, kernel: Shape):
        super().__init__()
        self.body = nn.Sequential(
            _convolution(channels, channels, kernel),
            _norm(channels),
            nn.ReLU(inplace=True),
            _convolution(channels, channels),
            _norm(channels),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.relu(_sum(x, self.body(x)), inplace=True)


class ResidualUNet(nn.Module):
    """A padded U-Net of residual blocks with group normalisation and summed skips.

    The top level, where voxels are many, is one convolution on the way down and one on the way up; all deeper levels
    are residual blocks.  Output and input have the same shape, which must be a multiple of the product of the
    downsample factors; near the border of the input the result lacks context.

    Kernels are 3³, except where the step down from a level leaves an axis as it is, because voxels are long along it:
    there the first convolution of each block has 1 voxel along that axis (at the top, the one on the way down). So
    neighbours are mixed within sections first, as is usual for serial sections.

    Parameters
    ----------
    in_channels, num_fmaps, fmap_inc_factor, downsample_factors : as for `UNet`.

    References
    ----------
    Lee et al. 2017, "Superhuman accuracy on the SNEMI3D connectomics challenge" (residual modules, summed skips,
    kernels within sections).
    """

    def __init__(
        self,
        in_channels: int,
        num_fmaps: int,
        fmap_inc_factor: int,
        downsample_factors: Sequence[Sequence[int]],
    ):
        super().__init__()
        self.downsample_factors = [tuple(int(n) for n in f) for f in downsample_factors]
        self.out_channels = num_fmaps
        widths = [num_fmaps * fmap_inc_factor**level for level in range(len(self.downsample_factors) + 1)]
        kernels = [kernel_in_sections(factor) for factor in [*self.downsample_factors, (1, 1, 1)]]
        self.stem = nn.Sequential(
            _convolution(in_channels, num_fmaps, kernels[0]), _norm(num_fmaps), nn.ReLU(inplace=True)
        )
        self.down = nn.ModuleList(
            nn.Sequential(
                nn.Conv3d(above, width, factor, stride=factor, bias=False),
                _norm(width),
                nn.ReLU(inplace=True),
                _ResidualBlock(width, kernel),
            )
            for above, width, factor, kernel in zip(
                widths, widths[1:], self.downsample_factors, kernels[1:], strict=False
            )
        )
        self.up = nn.ModuleList(
            nn.ConvTranspose3d(below, width, factor, stride=factor)
            for width, below, factor in zip(widths, widths[1:], self.downsample_factors, strict=False)
        )
        self.merge = nn.ModuleList(
            _ResidualBlock(width, kernel) for width, kernel in zip(widths[1:-1], kernels[1:], strict=False)
        )
        self.top = nn.Sequential(_convolution(num_fmaps, num_fmaps), _norm(num_fmaps), nn.ReLU(inplace=True))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features ``(batch, out_channels, z, y, x)`` of ``x`` ``(batch, in_channels, z, y, x)``."""
        x = self.stem(x)
        skips = []
        for down in self.down:
            skips.append(x)
            x = down(x)
        for level in reversed(range(len(self.up))):
            x = self.up[level](x)
            x = functional.relu(_sum(skips.pop(), x), inplace=True)
            # Layer by layer at the top, because a call of all of them would hold their input in memory until the end.
            for layer in [self.merge[level - 1]] if level else self.top:
                x = layer(x)
        return x

    def output_shape(self, input_shape: Sequence[int]) -> Shape:
        """Spatial shape (z, y, x) of the output, that of the input; UserError if the network cannot take it."""
        return output_shape_of(padded_length, input_shape, self.downsample_factors)


ARCHITECTURES = {"unet": UNet, "unet_cicek": CicekUNet, "residual_unet": ResidualUNet}


def build_network(settings: NetworkSettings, in_channels: int, num_fmaps_out: int | None = None) -> nn.Module:
    """The torch module of ``settings`` for ``in_channels`` input channels; ``num_fmaps_out``: see `UNet`."""
    kind = ARCHITECTURES[settings.architecture]
    options = {} if num_fmaps_out is None else {"num_fmaps_out": num_fmaps_out}
    return kind(in_channels, settings.num_fmaps, settings.fmap_inc_factor, settings.downsample_factors, **options)
