"""What the scripts of scattered rules share: which blocks are theirs, and the markers of those that are done."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lsdflow.blocks import BlockGrid, DoneBlocks, files_of_block
from lsdflow.volumes import Volume
from lsdflow_job import params_hash, write_json


def chunk_of(snakemake) -> tuple[int, int]:
    """This job's chunk and how many there are."""
    return int(snakemake.wildcards.chunk), int(snakemake.params.chunks)


def done_blocks(
    snakemake, store: Path, grid: BlockGrid, volumes: Sequence[Volume], *made_from: str, also: Any = None
) -> DoneBlocks:
    """The markers of the blocks of ``grid`` that are stored in ``volumes``, whose first voxel is the grid's.

    They are made from the job's settings, the inputs ``made_from``, and ``also``.
    """
    to_volume = [-b for b in grid.roi.begin]
    return DoneBlocks(
        store / "done",
        params_hash(snakemake, *made_from, also=also),
        lambda index: files_of_block(volumes, grid[index].shift(to_volume)),
    )


def write_chunk(snakemake, blocks: range, computed: int, done: DoneBlocks) -> None:
    """Write the list of a job's blocks, which says that they are done."""
    write_json(snakemake.output[0], {"blocks": list(blocks), "computed": computed, "fingerprint": done.fingerprint})
