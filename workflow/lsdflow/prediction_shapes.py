"""The boxes that blocks are predicted from, and how large the blocks of a region should be.

Plain Python, as `network_shapes` is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

from lsdflow.network_cost import largest_block
from lsdflow.network_shapes import NetworkSettings, Shape, prediction_input_shape


def input_box(network: NetworkSettings, block_shape: Sequence[int], context: Sequence[int]) -> tuple[Shape, Shape]:
    """The shape of what a block is predicted from, and how many voxels of it lie before the block.

    A padded network sees ``context`` voxels on either side, and makes predictions for them too. A valid network's first
    prediction is the block's first voxel: blocks, which are a multiple of the network's period apart, then fit together
    as one big pass over the region would have them. What it makes beyond the block is thrown away.

    Raises
    ------
    UserError
        As `network_shapes.prediction_input_shape`.

    Examples
    --------
    >>> from lsdflow.network_shapes import NETWORKS
    >>> input_box(NETWORKS["fib25"], (96, 96, 96), (0, 0, 0))
    ((208, 208, 208), (52, 52, 52))
    """
    shape = prediction_input_shape(network, block_shape, context)
    if network.is_padded:
        return shape, tuple(int(c) for c in context)
    made = network.output_shape(shape)
    return shape, tuple((i - o) // 2 for i, o in zip(shape, made, strict=True))


def reach(network: NetworkSettings, block_shape: Sequence[int], context: Sequence[int]) -> Shape:
    """Voxels that a block reads beyond itself, the larger of both sides."""
    shape, before = input_box(network, block_shape, context)
    return tuple(max(n, s - b - n) for n, s, b in zip(before, shape, block_shape, strict=True))


@lru_cache(maxsize=1024)
def block_of_region(
    network: NetworkSettings,
    region_shape: Shape,
    *,
    crop_shape: Shape,
    memory_mb: float,
    context: Shape,
    in_channels: int,
    head_channels: int,
    num_fmaps_out: int | None = None,
    chunks: int = 1,
) -> Shape:
    """The block shape in which a region is predicted best: few blocks, all about as large.

    From the largest block that fits into memory (`network_cost.largest_block`): as many along each axis as the region
    needs of those, or as it takes to give every job one, and then no larger than it takes to cover the region.  A
    padded network's block is no larger than the crops of its training, because it normalises over its window: on the
    medulla, with crops of 40³, the balanced squared error is 0.097 in blocks of 40³ and 0.105 in blocks of 128³.

    Parameters
    ----------
    network, context, in_channels, head_channels, num_fmaps_out : of `network_cost.largest_block`.
    region_shape, crop_shape : z y x voxels of what is predicted, and of what was predicted in training.
    memory_mb : what one pass may take, in 10⁶ bytes.
    chunks : jobs that share the region.

    Raises
    ------
    UserError
        If not even the smallest block fits.

    Examples
    --------
    >>> from lsdflow.network_shapes import NETWORKS
    >>> raw = {"context": (8, 8, 8), "in_channels": 1, "head_channels": 3}
    >>> block_of_region(NETWORKS["small"], (80, 250, 250), crop_shape=(48, 48, 48), memory_mb=4000, **raw)
    (40, 44, 44)
    >>> block_of_region(NETWORKS["fib25"], (520, 520, 520), crop_shape=(92, 92, 92), memory_mb=20000, **raw)
    (264, 264, 264)
    """
    largest = largest_block(
        network,
        memory_bytes=memory_mb * 1e6,
        maximum=tuple(map(min, region_shape, crop_shape)) if network.is_padded else region_shape,
        context=context,
        in_channels=in_channels,
        head_channels=head_channels,
        num_fmaps_out=num_fmaps_out,
    )
    block = [_even(network, axis, n, b, context) for axis, (n, b) in enumerate(zip(region_shape, largest, strict=True))]
    while math.prod(-(-n // b) for n, b in zip(region_shape, block, strict=True)) < chunks:
        shorter = [axis for axis in range(3) if block[axis] > network.period[axis]]
        if not shorter:
            break
        axis = max(shorter, key=lambda a: block[a])
        block[axis] = _even(network, axis, region_shape[axis], block[axis] - network.period[axis], context)
    return tuple(block)


def _even(network: NetworkSettings, axis: int, length: int, longest: int, context: Shape) -> int:
    """The shortest block along ``axis`` that covers ``length`` voxels in as few as blocks of ``longest`` do."""
    period, rest = network.period[axis], -2 * context[axis] if network.is_padded else 0
    enough = -(-length // -(-length // longest))
    return enough + (rest - enough) % period
