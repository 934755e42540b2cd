"""Image and label volumes in OME-Zarr: arrays with a voxel size, an offset, and regions of interest.

Every volume is a Zarr format 3 group with OME-NGFF 0.5 metadata at ``<path>/<name>``, its full-resolution array at
``<path>/<name>/0``, so that napari, Neuroglancer and Fiji open it as it is; coarser copies for them are ``1``, ``2``, …
Each chunk has a checksum, and each file replaces an old one in one go: reading finds whatever was damaged later on.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from lsdflow.errors import UserError
from lsdflow.pyramids import METHODS, Pyramid, level_factors
from lsdflow.roi import AXES, Roi
from lsdflow.stores import CheckedStore, damaged, read_box, write_box

__all__ = ["AXES", "Roi", "Volume", "attributes", "create_volume", "open_mask", "open_volume", "write_volume"]

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
    pyramid : Pyramid, optional
        Its coarser levels, which `write` keeps in step.
    """

    data: Any
    voxel_size: tuple[float, float, float]
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)
    pyramid: Pyramid | None = None

    @property
    def shape_zyx(self) -> tuple[int, int, int]:
        """Spatial shape in voxels."""
        return tuple(int(n) for n in self.data.shape[-3:])

    @property
    def roi(self) -> Roi:
        """The box of all voxels, in voxels from the first one."""
        return Roi.of_shape(self.shape_zyx)

    def read(self, roi: Roi | None = None, *, channels: slice = slice(None)) -> np.ndarray:
        """The voxels of ``roi`` (all by default) in memory, with ``channels`` (all by default) if there are any.

        Raises
        ------
        DamagedError
            If a file that holds some of them was cut off or changed since it was written.
        """
        return read_box(self.data, roi or self.roi, channels)

    def write(self, roi: Roi, values: np.ndarray) -> None:
        """Store ``values`` in ``roi``, at every level of the volume.

        Jobs may write side by side if each ``roi`` is whole shards (or ends where the volume does): these are files of
        their own at every level.  What lay in whole shards is not read, so damage there is mended.

        Raises
        ------
        ValueError
            If ``roi`` is not inside the volume or not whole voxels of its coarsest level, or ``values`` do not fill it.
        DamagedError
            If it covers a part only of a shard that is damaged.
        """
        shape = (*self.data.shape[:-3], *roi.shape)
        if values.shape != shape or not self.roi.contains(roi):
            raise ValueError(f"{shape} voxels in {roi} of a volume of {self.roi} are to be written, not {values.shape}")
        if self.pyramid:
            self.pyramid.check(roi, self.shape_zyx)
        write_box(self.data, roi, values)
        if self.pyramid:
            self.pyramid.write(roi, values)

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


def _ome_metadata(
    name: str,
    n_dims: int,
    voxel_size: Sequence[float],
    offset: Sequence[float],
    factors: Sequence[tuple[int, int, int]],
    method: str | None,
) -> dict:
    has_channels = n_dims == 4
    axes = [{"name": a, "type": "space", "unit": "nanometer"} for a in AXES]
    one, zero = ([1.0], [0.0]) if has_channels else ([], [])
    datasets = []
    for level, spans in enumerate([(1, 1, 1), *factors]):
        scale = [float(v * f) for v, f in zip(voxel_size, spans, strict=True)]
        # OME-NGFF places voxel centres, ours are corners.
        centre = [float(o) + s / 2 for o, s in zip(offset, scale, strict=True)]
        transformations = [
            {"type": "scale", "scale": one + scale},
            {"type": "translation", "translation": zero + centre},
        ]
        datasets.append({"path": str(level), "coordinateTransformations": transformations})
    image = {
        "name": name,
        "axes": ([{"name": "c", "type": "channel"}] if has_channels else []) + axes,
        "datasets": datasets,
    }
    if factors:
        image |= {"type": method, "metadata": {"method": f"lsdflow.pyramids.{method}"}}
    return {"version": "0.5", "multiscales": [image]}


def _create_array(
    group: zarr.Group, name: str, shape: Sequence[int], dtype: np.typing.DTypeLike, shard_zyx: Sequence[int] | None
) -> zarr.Array:
    """An empty array in shards of ``shard_zyx``, or in those that suit its shape."""
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
    lead = tuple(shape[:-3])
    return group.create_array(
        name,
        shape=tuple(shape),
        dtype=dtype,
        # All channels together: they are read together, and Neuroglancer cannot mix those of several chunks.
        chunks=lead + tuple(chunk_zyx),
        shards=lead + shards,
        # Blosc itself notices few of the bits that flip.
        compressors=[BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle"), Crc32cCodec()],
        fill_value=0,
        dimension_names=(("c",) if lead else ()) + AXES,
    )


def create_volume(
    path: str | os.PathLike,
    name: str,
    *,
    shape: Sequence[int],
    dtype: np.typing.DTypeLike,
    voxel_size: Sequence[float],
    offset: Sequence[float] = (0, 0, 0),
    shard_zyx: Sequence[int] | None = None,
    pyramid: str | None = None,
    attributes: dict[str, Any] | None = None,
) -> Volume:
    """Make an empty volume at ``<path>/<name>``; anything there before is removed.

    Parameters
    ----------
    path, name : store and name of the volume in it.
    shape : ``([channel,] z, y, x)`` in voxels.
    voxel_size, offset : nm, z y x order.
    shard_zyx : spatial shape of one file; what jobs write side by side must be multiples of it.
    pyramid : ``"mean"`` (images) or ``"majority"`` (labels): coarser levels for viewers, made that way of the one below
        by `Volume.write`. As many as leave an overview, or as ``shard_zyx`` can be halved. None by default.
    attributes : more metadata of the group, such as the provenance.
    """
    shape = tuple(int(n) for n in shape)
    if len(shape) not in (3, 4) or min(shape) < 1:
        raise ValueError(f"a volume's shape must be ([channel,] z, y, x) with positive lengths, not {shape}")
    if pyramid is not None and pyramid not in METHODS:
        raise ValueError(f"a pyramid is made by one of {', '.join(METHODS)}, not by {pyramid!r}")
    if os.path.isfile(path):
        raise UserError(f"{path} is a file: a Zarr store is a folder; remove it or name another path")
    group = zarr.open_group(CheckedStore(Path(path)), mode="a", zarr_format=3)
    target = Path(path) / name
    if target.exists():
        shutil.rmtree(target)
    image = group.create_group(name)
    array = _create_array(image, "0", shape, dtype, shard_zyx)
    factors = level_factors(shape[-3:], voxel_size, shard_zyx) if pyramid else []
    coarser = []
    for level, spans in enumerate(factors, 1):
        extent = [-(-n // f) for n, f in zip(shape[-3:], spans, strict=True)]
        shard = None if shard_zyx is None else [s // f for s, f in zip(shard_zyx, spans, strict=True)]
        coarser.append(_create_array(image, str(level), (*shape[:-3], *extent), dtype, shard))
    ome = _ome_metadata(name, len(shape), voxel_size, offset, factors, pyramid)
    image.attrs.update({"ome": ome, **(attributes or {})})
    levels = Pyramid(pyramid, tuple(coarser), tuple(factors)) if factors else None
    return Volume(array, tuple(map(float, voxel_size)), tuple(map(float, offset)), levels)


def write_volume(
    path: str | os.PathLike,
    name: str,
    volume: Volume,
    *,
    pyramid: str | None = None,
    attributes: dict[str, Any] | None = None,
) -> None:
    """Write a whole ``volume`` to ``<path>/<name>``; the parameters are those of `create_volume`."""
    target = create_volume(
        path,
        name,
        shape=volume.data.shape,
        dtype=volume.data.dtype,
        voxel_size=volume.voxel_size,
        offset=volume.offset,
        pyramid=pyramid,
        attributes=attributes,
    )
    target.write(target.roi, volume.read())


def open_volume(path: str | os.PathLike, name: str, *, mode: str = "r") -> Volume:
    """Open the volume at ``<path>/<name>`` without reading its voxels.

    Raises
    ------
    UserError
        If there is no such volume, or it lacks the metadata of voxel size and offset.
    """
    try:
        group = zarr.open_group(CheckedStore(Path(path)), mode=mode, zarr_format=3, path=name)
        array = group["0"]
    except (FileNotFoundError, KeyError) as error:
        raise UserError(f"there is no volume {name!r} in {path}") from error
    except json.JSONDecodeError as error:
        raise damaged(f"{path}/{name}", error) from error
    try:
        image = group.attrs["ome"]["multiscales"][0]
        scales, corners = zip(*(_place(dataset) for dataset in image["datasets"]), strict=True)
    except (KeyError, IndexError, ValueError) as error:
        raise UserError(f"{path}/{name} has no OME-NGFF scale and translation: import it again") from error
    pyramid = None
    if len(scales) > 1:
        arrays = tuple(group[dataset["path"]] for dataset in image["datasets"][1:])
        factors = (tuple(round(s / v) for s, v in zip(scale, scales[0], strict=True)) for scale in scales[1:])
        pyramid = Pyramid(image.get("type"), arrays, tuple(factors))
    return Volume(array, scales[0], corners[0], pyramid)


def open_mask(path: str | os.PathLike) -> Volume | None:
    """The volume ``mask`` in the store at ``path``; None if it was imported without."""
    return open_volume(path, "mask") if (Path(path) / "mask").is_dir() else None


def _place(dataset: dict) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Voxel size and corner (nm) of a level by its OME-NGFF metadata."""
    scale, translation = dataset["coordinateTransformations"]
    voxel_size = tuple(scale["scale"][-3:])
    return voxel_size, tuple(c - v / 2 for c, v in zip(translation["translation"][-3:], voxel_size, strict=True))


def attributes(path: str | os.PathLike, name: str) -> dict[str, Any]:
    """The metadata of the volume at ``<path>/<name>``."""
    return dict(zarr.open_group(path, mode="r", zarr_format=3, path=name).attrs)
