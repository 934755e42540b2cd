"""Volumes in Neuroglancer's precomputed format, for tools that read it and not OME-Zarr.

``python -m lsdflow.precomputed STORE NAME TARGET``, such as
``… results/default/segmentations/mtlsd/0/test/segmentation.zarr segmentation /data/mtlsd``

The format is that of https://github.com/google/neuroglancer/tree/master/src/datasource/precomputed, in shards.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore

from lsdflow.blocks import BlockGrid
from lsdflow.errors import UserError
from lsdflow.progress import Progress
from lsdflow.volumes import Volume, open_volume

CHUNK = 64
# A shard holds 2⁶ chunks, which are 256³ voxels of all but thin volumes.
CHUNK_BITS_PER_SHARD = 6
DTYPES = ("uint8", "uint16", "uint32", "uint64", "float32")


def export(volume: Volume, target: str | Path) -> list[tuple[float, float, float]]:
    """Write ``volume`` with its coarser levels to the folder ``target``, shard by shard.

    Volumes of uint64 become segmentations, all others images.  The format counts offsets in whole voxels: coarser
    levels whose corner lies within a voxel are left out.

    Returns
    -------
    list of tuple
        Voxel size (nm, z y x order) of each level written.

    Raises
    ------
    UserError
        If ``target`` holds a volume, or the volume has a data type or an offset that the format does not know.
    DamagedError
        If a part of the volume cannot be read.
    """
    target = Path(target)
    if (target / "info").exists():
        raise UserError(f"{target} holds a precomputed volume: remove it or name another folder")
    if volume.data.dtype.name not in DTYPES:
        raise UserError(f"precomputed volumes hold {', '.join(DTYPES)}, not {volume.data.dtype.name}")
    if not _is_on_grid(volume):
        raise UserError(
            f"the offset of {volume.offset} nm is not whole voxels of {volume.voxel_size} nm, as precomputed needs it"
        )
    levels = [level for level in [volume, *_coarser(volume)] if _is_on_grid(level)]
    stores = [_create(level, target) for level in levels]
    grids = [BlockGrid(level.roi, _shard_zyx(store)) for level, store in zip(levels, stores, strict=True)]
    with Progress(sum(map(len, grids)), f"precomputed {target.name}", "shard") as shown:
        for level, store, grid in zip(levels, stores, grids, strict=True):
            for index in range(len(grid)):
                roi = grid[index]
                # Theirs is x, y, z, channel in Fortran order, from the offset on.
                store.T[(..., *roi.shift(store.T.domain.origin[-3:]).slices)] = level.read(roi)
                shown.update()
    return [level.voxel_size for level in levels]


def _coarser(volume: Volume) -> list[Volume]:
    """The coarser levels as volumes of their own."""
    if volume.pyramid is None:
        return []
    sizes = [tuple(v * f for v, f in zip(volume.voxel_size, spans, strict=True)) for spans in volume.pyramid.factors]
    return [Volume(array, size, volume.offset) for array, size in zip(volume.pyramid.arrays, sizes, strict=True)]


def _voxel_offset(level: Volume) -> np.ndarray:
    return np.divide(level.offset, level.voxel_size)


def _is_on_grid(level: Volume) -> bool:
    return np.allclose(_voxel_offset(level), np.rint(_voxel_offset(level)), rtol=0, atol=1e-3)


def _create(level: Volume, target: Path) -> tensorstore.TensorStore:
    is_segmentation = level.data.dtype == np.uint64
    shape_xyz = level.shape_zyx[::-1]
    scale: dict[str, Any] = {
        "size": shape_xyz,
        "resolution": level.voxel_size[::-1],
        "voxel_offset": [int(n) for n in np.rint(_voxel_offset(level))[::-1]],
        "chunk_size": [CHUNK] * 3,
        "encoding": "compressed_segmentation" if is_segmentation else "raw",
        "sharding": {
            "@type": "neuroglancer_uint64_sharded_v1",
            "hash": "identity",
            "preshift_bits": CHUNK_BITS_PER_SHARD,
            "minishard_bits": 0,
            "shard_bits": max(0, sum(math.ceil(math.log2(-(-n // CHUNK))) for n in shape_xyz) - CHUNK_BITS_PER_SHARD),
            "minishard_index_encoding": "gzip",
            "data_encoding": "gzip",
        },
    }
    if is_segmentation:
        scale["compressed_segmentation_block_size"] = [8, 8, 8]
    spec = {
        "driver": "neuroglancer_precomputed",
        "kvstore": {"driver": "file", "path": f"{target.absolute()}/"},
        "multiscale_metadata": {
            "type": "segmentation" if is_segmentation else "image",
            "data_type": level.data.dtype.name,
            "num_channels": level.data.shape[0] if level.data.ndim == 4 else 1,
        },
        "scale_metadata": scale,
    }
    return tensorstore.open(spec, create=True).result()


def _shard_zyx(store: tensorstore.TensorStore) -> tuple[int, int, int]:
    """What is best written at once: anything less means reading a shard to write it."""
    return store.chunk_layout.write_chunk.shape[2::-1]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with the arguments ``argv``, those of the process by default; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m lsdflow.precomputed", description=__doc__.partition("\n")[0])
    parser.add_argument("store", help="an OME-Zarr store, such as …/segmentation.zarr")
    parser.add_argument("name", help="the volume in it, such as segmentation")
    parser.add_argument("target", help="folder to write")
    options = parser.parse_args(argv)
    try:
        levels = export(open_volume(options.store, options.name), options.target)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{options.target}: {len(levels)} levels; in Neuroglancer precomputed://…, served over HTTP")
    return 0


if __name__ == "__main__":
    sys.exit(main())
