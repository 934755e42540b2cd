"""Work on a volume block by block: the blocks of a region, their even split into jobs, and markers of what is done."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from lsdflow.errors import UserError
from lsdflow.markers import are_intact, read_marker, write_marker
from lsdflow.progress import Progress
from lsdflow.volumes import Roi, Volume


class BlockGrid:
    """The blocks that tile a region, in C order (x fastest); those at the far faces are cut to it.

    ``grid[index]`` is the `Roi` of a block; with context it is ``grid[index].grow(context)``.

    Parameters
    ----------
    roi : the region, in voxels.
    block_shape : z y x, in voxels.

    Raises
    ------
    UserError
        If the block shape is not three positive lengths, or the region is empty.

    Examples
    --------
    >>> grid = BlockGrid(Roi((0, 0, 0), (4, 4, 10)), (4, 4, 4))
    >>> len(grid), str(grid[2])
    (3, 'z 0–4, y 0–4, x 8–10')
    >>> [list(grid.chunk_range(chunk, 2)) for chunk in range(2)]
    [[0], [1, 2]]
    """

    def __init__(self, roi: Roi, block_shape: Sequence[int]) -> None:
        block_shape = tuple(int(n) for n in block_shape)
        if len(block_shape) != 3 or min(block_shape) < 1:
            raise UserError(f"the block shape must be three positive lengths in voxels (z, y, x), not {block_shape}")
        if roi.size == 0:
            raise UserError(f"there is nothing to cut into blocks: the region {roi} is empty")
        self.roi = roi
        self.block_shape = block_shape
        self.counts_zyx = tuple(-(-n // b) for n, b in zip(roi.shape, block_shape, strict=True))

    @property
    def voxels_per_block(self) -> int:
        """Number of voxels of a whole block: the most ids that one block can need."""
        z, y, x = self.block_shape
        return z * y * x

    def __len__(self) -> int:
        z, y, x = self.counts_zyx
        return z * y * x

    def __getitem__(self, index: int) -> Roi:
        if not 0 <= index < len(self):
            raise IndexError(f"block {index} is not one of the {len(self)} blocks of the grid")
        _, n_y, n_x = self.counts_zyx
        position = (index // (n_y * n_x), index // n_x % n_y, index % n_x)
        begin = tuple(b + p * n for b, p, n in zip(self.roi.begin, position, self.block_shape, strict=True))
        end = tuple(b + n for b, n in zip(begin, self.block_shape, strict=True))
        return Roi(begin, end).intersect(self.roi)

    def chunk_range(self, chunk: int, chunks: int) -> range:
        """The indices of the blocks that job ``chunk`` of ``chunks`` does; empty for some if there are more jobs.

        Jobs differ by one block at most, and take neighbouring blocks, which share chunks of the store.
        """
        if not 0 <= chunk < chunks:
            raise ValueError(f"chunk must be in 0–{chunks - 1}, not {chunk}")
        return range(len(self) * chunk // chunks, len(self) * (chunk + 1) // chunks)


class DoneBlocks:
    """Markers of finished blocks: one small file for each, so that work that was cut off goes on where it stopped.

    A marker also notes the files that hold the block's data, with their checksums: a block whose files are gone, cut
    off or changed is not done.

    Parameters
    ----------
    folder : where the markers lie, ``done`` beside the data; made when the first is written.
    fingerprint : what the blocks' data depend on (a hash of the configuration and inputs, say). A marker of another
        fingerprint, or a torn one, counts as not done.
    files : called with the index of a block, names the files that hold its data, whether they exist or not (Zarr leaves
        out what is empty). None by default.
    """

    def __init__(
        self, folder: str | os.PathLike, fingerprint: str, files: Callable[[int], Iterable[Path]] = lambda index: ()
    ) -> None:
        if not fingerprint:
            raise ValueError("the fingerprint is empty: an empty marker file would count as done")
        self.folder = Path(folder)
        self.fingerprint = fingerprint
        self.files = files

    def is_done(self, index: int) -> bool:
        """Whether block ``index`` was finished under this fingerprint, and its files are as they were then."""
        content = read_marker(self._marker(index))
        return content is not None and content[0] == self.fingerprint and are_intact(self.folder, content[1])

    def mark(self, index: int) -> None:
        """Note that block ``index`` is finished; to be called after its data are written."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_marker(self._marker(index), self.fingerprint, self.files(index))

    def remaining(self, indices: Iterable[int]) -> list[int]:
        """Those of ``indices`` that are not done, in the same order."""
        return [index for index in indices if not self.is_done(index)]

    def _marker(self, index: int) -> Path:
        return self.folder / f"{index}.done"


def files_of_block(volumes: Iterable[Volume], block: Roi) -> list[Path]:
    """The files that hold ``block`` (whole shards, in voxels of the volumes) of Zarr ``volumes``, at every level."""
    files = []
    for volume in volumes:
        levels = [(volume.data, (1, 1, 1))]
        if volume.pyramid:
            levels += zip(volume.pyramid.arrays, volume.pyramid.factors, strict=True)
        for array, factors in levels:
            shard = (array.shards or array.chunks)[-3:]
            place = [b // f // s for b, f, s in zip(block.begin, factors, shard, strict=True)]
            key = array.metadata.encode_chunk_key((0,) * (array.ndim - 3) + tuple(place))
            files.append(Path(array.store.root) / array.path / key)
    return files


def run_blocks(
    process: Callable[[int, Roi], object],
    grid: BlockGrid,
    indices: Iterable[int],
    done: DoneBlocks,
    *,
    name: str,
) -> int:
    """Process the blocks that are not done yet, mark each, and show the progress.

    Parameters
    ----------
    process : called as ``process(index, block)``; it writes what the block yields. A block that was cut off halfway
        comes again, so it must overwrite.
    grid : the blocks.
    indices : which of them are this job's, as from `BlockGrid.chunk_range`.
    done : their markers.
    name : what is done, for the progress lines.

    Returns
    -------
    int
        The number of blocks processed now.

    Raises
    ------
    Exception
        Whatever ``process`` raised first; blocks that were finished by then are marked.
    """
    indices = list(indices)
    remaining = done.remaining(indices)
    with Progress(len(indices), name, "block", initial=len(indices) - len(remaining)) as shown:
        for index in remaining:
            process(index, grid[index])
            done.mark(index)
            shown.update()
    return len(remaining)
