"""Score a segmentation made elsewhere on the test region."""

import pandas as pd

from lsdflow.blocks import BlockGrid
from lsdflow.metrics.contingency import ContingencyTable, contingency_table
from lsdflow.metrics.scores import overlap_scores
from lsdflow.volumes import open_volume
from lsdflow_job import as_roi, job

with job(snakemake):
    segmentation = open_volume(snakemake.input.segmentation, "segmentation")
    truth = open_volume(snakemake.input.volume, "labels")
    grid = BlockGrid(as_roi(snakemake.params.roi), snakemake.params.block_shape)
    blocks = (grid[index] for index in range(len(grid)))
    table = ContingencyTable.merge(contingency_table(segmentation.read(block), truth.read(block)) for block in blocks)
    pd.DataFrame([overlap_scores(table)]).to_csv(snakemake.output[0], index=False, lineterminator="\n")
