"""Watershed fragments of a range of blocks."""

from pathlib import Path

import numpy as np

from lsdflow.blocks import BlockGrid, DoneBlocks, run_blocks
from lsdflow.fragments import global_ids, watershed_fragments
from lsdflow.roi import as_roi
from lsdflow.volumes import Roi, open_volume
from lsdflow_job import chunk_of, job, params_hash, region_of, write_json

with job(snakemake):
    params = snakemake.params
    predictions = Path(snakemake.input.store).parent
    affinities, box = region_of(predictions, "affinities", as_roi(params.roi), snakemake.input.volume)
    store = Path(snakemake.input.fragments).parent
    fragments = open_volume(store, "fragments", mode="r+")
    grid = BlockGrid(fragments.roi, params.block_shape)
    chunk, chunks = chunk_of(snakemake)
    # The lists of predicted blocks carry the fingerprint of the predictions: with a new network they differ.
    done = DoneBlocks(store / "done", params_hash(snakemake, *snakemake.input.predicted))

    def process(index, block):
        seen = block.grow(params.context).intersect(fragments.roi)
        found = watershed_fragments(
            affinities.read(seen.shift(box.begin)),
            threshold=params.foreground_threshold,
            minimum_seed_distance=params.minimum_seed_distance,
            in_sections=params.in_sections,
            voxel_size=affinities.voxel_size,
        )
        inner: Roi = block.shift([-b for b in seen.begin])
        _, dense = np.unique(found[inner.slices], return_inverse=True)
        dense = dense.reshape(block.shape).astype(np.uint64) + np.uint64(1)
        fragments.data[block.slices] = global_ids(dense, index, grid.voxels_per_block)

    blocks = grid.chunk_range(chunk, chunks)
    computed = run_blocks(process, grid, blocks, done, name="fragments")
    write_json(snakemake.output[0], {"blocks": list(blocks), "computed": computed, "fingerprint": done.fingerprint})
