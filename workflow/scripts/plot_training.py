"""Draw the losses and validations of all trainings."""

from pathlib import Path

import pandas as pd

from lsdflow.figures import style
from lsdflow.figures.training import training_curves
from lsdflow_job import job

with job(snakemake):
    params, files = snakemake.params, snakemake.input
    runs = [tuple(run) for run in params.runs]
    logs, validations = (
        {run: pd.read_csv(path) for run, path in zip(runs, paths, strict=True)}
        for paths in (files.logs, files.validations)
    )
    figure = training_curves(logs, style.Palette(params.setups), validations)
    style.save(figure, Path(snakemake.output.png).with_suffix(""))
