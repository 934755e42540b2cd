"""Fragments of a range of blocks."""

from pathlib import Path

from lsdflow.affinities import offsets_on_axes
from lsdflow.block_fragments import FragmentSettings, fragments_of_block
from lsdflow.blocks import BlockGrid, run_blocks
from lsdflow.roi import as_roi
from lsdflow.volumes import open_mask, open_volume
from lsdflow_chunk import chunk_of, done_blocks, write_chunk
from lsdflow_job import job, region_of

with job(snakemake):
    params, files = snakemake.params, snakemake.input
    affinities, within = region_of(Path(files.store).parent, "affinities", as_roi(params.roi), files.volume)
    mask = open_mask(files.volume)
    settings = FragmentSettings(**params.settings)
    store = Path(files.fragments).parent
    fragments = open_volume(store, "fragments", mode="r+")
    grid = BlockGrid(fragments.roi, params.block_shape)
    chunk, chunks = chunk_of(snakemake)
    # The predictions' store has a name of its own, and the lists of their blocks tell the network.
    done = done_blocks(snakemake, store, grid, [fragments], files.store, *files.predicted)

    def process(index, block):
        found = fragments_of_block(
            affinities,
            block.shift(within.begin),
            settings,
            within=within,
            context=params.context,
            offsets=offsets_on_axes(params.distances),
            mask=mask,
        )
        fragments.write(block, found)

    blocks = grid.chunk_range(chunk, chunks)
    write_chunk(snakemake, blocks, run_blocks(process, grid, blocks, done, name="fragments"), done)
