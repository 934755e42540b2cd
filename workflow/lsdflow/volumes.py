"""Image and label volumes in OME-Zarr: arrays with a voxel size, an offset, and regions of interest.

Every volume is a Zarr format 3 group with OME-NGFF 0.5 metadata at ``<path>/<name>``, its full-resolution array at
``<path>/<name>/0``, so that napari, Neuroglancer and Fiji open it as it is.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec

from lsdflow.errors import UserError
from lsdflow.roi import AXES, Roi

__all__ = ["AXES", "Roi", "Volume", "attributes", "create_volume", "open_volume", "write_volume"]

# One chunk is what a viewer fetches, one shard what a file system stores and what one block job writes.
CHUNK_ZYX = (64, 64, 64)
SHARD_ZYX = (256, 256, 256)


@dataclass(frozen=True)
class Volume:
    """An array ``([channel,] z, y, x)`` with its place in the world.

    Attributes
    ----------
    data : numpy.ndarray or zarr.Array
        Voxel values; a Zarr array is read piecewise by slicing.
    voxel_size, offset : tuple of float
        nm, z y x order; ``offset`` is the position of the first voxel's corner.
    """

    data: Any
    voxel_size: tuple[float, float, float]
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @property
    def shape_zyx(self) -> tuple[int, int, int]:
        """Spatial shape in voxels."""
        return tuple(int(n) for n in self.data.shape[-3:])

    @property
    def roi(self) -> Roi:
        """The box of all voxels, in voxels from the first one."""
        return Roi.of_shape(self.shape_zyx)

    def read(self, roi: Roi | None = None) -> np.ndarray:
        """The voxels of ``roi`` (all by default) in memory."""
        box = (roi or self.roi).slices
        return np.asarray(self.data[(..., *box)])

    def cut(self, roi: Roi) -> Volume:
        """The part of the volume in ``roi``, in memory."""
        offset = tuple(o + b * v for o, b, v in zip(self.offset, roi.begin, self.voxel_size, strict=True))
        return Volume(self.read(roi), self.voxel_size, offset)

    def position_of(self, inner: Volume) -> tuple[int, int, int]:
        """Where the first voxel of ``inner``, of the same voxel size, lies in voxels of this volume."""
        return tuple(round((i - o) / v) for i, o, v in zip(inner.offset, self.offset, self.voxel_size, strict=True))

    def read_padded(self, roi: Roi, mode: str = "reflect") -> np.ndarray:
        """The voxels of ``roi``, which may reach beyond the volume; what is missing is filled as `numpy.pad` does.

        ``mode`` is ``"reflect"`` (for raw images) or ``"constant"`` (0, for labels).
        """
        inside = roi.intersect(self.roi)
        if inside.size == 0:
            raise ValueError(f"the box {roi} lies wholly outside the volume ({self.roi})")
        data = self.read(inside)
        missing = [(i - b, e - j) for b, i, j, e in zip(roi.begin, inside.begin, inside.end, roi.end, strict=True)]
        if not np.any(missing):
            return data
        return np.pad(data, [(0, 0)] * (data.ndim - 3) + missing, mode=mode)


def _ome_metadata(name: str, n_dims: int, voxel_size: Sequence[float], offset: Sequence[float]) -> dict:
    channel = n_dims == 4
    axes = [{"name": a, "type": "space", "unit": "nanometer"} for a in AXES]
    lead = [1.0] if channel else []
    zero = [0.0] if channel else []
    # OME-NGFF places voxel centres, ours are corners.
    centre = [float(o) + float(v) / 2 for o, v in zip(offset, voxel_size, strict=True)]
    return {
        "version": "0.5",
        "multiscales": [
            {
                "name": name,
                "axes": ([{"name": "c", "type": "channel"}] if channel else []) + axes,
                "datasets": [
                    {
                        "path": "0",
                        "coordinateTransformations": [
                            {"type": "scale", "scale": lead + [float(v) for v in voxel_size]},
                            {"type": "translation", "translation": zero + centre},
                        ],
                    }
                ],
            }
        ],
    }


def create_volume(
    path: str | os.PathLike,
    name: str,
    *,
    shape: Sequence[int],
    dtype: np.typing.DTypeLike,
    voxel_size: Sequence[float],
    offset: Sequence[float] = (0, 0, 0),
    shard_zyx: Sequence[int] | None = None,
    attributes: dict[str, Any] | None = None,
) -> Volume:
    """Make an empty volume at ``<path>/<name>``; anything there before is removed.

    Parameters
    ----------
    path, name : store and name of the volume in it.
    shape : ``([channel,] z, y, x)`` in voxels.
    voxel_size, offset : nm, z y x order.
    shard_zyx : spatial shape of one file; what jobs write side by side must be multiples of it.
    attributes : more metadata of the group, such as the provenance.
    """
    shape = tuple(int(n) for n in shape)
    if len(shape) not in (3, 4) or min(shape) < 1:
        raise ValueError(f"a volume's shape must be ([channel,] z, y, x) with positive lengths, not {shape}")
    limits = SHARD_ZYX if shard_zyx is None else shard_zyx
    # A shard must hold a whole number of chunks: rather a smaller chunk than a larger shard.
    chunk_zyx = [min(c, s, n) for c, s, n in zip(CHUNK_ZYX, limits, shape[-3:], strict=True)]
    if shard_zyx is not None:
        chunk_zyx = [max(d for d in range(1, c + 1) if s % d == 0) for c, s in zip(chunk_zyx, limits, strict=True)]
        shards = tuple(int(s) for s in shard_zyx)
    else:
        shards = tuple(
            c * max(1, min(s // c, -(-n // c))) for c, s, n in zip(chunk_zyx, limits, shape[-3:], strict=True)
        )
    lead = (shape[0],) if len(shape) == 4 else ()
    if os.path.isfile(path):
        raise UserError(f"{path} is a file: a Zarr store is a folder; remove it or name another path")
    group = zarr.open_group(path, mode="a", zarr_format=3)
    target = Path(path) / name
    if target.exists():
        shutil.rmtree(target)
    image = group.create_group(name)
    array = image.create_array(
        "0",
        shape=shape,
        dtype=dtype,
        chunks=(1,) * len(lead) + tuple(chunk_zyx),
        shards=lead + shards,
        compressors=BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle"),
        fill_value=0,
        dimension_names=(("c",) if lead else ()) + AXES,
    )
    image.attrs.update({"ome": _ome_metadata(name, len(shape), voxel_size, offset), **(attributes or {})})
    return Volume(array, tuple(map(float, voxel_size)), tuple(map(float, offset)))


def write_volume(
    path: str | os.PathLike, name: str, volume: Volume, *, attributes: dict[str, Any] | None = None
) -> None:
    """Write a whole ``volume`` to ``<path>/<name>``."""
    target = create_volume(
        path,
        name,
        shape=volume.data.shape,
        dtype=volume.data.dtype,
        voxel_size=volume.voxel_size,
        offset=volume.offset,
        attributes=attributes,
    )
    target.data[...] = volume.data[...]


def open_volume(path: str | os.PathLike, name: str, *, mode: str = "r") -> Volume:
    """Open the volume at ``<path>/<name>`` without reading its voxels.

    Raises
    ------
    UserError
        If there is no such volume, or it lacks the metadata of voxel size and offset.
    """
    try:
        group = zarr.open_group(path, mode=mode, zarr_format=3, path=name)
        array = group["0"]
    except (FileNotFoundError, KeyError) as error:
        raise UserError(f"there is no volume {name!r} in {path}") from error
    try:
        scale, translation = group.attrs["ome"]["multiscales"][0]["datasets"][0]["coordinateTransformations"]
    except (KeyError, IndexError, ValueError) as error:
        raise UserError(f"{path}/{name} has no OME-NGFF scale and translation: import it again") from error
    voxel_size = tuple(scale["scale"][-3:])
    corner = tuple(c - v / 2 for c, v in zip(translation["translation"][-3:], voxel_size, strict=True))
    return Volume(array, voxel_size, corner)


def attributes(path: str | os.PathLike, name: str) -> dict[str, Any]:
    """The metadata of the volume at ``<path>/<name>``."""
    return dict(zarr.open_group(path, mode="r", zarr_format=3, path=name).attrs)
