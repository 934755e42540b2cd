"""Draw the worst merges and splits of a row of the comparison, each with what is around it."""

import pandas as pd

from lsdflow.figures import style
from lsdflow.figures.errors import Surroundings, error_panel, surrounding_box
from lsdflow.roi import as_roi
from lsdflow.volumes import AXES, open_volume
from lsdflow_job import job, store_of

# Of each kind: all of them would make a very long figure.
SHOWN = 3

with job(snakemake):
    files, roi = snakemake.input, as_roi(snakemake.params.roi)
    raw, truth = (open_volume(files.volume, name) for name in ("raw", "labels"))
    segmentation = open_volume(store_of(files.segmentation), "segmentation")
    to_own = [-p for p in truth.position_of(segmentation)]
    errors = pd.read_csv(files.errors).groupby("kind", sort=False).head(SHOWN).to_dict("records")
    boxes = [surrounding_box([error[axis] for axis in AXES], roi, raw.voxel_size) for error in errors]
    figure = error_panel(
        errors,
        [
            Surroundings(raw.read(box), truth.read(box), segmentation.read(box.shift(to_own)), box.begin)
            for box in boxes
        ],
        raw.voxel_size,
        title=f"{style.label(snakemake.wildcards.setup)}: the worst merges and splits",
    )
    style.save(figure, snakemake.output.png.removesuffix(".png"))
