"""Blockwise prediction with the network's true context, into uint8 volumes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from lsdflow.blocks import BlockGrid, DoneBlocks
from lsdflow.network_shapes import NetworkSettings, Shape, prediction_input_shape
from lsdflow.progress import Progress
from lsdflow.setups import SetupNetwork, quantise
from lsdflow.volumes import Roi, Volume


class BlockPredictor:
    """Predicts blocks of one setup from raw voxels and the stored predictions of other setups.

    Parameters
    ----------
    network : the trained network of the setup, on ``device``.
    settings : its shape arithmetic.
    inputs : in the setup's order, volumes and the position of their first voxel in voxels of the raw volume; uint8.
        The raw volume, marked by ``is_raw``, is scaled to [−1, 1] and mirrored beyond its border.
    block_shape, context : see `prediction_input_shape`.
    """

    def __init__(
        self,
        network: SetupNetwork,
        settings: NetworkSettings,
        inputs: Sequence[tuple[Volume, Shape, bool]],
        *,
        block_shape: Sequence[int],
        context: Sequence[int],
        device: torch.device,
    ):
        self.network, self.inputs, self.device = network, list(inputs), device
        self.input_shape = prediction_input_shape(settings, block_shape, context)
        self.output_shape = settings.output_shape(self.input_shape)
        self.block_shape = tuple(block_shape)

    def predict(self, block: Roi) -> dict[str, np.ndarray]:
        """Predictions ``uint8 (channels, z, y, x)`` per output for ``block``, in voxels of the raw volume.

        A block cut short by the border of its grid is predicted whole and then cut.
        """
        return self.predict_batch([block])[0]

    @torch.inference_mode()
    def predict_batch(self, blocks: Sequence[Roi]) -> list[dict[str, np.ndarray]]:
        """As `predict`, for several blocks in one pass of the network."""
        margin = [(i - b) // 2 for i, b in zip(self.input_shape, self.block_shape, strict=True)]
        stacked = torch.stack(
            [self._read([b - m for b, m in zip(block.begin, margin, strict=True)]) for block in blocks]
        )
        if len(blocks) == 1 and self.device.type == "cpu":
            # PyTorch's fast convolutions on the CPU want a batch: two blocks take less time than one alone.
            stacked = stacked.expand(2, *stacked.shape[1:])
        outputs = self.network(stacked.to(self.device).contiguous(memory_format=torch.channels_last_3d))
        inset = [m - (i - o) // 2 for m, i, o in zip(margin, self.input_shape, self.output_shape, strict=True)]
        results = []
        for index, block in enumerate(blocks):
            cut = tuple(slice(a, a + n) for a, n in zip(inset, block.shape, strict=True))
            results.append({name: quantise(v[index])[(slice(None), *cut)].cpu().numpy() for name, v in outputs.items()})
        return results

    def _read(self, begin: Sequence[int]) -> torch.Tensor:
        """The network's input ``(channels, z, y, x)`` whose first voxel is ``begin``."""
        box = Roi(tuple(begin), tuple(b + i for b, i in zip(begin, self.input_shape, strict=True)))
        parts = []
        for volume, origin, is_raw in self.inputs:
            data = torch.from_numpy(volume.read_padded(box.shift([-o for o in origin])))
            data = data[None] if data.ndim == 3 else data
            parts.append(data.float() / 255 * 2 - 1 if is_raw else data.float() / 255)
        return torch.cat(parts)


def predict_blocks(
    predictor: BlockPredictor,
    volumes: Mapping[str, Volume],
    grid: BlockGrid,
    indices: Sequence[int],
    done: DoneBlocks,
    *,
    name: str,
    batch_size: int,
) -> int:
    """Predict the blocks that are not done yet into ``volumes``, whose first voxel is that of the grid's region.

    Returns
    -------
    int
        The number of blocks predicted now; blocks of an earlier, unfinished run are kept.
    """
    remaining = done.remaining(indices)
    with Progress(len(indices), name, "block", initial=len(indices) - len(remaining)) as shown:
        for first in range(0, len(remaining), batch_size):
            batch = remaining[first : first + batch_size]
            for index, predictions in zip(batch, predictor.predict_batch([grid[i] for i in batch]), strict=True):
                inside = grid[index].shift([-b for b in grid.roi.begin])
                for output, values in predictions.items():
                    volumes[output].data[(slice(None), *inside.slices)] = values
                done.mark(index)
                shown.update()
    return len(remaining)
