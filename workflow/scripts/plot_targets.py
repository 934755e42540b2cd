"""Draw the descriptors that networks learn, in a section of a train region."""

from pathlib import Path

from lsdflow.figures import style
from lsdflow.figures.descriptors import descriptor_panel
from lsdflow.roi import as_roi
from lsdflow.volumes import Roi, open_volume
from lsdflow_job import job

# The section is shown at this size, or smaller: more voxels would show less.
LARGEST_YX = 256
# Where the region ends objects seem to end: a border of this many sigma is left out if there is room.
BORDER = 3

with job(snakemake):
    params, files = snakemake.params, snakemake.input
    store, region = Path(files.store).parent, as_roi(params.roi)
    labels, lsds = (open_volume(store, name) for name in ("labels", "lsds"))
    sigma = params.sigma if isinstance(params.sigma, list) else [params.sigma] * 3
    middle = labels.shape_zyx[0] // 2
    begin, end = [middle], [middle + 1]
    for n, s, v in zip(labels.shape_zyx[1:], sigma[1:], labels.voxel_size[1:], strict=True):
        border = round(BORDER * s / v)
        length = min(n - 2 * border if n >= 4 * border else n, LARGEST_YX)
        begin.append((n - length) // 2)
        end.append(begin[-1] + length)
    box = Roi(tuple(begin), tuple(end))
    raw = open_volume(files.volume, "raw").read(box.shift(region.begin))
    figure = descriptor_panel(raw, labels.read(box), lsds.read(box), labels.voxel_size, sigma=params.sigma)
    style.save(figure, Path(snakemake.output.png).with_suffix(""))
