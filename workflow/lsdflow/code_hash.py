"""A hash of the library code that a script runs, so that an edit reruns what it touches and nothing else.

Snakemake notices an edited script but not the modules that it imports.
"""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent


@cache
def code_hash(script: Path) -> str:
    """Sixteen hex digits for the modules of this package that ``script`` imports, directly or not.

    Comments, docstrings and layout do not count; neither does the script itself, which Snakemake watches.
    """
    digest = hashlib.sha256()
    for module in sorted(imported_modules(Path(script))):
        digest.update(str(module.relative_to(PACKAGE)).encode())
        digest.update(_bare_code(module).encode())
    return digest.hexdigest()[:16]


@cache
def imported_modules(file: Path) -> frozenset[Path]:
    """The files of this package that ``file`` imports, directly or through one another."""
    found: set[Path] = set()
    pending = [Path(file)]
    while pending:
        for module in _direct_imports(pending.pop()):
            if module not in found:
                found.add(module)
                pending.append(module)
    return frozenset(found)


@cache
def _direct_imports(file: Path) -> frozenset[Path]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    files = set()
    for name in names:
        first, *rest = name.split(".")
        if first != PACKAGE.name or not rest:
            continue
        # A package's __init__ runs before its modules; the one of this package holds nothing but the version.
        for depth in range(1, len(rest) + 1):
            path = PACKAGE.joinpath(*rest[:depth])
            files.update(p for p in (path / "__init__.py", path.with_suffix(".py")) if p.is_file())
    return frozenset(files)


@cache
def _bare_code(file: Path) -> str:
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)
