"""Draw which setups differ."""

import pandas as pd

from lsdflow.figures import style
from lsdflow.figures.pairs import pair_matrix
from lsdflow_job import job

with job(snakemake):
    params = snakemake.params
    pairs = pd.read_csv(snakemake.input[0])
    pairs = pairs[pairs["metric"] == snakemake.wildcards.metric].to_dict("records")
    figure = pair_matrix(pairs, style.Palette(params.setups, params.externals), snakemake.wildcards.metric)
    style.save(figure, snakemake.output.png.removesuffix(".png"))
