"""What a network costs: parameters, floating-point operations and memory, counted from its layers without building it.

Plain Python, as `network_shapes` is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lsdflow.errors import UserError
from lsdflow.network_layers import Layer, layers_of
from lsdflow.network_shapes import NetworkSettings, Shape, prediction_input_shape

LARGEST_ARRAY = 2**31 - 1


@dataclass(frozen=True)
class NetworkPass:
    """One network with its 1³ heads, run once on one block.

    Attributes
    ----------
    settings : the network.
    input_shape : z y x, in voxels.
    in_channels : 1 for raw voxels, 10 for LSDs, 11 for both.
    head_channels : channels of all outputs together: 3 for nearest-neighbour affinities, 10 for LSDs, 13 for MtLSD.
    num_fmaps_out : feature maps below the heads, where they are not the network's own: see
        `NetworkSettings.num_fmaps_out`.

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
        if self.num_fmaps_out is not None and not self.settings.can_widen:
            raise ValueError(f"num_fmaps_out is an option of unet, not of {self.settings.architecture}")
        object.__setattr__(self, "input_shape", tuple(int(n) for n in self.input_shape))

    @property
    def output_shape(self) -> Shape:
        """z y x, in voxels; UserError if the network cannot take the input."""
        return self.settings.output_shape(self.input_shape)

    def layers(self) -> list[Layer]:
        """All layers, heads and all, in the order in which they run; UserError if the network cannot take the input."""
        self.settings.output_shape(self.input_shape)
        return layers_of(self.settings, self.input_shape, self.in_channels, self.head_channels, self.num_fmaps_out)


def n_parameters(
    settings: NetworkSettings, in_channels: int = 1, head_channels: int = 3, num_fmaps_out: int | None = None
) -> int:
    """How many numbers a network learns, with its heads; the arguments are those of `NetworkPass`.

    Examples
    --------
    >>> from lsdflow.network_shapes import NETWORKS
    >>> n_parameters(NETWORKS["small"])
    95563
    """
    shape = settings.covering_input_shape((1, 1, 1))
    layers = NetworkPass(settings, shape, in_channels, head_channels, num_fmaps_out).layers()
    return sum(layer.weights + layer.biases for layer in layers)


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
    return sum(layer.flop for layer in network.layers())


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


def peak_bytes(network: NetworkPass, *, batch_size: int = 1, itemsize: int = 4, training: bool = False) -> int:
    """An estimate of the memory that one pass takes at its fullest moment, in bytes.

    In prediction these are the weights and the arrays that are alive at once: the input, the skips, what a layer reads
    and what it makes, and a second copy of its kernel in the layout that its convolution wants. In training they are
    the arrays that the backward pass will read, the gradients alive with them, the numbers of pooled voxels, targets
    with their weights, and four numbers for each weight: its value, gradient, and two moments of Adam.

    Measured on the CPU (float32, channels last, batches of two) a pass takes within 10 % of it, and up to a third more
    where the allocator does not give freed memory back at once. There, a batch of a single small block can take several
    times as much, because PyTorch convolves it by unfolding. On GPUs, where it was not measured, convolutions may take
    working memory of their own, which is not in it.

    Parameters
    ----------
    network : what runs.
    batch_size : members of the batch.
    itemsize : bytes of a number: 4 for float32, 2 for mixed precision. Then weights stay in float32, with a copy in
        half precision, and so do arrays with `network_layers.Layer.is_full`, which are copied for convolutions.
    training : whether a backward pass and a step of Adam follow.

    Raises
    ------
    UserError
        If the network cannot take the input.
    """
    layers = network.layers()
    sizes = [batch_size * layer.size * (4 if layer.is_full else itemsize) for layer in layers]
    extras = [batch_size * _extra(layers, layer, itemsize) for layer in layers]
    held = 4 * (4 if training else 1) + (itemsize if itemsize < 4 else 0)
    alive = _alive_in_training(layers, sizes, extras) if training else _alive_in_prediction(layers, sizes, extras)
    fullest = max(n + layer.weights * itemsize for n, layer in zip(alive, layers, strict=True))
    return held * sum(layer.weights + layer.biases for layer in layers) + fullest


def _extra(layers: Sequence[Layer], layer: Layer, itemsize: int) -> int:
    """Bytes that a layer makes beside its array."""
    if layer.kind == "pooling":
        # PyTorch numbers the voxels that it takes, in 64 bits.
        return 8 * layer.size
    if itemsize == 4 or layer.kind not in ("convolution", "normalisation", "sigmoid"):
        return 0
    # Mixed precision copies what is in the other type.
    wanted = layer.kind != "convolution" and layer.is_full
    return sum(layers[i].size * (4 if wanted else itemsize) for i in layer.inputs if layers[i].is_full != wanted)


def _alive_in_prediction(layers: Sequence[Layer], sizes: Sequence[int], extras: Sequence[int]) -> list[int]:
    """Bytes of the arrays that are alive while each layer runs, where no gradients are wanted."""
    # A sum is written over the first array that it reads.
    owner = list(range(len(layers)))
    for index, layer in enumerate(layers):
        if layer.kind == "sum":
            owner[index] = owner[layer.inputs[0]]
    last_use = {}
    for index, layer in enumerate(layers):
        for read in (*layer.inputs, index):
            last_use[owner[read]] = index
    # The caller holds the input, and what the heads read.
    for index in (0, len(layers) - 3):
        last_use[owner[index]] = len(layers)
    return [
        sum(sizes[made] for made, last in last_use.items() if made <= index <= last) + extra
        for index, extra in enumerate(extras)
    ]


def _alive_in_training(layers: Sequence[Layer], sizes: Sequence[int], extras: Sequence[int]) -> list[int]:
    """Bytes of the arrays that are alive while the backward pass goes through each layer."""
    # An array is saved until the pass has gone through the first of the layers that want it.
    saved_for = [len(layers)] * len(layers)
    for index, layer in enumerate(layers):
        if layer.has_relu or layer.kind == "sigmoid":
            saved_for[index] = index
        if layer.kind in ("convolution", "normalisation", "pooling"):
            for read in layer.inputs:
                saved_for[read] = min(saved_for[read], index)
    # Targets, their weights, and what the loss makes of both.
    targets = 3 * sizes[-1]
    gradients = {len(layers) - 1: sizes[-1]}
    alive = [0] * len(layers)
    for index in reversed(range(1, len(layers))):
        layer = layers[index]
        saved = sum(size for size, last in zip(sizes, saved_for, strict=True) if last <= index)
        saved += sum(extras[: index + 1])
        made = {read: sizes[read] for read in layer.inputs if read}
        if layer.kind == "sum":
            # Its inputs share one gradient.
            made[layer.inputs[1]] = 0
        of_relu = sizes[index] if layer.has_relu else 0
        held = sum(gradients.values())
        alive[index] = saved + targets + held + max(of_relu, sum(made.values()))
        del gradients[index]
        for read, size in made.items():
            gradients[read] = max(size, gradients.get(read, 0))
    return alive


def largest_block(
    settings: NetworkSettings,
    *,
    memory_bytes: float,
    maximum: Sequence[int],
    context: Sequence[int] = (0, 0, 0),
    in_channels: int = 1,
    head_channels: int = 3,
    num_fmaps_out: int | None = None,
    batch_size: int = 1,
    itemsize: int = 4,
) -> Shape:
    """The largest block that can be predicted in one pass in ``memory_bytes``.

    From the smallest block on, that axis grows along which least of the input is kept, until it needs no more or no
    more fits: so blocks are about cubic, and longer where a network wants more context. No array gets more numbers
    than the fast convolutions of GPUs can index.

    Parameters
    ----------
    settings : the network.
    memory_bytes : what `peak_bytes` may be.
    maximum : z y x voxels of the region; a block is no longer than covers it.
    context : see `prediction_input_shape`.
    in_channels, head_channels, num_fmaps_out : see `NetworkPass`.
    batch_size, itemsize : see `peak_bytes`.

    Returns
    -------
    tuple
        z y x voxels, such as `prediction_input_shape` takes.

    Raises
    ------
    UserError
        If not even the smallest block fits.

    Examples
    --------
    >>> from lsdflow.network_shapes import NETWORKS
    >>> largest_block(NETWORKS["fib25"], memory_bytes=10e9, maximum=(2000, 2000, 2000))
    (288, 276, 276)
    """

    def input_of(block: Sequence[int]) -> Shape:
        return prediction_input_shape(settings, block, context)

    def needed(block: Sequence[int]) -> float:
        network = NetworkPass(settings, input_of(block), in_channels, head_channels, num_fmaps_out)
        if batch_size * max(layer.size for layer in network.layers()) > LARGEST_ARRAY:
            return math.inf
        return peak_bytes(network, batch_size=batch_size, itemsize=itemsize)

    # With its context on both sides the block of a padded network must be a multiple of the period.
    rests = [-2 * c % p if settings.is_padded else 0 for c, p in zip(context, settings.period, strict=True)]
    block = [rest or period for rest, period in zip(rests, settings.period, strict=True)]
    if (least := needed(block)) > memory_bytes:
        raise UserError(
            f"a block of {tuple(block)} voxels, the smallest that the network can make, takes {least / 1e6:.0f} MB, "
            f"but {memory_bytes / 1e6:.0f} MB are there: choose a smaller network"
        )
    growing = [axis for axis in range(3) if block[axis] < maximum[axis]]
    while growing:
        whole = input_of(block)
        axis = min(growing, key=lambda a: (block[a] / whole[a], block[a]))
        longer = [n + settings.period[a] * (a == axis) for a, n in enumerate(block)]
        if needed(longer) <= memory_bytes:
            block = longer
        else:
            growing.remove(axis)
        growing = [a for a in growing if block[a] < maximum[a]]
    return tuple(block)
