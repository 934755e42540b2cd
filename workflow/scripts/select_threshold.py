"""The threshold with the lowest VOI sum on the validation region."""

import pandas as pd

from lsdflow_job import job, write_json

with job(snakemake):
    scores = pd.read_csv(snakemake.input[0])
    # Of equal ones the lowest threshold: the fewest merges.
    best = scores.loc[scores["voi_sum"].idxmin()]
    write_json(snakemake.output[0], {"threshold": float(best["threshold"]), "voi_sum": float(best["voi_sum"])})
