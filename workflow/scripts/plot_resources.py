"""Gather what Snakemake measured of each job, and draw time and memory per stage."""

from pathlib import Path

import pandas as pd

from lsdflow.figures import style
from lsdflow.figures.resources import time_and_memory
from lsdflow_job import job

with job(snakemake):
    # Measurements are no inputs: a lost one must not make Snakemake run its job again.  Those that are there are shown.
    paths = [Path(path) for path in snakemake.params.measurements]
    jobs = []
    for path in (path for path in paths if path.exists() and path.stat().st_size):
        # benchmarks/<rule>[/<setup>/<replicate>[/<region>[/<chunk>]]], or /<name> for what belongs to no setup
        rule, *rest = path.with_suffix("").parts[path.parts.index("benchmarks") + 1 :]
        measured = pd.read_csv(path, sep="\t", na_values="-").iloc[-1]
        has_setup = len(rest) > 1
        jobs.append(
            {
                "rule": rule,
                "setup": rest[0] if has_setup else "",
                "replicate": rest[1] if has_setup else "",
                "part": rest[2] if len(rest) > 2 else "",
                "seconds": measured["s"],
                "max_rss_mb": measured["max_rss"],
                "mean_load": measured["mean_load"],
            }
        )
    table = pd.DataFrame(jobs)
    table.to_csv(snakemake.output.table, index=False, lineterminator="\n")
    figure = time_and_memory(table, style.Palette(snakemake.params.setups))
    style.save(figure, Path(snakemake.output.png).with_suffix(""))
