"""The segmentation at the selected threshold: a lookup in the merge tree."""

import json
from pathlib import Path

from lsdflow.agglomeration import MergeTree
from lsdflow.blocks import BlockGrid
from lsdflow.progress import Progress
from lsdflow.volumes import create_volume, open_volume
from lsdflow_job import job

with job(snakemake):
    params = snakemake.params
    threshold = json.loads(Path(snakemake.input.selected).read_text())["threshold"]
    tree = MergeTree.load(snakemake.input.tree)
    fragments = open_volume(Path(snakemake.input.fragments).parent, "fragments")
    segmentation = create_volume(
        snakemake.output[0],
        "segmentation",
        shape=fragments.shape_zyx,
        dtype="uint64",
        voxel_size=fragments.voxel_size,
        offset=fragments.offset,
        shard_zyx=params.block_shape,
        attributes={"threshold": threshold},
    )
    grid = BlockGrid(fragments.roi, params.block_shape)
    with Progress(len(grid), "segmentation", "block") as shown:
        for index in range(len(grid)):
            box = grid[index].slices
            segmentation.data[box] = tree.segmentation(fragments.data[box], threshold)
            shown.update()
