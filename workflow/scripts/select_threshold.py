"""The thresholds with the best scores on the validation region."""

import pandas as pd

from lsdflow.metrics.selection import select_thresholds
from lsdflow_job import job, write_json

with job(snakemake):
    overlap, run_length = pd.read_csv(snakemake.input.overlap), pd.read_csv(snakemake.input.run_length)
    selected = select_thresholds(overlap.merge(run_length, on="threshold", validate="one_to_one"))
    # The segmentation is made at the threshold of the VOI sum, as the paper's are.
    write_json(snakemake.output[0], {"threshold": selected["voi_sum"], "by_metric": selected})
