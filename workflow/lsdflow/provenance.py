"""What made a result: settings, code, packages, host and time, as a JSON file beside it."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from lsdflow import __version__


def settings_hash(settings: Any) -> str:
    """Sixteen hex digits that differ when ``settings`` (plain values) do."""
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_hash(path: os.PathLike) -> str:
    """Sixteen hex digits of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


@cache
def code_version() -> str:
    """The version of this package, with the commit where the code stands in a git repository."""
    try:
        command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--tags"]
        commit = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return __version__
    return f"{__version__} ({commit})"


def package_versions() -> dict[str, str]:
    """Versions of the packages that this process has imported."""
    owners = metadata.packages_distributions()
    loaded = {name.partition(".")[0] for name in sys.modules}
    names = sorted({owner for name in loaded for owner in owners.get(name, [])})
    return {name: metadata.version(name) for name in names}


def provenance(settings: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """Plain values that say what made a result; ``more`` is added to them."""
    return {
        "settings": dict(settings),
        "settings_hash": settings_hash(settings),
        "code": code_version(),
        "python": platform.python_version(),
        "packages": package_versions(),
        "host": {
            "name": platform.node(),
            "system": platform.platform(),
            "processor": processor(),
            "cores": os.cpu_count(),
        },
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        **more,
    }


def processor() -> str:
    """The processor's name."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()


def write_provenance(path: Path, content: Mapping[str, Any]) -> None:
    """Write ``content`` as JSON, making the folder if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, sort_keys=True, default=str) + "\n")
