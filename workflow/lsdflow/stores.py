"""Reading and writing boxes of Zarr arrays on disk, so that damage is found, named, and mended by writing again.

A file replaces the old one in one go (Zarr writes it aside and renames it), and each chunk has a checksum; what is
added here is what Zarr leaves out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import zarr
from zarr.storage import LocalStore

from lsdflow.errors import DamagedError
from lsdflow.roi import Roi


class CheckedStore(LocalStore):
    """A folder in which an empty file is damage: lost nodes leave such files, and Zarr reads them as zeros."""

    async def get(self, key, prototype=None, byte_range=None):
        found = await super().get(key, prototype, byte_range)
        if found is not None and len(found) == 0:
            raise damaged(f"{self.root}/{key}", "a file is empty or ends too early")
        return found


class _BlindStore(CheckedStore):
    """A folder of which only metadata are read.

    Zarr reads a shard before it writes one, even if nothing of it stays: too slow, and impossible where it is damaged.
    """

    async def get(self, key, prototype=None, byte_range=None):
        return await super().get(key, prototype, byte_range) if key.endswith("zarr.json") else None


def read_box(data: Any, roi: Roi, channels: slice = slice(None)) -> np.ndarray:
    """The voxels of ``roi`` of a NumPy or Zarr array, with ``channels`` if it has any; DamagedError if not intact."""
    box = (channels, *roi.slices) if len(data.shape) == 4 else roi.slices
    if not isinstance(data, zarr.Array):
        return np.asarray(data[box])
    try:
        return data[box]
    except (ValueError, RuntimeError) as error:
        raise damaged(_place(data, roi), error) from error


def write_box(data: Any, roi: Roi, values: np.ndarray) -> None:
    """Write ``values``, of the shape of ``roi`` and all channels, to a NumPy or Zarr array.

    What lay in whole shards is replaced unread; DamagedError if it lay in a part of a shard that is not intact.
    """
    box = (..., *roi.slices)
    if not isinstance(data, zarr.Array):
        data[box] = values
        return
    if _is_whole_shards(data, roi):
        data = zarr.open_array(_BlindStore(data.store.root), path=data.path, mode="r+", zarr_format=3)
    try:
        data[box] = values
    except (ValueError, RuntimeError) as error:
        raise damaged(_place(data, roi), error) from error


def damaged(where: str, what: object) -> DamagedError:
    """The error that says where data are damaged, how that showed, and what to do."""
    return DamagedError(
        f"damaged data at {where}, by a full disk, a lost node or a bad copy maybe ({what}): "
        "remove this Zarr store and run again, which makes it anew",
        where,
    )


def _place(array: zarr.Array, roi: Roi) -> str:
    return f"{str(array.store_path).removeprefix('file://')} in {roi}"


def _is_whole_shards(array: zarr.Array, roi: Roi) -> bool:
    """Whether every shard that ``roi`` touches lies in it, as far as it lies in the array."""
    if not isinstance(array.store, LocalStore):
        return False
    edges = (array.shards or array.chunks)[-3:]
    return all(
        begin % edge == 0 and (end % edge == 0 or end == n)
        for begin, end, edge, n in zip(roi.begin, roi.end, edges, array.shape[-3:], strict=True)
    )
