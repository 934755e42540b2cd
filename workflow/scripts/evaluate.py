"""Score all thresholds of a region in one pass over its voxels."""

from pathlib import Path

import pandas as pd

from lsdflow.agglomeration import MergeTree
from lsdflow.blocks import BlockGrid
from lsdflow.metrics.contingency import ContingencyTable, contingency_table
from lsdflow.metrics.scores import overlap_scores
from lsdflow.roi import as_roi
from lsdflow.volumes import open_volume
from lsdflow_job import job

with job(snakemake):
    params, roi = snakemake.params, as_roi(snakemake.params.roi)
    tree = MergeTree.load(snakemake.input.tree)
    fragments = open_volume(Path(snakemake.input.fragments).parent, "fragments")
    truth = open_volume(snakemake.input.volume, "labels")
    grid = BlockGrid(fragments.roi, params.block_shape)
    blocks = (grid[index] for index in range(len(grid)))
    table = ContingencyTable.merge(
        contingency_table(fragments.read(block), truth.read(block.shift(roi.begin))) for block in blocks
    )
    rows = [
        {"threshold": t, **overlap_scores(table.relabel(tree.fragments, tree.segments(t)))} for t in params.thresholds
    ]
    pd.DataFrame(rows).to_csv(snakemake.output.curve, index=False, lineterminator="\n")
    pd.DataFrame([overlap_scores(table)]).to_csv(snakemake.output.fragments, index=False, lineterminator="\n")
