"""Intervals of all scores, and which setups differ, from the parts of the test region."""

import pandas as pd

from lsdflow.metrics.block_tables import BlockTables
from lsdflow.metrics.intervals import RatioOfSums, bootstrap_overlap, bootstrap_ratio, comparison_matrix
from lsdflow_job import job

METRICS = ("voi_sum", "adapted_rand_error")

with job(snakemake):
    params, files = snakemake.params, snakemake.input
    draws = {"draws": params.draws, "level": params.level}
    intervals, by_block, by_skeleton = [], {}, {}
    for (row, replicate), blocks, skeletons in zip(params.rows, files.blocks, files.skeletons, strict=True):
        tables, lengths = BlockTables.load(blocks), pd.read_csv(skeletons)
        found = bootstrap_overlap(tables, **draws)
        by_block.setdefault(row, {})[replicate] = tables
        if lengths["length"].sum() > 0:
            parts = lengths["squares"].to_numpy(), lengths["length"].to_numpy()
            found["expected_run_length"] = bootstrap_ratio(*parts, **draws)
            by_skeleton.setdefault(row, {})[replicate] = RatioOfSums("expected_run_length", *parts)
        ends = {f"{metric}_{end}": value for metric, ends in found.items() for end, value in ends._asdict().items()}
        intervals.append({"row": row, "replicate": replicate, **ends})
    table = pd.DataFrame(intervals).astype({"replicate": "Int64"})
    table.to_csv(snakemake.output.intervals, index=False, lineterminator="\n")
    pairs = [pair for metric in METRICS for pair in comparison_matrix(by_block, metric, **draws)]
    pairs += comparison_matrix(by_skeleton, "expected_run_length", **draws)
    columns = ["first", "second", "metric", "difference", "low", "high", "verdict", "replicates"]
    pd.DataFrame(pairs, columns=columns).to_csv(snakemake.output.pairs, index=False, lineterminator="\n")
