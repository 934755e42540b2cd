"""Blockwise prediction with the network's true context, into uint8 volumes.

Blocks of a valid network fit together as they are; windows of a padded one overlap and are blended
(`lsdflow.blending`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lsdflow.augment import Symmetry
from lsdflow.blending import Lattice
from lsdflow.blocks import BlockGrid, DoneBlocks
from lsdflow.errors import UserError
from lsdflow.network_inputs import NetworkInput
from lsdflow.network_shapes import NetworkSettings, Shape
from lsdflow.overlapped import WriteBehind, read_ahead
from lsdflow.passes import FittingNetwork
from lsdflow.prediction_shapes import input_box, reach
from lsdflow.progress import Progress
from lsdflow.setups import Pipeline, quantise
from lsdflow.symmetrised import check_offsets, reach_of, transform, transform_affinities, transform_lsds
from lsdflow.volumes import Roi, Volume

# Batches that are read ahead, and as many blocks that wait to be written.
DEPTH = 2


def best_batch(input_shape: Sequence[int], device: torch.device) -> int:
    """Windows to predict in one pass: what the device computes fastest."""
    if device.type == "cuda":
        # A million voxels keep a GPU busy.
        return max(1, 10**6 // math.prod(input_shape))
    # PyTorch has fast convolutions on the CPU for batches, and for single inputs whose first sizes, without the last
    # axis, multiply to more than this (`use_mkldnn` in aten/src/ATen/native/Convolution.cpp).
    return 1 if input_shape[0] * input_shape[1] > 20480 else 2


class BlockPredictor:
    """Predicts windows of one setup from raw voxels and the stored predictions of other setups.

    Parameters
    ----------
    network : the trained network of the setup, on ``device``.
    settings : its shape arithmetic.
    inputs : in the setup's order.
    block_shape, context : of `prediction_shapes.input_box`.
    device : where to compute.
    precision : of `passes.precision_of`.
    symmetries : to average over, the identity first (`symmetrised.symmetries_of`).
    offsets : z y x of the affinities that are predicted; only needed for symmetries.
    name : of the setup, for messages.
    batch_size : windows in one pass; `best_batch` by default.

    Attributes
    ----------
    window_context : voxels (z, y, x) around a block whose predictions are blended with those of its neighbours.
    """

    def __init__(
        self,
        network: nn.Module,
        settings: NetworkSettings,
        inputs: Sequence[NetworkInput],
        *,
        block_shape: Sequence[int],
        context: Sequence[int],
        device: torch.device,
        precision: str = "auto",
        symmetries: Sequence[Symmetry] = (Symmetry(),),
        offsets: Sequence[Shape] = (),
        name: str = "network",
        batch_size: int | None = None,
    ):
        self.inputs, self.device, self.name = list(inputs), device, name
        self.block_shape = tuple(block_shape)
        self.window_context = tuple(context) if settings.is_padded else (0, 0, 0)
        self.input_shape, self._before = input_box(settings, block_shape, context)
        self.batch_size = batch_size or best_batch(self.input_shape, device)
        self._network = FittingNetwork(network, settings, context=context, device=device, precision=precision)
        self._symmetries, self._offsets = list(symmetries), [tuple(o) for o in offsets]
        for symmetry in self._symmetries:
            settings.output_shape([self.input_shape[axis] for axis in symmetry.axes])
            check_offsets(self._offsets, [symmetry], name)
            for entry in self.inputs:
                check_offsets(entry.offsets, [symmetry], name)
        # Affinities of a turned image are in part those of voxels beyond the window.
        seen = [o for entry in self.inputs for o in entry.offsets] if len(self._symmetries) > 1 else []
        self._margin = reach_of(seen)

    @property
    def channels(self) -> dict[str, int]:
        """Channels of each output, once something was predicted."""
        return self._network.channels

    def read(self, block: Roi) -> list[NDArray]:
        """What the network needs for the window of ``block``, in voxels of the raw volume, as it is stored."""
        begin = tuple(b - n - m for b, n, m in zip(block.begin, self._before, self._margin, strict=True))
        size = [i + 2 * m for i, m in zip(self.input_shape, self._margin, strict=True)]
        box = Roi(begin, tuple(b + n for b, n in zip(begin, size, strict=True)))
        return [entry.read(box) for entry in self.inputs]

    def predict(self, blocks: Sequence[Roi], read: Sequence[Sequence[NDArray]]) -> torch.Tensor:
        """Predictions of whole windows, all outputs stacked as channels: float32 (block, channel, z, y, x).

        A window begins `window_context` before its block.

        Parameters
        ----------
        blocks : at most `batch_size`.
        read : what `read` returned for each of them.

        Raises
        ------
        UserError
            If a prediction is not a number.
        """
        # A full batch at all times: in batches of other sizes the same window may be rounded in another way.
        fill = [read[-1]] * (self.batch_size - len(read))
        parts = [
            torch.stack([torch.from_numpy(np.ascontiguousarray(data)) for data in same])
            for same in zip(*read, *fill, strict=True)
        ]
        with torch.inference_mode():
            predicted = self._symmetrised([self._scaled(part, e) for part, e in zip(parts, self.inputs, strict=True)])
            predicted = predicted[: len(blocks)]
            is_finite = torch.isfinite(predicted).flatten(1).all(dim=1).tolist()
        for block, is_good in zip(blocks, is_finite, strict=True):
            if not is_good:
                raise UserError(
                    f"the predictions of setup {self.name!r} in the block {block} are not numbers (NaN): its training "
                    "diverged, or prediction.precision is too low for it; try float32, else lower "
                    "training.learning_rate and train again"
                )
        return predicted

    def split(self, values: Sequence) -> dict[str, NDArray]:
        """Stacked channels by output."""
        begins = np.cumsum([0, *self.channels.values()])
        return {name: values[a:b] for name, a, b in zip(self.channels, begins, begins[1:], strict=False)}

    def _scaled(self, data: torch.Tensor, entry: NetworkInput) -> torch.Tensor:
        if self.device.type == "cuda":
            data = data.pin_memory()
        data = data.to(self.device, non_blocking=True)
        values = data.float() if data.is_floating_point() else data.float() / 255
        return values * 2 - 1 if entry.output == "raw" else values

    def _symmetrised(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        """The mean over all symmetries, each turned back."""
        if len(self._symmetries) == 1:
            return self._network.run(torch.cat(list(parts), dim=1))
        total = counts = None
        for symmetry in self._symmetries:
            turned = [self._turned_input(part, e, symmetry) for part, e in zip(parts, self.inputs, strict=True)]
            values, known = self._turned_back(self._network.run(torch.cat(turned, dim=1)), symmetry.inverse)
            total = values if total is None else total.add_(values)
            counts = known.float() if counts is None else counts.add_(known)
        return total.div_(counts)

    def _turned_input(self, part: torch.Tensor, entry: NetworkInput, symmetry: Symmetry) -> torch.Tensor:
        if entry.output == "affinities":
            turned, _ = transform_affinities(part, entry.offsets, symmetry)
        else:
            turned = (transform_lsds if entry.output == "lsds" else transform)(part, symmetry)
        for axis, margin in enumerate(self._margin, start=2):
            turned = turned.narrow(axis, margin, turned.shape[axis] - 2 * margin)
        return turned

    def _turned_back(self, predicted: torch.Tensor, inverse: Symmetry) -> tuple[torch.Tensor, torch.Tensor]:
        """Predictions of a turned window in the frame of the window, and which of them are known."""
        parts, begin = [], 0
        for output, count in self.channels.items():
            values, begin = predicted[:, begin : begin + count], begin + count
            if output == "affinities":
                parts.append(transform_affinities(values, self._offsets, inverse))
            else:
                values = transform_lsds(values, inverse)
                parts.append((values, torch.ones(values.shape[1:], dtype=torch.bool, device=values.device)))
        values, known = zip(*parts, strict=True)
        return torch.cat(values, dim=1), torch.cat(known)


Blocks = Iterator[tuple[int, Callable[[], dict[str, NDArray]]]]


def predicted_blocks(
    predictor: BlockPredictor, grid: BlockGrid, indices: Sequence[int], *, pending_mb: float, as_stored: bool = True
) -> Blocks:
    """Predict blocks of a region, reading ahead.

    The result of a block depends on ``grid`` alone, not on which others are asked for (on a GPU, but for rounding).

    Parameters
    ----------
    pending_mb : how much predictions that wait for those of neighbours may take, in 10⁶ bytes (`Lattice.tiles`).
    as_stored : whether to yield uint8 (`setups.quantise`) or float32 in 0–1.

    Yields
    ------
    (index, finish) : ``finish()`` makes, in any thread, the predictions ``(channel, z, y, x)`` of the block per output.
    """
    lattice = Lattice(grid, predictor.window_context)
    is_blended = any(lattice.context)
    # A waiting block holds about what its window has, in half precision; channels are known after a first pass only.
    bytes_of_window = 2 * int(np.prod(lattice.window_shape)) * max(16, sum(predictor.channels.values()))
    tiles = lattice.tiles(indices, int(pending_mb * 1e6 // bytes_of_window))

    def batches() -> Iterator[tuple[set[int], list[int], list[list[NDArray]]]]:
        for windows, blocks in tiles:
            wanted = set(blocks)
            for first in range(0, len(windows), predictor.batch_size):
                batch = windows[first : first + predictor.batch_size]
                yield wanted, batch, [predictor.read(grid[index]) for index in batch]

    pending: dict[int, list[tuple[tuple[slice, ...], NDArray]]] = {}
    for wanted, batch, read in read_ahead(batches(), DEPTH):
        predicted = predictor.predict([grid[index] for index in batch], read)
        for window, values in zip(batch, predicted, strict=True):
            if not is_blended:
                inside = tuple(slice(0, n) for n in grid[window].shape)
                values = values[(slice(None), *inside)]
                whole = (quantise(values) if as_stored else values).cpu().numpy()
                yield window, lambda whole=whole: predictor.split(whole)
                continue
            for block, piece in _pieces(lattice, window, values, wanted):
                pieces = pending.setdefault(block, [])
                pieces.append(piece)
                if len(pieces) == len(lattice.around(block)):
                    del pending[block]
                    shape = (len(values), *grid[block].shape)
                    yield block, lambda p=pieces, s=shape: predictor.split(_added(p, s, as_stored))


def _pieces(
    lattice: Lattice, window: int, values: torch.Tensor, wanted: set[int]
) -> Iterator[tuple[int, tuple[tuple[slice, ...], NDArray]]]:
    """What a window says of each of the ``wanted`` blocks: where in the block, and weighted predictions, float16."""
    z, y, x = (torch.tensor(w, device=values.device) for w in lattice.weights(window))
    with torch.inference_mode():
        weighted = (values * z[:, None, None] * y[:, None] * x).half().cpu().numpy()
    box = lattice.window(window)
    for block in lattice.around(window):
        if block in wanted:
            common = lattice.grid[block].intersect(box)
            there = common.shift([-b for b in lattice.grid[block].begin]).slices
            here = common.shift([-b for b in box.begin]).slices
            yield block, ((slice(None), *there), weighted[(slice(None), *here)].copy())


def _added(pieces: Sequence[tuple[tuple[slice, ...], NDArray]], shape: Sequence[int], as_stored: bool) -> NDArray:
    """A block from what all windows, in ascending order, say of it."""
    total = np.zeros(shape, np.float32)
    for box, piece in pieces:
        total[box] += piece
    # Rounding may take a sum of weights beyond 1.
    np.minimum(total, 1, out=total)
    return quantise(torch.from_numpy(total)).numpy() if as_stored else total


def predict_blocks(
    predictor: BlockPredictor,
    volumes: Mapping[str, Volume],
    grid: BlockGrid,
    indices: Sequence[int],
    done: DoneBlocks,
    *,
    name: str,
    pending_mb: float = 1000,
    mask: NetworkInput | None = None,
) -> int:
    """Predict the blocks that are not done yet into ``volumes``, whose first voxel is that of the grid's region.

    While a block is computed, the next ones are read and those before it written.

    Parameters
    ----------
    name : for the progress lines.
    pending_mb : see `predicted_blocks`.
    mask : where there is something to predict, not 0; elsewhere predictions are 0, and blocks all outside are skipped.

    Returns
    -------
    int
        The number of blocks predicted now; blocks of an earlier, unfinished run are kept.
    """
    remaining = done.remaining(indices)
    begin, count = time.monotonic(), 0
    with Progress(len(indices), name, "block", initial=len(indices) - len(remaining)) as shown:

        def store(index: int, predictions: Mapping[str, NDArray]) -> None:
            nonlocal count
            inside = grid[index].shift([-b for b in grid.roi.begin])
            for output, values in predictions.items():
                volumes[output].write(inside, values)
            done.mark(index)
            count += inside.size
            shown.update(**{"Mvoxels/s": count / 1e6 / max(time.monotonic() - begin, 1e-9)})

        def write(entry: tuple[int, Callable[[], dict[str, NDArray]]]) -> None:
            index, finish = entry
            predictions = finish()
            if mask is not None:
                is_inside = mask.read(grid[index]) != 0
                predictions = {output: values * is_inside for output, values in predictions.items()}
            store(index, predictions)

        inside = []
        for index in remaining:
            if mask is None or mask.read(grid[index]).any():
                inside.append(index)
            else:
                # An earlier run under another configuration may have left something here.
                shape = grid[index].shape
                store(index, {o: np.zeros((v.data.shape[0], *shape), v.data.dtype) for o, v in volumes.items()})
        with WriteBehind(write, DEPTH) as writer:
            for entry in predicted_blocks(predictor, grid, inside, pending_mb=pending_mb):
                writer.put(entry)
    return len(inside)


def predict_whole(predictor: BlockPredictor, roi: Roi, *, pending_mb: float = 1000) -> dict[str, NDArray[np.float32]]:
    """Predictions of a region that fits into memory, as `predict_blocks` makes them, before they are rounded.

    Parameters
    ----------
    roi : in voxels of the raw volume; the blocks are counted from its corner.

    Returns
    -------
    dict
        Per output float32 (channel, z, y, x) in 0–1.
    """
    grid, whole = BlockGrid(roi, predictor.block_shape), {}
    for index, finish in predicted_blocks(predictor, grid, range(len(grid)), pending_mb=pending_mb, as_stored=False):
        inside = grid[index].shift([-b for b in roi.begin]).slices
        for output, values in finish().items():
            if output not in whole:
                whole[output] = np.empty((len(values), *roi.shape), np.float32)
            whole[output][(slice(None), *inside)] = values
    return whole


def inputs_seen(
    pipeline: Pipeline,
    raw: Volume,
    roi: Roi,
    shapes: Callable[[NetworkSettings], tuple[Shape, Shape]],
    *,
    device: torch.device,
    precision: str = "auto",
) -> list[NetworkInput]:
    """What the network of ``pipeline`` sees of a region: raw voxels, and predictions of the frozen networks in memory.

    The frozen networks, on ``device``, predict the region and what blocks of it see around it, as stored predictions
    would be. With a `BlockPredictor` and `predict_whole` this scores a network in the middle of its training.

    Parameters
    ----------
    shapes : of a network, the block shape and the context to predict with.
    """
    wide, seen = roi.grow(reach(pipeline.setup.network, *shapes(pipeline.setup.network))), {}
    for name, other in pipeline.frozen.items():
        settings = other.setup.network
        block, context = shapes(settings)
        inputs = inputs_seen(other, raw, wide, shapes, device=device, precision=precision)
        predictor = BlockPredictor(
            other.network, settings, inputs, block_shape=block, context=context, device=device, precision=precision
        )
        for output, values in predict_whole(predictor, wide).items():
            stored = Volume(quantise(torch.from_numpy(values)).numpy(), raw.voxel_size)
            seen[f"{name}.{output}"] = NetworkInput(stored, wide.begin, output, other.setup.offsets)
    return [NetworkInput(raw) if name == "raw" else seen[name] for name in pipeline.setup.inputs]
