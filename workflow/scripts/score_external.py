"""Score a segmentation made elsewhere on the test region."""

import pandas as pd

from lsdflow.blocks import BlockGrid
from lsdflow.metrics.contingency import ContingencyTable, contingency_table
from lsdflow.metrics.run_length import run_length_columns
from lsdflow.metrics.scores import overlap_scores
from lsdflow.metrics.skeletons import labels_at_nodes, load_skeletons, skeleton_arrays
from lsdflow.roi import as_roi
from lsdflow.volumes import open_volume
from lsdflow_job import job

with job(snakemake):
    params, files = snakemake.params, snakemake.input
    segmentation, truth = open_volume(files.segmentation, "segmentation"), open_volume(files.volume, "labels")
    grid = BlockGrid(as_roi(params.roi), params.block_shape)
    blocks = (grid[index] for index in range(len(grid)))
    table = ContingencyTable.merge(contingency_table(segmentation.read(block), truth.read(block)) for block in blocks)
    graph = load_skeletons(files.skeletons)
    found = labels_at_nodes(graph, segmentation, params.block_shape)
    run_lengths = run_length_columns(skeleton_arrays(graph), found, merge_tolerance=params.merge_tolerance)
    row = overlap_scores(table) | run_lengths
    pd.DataFrame([row]).to_csv(snakemake.output[0], index=False, lineterminator="\n")
