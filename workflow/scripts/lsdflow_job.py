"""What all scripts of rules share: the log, errors without traceback, provenance, and how regions are opened."""

from __future__ import annotations

import errno
import json
import resource
import shutil
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any

from lsdflow.errors import DamagedError, UserError
from lsdflow.markers import first_missing, forget_damaged, read_marker
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
    ends the job with one message and without a traceback.  So do damaged inputs, of which the damaged blocks are then
    forgotten, so that the next run makes these again and no others.
    """
    begin, more = time.monotonic(), {}
    try:
        with open(snakemake.log[0], "w", buffering=1) as log, redirect_stdout(log), redirect_stderr(log):
            try:
                _check_stores(snakemake)
                yield more
                done = provenance(
                    dict(snakemake.params.items()),
                    rule=snakemake.rule,
                    wildcards=dict(snakemake.wildcards.items()),
                    inputs=[str(path) for path in snakemake.input],
                    outputs=[str(path) for path in snakemake.output],
                    threads=snakemake.threads,
                    seconds=round(time.monotonic() - begin, 3),
                    # Of the process so far, in KiB on Linux: Snakemake's benchmark looks now and then, missing peaks.
                    peak_memory_mib=round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
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
        if isinstance(error, DamagedError):
            message = _forget_damaged(snakemake, error) or message
        print(f"\nerror in {snakemake.rule}: {message}\n", file=sys.stderr)
        sys.exit(1)


def _stores_of_blocks(snakemake) -> list[Path]:
    """Zarr stores among the inputs that other rules wrote, block by block."""
    stores = {Path(path).parent for path in snakemake.input if Path(path).name == "zarr.json"}
    own = Path(snakemake.output[0]).parent
    return sorted(store for store in stores if store.with_suffix("") != own and (store / "done").is_dir())


def _unmarked(snakemake, store: Path) -> list[Path]:
    """The lists among the inputs of blocks of ``store`` that have a block without its marker."""
    lists = [Path(path) for path in snakemake.input if Path(path).parent == store.with_suffix("")]
    return [path for path in lists if _has_unmarked(store / "done", json.loads(path.read_bytes()))]


def _has_unmarked(folder: Path, listed: Mapping[str, Any]) -> bool:
    markers = (read_marker(folder / f"{block}.done") for block in listed.get("blocks", ()))
    return any(marker is None or marker[0] != listed["fingerprint"] for marker in markers)


def _check_stores(snakemake) -> None:
    for store in _stores_of_blocks(snakemake):
        if missing := first_missing(store / "done"):
            raise DamagedError(f"damaged data: {missing} is missing, or was cut off", str(missing))
        if unmarked := _unmarked(snakemake, store):
            raise DamagedError(f"damaged data: {unmarked[0]} lists blocks that {store} does not have", str(store))


def _forget_damaged(snakemake, error: DamagedError) -> str | None:
    """Forget what is damaged among the inputs; what to tell the user, None if that is left to him."""
    told = []
    for path in map(Path, snakemake.input):
        # Made of blocks that are there, in no time; what cost more than that, nobody but the user removes.
        if path.name == "merge_tree.zarr" or path.suffix == ".npz" and path.parent.name == "region_graph":
            if error.where.startswith(str(path)):
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
                told.append(f"{path} is damaged")
    for store in _stores_of_blocks(snakemake):
        n_damaged = forget_damaged(store / "done")
        if n_damaged or _unmarked(snakemake, store):
            # Without the list of blocks, Snakemake runs the jobs again that write them.
            for marker in store.with_suffix("").glob("chunk-*"):
                marker.unlink(missing_ok=True)
            blocks = {0: "blocks", 1: "1 block"}.get(n_damaged, f"{n_damaged} blocks")
            told.append(f"{blocks} of {store} damaged")
    remedy = ", by a full disk, a lost node or a bad copy maybe: run again, and what is damaged is made anew"
    return "; ".join(told) + remedy if told else None


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


def params_hash(snakemake, *paths: str, also: Any = None) -> str:
    """Names the settings of a job and what it starts from (``paths``, ``also``); for done-markers and states to resume.

    Files count by their content, lists of done blocks by what these were made from (not by how many a job found done),
    a merge tree by what is in it, other folders (Zarr stores of any size) by the names, sizes and times of their files.
    """
    # Into how many jobs the work is cut changes none of it: neither this one's nor that behind the inputs.
    params = {key: value for key, value in snakemake.params.items() if key != "chunks"}
    identities = list(dict.fromkeys(_identity(Path(path)) for path in paths))
    return settings_hash([params, identities, also])


def _identity(path: Path) -> str:
    if path.is_file():
        return json.loads(path.read_bytes())["fingerprint"] if path.name.startswith("chunk-") else file_hash(path)
    if path.name == "merge_tree.zarr":
        files = (file for file in sorted(path.rglob("*")) if file.is_file())
        return settings_hash([[str(file.relative_to(path)), file_hash(file)] for file in files])
    files = ((file, file.stat()) for file in sorted(path.rglob("*")) if file.is_file())
    return settings_hash([[str(file.relative_to(path)), stat.st_size, stat.st_mtime_ns] for file, stat in files])


def store_of(path: str) -> Path:
    """The Zarr store that an input names by itself or, if it was written block by block, by its metadata."""
    return Path(path).parent if Path(path).name == "zarr.json" else Path(path)


def region_of(path: str, name: str, roi: Roi, raw_path: str) -> tuple[Volume, Roi]:
    """The volume at ``path``/``name`` and the box ``roi`` (voxels of the raw volume) in its own voxels."""
    volume = open_volume(path, name)
    origin = open_volume(raw_path, "raw").position_of(volume)
    return volume, roi.shift([-o for o in origin])


def write_json(path: str, content: Mapping[str, Any]) -> None:
    """Write plain values as JSON."""
    Path(path).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
