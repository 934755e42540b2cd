"""Networks that turn raw voxels (and LSDs) into feature maps.

`UNet` is the plain network of the paper (valid convolutions, no normalisation); `ResidualUNet` a small padded one that
learns faster per minute on modest hardware.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from lsdflow.network_shapes import NETWORKS, NetworkSettings, Shape, output_shape_of, padded_length, valid_length

__all__ = ["NETWORKS", "NetworkSettings", "ResidualUNet", "UNet", "build_network", "crop"]


def crop(features: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """The centre of ``features``, spatially cut to ``shape``."""
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


class UNet(nn.Module):
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

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features ``(batch, out_channels, z, y, x)`` of ``x`` ``(batch, in_channels, z, y, x)``."""
        skips = []
        for conv, factor in zip(self.left, self.downsample_factors, strict=False):
            x = conv(x)
            skips.append(x)
            x = functional.max_pool3d(x, factor)
        x = self.left[-1](x)
        for up, conv, skip in zip(reversed(self.up), reversed(self.right), reversed(skips), strict=True):
            x = up(x)
            x = conv(torch.cat([crop(skip, x.shape[2:]), x], dim=1))
        return x

    def output_shape(self, input_shape: Sequence[int]) -> Shape:
        """Spatial shape (z, y, x) of the output for an input of ``input_shape``; UserError if there is none."""
        return output_shape_of(valid_length, input_shape, self.downsample_factors)


def _norm(channels: int) -> nn.Module:
    # Groups of about eight maps: independent of the batch size, which is small in 3-D.
    groups = max(g for g in range(1, max(2, channels // 8 + 1)) if channels % g == 0)
    return nn.GroupNorm(groups, channels)


class _ResidualBlock(nn.Module):
    """Two padded 3³ convolutions with group normalisation around an identity."""

    def __init__(self, channels: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv3d(channels, channels, 3, padding=1, bias=False),
            _norm(channels),
            nn.ReLU(inplace=True),
            nn.Conv3d(channels, channels, 3, padding=1, bias=False),
            _norm(channels),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.relu(x + self.body(x))


class ResidualUNet(nn.Module):
    """A padded U-Net of residual blocks with group normalisation and summed skips.

    The top level, where voxels are many, is one convolution on the way down and one on the way up; all deeper levels
    are residual blocks.  Output and input have the same shape, which must be a multiple of the product of the
    downsample factors; near the border of the input the result lacks context.

    Parameters
    ----------
    in_channels, num_fmaps, fmap_inc_factor, downsample_factors : as for `UNet`.

    References
    ----------
    Lee et al. 2017, "Superhuman accuracy on the SNEMI3D connectomics challenge" (residual modules, summed skips).
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
        self.stem = nn.Sequential(
            nn.Conv3d(in_channels, num_fmaps, 3, padding=1, bias=False), _norm(num_fmaps), nn.ReLU(inplace=True)
        )
        self.down = nn.ModuleList(
            nn.Sequential(
                nn.Conv3d(above, width, factor, stride=factor, bias=False),
                _norm(width),
                nn.ReLU(inplace=True),
                _ResidualBlock(width),
            )
            for above, width, factor in zip(widths, widths[1:], self.downsample_factors, strict=False)
        )
        self.up = nn.ModuleList(
            nn.ConvTranspose3d(below, width, factor, stride=factor)
            for width, below, factor in zip(widths, widths[1:], self.downsample_factors, strict=False)
        )
        self.merge = nn.ModuleList(_ResidualBlock(width) for width in widths[1:-1])
        self.top = nn.Sequential(
            nn.Conv3d(num_fmaps, num_fmaps, 3, padding=1, bias=False), _norm(num_fmaps), nn.ReLU(inplace=True)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features ``(batch, out_channels, z, y, x)`` of ``x`` ``(batch, in_channels, z, y, x)``."""
        x = self.stem(x)
        skips = []
        for down in self.down:
            skips.append(x)
            x = down(x)
        for level in reversed(range(len(self.up))):
            x = functional.relu(skips[level] + self.up[level](x))
            x = self.merge[level - 1](x) if level else self.top(x)
        return x

    def output_shape(self, input_shape: Sequence[int]) -> Shape:
        """Spatial shape (z, y, x) of the output, that of the input; UserError if the network cannot take it."""
        return output_shape_of(padded_length, input_shape, self.downsample_factors)


ARCHITECTURES = {"unet": UNet, "residual_unet": ResidualUNet}


def build_network(settings: NetworkSettings, in_channels: int, **options: int) -> nn.Module:
    """The torch module of ``settings`` for ``in_channels`` input channels; ``options`` go to its class."""
    kind = ARCHITECTURES[settings.architecture]
    return kind(in_channels, settings.num_fmaps, settings.fmap_inc_factor, settings.downsample_factors, **options)
