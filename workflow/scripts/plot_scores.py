"""Draw the comparison: VOI curves and scores by setup."""

from pathlib import Path

import pandas as pd

from lsdflow.figures import style
from lsdflow.figures.scores import comparison_bars, voi_curves
from lsdflow_job import job

with job(snakemake):
    rows, curves = pd.read_csv(snakemake.input.rows), pd.read_csv(snakemake.input.curves)
    palette = style.Palette(snakemake.params.setups, snakemake.params.externals)
    style.save(voi_curves(curves, rows, palette), Path(snakemake.output.voi).with_suffix(""))
    style.save(comparison_bars(rows, palette), Path(snakemake.output.bars).with_suffix(""))
