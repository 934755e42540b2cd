"""Draw the skeletons of the true objects of the test region over the truth."""

from lsdflow.figures import style
from lsdflow.figures.skeletons import skeleton_panel
from lsdflow.metrics.run_length import crop_skeletons
from lsdflow.metrics.skeletons import load_skeletons, skeleton_arrays
from lsdflow.roi import as_roi
from lsdflow.volumes import Roi, open_volume
from lsdflow_job import job

# Of larger regions the middle is shown.
LARGEST = (128, 512, 512)

with job(snakemake):
    files, region = snakemake.input, as_roi(snakemake.params.roi)
    truth = open_volume(files.volume, "labels")
    skipped = [max(0, n - most) // 2 for n, most in zip(region.shape, LARGEST, strict=True)]
    box = Roi(
        tuple(b + s for b, s in zip(region.begin, skipped, strict=True)),
        tuple(min(e, b + s + n) for b, s, e, n in zip(region.begin, skipped, region.end, LARGEST, strict=True)),
    )
    part = truth.cut(box)
    end = [o + n * v for o, n, v in zip(part.offset, part.shape_zyx, part.voxel_size, strict=True)]
    skeletons = skeleton_arrays(crop_skeletons(load_skeletons(files.skeletons), part.offset, end))
    figure = skeleton_panel(skeletons, part.data, part.voxel_size, part.offset)
    style.save(figure, snakemake.output.png.removesuffix(".png"))
