"""The affinities of a whole volume by a trained network, for other benchmarks.

``whole_affinities.py VOLUME CHECKPOINT STORE`` writes the volume ``affinities`` (uint8) into the Zarr store STORE.
"""

from __future__ import annotations

import sys

from lsdflow.volumes import create_volume, open_volume
from seams import load, predict

# Blocks of about a training crop: with larger ones a network with group normalisation predicts worse.
BLOCK, CONTEXT = 40, 8


def main(path: str, checkpoint: str, store: str) -> None:
    network, settings = load(checkpoint)
    raw = open_volume(path, "raw")
    affinities = (predict(network, settings, raw, raw.roi, BLOCK, CONTEXT) * 255).round().astype("uint8")
    volume = create_volume(
        store,
        "affinities",
        shape=affinities.shape,
        dtype="uint8",
        voxel_size=raw.voxel_size,
        offset=raw.offset,
    )
    volume.write(volume.roi, affinities)


if __name__ == "__main__":
    main(*sys.argv[1:])
