"""What all scripts of rules share: the log, errors without traceback, provenance, and how regions are opened."""

from __future__ import annotations

import errno
import json
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any

from lsdflow.errors import UserError
from lsdflow.provenance import file_hash, provenance, settings_hash, write_provenance
from lsdflow.roi import Roi
from lsdflow.volumes import Volume, open_volume

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# What torch says when it cannot write: its errors do not tell the cause.
TORCH_NO_ROOM = ("PytorchStreamWriter failed", "unexpected pos", "iostream error")


@contextmanager
def job(snakemake) -> Iterator[dict[str, Any]]:
    """Run a script's body with its output in the rule's log, and write what made the result beside it.

    Yields a dictionary; what the body puts into it is added to the provenance.  A mistake of the user's or a full disk
    ends the job with one message and without a traceback.
    """
    begin, more = time.monotonic(), {}
    try:
        with open(snakemake.log[0], "w", buffering=1) as log, redirect_stdout(log), redirect_stderr(log):
            try:
                yield more
                done = provenance(
                    dict(snakemake.params.items()),
                    rule=snakemake.rule,
                    wildcards=dict(snakemake.wildcards.items()),
                    inputs=[str(path) for path in snakemake.input],
                    outputs=[str(path) for path in snakemake.output],
                    threads=snakemake.threads,
                    seconds=round(time.monotonic() - begin, 3),
                    **more,
                )
                folder = result_folder(snakemake.output[0])
                values = [value for value in snakemake.wildcards if value not in folder.parts]
                name = "-".join([snakemake.rule, *values])
                write_provenance(folder / "provenance" / f"{name}.json", done)
            except BaseException as error:
                message = _explanation(error)
                with suppress(OSError):  # a full disk takes no log either
                    log.write(f"error: {message}\n" if message else traceback.format_exc())
                raise
    except BaseException as error:
        message = _explanation(error)
        if message is None:
            raise
        print(f"\nerror in {snakemake.rule}: {message}\n", file=sys.stderr)
        sys.exit(1)


def _explanation(error: BaseException) -> str | None:
    """What to tell the user instead of a traceback; None where only a traceback helps."""
    if isinstance(error, UserError):
        return str(error)
    is_torch = isinstance(error, RuntimeError) and any(words in str(error) for words in TORCH_NO_ROOM)
    if is_torch or (isinstance(error, OSError) and error.errno in NO_ROOM):
        return f"a file cannot be written ({error}): free some disk space or raise the quota, then run again"
    return None


def result_folder(output: str) -> Path:
    """The folder that holds ``output``, which may be a file of a Zarr store."""
    path = Path(output)
    for folder in path.parents:
        if folder.suffix == ".zarr":
            return folder.parent
    return path.parent


def params_hash(snakemake, *paths: str) -> str:
    """Names the settings of a job and what it starts from; for done-markers and states to resume.

    Files count by their content, folders (Zarr stores of any size) by the names, sizes and times of their files.
    """
    # Into how many jobs the work is cut changes none of it.
    params = {key: value for key, value in snakemake.params.items() if key != "chunks"}
    return settings_hash([params, [_identity(Path(path)) for path in paths]])


def _identity(path: Path) -> str:
    if path.is_file():
        return file_hash(path)
    files = ((file, file.stat()) for file in sorted(path.rglob("*")) if file.is_file())
    return settings_hash([[str(file.relative_to(path)), stat.st_size, stat.st_mtime_ns] for file, stat in files])


def region_of(path: str, name: str, roi: Roi, raw_path: str) -> tuple[Volume, Roi]:
    """The volume at ``path``/``name`` and the box ``roi`` (voxels of the raw volume) in its own voxels."""
    volume = open_volume(path, name)
    origin = open_volume(raw_path, "raw").position_of(volume)
    return volume, roi.shift([-o for o in origin])


def write_json(path: str, content: Mapping[str, Any]) -> None:
    """Write plain values as JSON."""
    Path(path).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def chunk_of(snakemake) -> tuple[int, int]:
    """This job's chunk and how many there are."""
    return int(snakemake.wildcards.chunk), int(snakemake.params.chunks)
