"""Draw the loss of all trainings."""

from pathlib import Path

import pandas as pd

from lsdflow.figures import style
from lsdflow.figures.training import training_curves
from lsdflow_job import job

with job(snakemake):
    runs = [tuple(run) for run in snakemake.params.runs]
    logs = {run: pd.read_csv(path) for run, path in zip(runs, snakemake.input, strict=True)}
    figure = training_curves(logs, style.Palette(snakemake.params.setups))
    style.save(figure, Path(snakemake.output.png).with_suffix(""))
