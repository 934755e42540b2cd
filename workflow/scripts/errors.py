"""List the worst splits and merges of the segmentation of the test region, and where they are."""

import pandas as pd

from lsdflow.blocks import BlockGrid
from lsdflow.metrics.contingency import ContingencyTable, contingency_table
from lsdflow.metrics.errors import COLUMNS, error_rows, locate, worst_errors
from lsdflow.roi import as_roi
from lsdflow.volumes import open_volume
from lsdflow_job import job, store_of

with job(snakemake):
    params, files, roi = snakemake.params, snakemake.input, as_roi(snakemake.params.roi)
    truth = open_volume(files.volume, "labels")
    segmentation = open_volume(store_of(files.segmentation), "segmentation")
    to_own = [-p for p in truth.position_of(segmentation)]
    grid = BlockGrid(roi, params.block_shape)

    def read(box):
        return segmentation.read(box.shift(to_own)), truth.read(box)

    blocks = (grid[index] for index in range(len(grid)))
    errors = worst_errors(ContingencyTable.merge(contingency_table(*read(block)) for block in blocks))
    locations = locate(errors, read, grid, voxel_size=truth.voxel_size)
    rows = error_rows(errors, locations, truth.voxel_size, truth.offset)
    pd.DataFrame(rows, columns=COLUMNS).to_csv(snakemake.output[0], index=False, lineterminator="\n")
