"""Readers of the formats that volumes are found in, and the checks that what was read can be used.

A format is one function plus its name in `FORMATS`; all of them end in a ``(z, y, x)`` array in memory.
"""

from __future__ import annotations

import glob
import gzip
import logging
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import h5py
import imageio.v3 as imageio
import numpy as np
import tifffile
import zarr
from scipy import ndimage

from lsdflow.errors import UserError

logger = logging.getLogger(__name__)

# What `check_raw` maps to 0 and 255: a few dead or saturated voxels must not set the contrast.
RAW_PERCENTILES = (0.1, 99.9)

GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True)
class Format:
    """One way that arrays are stored.

    Attributes
    ----------
    read : callable
        ``read(path, dataset) -> array``; raises UserError for what it can name better than the decoder does.
    has_datasets : bool
        Whether one file holds several arrays, told apart by a name.
    is_pattern : bool
        Whether ``path`` is a glob pattern.
    """

    read: Callable[[str, str | None], np.ndarray]
    has_datasets: bool = False
    is_pattern: bool = False


def read_source(
    path: str | os.PathLike, format: str, *, dataset: str | None = None, lookup: str | None = None
) -> np.ndarray:
    """Read a whole volume into memory.

    Parameters
    ----------
    path : str or path
        The file, the folder (``zarr``), or the glob pattern of the sections (``image_stack``).
    format : str
        A name in `FORMATS`: ``image_stack``, ``tiff``, ``hdf5`` (gzipped or not), ``npz``, ``npy``, ``zarr``.
    dataset : str, optional
        Name of the array, where a file holds several; may be left out when there is only one.
    lookup : str, optional
        Name of an n x 2 array in the same file that maps supervoxels to bodies; see `apply_lookup`.

    Returns
    -------
    numpy.ndarray ``(z, y, x)``
        In the stored dtype; with a lookup, uint64.

    Raises
    ------
    UserError
        If the format is unknown, the file or dataset is missing or broken, or the array is not 3-D.
    """
    path = os.path.expanduser(os.fspath(path))
    if format not in FORMATS:
        raise UserError(f"unknown format {format!r} of {path}: choose one of {', '.join(sorted(FORMATS))}")
    chosen = FORMATS[format]
    if not chosen.has_datasets and (dataset is not None or lookup is not None):
        raise UserError(f"{path}: a source of format {format} holds one array; remove its `dataset` and `lookup`")
    if not chosen.is_pattern and not os.path.exists(path):
        raise UserError(f"{path} does not exist: check the path, or download it first")

    array = _read(path, format, dataset)
    if array.ndim != 3:
        raise UserError(f"{_where(path, dataset)} must be 3-D (z, y, x), not {array.ndim}-D {array.shape}")
    if lookup is None:
        return np.ascontiguousarray(array)
    return apply_lookup(array, _read(path, format, lookup), f"{path}: {lookup}")


def open_zarr(path: str | os.PathLike, dataset: str | None = None) -> zarr.Array:
    """Open the array that `read_source` would read from a Zarr store, for volumes that do not fit into memory.

    Parameters
    ----------
    path, dataset : as for `read_source`.

    Returns
    -------
    zarr.Array
        As it is stored: axes of length one for time and channel may come before ``z, y, x``.

    Raises
    ------
    UserError
        If the store or the dataset is missing or broken.
    """
    path = os.path.expanduser(os.fspath(path))
    if not os.path.exists(path):
        raise UserError(f"{path} does not exist: check the path, or download it first")
    with decoding(path, "zarr"):
        return _zarr_array(path, dataset)


def hdf5_attributes(path: str | os.PathLike, dataset: str | None = None) -> dict[str, Any]:
    """The attributes of the dataset that `read_source` would read from an HDF5 file, such as its ``resolution``.

    Raises
    ------
    UserError
        If the file or the dataset is missing or broken.
    """
    path = os.path.expanduser(os.fspath(path))
    with decoding(path, "hdf5"), _hdf5_dataset(path, dataset) as stored:
        return dict(stored.attrs)


def apply_lookup(labels: np.ndarray, table: np.ndarray, name: str = "the lookup table") -> np.ndarray:
    """Replace supervoxel ids by body ids.

    Parameters
    ----------
    labels : integer array
        Supervoxel ids.
    table : integer array ``(n, 2)``
        Rows of supervoxel id and body id, in any order. 0 stays 0 where the table does not say otherwise.
    name : str
        What to call the table in messages.

    Returns
    -------
    numpy.ndarray of uint64
        Body ids, in the shape of ``labels``.

    Raises
    ------
    UserError
        If the table is not n x 2, an id of ``labels`` is missing in it, or it gives one id two bodies.
    """
    if table.ndim != 2 or table.shape[1] != 2:
        raise UserError(f"{name} must be n x 2 (supervoxel, body), not {table.shape}")
    # Signed and unsigned 64-bit ids have no common integer type: compared as they are, large ones would be rounded.
    supervoxels, bodies = _as_ids(table, name).T
    labels = _as_ids(labels, "labels")
    rows = np.unique(np.stack([supervoxels, bodies], axis=1), axis=0)
    if 0 not in supervoxels:
        rows = np.concatenate([np.zeros((1, 2), np.uint64), rows])
    keys, values = np.ascontiguousarray(rows[:, 0]), np.ascontiguousarray(rows[:, 1])
    twice = keys[1:][keys[1:] == keys[:-1]]
    if twice.size:
        raise UserError(f"{name} gives supervoxel {twice[0]} more than one body: each supervoxel must have one row")
    position = np.minimum(np.searchsorted(keys, labels), len(keys) - 1)
    is_missing = keys[position] != labels
    if is_missing.any():
        missing = np.unique(labels[is_missing])
        examples = ", ".join(map(str, missing[:5]))
        raise UserError(f"{name} lacks {missing.size} ids that the labels hold ({examples}, ...): add rows for them")
    return values[position]


def check_raw(array: np.ndarray, name: str = "raw") -> np.ndarray:
    """The image as uint8.

    uint8 is taken as it is; every other number type is rescaled linearly, such that the 0.1 and 99.9 percentiles
    become 0 and 255, and a note of it is logged.

    Parameters
    ----------
    array : numeric array ``(z, y, x)``
    name : str
        What to call the image in messages.

    Returns
    -------
    numpy.ndarray of uint8 ``(z, y, x)``

    Raises
    ------
    UserError
        If the image is not 3-D, not numeric, not finite, empty, or of one value everywhere.
    """
    _check_3d(array, name)
    if array.dtype == bool or not (np.issubdtype(array.dtype, np.integer) or np.issubdtype(array.dtype, np.floating)):
        raise UserError(f"{name} must be an image of integers or floats, best uint8, not {array.dtype}")
    low, high = array.min(), array.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise UserError(f"{name} holds voxels that are not finite (NaN or infinite): replace them first")
    if low == high:
        raise UserError(f"{name} is {low} everywhere: it must be an image; check path and dataset")
    if array.dtype == np.uint8:
        return array

    percentiles = np.percentile(array, RAW_PERCENTILES)
    if percentiles[0] < percentiles[1]:
        low, high = percentiles
    low, high = float(low), float(high)
    logger.warning(
        "%s is %s: rescaled to uint8, %.6g becomes 0 and %.6g becomes 255; what lies beyond is clipped",
        *(name, array.dtype, low, high),
    )
    rescaled = np.empty(array.shape, np.uint8)
    for z, section in enumerate(array):  # by section, because float64 takes eight times the room
        rescaled[z] = np.rint(np.clip((section.astype(np.float64) - low) / (high - low), 0, 1) * 255)
    return rescaled


def check_labels(array: np.ndarray, name: str = "labels") -> np.ndarray:
    """The labels as uint64.

    Parameters
    ----------
    array : integer array ``(z, y, x)``
    name : str
        What to call the labels in messages.

    Returns
    -------
    numpy.ndarray of uint64 ``(z, y, x)``

    Raises
    ------
    UserError
        If the labels are not 3-D, not integers, negative somewhere, or 0 everywhere.
    """
    _check_3d(array, name)
    labels = _as_ids(array, name)
    if not labels.any():
        raise UserError(f"{name} are 0 everywhere, so nothing is labelled: check path and dataset")
    return labels


def check_pair(raw: np.ndarray, other: np.ndarray, name: str = "the volume", *, second: str = "labels") -> None:
    """Refuse an image and labels (or another ``second``) of different shape.

    Raises
    ------
    UserError
        With both shapes in the message.
    """
    if raw.shape != other.shape:
        raise UserError(
            f"raw and {second} of {name} must have the same shape (z, y, x), not {raw.shape} and {other.shape}: "
            "crop or pad one of them"
        )


def fill_background(labels: np.ndarray, voxel_size: Sequence[float] = (1, 1, 1)) -> np.ndarray:
    """Give every voxel of label 0 the label that is nearest to it.

    Parameters
    ----------
    labels : integer array ``(z, y, x)``
        0 = background.
    voxel_size : sequence of float
        nm, z y x order; only the ratios matter.

    Returns
    -------
    numpy.ndarray ``(z, y, x)``
        A copy without 0, in the dtype of ``labels``.

    Raises
    ------
    UserError
        If every voxel is 0.
    """
    background = labels == 0
    if not background.any():
        return labels.copy()
    if background.all():
        raise UserError("the labels are 0 everywhere: there is nothing to fill the background with")
    nearest = ndimage.distance_transform_edt(
        background, sampling=tuple(map(float, voxel_size)), return_distances=False, return_indices=True
    )
    return labels[tuple(nearest)]


def natural_key(text: str) -> list:
    """Sort key by which ``z2`` comes before ``z10``."""
    parts: list = re.split(r"([0-9]+)", text)
    parts[1::2] = map(int, parts[1::2])
    return parts


# --- readers --------------------------------------------------------------------------------------------------


def _read_image_stack(pattern: str, dataset: None) -> np.ndarray:
    files = sorted(glob.glob(pattern, recursive=True), key=natural_key)
    if not files:
        raise UserError(f"no file matches the pattern {pattern}: check the folder and the file names")
    if os.path.isdir(files[0]):
        raise UserError(f"{files[0]} is a folder: name the sections in it by a pattern such as {files[0]}/*.png")
    stack = None
    for z, file in enumerate(files):
        with decoding(file, "image"):
            section = np.asarray(imageio.imread(file))
        if section.ndim != 2:
            raise UserError(f"{file} must be a grey 2-D section (y, x), not {section.shape}: convert it first")
        if stack is None:
            stack = np.empty((len(files), *section.shape), section.dtype)
        if section.shape != stack.shape[1:] or section.dtype != stack.dtype:
            raise UserError(
                f"{file} is {section.shape} {section.dtype}, but the sections before it are "
                f"{stack.shape[1:]} {stack.dtype}: all sections must be alike"
            )
        stack[z] = section
    return stack


def _read_tiff(path: str, dataset: None) -> np.ndarray:
    with tifffile.TiffFile(path) as file:
        if len(file.series) != 1:
            shapes = ", ".join(str(series.shape) for series in file.series[:3])
            raise UserError(f"{path} holds {len(file.series)} images of different kind ({shapes}, ...), not one stack")
        return file.asarray()


def _read_hdf5(path: str, dataset: str | None) -> np.ndarray:
    with _hdf5_dataset(path, dataset) as stored:
        return stored[...]


@contextmanager
def _hdf5_dataset(path: str, dataset: str | None) -> Iterator[h5py.Dataset]:
    with _gunzipped(path) as plain, h5py.File(plain, "r") as file:
        names: list[str] = []
        file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        yield file[_choose(path, dataset, names)]


def _read_npz(path: str, dataset: str | None) -> np.ndarray:
    archive = np.load(path, allow_pickle=False)
    if isinstance(archive, np.ndarray):
        raise UserError(f"{path} is a single array, not an archive of arrays: its format is npy")
    with archive:
        return archive[_choose(path, dataset, archive.files)]


def _read_npy(path: str, dataset: None) -> np.ndarray:
    array = np.load(path, allow_pickle=False)
    if not isinstance(array, np.ndarray):
        array.close()
        raise UserError(f"{path} is an archive of arrays, not a single array: its format is npz")
    return array


def _read_zarr(path: str, dataset: str | None) -> np.ndarray:
    array = _zarr_array(path, dataset)[...]
    while array.ndim > 3 and array.shape[0] == 1:  # OME-NGFF puts time and channel first, often with one of each
        array = array[0]
    return array


def _zarr_array(path: str, dataset: str | None) -> zarr.Array:
    try:
        node = zarr.open(path, mode="r", path=(dataset or "").strip("/"))
    except FileNotFoundError:
        # Zarr says the same of a folder that is no store and of a name that is not in it.
        node = zarr.open_group(path, mode="r")
        raise _no_such_dataset(path, dataset, _zarr_arrays(node)) from None
    return _full_resolution(node, path, dataset) if isinstance(node, zarr.Group) else node


def _full_resolution(group: zarr.Group, path: str, dataset: str | None) -> zarr.Array:
    """The array of highest resolution in an OME-NGFF group (the first that its metadata names, or ``0``), or the only
    array anywhere below."""
    multiscales = group.attrs.get("ome", group.attrs).get("multiscales")
    level = multiscales[0]["datasets"][0]["path"] if multiscales else "0"
    array = group.get(level)
    if isinstance(array, zarr.Array):
        return array
    names = _zarr_arrays(group)
    if len(names) == 1:
        return group[names[0]]
    raise UserError(
        f"{_where(path, dataset)} is a group, not an array: name as `dataset` one of {_listed(names)} below it"
    )


def _zarr_arrays(group: zarr.Group) -> list[str]:
    with warnings.catch_warnings():
        # Zarr warns of files that are none of its own, such as Snakemake's timestamps.
        warnings.filterwarnings("ignore", message="Object at", category=UserWarning)
        return [name for name, node in group.members(max_depth=None) if isinstance(node, zarr.Array)]


FORMATS: dict[str, Format] = {
    "image_stack": Format(_read_image_stack, is_pattern=True),
    "tiff": Format(_read_tiff),
    "hdf5": Format(_read_hdf5, has_datasets=True),
    "npz": Format(_read_npz, has_datasets=True),
    "npy": Format(_read_npy),
    "zarr": Format(_read_zarr, has_datasets=True),
}


# --- helpers --------------------------------------------------------------------------------------------------


def _read(path: str, format: str, dataset: str | None) -> np.ndarray:
    with decoding(path, format):
        return np.asarray(FORMATS[format].read(path, dataset))


@contextmanager
def decoding(path: str, kind: str) -> Iterator[None]:
    """Turn whatever a decoder raises on broken bytes into a `UserError` that names the file."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:  # decoders of broken bytes raise nearly anything; the cause stays chained
        raise UserError(f"{path} cannot be read as {kind} ({error}): it is broken or of another format") from error


@contextmanager
def _gunzipped(path: str) -> Iterator:
    """What HDF5 can open: the file itself, or an unpacked copy that vanishes on exit."""
    with open(path, "rb") as file:
        if file.read(2) != GZIP_MAGIC:
            yield path
            return
    with gzip.open(path, "rb") as packed, tempfile.TemporaryFile() as plain:
        shutil.copyfileobj(packed, plain, 1 << 20)
        plain.seek(0)
        yield plain


def _choose(path: str, dataset: str | None, names: Sequence[str]) -> str:
    """The array to read: the one asked for, or the only one."""
    if dataset is None and len(names) == 1:
        return names[0]
    if dataset is not None and dataset.strip("/") in names:
        return dataset.strip("/")
    raise _no_such_dataset(path, dataset, names)


def _no_such_dataset(path: str, dataset: str | None, names: Sequence[str]) -> UserError:
    problem = "`dataset` is not set" if dataset is None else f"there is no dataset {dataset!r}"
    return UserError(f"{problem} in {path}: it holds {_listed(names)}")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(sorted(names)) or "no array at all"


def _where(path: str, dataset: str | None) -> str:
    return path if dataset is None else f"{path}: {dataset}"


def _check_3d(array: np.ndarray, name: str) -> None:
    if array.ndim != 3 or array.size == 0:
        raise UserError(f"{name} must be 3-D (z, y, x) with at least one voxel, not {array.shape}")


def _as_ids(array: np.ndarray, name: str) -> np.ndarray:
    if not np.issubdtype(array.dtype, np.integer):
        raise UserError(f"{name} must be integers, not {array.dtype}: store ids in an integer type")
    if array.size and array.min() < 0:
        raise UserError(f"{name} must not be negative, but go down to {array.min()}: 0 is the background")
    return array.astype(np.uint64, copy=False)
