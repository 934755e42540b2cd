"""Affinities read off the grey values: the row without a network."""

from pathlib import Path

from lsdflow.blocks import BlockGrid, run_blocks
from lsdflow.reference import grey_range, image_affinities
from lsdflow.roi import as_roi
from lsdflow.volumes import open_volume
from lsdflow_chunk import chunk_of, done_blocks, write_chunk
from lsdflow_job import job

with job(snakemake):
    params = snakemake.params
    raw, roi = open_volume(snakemake.input.volume, "raw"), as_roi(params.roi)
    store = Path(snakemake.input.store).parent
    affinities = open_volume(store, "affinities", mode="r+")
    grid = BlockGrid(roi, params.block_shape)
    smoothing = [params.smoothing / v for v in raw.voxel_size]
    context = [int(4 * s) + 2 for s in smoothing]
    # A handful of blocks tell the grey values of a volume of any size.
    middle = [grid[i] for i in range(0, len(grid), max(1, len(grid) // 8))]
    low, high = grey_range([value for block in middle for value in raw.read(block)[::4, ::4, ::4].ravel()])
    chunk, chunks = chunk_of(snakemake)
    done = done_blocks(snakemake, store, grid, [affinities])

    def process(index, block):
        grown = raw.read_padded(block.grow(context))
        values = image_affinities(grown, smoothing=smoothing, low=low, high=high)
        centre = tuple(slice(c, c + n) for c, n in zip(context, block.shape, strict=True))
        affinities.write(block.shift([-b for b in roi.begin]), values[(slice(None), *centre)])

    blocks = grid.chunk_range(chunk, chunks)
    computed = run_blocks(process, grid, blocks, done, name="raw affinities")
    write_chunk(snakemake, blocks, computed, done)
