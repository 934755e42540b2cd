"""Draw what a row of the comparison sees and makes: raw, truth, predictions, fragments, segmentation."""

from pathlib import Path

from lsdflow.figures import style
from lsdflow.figures.panels import panel
from lsdflow.roi import as_roi
from lsdflow.volumes import Roi, open_volume
from lsdflow_job import job, store_of

# A picture of more voxels shows nothing more; a volume may have any number of them.
LARGEST = (128, 512, 512)

with job(snakemake):
    setup, files = snakemake.wildcards.setup, snakemake.input
    raw, region = open_volume(files.volume, "raw"), as_roi(snakemake.params.roi)
    skipped = [max(0, n - most) // 2 for n, most in zip(region.shape, LARGEST, strict=True)]
    box = Roi(
        tuple(b + s for b, s in zip(region.begin, skipped, strict=True)),
        tuple(min(e, b + s + n) for b, s, e, n in zip(region.begin, skipped, region.end, LARGEST, strict=True)),
    )

    def read(path, name):
        volume = open_volume(path, name)
        return volume.read(box.shift([-o for o in raw.position_of(volume)]))

    store = Path(files.store).parent
    pictures = {name: read(store, name) if (store / name).exists() else None for name in ("affinities", "lsds")}
    if "segmentation" in files.keys():
        pictures |= {name: read(store_of(files[name]), name) for name in ("fragments", "segmentation")}
    figure = panel(
        raw=raw.read(box),
        truth=read(files.volume, "labels"),
        title=style.label(setup),
        voxel_size=raw.voxel_size,
        **pictures,
    )
    style.save(figure, Path(snakemake.output.png).with_suffix(""))
