"""Training targets of a range of blocks: labels with grown boundaries, and their descriptors."""

from pathlib import Path

from lsdflow.blocks import BlockGrid, run_blocks
from lsdflow.roi import as_roi
from lsdflow.targets import BlockTargets
from lsdflow.volumes import open_volume
from lsdflow_chunk import chunk_of, done_blocks, write_chunk
from lsdflow_job import job

with job(snakemake):
    params, roi = snakemake.params, as_roi(snakemake.params.roi)
    store = Path(snakemake.input.store).parent
    labels, lsds = (open_volume(store, name, mode="r+") for name in ("labels", "lsds"))
    targets = BlockTargets(
        open_volume(snakemake.input.volume, "labels"),
        roi,
        params.sigma if isinstance(params.sigma, (int, float)) else tuple(params.sigma),
        downsample=params.downsample,
        steps=params.grow_boundary,
        only_xy=params.only_xy,
    )
    grid = BlockGrid(labels.roi, params.block_shape)
    chunk, chunks = chunk_of(snakemake)
    done = done_blocks(snakemake, store, grid, [labels, lsds], snakemake.input.volume, snakemake.input.store)

    def process(index, block):
        boundaries, descriptors = targets.compute(block.shift(roi.begin), threads=snakemake.threads)
        labels.write(block, boundaries)
        lsds.write(block, descriptors)

    blocks = grid.chunk_range(chunk, chunks)
    computed = run_blocks(process, grid, blocks, done, name="targets")
    write_chunk(snakemake, blocks, computed, done)
