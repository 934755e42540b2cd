"""The region graph of a range of blocks."""

from pathlib import Path

from lsdflow.blocks import BlockGrid
from lsdflow.progress import Progress
from lsdflow.region_graph import merge_region_graphs, region_graph
from lsdflow.roi import as_roi
from lsdflow.volumes import Roi, open_volume
from lsdflow_job import chunk_of, job, region_of

with job(snakemake):
    params = snakemake.params
    predictions = Path(snakemake.input.store).parent
    affinities, box = region_of(predictions, "affinities", as_roi(params.roi), snakemake.input.volume)
    fragments = open_volume(Path(snakemake.input.fragments).parent, "fragments")
    grid = BlockGrid(fragments.roi, params.block_shape)
    chunk, chunks = chunk_of(snakemake)
    blocks = grid.chunk_range(chunk, chunks)
    graphs = []
    with Progress(len(blocks), "region graph", "block") as shown:
        for index in blocks:
            block = grid[index]
            # One voxel more towards lower coordinates: a pair of voxels belongs to the block of its upper one.
            seen = Roi(tuple(max(0, b - 1) for b in block.begin), block.end)
            context = [b - s for b, s in zip(block.begin, seen.begin, strict=True)]
            values = affinities.read(seen.shift(box.begin))
            graphs.append(region_graph(values, fragments.read(seen), context=context))
            shown.update()
    merge_region_graphs(graphs).save(snakemake.output[0])
