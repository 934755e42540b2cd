"""The segmentation of a range of blocks at the selected threshold: a lookup in the merge tree."""

import json
from pathlib import Path

from lsdflow.blocks import BlockGrid, run_blocks
from lsdflow.merge_tree import MergeTree, look_up
from lsdflow.volumes import open_volume
from lsdflow_chunk import chunk_of, done_blocks, write_chunk
from lsdflow_job import job

with job(snakemake):
    params, files = snakemake.params, snakemake.input
    threshold = json.loads(Path(files.selected).read_text())["threshold"]
    tree = MergeTree.load(files.tree)
    ids, segments = tree.fragments, tree.segments(threshold)
    # Its edges are not looked up.
    del tree
    fragments = open_volume(Path(files.fragments).parent, "fragments")
    store = Path(files.segmentation).parent
    segmentation = open_volume(store, "segmentation", mode="r+")
    grid = BlockGrid(fragments.roi, params.block_shape)
    chunk, chunks = chunk_of(snakemake)
    made_from = (files.fragments, *files.found, files.tree)
    done = done_blocks(snakemake, store, grid, [segmentation], *made_from, also=threshold)

    def process(index, block):
        segmentation.write(block, look_up(fragments.read(block), ids, segments))

    blocks = grid.chunk_range(chunk, chunks)
    write_chunk(snakemake, blocks, run_blocks(process, grid, blocks, done, name="segmentation"), done)
