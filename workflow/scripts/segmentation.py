"""The segmentation of a range of blocks at the selected threshold: a lookup in the merge tree."""

import json
from pathlib import Path

from lsdflow.agglomeration import MergeTree
from lsdflow.blocks import BlockGrid, run_blocks
from lsdflow.volumes import open_volume
from lsdflow_chunk import chunk_of, done_blocks, write_chunk
from lsdflow_job import job

with job(snakemake):
    params, files = snakemake.params, snakemake.input
    threshold = json.loads(Path(files.selected).read_text())["threshold"]
    tree = MergeTree.load(files.tree)
    fragments = open_volume(Path(files.fragments).parent, "fragments")
    store = Path(files.segmentation).parent
    segmentation = open_volume(store, "segmentation", mode="r+")
    grid = BlockGrid(fragments.roi, params.block_shape)
    chunk, chunks = chunk_of(snakemake)
    done = done_blocks(snakemake, store, grid, [segmentation], *files.found, files.tree, files.selected)

    def process(index, block):
        segmentation.write(block, tree.segmentation(fragments.read(block), threshold))

    blocks = grid.chunk_range(chunk, chunks)
    write_chunk(snakemake, blocks, run_blocks(process, grid, blocks, done, name="segmentation"), done)
