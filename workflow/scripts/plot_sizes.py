"""Draw scores against the size of the region."""

import pandas as pd

from lsdflow.figures import style
from lsdflow.figures.sizes import size_curves
from lsdflow_job import job

with job(snakemake):
    params = snakemake.params
    table = pd.read_csv(snakemake.input[0])
    figure = size_curves(table, style.Palette(params.setups, params.externals))
    style.save(figure, snakemake.output.png.removesuffix(".png"))
