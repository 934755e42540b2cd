"""Readers of the files that traced skeletons are found in; all of them end in a graph as `skeletons` describes.

Components are connected components, numbered from 1 in the order of their first nodes.  ``label`` is the file's id of
the skeleton where there is one, and the component elsewhere.  Cycles are allowed, for run lengths do not mind them.
An edge that is listed twice counts once, and one from a node to itself not at all.
"""

from __future__ import annotations

import csv
import logging
import os
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from lsdflow.errors import UserError
from lsdflow.metrics.run_length import inside_box
from lsdflow.metrics.skeletons import load_skeletons, skeleton_arrays

logger = logging.getLogger(__name__)

SWC_COLUMNS = ("id", "type", "x", "y", "z", "radius", "parent")

# Columns of tables that mean the same: ours first, then those of the LSD paper's database and of similar dumps.
LABEL_NAMES = ("skeleton", "neuron_id", "skeleton_id")
END_NAMES = (("u", "source"), ("v", "target"))

NM_PER_UNIT = {"nanometer": 1.0, "micrometer": 1e3}

# BSON (bsonspec.org): numbers, other types of fixed size in bytes, and types that begin with their length, with the
# bytes that it does not count.
BSON_NUMBERS = {0x01: struct.Struct("<d"), 0x10: struct.Struct("<i"), 0x12: struct.Struct("<q")}
BSON_SIZES = {0x06: 0, 0x07: 12, 0x08: 1, 0x09: 8, 0x0A: 0, 0x11: 8, 0x13: 16}
BSON_UNCOUNTED = {0x02: 4, 0x03: 0, 0x04: 0, 0x05: 5}
BSON_LENGTH = struct.Struct("<i")


@dataclass(frozen=True, eq=False)
class _Tracing:
    """What a file holds: coordinates in its own unit, and edges as rows of their two nodes."""

    ids: NDArray[np.int64]
    coordinates: NDArray[np.float64]
    labels: NDArray[np.uint64] | None
    edges: NDArray[np.int64]
    voxel_size: NDArray[np.float64] | None = None


def read_skeletons(
    path: str | os.PathLike,
    *,
    voxel_size: Sequence[float] | None = None,
    offset: Sequence[float] = (0.0, 0.0, 0.0),
    unit_nm: float | None = None,
) -> nx.Graph:
    """Read traced skeletons.

    Parameters
    ----------
    path : str or path
        * ``.swc``: rows of id, type, x, y, z, radius, parent.  The label is the file's name where that is a number.
        * ``.nml``: KNOSSOS and WEBKNOSSOS.  Coordinates are voxels of the size that the file names.
        * ``…nodes.csv``: a table with the columns id, z, y, x and, if known, skeleton; beside it ``…edges.csv`` with
          u, v.
        * ``…nodes.bson`` and ``…edges.bson``: the same two tables as MongoDB dumps them.  The LSD paper's
          (``zebrafinch.nodes.bson``) name the columns id, z, y, x, neuron_id, and source, target.
        * ``.npz``: skeletons that `save_skeletons` wrote.
        * a folder of ``.swc`` files, whose nodes are numbered anew from 0, and whose labels are the files' names if
          all are numbers; or a folder with one pair of tables.
    voxel_size : nm, z y x order, optional
        Coordinates are voxels of this size, whatever an ``.nml`` says.  If all are whole numbers, each node stands in
        the centre of its voxel.
    offset : nm, z y x order
        Added to all positions: that of the corner of the voxel from which the file counts.
    unit_nm : float, optional
        Length of the unit of coordinates that are not voxels: 1 if left out, 1000 for the micrometres that most
        archives of ``.swc`` use.

    Returns
    -------
    networkx.Graph
        Nodes are the file's ids, in the file's order; edge lengths are straight distances between nodes.

    Raises
    ------
    UserError
        If the file is missing, of an unknown kind or broken, or holds no skeletons: no node, no edge, a node twice, an
        edge to a node that does not exist, a coordinate that is not finite.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise UserError(f"{path} does not exist: check the path, or download it first")
    if voxel_size is not None and unit_nm is not None:
        raise UserError(f"{path}: coordinates are voxels or lengths: give voxel_size or unit_nm, not both")
    suffix = "" if path.is_dir() else path.suffix.lower()
    if suffix == ".npz":
        if voxel_size is not None or unit_nm is not None or np.any(offset):
            raise UserError(f"{path} holds positions in nm, used as they are: remove voxel_size, unit_nm and offset")
        return load_skeletons(path)
    if suffix == ".nml" and unit_nm is not None:
        raise UserError(f"{path}: coordinates are voxels: remove unit_nm, and give voxel_size if the file's is wrong")

    tracing = _read_folder(path) if path.is_dir() else _read_file(path)
    if voxel_size is None:
        voxel_size = tracing.voxel_size
    if suffix == ".nml" and voxel_size is None:
        raise UserError(
            f"{path} does not name the size of its voxels in {' or '.join(NM_PER_UNIT)} (<scale>): give voxel_size"
        )
    coordinates = tracing.coordinates
    if voxel_size is None:
        positions = coordinates * _positive((1.0 if unit_nm is None else unit_nm,) * 3, "unit_nm")
    else:
        # The centre, because i * size / size can be less than i in floating point: the voxel before.
        is_index = np.all(coordinates == np.floor(coordinates))
        positions = (coordinates + (0.5 if is_index else 0.0)) * _positive(voxel_size, "voxel_size")
    return _graph(tracing, positions + np.asarray(offset, np.float64), path)


def check_inside(graph: nx.Graph, begin_nm: Sequence[float], end_nm: Sequence[float]) -> int:
    """The number of nodes outside a volume that the skeletons are to be scored in.

    Parameters
    ----------
    graph : networkx.Graph
        Skeletons; only ``position`` is read.
    begin_nm, end_nm : nm, z y x order
        The volume; see `inside_box`.

    Raises
    ------
    UserError
        If no node at all lies in the volume.
    """
    positions = skeleton_arrays(graph).positions
    n_outside = int(np.count_nonzero(~inside_box(positions, begin_nm, end_nm)))
    if n_outside < len(positions):
        return n_outside
    if not n_outside:
        raise UserError("the skeletons hold no node: check the region they were cut to")
    raise UserError(
        f"no node of the skeletons lies in the volume: the nodes run from {_text(positions.min(axis=0))} to "
        f"{_text(positions.max(axis=0))}, the volume from {_text(begin_nm)} to {_text(end_nm)} (nm; z, y, x): their "
        "units (nm, micrometres, voxels), the order of their axes or an offset may differ"
    )


# --- files and folders ----------------------------------------------------------------------------------------------


def _read_file(path: Path) -> _Tracing:
    suffix = path.suffix.lower()
    if suffix not in READERS:
        raise UserError(
            f"{path}: cannot read skeletons from {suffix or 'a file without ending'}: give one of "
            f"{', '.join(READERS)}, .npz, or a folder of .swc files"
        )
    return READERS[suffix](path)


def _read_folder(folder: Path) -> _Tracing:
    files = [file for file in sorted(folder.iterdir()) if not file.name.startswith(".")]
    swc = [file for file in files if file.suffix.lower() == ".swc"]
    tables = [file for file in files if file.stem.endswith("nodes") and file.suffix.lower() in (".csv", ".bson")]
    if swc and not tables:
        return _joined([_read_swc(file) for file in swc])
    if len(tables) == 1 and not swc:
        return _read_file(tables[0])
    if not swc and not tables:
        raise UserError(
            f"{folder} holds neither .swc files nor a table …nodes.csv or …nodes.bson: name the file itself"
        )
    raise UserError(
        f"{folder} holds {len(swc)} .swc files and {len(tables)} tables of nodes: name the file to be read, or keep "
        ".swc files in a folder of their own"
    )


def _joined(tracings: list[_Tracing]) -> _Tracing:
    """Several files as one; ids, which repeat between files, become rows."""
    starts = np.cumsum([0, *(len(tracing.ids) for tracing in tracings)])
    has_labels = all(tracing.labels is not None for tracing in tracings)
    return _Tracing(
        ids=np.arange(starts[-1]),
        coordinates=np.concatenate([tracing.coordinates for tracing in tracings]),
        labels=np.concatenate([tracing.labels for tracing in tracings]) if has_labels else None,
        edges=np.concatenate([tracing.edges + start for tracing, start in zip(tracings, starts[:-1], strict=True)]),
    )


def _graph(tracing: _Tracing, positions: NDArray[np.float64], path: Path) -> nx.Graph:
    edges = tracing.edges[tracing.edges[:, 0] != tracing.edges[:, 1]]
    if not len(edges):
        raise UserError(f"{path} holds {len(positions)} nodes and no edge between them: skeletons need edges")
    is_broken = ~np.all(np.isfinite(positions), axis=1)
    if is_broken.any():
        raise UserError(
            f"{path}: {is_broken.sum()} nodes have a coordinate that is not finite, the first of them "
            f"{tracing.ids[is_broken][0]}: mend or remove them"
        )
    lengths = np.linalg.norm(positions[edges[:, 0]] - positions[edges[:, 1]], axis=1)
    graph = nx.Graph(dropped=0)
    graph.add_nodes_from(
        (node, {"position": tuple(position)})
        for node, position in zip(tracing.ids.tolist(), positions.tolist(), strict=True)
    )
    graph.add_edges_from(
        (u, v, {"length": length}) for (u, v), length in zip(tracing.ids[edges].tolist(), lengths.tolist(), strict=True)
    )
    for number, nodes in enumerate(nx.connected_components(graph), start=1):
        nx.set_node_attributes(graph, dict.fromkeys(nodes, number), "component")
    labels = nx.get_node_attributes(graph, "component")
    if tracing.labels is not None:
        labels = dict(zip(tracing.ids.tolist(), tracing.labels.tolist(), strict=True))
    nx.set_node_attributes(graph, labels, "label")
    return graph


# --- formats --------------------------------------------------------------------------------------------------------


def _read_swc(path: Path) -> _Tracing:
    # Comments are in whatever encoding; numbers are ASCII.
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    rows = [dict(zip(SWC_COLUMNS, line.split(), strict=False)) for line in lines if line.partition("#")[0].strip()]
    ids, parents = (_column(rows, (name,), _whole, path) for name in ("id", "parent"))
    ends = [(node, parent) for node, parent in zip(ids, parents, strict=True) if parent >= 0]
    labels = [int(path.stem)] * len(rows) if path.stem.isdecimal() else None
    return _tracing(rows, ends, labels, path)


def _read_nml(path: Path) -> _Tracing:
    try:
        root = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise UserError(f"{path} is not an .nml file as KNOSSOS and WEBKNOSSOS write it ({error})") from error
    things = [(thing, node) for thing in root.iter("thing") for node in thing.iter("node")]
    rows = [node.attrib for _, node in things]
    labels = _column([{"id": thing.get("id")} for thing, _ in things], ("id",), _whole, path)
    edges = [edge.attrib for edge in root.iter("edge")]
    shift = root.find("parameters/offset")
    if shift is not None and any(_column([shift.attrib], (axis,), float, path) != [0.0] for axis in "xyz"):
        logger.warning("%s names an offset, %s, that is not applied: give offset where it matters", path, shift.attrib)
    return _tracing(rows, _ends(edges, path), labels, path, voxel_size=_nml_voxel_size(root, path))


def _nml_voxel_size(root: ElementTree.Element, path: Path) -> NDArray[np.float64] | None:
    scale = root.find("parameters/scale")
    if scale is None:
        return None
    unit = scale.get("unit", "nanometer")
    if unit not in NM_PER_UNIT:
        return None
    return NM_PER_UNIT[unit] * np.array([_column([scale.attrib], (axis,), float, path)[0] for axis in "zyx"])


def _read_tables(read_rows: Callable[[Path], list[Mapping[str, Any]]], path: Path) -> _Tracing:
    stem, suffix = path.stem, path.suffix
    if not stem.endswith("nodes"):
        raise UserError(
            f"{path}: skeletons are two tables, …nodes{suffix} and beside it …edges{suffix}: name the first"
        )
    edges_path = path.with_name(stem.removesuffix("nodes") + "edges" + suffix)
    if not edges_path.exists():
        raise UserError(f"{path}: the edges are missing: put {edges_path.name} beside it")
    rows = read_rows(path)
    has_labels = bool(rows) and not rows[0].keys().isdisjoint(LABEL_NAMES)
    labels = _column(rows, LABEL_NAMES, _whole, path) if has_labels else None
    return _tracing(rows, _ends(read_rows(edges_path), edges_path), labels, path)


def _csv_rows(path: Path) -> list[Mapping[str, Any]]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            return list(csv.DictReader(file, skipinitialspace=True))
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a table of comma-separated text ({error}): write it again as UTF-8") from error


def _bson_rows(path: Path) -> list[Mapping[str, Any]]:
    """The numbers in each document of a dump; values of other types are left out."""
    data = path.read_bytes()
    rows, begin = [], 0
    try:
        while begin < len(data):
            row, begin = _bson_document(data, begin)
            rows.append(row)
    except (IndexError, ValueError, struct.error) as error:
        raise UserError(
            f"{path} is not a dump of BSON documents, or broken after {len(rows)} of them ({error}): get it again"
        ) from error
    return rows


def _bson_document(data: bytes, begin: int) -> tuple[dict[str, float], int]:
    end = begin + BSON_LENGTH.unpack_from(data, begin)[0] - 1
    if end < begin + 4 or data[end] != 0:
        raise ValueError("a document has no end")
    row, at = {}, begin + 4
    while at < end:
        kind, name_end = data[at], data.index(0, at + 1)
        name, at = data[at + 1 : name_end].decode(), name_end + 1
        if kind in BSON_NUMBERS:
            (row[name],) = BSON_NUMBERS[kind].unpack_from(data, at)
            at += BSON_NUMBERS[kind].size
        elif kind in BSON_SIZES:
            at += BSON_SIZES[kind]
        elif kind in BSON_UNCOUNTED:
            at += BSON_UNCOUNTED[kind] + max(0, BSON_LENGTH.unpack_from(data, at)[0])
        else:
            raise ValueError(f"{name} is of type {kind:#04x}")
    if at != end:
        raise ValueError("a value is longer than its document")
    return row, end + 1


READERS = {
    ".swc": _read_swc,
    ".nml": _read_nml,
    ".csv": partial(_read_tables, _csv_rows),
    ".bson": partial(_read_tables, _bson_rows),
}


# --- rows -----------------------------------------------------------------------------------------------------------


def _tracing(
    rows: list[Mapping[str, Any]],
    ends: list[tuple[int, int]],
    labels: list[int] | None,
    path: Path,
    *,
    voxel_size: NDArray[np.float64] | None = None,
) -> _Tracing:
    """Nodes of ``rows``, joined by ``ends``, pairs of their ids."""
    try:
        ids = np.array(_column(rows, ("id",), _whole, path), np.int64)
        coordinates = np.array([_column(rows, (axis,), float, path) for axis in "zyx"], np.float64).T
        ends = np.array(ends, np.int64).reshape(-1, 2)
        labels = None if labels is None else np.array(labels, np.uint64)
    except OverflowError as error:
        raise UserError(
            f"{path}: ids of nodes must fit into 64 bits with a sign, those of skeletons into 64 bits without: number "
            "them anew"
        ) from error
    order = np.argsort(ids, kind="stable")
    known = ids[order]
    twice = known[1:][known[1:] == known[:-1]]
    if len(twice):
        raise UserError(f"{path}: {len(twice)} nodes have the id of another, such as {twice[0]}: number them anew")
    place = np.searchsorted(known, ends)
    is_missing = place == len(known)
    is_missing[~is_missing] = known[place[~is_missing]] != ends[~is_missing]
    if is_missing.any():
        broken = ends[is_missing.any(axis=1)]
        raise UserError(
            f"{path} lacks nodes that {len(broken)} edges (in .swc: from child to parent) lead to, the first from "
            f"{broken[0, 0]} to {broken[0, 1]}: add the nodes, or remove the edges"
        )
    return _Tracing(
        ids=ids,
        coordinates=coordinates,
        labels=labels,
        edges=order[place],
        voxel_size=voxel_size,
    )


def _ends(rows: list[Mapping[str, Any]], path: Path) -> list[tuple[int, int]]:
    return list(zip(*(_column(rows, names, _whole, path) for names in END_NAMES), strict=True))


def _column(
    rows: list[Mapping[str, Any]], names: Sequence[str], convert: Callable[[Any], Any], path: Path
) -> list[Any]:
    """The column that has one of ``names``, converted; of no rows, nothing."""
    if not rows:
        return []
    name = next((name for name in names if name in rows[0]), None)
    if name is None:
        raise UserError(f"{path} has no column {' or '.join(names)}: it has {', '.join(map(str, rows[0]))}")
    converted = []
    for number, row in enumerate(rows, start=1):
        try:
            converted.append(convert(row.get(name)))
        except (TypeError, ValueError, OverflowError) as error:
            kind = "a whole number" if convert is _whole else "a number"
            raise UserError(f"{path}, row {number}: {name} must be {kind}, not {row.get(name)!r}") from error
    return converted


def _whole(value: Any) -> int:
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            value = float(value)  # tables that went through floats hold ids such as 17.0
    if int(value) != value:
        raise ValueError(value)
    return int(value)


def _positive(lengths: Sequence[float], name: str) -> NDArray[np.float64]:
    lengths = np.asarray(lengths, np.float64)
    if lengths.shape != (3,) or not np.all((lengths > 0) & np.isfinite(lengths)):
        raise UserError(f"{name} must be positive and in nm (of voxels: z, y, x), not {lengths.tolist()}")
    return lengths


def _text(position: Sequence[float]) -> str:
    return "(" + ", ".join(f"{value:.10g}" for value in position) + ")"
