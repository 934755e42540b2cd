"""Downloads of listed files, each verified by its SHA-256, from a mirror first and the original address next."""

from __future__ import annotations

import logging
import re
import shutil
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path, PurePosixPath
from urllib.parse import quote, unquote, urlsplit

import pooch
import requests
from tqdm import tqdm

from lsdflow.errors import UserError

logger = logging.getLogger(__name__)

# Seconds to connect, and between two pieces of an answer.
TIMEOUT = (10, 60)

# Client errors that pass by themselves: timeout, too early, too many requests.
PASSING_STATUS = {408, 425, 429}


class _Absent(Exception):
    """The origin answers, and does not hold the file: nothing that another attempt would change."""


class _Origin:
    """A place that files come from: the original address or a mirror."""

    def __init__(self, base: str, folder: Path, checksums: dict[str, str], retries: int):
        self.is_folder = not _is_url(base)
        self.base = base.rstrip("/") + "/"
        self.is_reachable = True
        self._store = pooch.create(
            path=folder,
            base_url=self.base,
            registry=checksums,
            urls={path: self.address(path) for path in checksums},
            retry_if_failed=0 if self.is_folder else retries,
        )
        self._transfer: Callable = _copy if self.is_folder else _request

    def address(self, path: str) -> str:
        return self.base + (path if self.is_folder else quote(path))

    def fetch(self, path: str) -> None:
        """Put the verified file in place; pooch writes to a temporary name first, and renames what is right."""
        self._store.fetch(path, downloader=self._transfer)


def download(
    base_url: str,
    checksums: str | Path,
    folder: str | Path,
    *,
    mirror: str | None = None,
    threads: int = 8,
    retries: int = 3,
) -> list[Path]:
    """Bring every listed file to ``folder``, verified.

    Files that are there and right stay as they are, so that an interrupted download resumes. Wrong or partial files
    never stand under their final name.

    Parameters
    ----------
    base_url : str
        http(s) address below which the listed paths stand.
    checksums : path
        List of ``<sha256>  <path>`` lines, as `sha256sum` writes them.
    folder : path
        Where the files go, under their listed paths; made when missing.
    mirror : str, optional
        Where to look first: a folder that holds ``<host>/<path...>`` of the original address (host with its port,
        when it has one), or an http(s) address below which the same stands.
    threads : int
        Files transferred at the same time.
    retries : int
        Further attempts after a failed transfer, with a pause of some seconds before each.

    Returns
    -------
    list of Path
        The files, in the order of the list.

    Raises
    ------
    UserError
        If an address, the list or the mirror cannot be used, a file can be had nowhere, or the original address
        sends other bytes than listed.
    """
    parts = urlsplit(base_url)
    if not _is_url(base_url) or not parts.netloc or parts.query or parts.fragment:
        raise UserError(f"{base_url!r} must be a plain http:// or https:// address of a folder, without ? and #")
    expected = read_checksums(checksums)
    folder = Path(folder).expanduser().absolute()
    origins = [_Origin(base, folder, expected, retries) for base in (*_mirror_bases(mirror, base_url), base_url)]
    try:
        for parent in {(folder / path).parent for path in expected}:
            parent.mkdir(parents=True, exist_ok=True)  # before the threads, which would race for it
    except OSError as error:
        raise UserError(f"{folder} cannot be made ({error}): name another folder") from error
    pooch.get_logger().setLevel(logging.WARNING)

    lock = threading.Lock()
    size = 0
    pool = ThreadPoolExecutor(max_workers=max(1, threads))
    jobs = [pool.submit(_settle, path, expected[path], folder, origins, lock) for path in expected]
    # A log file wants a line now and then, a terminal a bar that moves.
    interval = 0.1 if sys.stderr.isatty() else 10
    try:
        with tqdm(total=len(jobs), unit="file", desc=folder.name, mininterval=interval) as bar:
            for job in as_completed(jobs):
                size += job.result()
                bar.set_postfix_str(f"{size / 1e6:.1f} MB", refresh=False)
                bar.update()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return [folder / path for path in expected]


def read_checksums(path: str | Path) -> dict[str, str]:
    """The SHA-256 of each listed path.

    Parameters
    ----------
    path : path
        Lines of ``<sha256>  <path>``; empty lines and lines that begin with ``#`` are skipped.

    Raises
    ------
    UserError
        If there is no such list, it is empty, or a line is malformed, names a path twice or leads out of the folder.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the checksum list {path} cannot be read: {error}") from error
    checksums: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        match = re.fullmatch(r"([0-9a-fA-F]{64}) [ *](.+)", line.rstrip())
        if match is None:
            raise UserError(f"{path}, line {number}: must be '<64 hex digits>  <path>', not {line!r}")
        name = match[2].removeprefix("./")
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\\" in name:
            raise UserError(f"{path}, line {number}: {name!r} must be a path below the base address")
        if checksums.setdefault(name, match[1].lower()) != match[1].lower():
            raise UserError(f"{path}, line {number}: {name} is listed before with another checksum; keep one")
    if not checksums:
        raise UserError(f"the checksum list {path} is empty: it must hold '<64 hex digits>  <path>' lines")
    return checksums


def _settle(path: str, checksum: str, folder: Path, origins: list[_Origin], lock: threading.Lock) -> int:
    """Make sure that one file is there and right; its size in bytes."""
    target = folder / path
    try:
        if target.is_file():
            if pooch.file_hash(str(target)) == checksum:
                return target.stat().st_size
            logger.warning("%s has a wrong checksum: removed, and downloaded again", target)
            target.unlink()
        _fetch_first(path, origins, lock)
        # Temporary files are private to their maker; a download is as readable as the folder it lies in.
        target.chmod(folder.stat().st_mode & 0o666)
        return target.stat().st_size
    except OSError as error:
        raise UserError(f"{target} cannot be written ({error}): check the folder's permissions and space") from error


def _fetch_first(path: str, origins: list[_Origin], lock: threading.Lock) -> None:
    """Fetch a file from the first origin that has it right; the last origin is the original address."""
    original = origins[-1]
    tried = []
    for origin in origins:
        address = origin.address(path)
        if not origin.is_reachable:
            tried.append(f"{address} (no connection)")
            continue
        try:
            return origin.fetch(path)
        except _Absent as error:
            tried.append(f"{address} ({error})")
        except requests.RequestException as error:
            tried.append(f"{address} ({_reason(error)})")
            if isinstance(error, requests.ConnectionError):
                with lock:
                    if origin.is_reachable and origin is not original:
                        logger.warning("the mirror %s cannot be reached: the original address is used", origin.base)
                    origin.is_reachable = False  # one wait is enough: the other files skip it
        except ValueError as error:  # pooch found another hash; it says which, and has removed the file
            if origin is original:
                raise UserError(
                    f"{path} from {address} is not the listed file. {error} "
                    "If the file was changed on purpose, correct the checksum list."
                ) from error
            logger.warning("%s from the mirror %s is skipped. %s", path, address, error)
            tried.append(f"{address} (wrong checksum)")
    raise UserError(
        f"{path} cannot be downloaded; tried {'; '.join(tried)}. Check the connection, or set `mirror` to a folder or "
        f"an address that holds {_mirror_path(original.base)}"
    )


def _mirror_bases(mirror: str | None, base_url: str) -> list[str]:
    """Where a mirror, if any, keeps what stands below ``base_url``."""
    if not mirror:
        return []
    if _is_url(mirror):
        return [mirror.rstrip("/") + "/" + quote(_mirror_path(base_url))]
    root = Path(mirror).expanduser().absolute()
    if not root.is_dir():
        raise UserError(f"mirror: {mirror} must be an existing folder or an http(s) address")
    return [str(root / _mirror_path(base_url))]


def _mirror_path(base_url: str) -> str:
    parts = urlsplit(base_url)
    return f"{parts.netloc.rpartition('@')[2]}{unquote(parts.path)}"


def _is_url(text: str) -> bool:
    return text.startswith(("http://", "https://"))


def _copy(address: str, target: str, _: pooch.Pooch) -> None:
    """Transfer from a folder, in the form that pooch calls."""
    if not Path(address).is_file():
        raise _Absent("no such file")
    try:
        shutil.copyfile(address, target)
    except PermissionError as error:
        raise _Absent(str(error)) from error


def _request(address: str, target: str, store: pooch.Pooch) -> None:
    """Transfer over HTTP, in the form that pooch calls; it tries again after each RequestException."""
    try:
        # The stored bytes are what the list vouches for: no packing on the way.
        pooch.HTTPDownloader(timeout=TIMEOUT, headers={"Accept-Encoding": "identity"})(address, target, store)
    except requests.HTTPError as error:
        status = error.response.status_code
        if 400 <= status < 500 and status not in PASSING_STATUS:
            raise _Absent(f"HTTP status {status}") from error
        raise


def _reason(error: requests.RequestException) -> str:
    for kind, words in (
        (requests.exceptions.SSLError, "its certificate is not accepted"),
        (requests.exceptions.ProxyError, "the proxy does not let it through"),
        (requests.Timeout, "no answer in time"),
        (requests.ConnectionError, "no connection"),
    ):
        if isinstance(error, kind):
            return words
    return f"HTTP status {error.response.status_code}" if isinstance(error, requests.HTTPError) else str(error)
