"""The region graph of a range of blocks."""

from pathlib import Path

from lsdflow.blocks import BlockGrid, DoneBlocks, run_blocks
from lsdflow.fragments import NEAREST
from lsdflow.region_graph import merge_region_graphs, region_graph, window_of_pairs
from lsdflow.roi import as_roi
from lsdflow.volumes import open_volume
from lsdflow_chunk import chunk_of
from lsdflow_job import job, params_hash, region_of

with job(snakemake):
    params, files = snakemake.params, snakemake.input
    affinities, box = region_of(Path(files.store).parent, "affinities", as_roi(params.roi), files.volume)
    fragments = open_volume(Path(files.fragments).parent, "fragments")
    grid = BlockGrid(fragments.roi, params.block_shape)
    chunk, chunks = chunk_of(snakemake)
    folder = Path(snakemake.output[0]).parent / "blocks"

    def graph_of(index):
        return folder / f"{index}.npz"

    done = DoneBlocks(
        folder / "done",
        params_hash(snakemake, files.store, files.fragments, *files.found),
        lambda index: [graph_of(index)],
    )

    def process(index, block):
        seen, context = window_of_pairs(block)
        values = affinities.read(seen.shift(box.begin), channels=slice(NEAREST))
        region_graph(values, fragments.read(seen), context=context).save(graph_of(index))

    blocks = grid.chunk_range(chunk, chunks)
    run_blocks(process, grid, blocks, done, name="region graph")
    merge_region_graphs([graph_of(index) for index in blocks]).save(snakemake.output[0])
