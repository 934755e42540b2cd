"""What a segmentation gets right in every block and skeleton of the test region: intervals are drawn from these."""

import pandas as pd

from lsdflow.blocks import BlockGrid
from lsdflow.metrics.block_tables import BlockTables, units_of_grid
from lsdflow.metrics.contingency import contingency_table
from lsdflow.metrics.run_length import run_length_by_component
from lsdflow.metrics.skeletons import labels_at_nodes, load_skeletons
from lsdflow.roi import as_roi
from lsdflow.volumes import open_volume
from lsdflow_job import job, store_of

with job(snakemake):
    params, files, roi = snakemake.params, snakemake.input, as_roi(snakemake.params.roi)
    truth = open_volume(files.volume, "labels")
    segmentation = open_volume(store_of(files.segmentation), "segmentation")
    to_own = [-p for p in truth.position_of(segmentation)]
    grid = BlockGrid(roi, params.block_shape)
    blocks = [grid[index] for index in range(len(grid))]
    tables = BlockTables.from_tables(
        contingency_table(segmentation.read(block.shift(to_own)), truth.read(block)) for block in blocks
    )
    tables.joined(units_of_grid(grid.counts_zyx)).save(snakemake.output.blocks)
    graph = load_skeletons(files.skeletons)
    found = labels_at_nodes(graph, segmentation, params.block_shape)
    columns = run_length_by_component(graph, found, merge_tolerance=params.merge_tolerance)
    table = pd.DataFrame(dict(zip(("component", "length", "squares"), columns, strict=True)))
    table.to_csv(snakemake.output.skeletons, index=False, lineterminator="\n")
