"""Marker files of finished blocks, which note the files that hold the blocks' data and what these were like."""

from __future__ import annotations

import json
import os
import uuid
import zlib
from collections.abc import Iterable
from pathlib import Path

# Of each file its length and checksum, None if there is none; by their paths from beside the folder of markers.
States = dict[str, list[int] | None]


def write_marker(marker: Path, fingerprint: str, files: Iterable[Path]) -> None:
    """Write a marker that notes what made a block, and its files as they are now."""
    states = {os.path.relpath(file, marker.parent.parent): _state(file) for file in files}
    # Written aside and renamed: a job killed here leaves the old marker or the new one, never half of one.
    aside = marker.with_name(f".{marker.stem}.{uuid.uuid4().hex}")
    aside.write_text(json.dumps({"fingerprint": fingerprint, "files": states}), encoding="utf-8")
    os.replace(aside, marker)


def read_marker(marker: Path) -> tuple[str, States] | None:
    """Fingerprint and files of a marker; None if there is none, or a torn one."""
    try:
        content = json.loads(marker.read_bytes())
        return content["fingerprint"], content["files"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def are_intact(folder: Path, states: States) -> bool:
    """Whether the files of a marker in ``folder`` are as they were, to the last bit as far as a checksum tells."""
    return all(_state(folder.parent / name) == state for name, state in states.items())


def forget_damaged(folder: str | os.PathLike) -> int:
    """Remove the markers of blocks in ``folder`` whose files are not as they were written; the number of those."""
    n_damaged = 0
    for marker in Path(folder).glob("*.done"):
        content = read_marker(marker)
        if content is None or not are_intact(Path(folder), content[1]):
            marker.unlink(missing_ok=True)
            n_damaged += 1
    return n_damaged


def first_missing(folder: str | os.PathLike) -> Path | None:
    """A file that a marker in ``folder`` names and that is gone, or has another length; None if there is none.

    Zarr reads zeros where a file is gone, so this has to be asked. It looks at no file's content.
    """
    for marker in sorted(Path(folder).glob("*.done")):
        content = read_marker(marker)
        for name, state in content[1].items() if content else ():
            file = Path(folder).parent / name
            if _length(file) != (None if state is None else state[0]):
                return file
    return None


def _length(file: Path) -> int | None:
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return None


def _state(file: Path) -> list[int] | None:
    if (length := _length(file)) is None:
        return None
    checksum = 0
    with open(file, "rb") as content:
        while piece := content.read(1 << 24):
            checksum = zlib.crc32(piece, checksum)
    return [length, checksum]
