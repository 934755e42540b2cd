"""Label files of any format: opened with what they tell of their place, and two of them brought onto one grid."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from lsdflow.errors import UserError
from lsdflow.roi import Roi
from lsdflow.sources import FORMATS, decoding, hdf5_attributes, open_zarr, read_source

ENDINGS = {
    ".npy": "npy",
    ".npz": "npz",
    ".tif": "tiff",
    ".tiff": "tiff",
    ".h5": "hdf5",
    ".hdf": "hdf5",
    ".hdf5": "hdf5",
    ".h5.gz": "hdf5",
    ".zarr": "zarr",
}
ZARR_METADATA = ("zarr.json", ".zarray", ".zgroup")

NM_PER_UNIT = {"angstrom": 0.1, "nanometer": 1.0, "micrometer": 1e3, "millimeter": 1e6}

Zyx = tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class LabelFile:
    """Labels in a file, with their place in the world if the file tells it.

    Attributes
    ----------
    name : str
        Path and dataset, for messages.
    data : numpy.ndarray or zarr.Array ([1, ...] z, y, x)
        Integer ids; a Zarr array is read piece by piece.
    voxel_size, offset : tuple of float or None
        nm, z y x order; ``offset`` is the position of the first voxel's corner.  None where the file does not tell.
    """

    name: str
    data: Any = field(repr=False)
    voxel_size: Zyx | None = None
    offset: Zyx | None = None

    @property
    def shape_zyx(self) -> tuple[int, int, int]:
        """Voxels along each axis."""
        return tuple(int(n) for n in self.data.shape[-3:])

    @property
    def chunk_zyx(self) -> tuple[int, int, int]:
        """What is stored in one piece; one voxel for arrays in memory."""
        return tuple(self.data.chunks[-3:]) if isinstance(self.data, zarr.Array) else (1, 1, 1)

    def read(self, roi: Roi) -> NDArray:
        """The ids in ``roi``, (z, y, x)."""
        with decoding(self.name, "labels"):
            return np.asarray(self.data[(0,) * (self.data.ndim - 3) + roi.slices])


def format_of(path: str | os.PathLike) -> str:
    """The format, a key of `lsdflow.sources.FORMATS`, of the file, folder or pattern ``path``.

    Raises
    ------
    UserError
        If the ending is none that is known.
    """
    path = os.path.expanduser(os.fspath(path))
    if os.path.isdir(path):
        if path.rstrip("/").endswith(".zarr") or any(os.path.exists(os.path.join(path, m)) for m in ZARR_METADATA):
            return "zarr"
        raise UserError(f"{path} is a folder without Zarr metadata: name sections in it by a pattern, {path}/*.png")
    if any(c in path for c in "*?[") and not os.path.exists(path):
        return "image_stack"
    for ending, format in ENDINGS.items():
        if path.lower().endswith(ending):
            return format
    raise UserError(
        f"the format of {path} is not known by its ending: use {', '.join(ENDINGS)}, or a pattern of sections (*.png)"
    )


def open_labels(path: str | os.PathLike, dataset: str | None = None) -> LabelFile:
    """Open labels of any format that `lsdflow.sources` reads; those in Zarr stay on disk, others come into memory.

    Parameters
    ----------
    path : str or path
        A file, a Zarr folder, or a pattern of image sections; its ending tells the format.
    dataset : str, optional
        Name of the array, where a file holds several.

    Returns
    -------
    LabelFile
        Its voxel size and offset are taken from OME-NGFF metadata, or from the attributes ``resolution`` (or
        ``voxel_size``) and ``offset``, in nm, of HDF5 and Zarr arrays.

    Raises
    ------
    UserError
        If the file cannot be read, or does not hold integers, (z, y, x).
    """
    path, format = os.path.expanduser(os.fspath(path)), format_of(path)
    name = path if dataset is None else f"{path}: {dataset}"
    if dataset is not None and not FORMATS[format].has_datasets:
        raise UserError(f"{path} holds one array: do not name a dataset ({dataset})")
    voxel_size = offset = None
    if format == "zarr":
        data = open_zarr(path, dataset)
        if data.ndim < 3 or any(n != 1 for n in data.shape[:-3]):
            raise UserError(f"{name} must be 3-D (z, y, x), not {data.ndim}-D {data.shape}")
        voxel_size, offset = _zarr_place(path, data)
    else:
        data = read_source(path, format, dataset=dataset)
        if format == "hdf5":
            voxel_size, offset = _place_in_attributes(hdf5_attributes(path, dataset))
    if data.dtype.kind not in "ui":
        raise UserError(f"{name} must hold integer ids, not {data.dtype}: store ids in an integer type")
    if 0 in data.shape:
        raise UserError(f"{name} holds no voxel, its shape is {data.shape}")
    if voxel_size is not None and min(voxel_size) <= 0:
        raise UserError(f"{name} tells a voxel size of {_lengths(voxel_size)} nm: correct it, lengths are positive")
    return LabelFile(name, data, voxel_size, offset)


def agreed_voxel_size(truth: LabelFile, segmentation: LabelFile) -> Zyx | None:
    """The voxel size, nm, that both files tell, or the one that does; None if neither does.

    Raises
    ------
    UserError
        If they differ by more than rounding.
    """
    ours, theirs = truth.voxel_size, segmentation.voxel_size
    if ours and theirs and not np.allclose(ours, theirs, rtol=1e-4, atol=0):
        raise UserError(
            f"the voxel sizes differ (nm, z y x): {_lengths(ours)} of {truth.name}, {_lengths(theirs)} of "
            f"{segmentation.name}: resample one of them, or give the right one by --voxel-size if one is wrong"
        )
    return ours or theirs


def compared_region(
    truth: LabelFile, segmentation: LabelFile, roi: Roi | None = None, *, voxel_size: Zyx | None = None
) -> tuple[Roi, Roi]:
    """The voxels to compare, as a box of the truth and the same box in voxels of the segmentation.

    Parameters
    ----------
    truth, segmentation : LabelFile
    roi : Roi, optional
        Part of the truth; without it both must have one shape and place.
    voxel_size : nm, z y x order
        To tell from the offsets where the segmentation of a part lies; without it, or where a file tells no offset,
        both have the same first voxel.

    Raises
    ------
    UserError
        If the two do not match, or the region is empty or not in both.
    """
    position = (0, 0, 0)
    is_placed = None not in (voxel_size, truth.offset, segmentation.offset)
    if is_placed:
        steps = zip(segmentation.offset, truth.offset, voxel_size, strict=True)
        position = tuple(round((s - t) / v) for s, t, v in steps)
    whole, part = Roi.of_shape(truth.shape_zyx), Roi.of_shape(segmentation.shape_zyx).shift(position)
    if whole != part and (roi is None or not is_placed):
        common = whole.intersect(part)
        remedy = "crop them to the same region"
        if is_placed and common.size:
            remedy = f"to compare what they share, add --roi {spans(common)}"
        raise UserError(
            f"truth and segmentation must have the same shape and place: {truth.name} has {truth.shape_zyx} voxels "
            f"(z, y, x), {segmentation.name} has {segmentation.shape_zyx}"
            + (f" and begins at voxel {position} of the truth" if any(position) else "")
            + f": {remedy}"
        )
    region = roi or whole
    for file, box in ((truth, whole), (segmentation, part)):
        if region.size == 0 or not box.contains(region):
            raise UserError(
                f"the region {spans(region)} must hold voxels and lie within {file.name}, which spans {spans(box)}"
            )
    return region, region.shift([-p for p in position])


def spans(roi: Roi) -> str:
    """The box as --roi takes it."""
    return ",".join(f"{b}:{e}" for b, e in zip(roi.begin, roi.end, strict=True))


def _zarr_place(path: str, array: zarr.Array) -> tuple[Zyx | None, Zyx | None]:
    place = _place_in_attributes(array.attrs)
    if place[0] is not None:
        return place
    folder, level = os.path.split(os.path.abspath(os.path.join(path, array.path)))
    try:
        attributes = zarr.open_group(folder, mode="r").attrs
        return _place_in_multiscales(attributes.get("ome", attributes)["multiscales"][0], level)
    except (FileNotFoundError, KeyError, IndexError, TypeError, ValueError):
        return None, None  # no OME-NGFF, or of a version that had no units


def _place_in_multiscales(image: Mapping[str, Any], level: str) -> tuple[Zyx, Zyx | None]:
    nm = np.array([NM_PER_UNIT[axis["unit"]] for axis in image["axes"][-3:]])
    (stored,) = (d["coordinateTransformations"] for d in image["datasets"] if d["path"] == level)
    values = {t["type"]: np.array(t[t["type"]][-3:]) * nm for t in stored}
    voxel_size = tuple(values["scale"].tolist())
    if "translation" not in values:
        return voxel_size, None
    # OME-NGFF places voxel centres, ours are corners.
    return voxel_size, tuple((values["translation"] - values["scale"] / 2).tolist())


def _place_in_attributes(attributes: Mapping[str, Any]) -> tuple[Zyx | None, Zyx | None]:
    """What CREMI and funlib.persistence write beside an array."""
    voxel_size, offset = attributes.get("resolution", attributes.get("voxel_size")), attributes.get("offset")
    if np.shape(voxel_size) != (3,):
        return None, None
    return tuple(map(float, voxel_size)), tuple(map(float, offset)) if np.shape(offset) == (3,) else None


def _lengths(lengths: Sequence[float]) -> str:
    return " ".join(f"{n:g}" for n in lengths)
