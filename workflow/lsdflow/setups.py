"""A setup: which inputs a network sees, which outputs it learns, with which network and losses.

Setups are data.  An input is ``raw`` or ``<setup>.<output>``, the prediction of another, frozen setup; so every
auto-context variant is a line of configuration.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from lsdflow.affinities import offsets_on_axes
from lsdflow.errors import UserError
from lsdflow.losses import LOSSES
from lsdflow.network_shapes import NetworkSettings, Shape, n_channels, n_channels_seen
from lsdflow.networks import build_network, crop

OUTPUTS = ("affinities", "lsds")


@dataclass(frozen=True)
class MalisSettings:
    """When and where the MALIS loss replaces the balanced squared error of the affinities.

    Attributes
    ----------
    after : iterations with the squared error before it; the paper takes 10 000.
    shape : (z, y, x) voxels at the centre of larger crops on which it is computed: its time grows faster than the crop.
    relabel : count the pieces of an object that a crop cuts apart as different objects, as the paper does.
    """

    after: int = 10000
    shape: Shape = (64, 64, 64)
    relabel: bool = True


@dataclass(frozen=True)
class Setup:
    """One variant of the comparison.

    Attributes
    ----------
    name : its name in the configuration, in paths and in figures.
    inputs : ``"raw"`` or ``"<setup>.<output>"``, stacked as channels in this order.
    outputs : out of `OUTPUTS`.
    network : the body in front of one 1³ convolution with sigmoid per output.
    offsets : z y x voxel offsets of the affinities; the first three must be the nearest neighbours.
    losses, loss_weights : per output a name in `losses.LOSSES`, or ``"malis"`` for affinities, and a factor.
    malis : settings of the MALIS loss.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    network: NetworkSettings
    offsets: tuple[Shape, ...]
    losses: Mapping[str, str] = field(default_factory=dict)
    loss_weights: Mapping[str, float] = field(default_factory=dict)
    malis: MalisSettings = MalisSettings()

    def __post_init__(self):
        for output in (*self.outputs, *self.losses, *self.loss_weights):
            if output not in OUTPUTS:
                raise UserError(f"setup {self.name!r}: there is no output {output!r}; {', '.join(OUTPUTS)} exist")
        for output, loss in self.losses.items():
            known = [*LOSSES, "malis"] if output == "affinities" else list(LOSSES)
            if loss not in known:
                raise UserError(f"setup {self.name!r}: there is no loss {loss!r} of {output}; {', '.join(known)} exist")

    @property
    def input_setups(self) -> tuple[str, ...]:
        """The names of the setups whose predictions this one sees."""
        return tuple(dict.fromkeys(name.partition(".")[0] for name in self.inputs if name != "raw"))

    def channels(self, output: str) -> int:
        """Number of channels of ``output``."""
        return n_channels(output, len(self.offsets))


def setup_from(name: str, entry: Mapping[str, Any]) -> Setup:
    """A setup from plain values: ``inputs``, ``outputs``, ``network`` (of `NetworkSettings`), ``distances`` of its
    affinities, ``losses``, ``loss_weights`` and ``malis`` (of `MalisSettings`)."""
    return Setup(
        name=name,
        inputs=tuple(entry["inputs"]),
        outputs=tuple(entry["outputs"]),
        network=NetworkSettings(**entry["network"]),
        offsets=tuple(tuple(int(v) for v in offset) for offset in offsets_on_axes(entry["distances"])),
        losses=dict(entry["losses"]),
        loss_weights=dict(entry["loss_weights"]),
        malis=MalisSettings(**{**entry["malis"], "shape": tuple(entry["malis"]["shape"])}),
    )


def in_channels(setup: Setup, setups: Mapping[str, Setup]) -> int:
    """Number of input channels of ``setup``; ``setups`` holds those that it sees."""
    return n_channels_seen(setup.inputs, lambda name, output: setups[name].channels(output))


class SetupNetwork(nn.Module):
    """The network of a setup: its body and one 1³ convolution with sigmoid per output."""

    def __init__(self, setup: Setup, channels: int):
        super().__init__()
        num_fmaps_out = setup.network.num_fmaps_out([setup.channels(output) for output in setup.outputs])
        self.body = build_network(setup.network, channels, num_fmaps_out)
        self.heads = nn.ModuleDict(
            {output: nn.Conv3d(self.body.out_channels, setup.channels(output), 1) for output in setup.outputs}
        )

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Predictions in [0, 1] per output, each ``(batch, channels, z, y, x)``."""
        features = self.body(x)
        # In full precision: half of it tells values near 1 apart too coarsely for a loss, or for uint8.
        kind = features.device.type
        with torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext():
            features = features.float()
            return {output: torch.sigmoid(head(features)) for output, head in self.heads.items()}


def quantise(prediction: torch.Tensor) -> torch.Tensor:
    """Predictions in [0, 1] as they are stored: uint8, ×255, fraction dropped (as the paper's pipeline does)."""
    return (prediction * 255).to(torch.uint8)


class Pipeline:
    """A setup with its network and the frozen pipelines that make its inputs from raw voxels.

    Parameters
    ----------
    setup : the setup.
    network : its torch network.
    frozen : per input setup its pipeline, already trained.
    context : voxels (z, y, x) around what a padded frozen network is asked for, whose predictions are thrown away, as
        they are when volumes are predicted; a valid network brings its own context.
    """

    def __init__(
        self,
        setup: Setup,
        network: SetupNetwork,
        frozen: Mapping[str, Pipeline],
        context: Sequence[int] = (0, 0, 0),
    ):
        self.setup, self.network, self.frozen, self.context = setup, network, frozen, tuple(context)

    def _input_shape_of(self, other: Pipeline, needed: Sequence[int]) -> Shape:
        """The input shape of a frozen network that yields good predictions of at least ``needed`` voxels."""
        network = other.setup.network
        if network.is_padded:
            needed = [n + 2 * c for n, c in zip(needed, self.context, strict=True)]
        return network.covering_input_shape(needed)

    def raw_shape(self, input_shape: Sequence[int]) -> Shape:
        """The raw crop (z, y, x) from which all inputs of ``input_shape`` can be made, each at its centre."""
        shapes = [tuple(input_shape)]
        for other in self.frozen.values():
            shape = other.raw_shape(self._input_shape_of(other, input_shape))
            # With an odd difference the centre would lie between two voxels.
            shapes.append(tuple(n + (n - m) % 2 for n, m in zip(shape, input_shape, strict=True)))
        return tuple(max(lengths) for lengths in zip(*shapes, strict=True))

    @torch.no_grad()
    def inputs(self, raw: torch.Tensor, input_shape: Sequence[int]) -> torch.Tensor:
        """The network's input ``(batch, channels, z, y, x)`` from a raw crop of at least `raw_shape`.

        Predictions of frozen setups are quantised to uint8 and back, so that training sees what prediction will read.
        """
        seen: dict[str, dict[str, torch.Tensor]] = {}
        for name, other in self.frozen.items():
            shape = self._input_shape_of(other, input_shape)
            box = []
            # Halves of odd differences could add up to a voxel: count from the corner of this network's own input.
            for n, m, seen_by_other, needed in zip(
                raw.shape[2:], input_shape, shape, other.raw_shape(shape), strict=True
            ):
                begin = (n - m) // 2 - (seen_by_other - m) // 2 - (needed - seen_by_other) // 2
                box.append(slice(begin, begin + needed))
            seen[name] = other.network(other.inputs(raw[(..., *box)], shape))
        parts = []
        for name in self.setup.inputs:
            other, _, output = name.partition(".")
            whole = raw if name == "raw" else quantise(seen[other][output]).float() / 255
            parts.append(crop(whole, input_shape))
        return torch.cat(parts, dim=1)
