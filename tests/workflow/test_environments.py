"""Each conda environment holds what the scripts of its rules import."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
import yaml
from workflow_runs import REPOSITORY, TINY, environment

from lsdflow.code_hash import imported_modules

WORKFLOW = REPOSITORY / "workflow"
ENVIRONMENTS = REPOSITORY / "envs"
# What scripts import of each other: all of them the first, those of scattered rules the second.
JOB, CHUNK = (WORKFLOW / "scripts" / name for name in ("lsdflow_job.py", "lsdflow_chunk.py"))

# Packages whose name is not that of the module, and one that a module of another package asks for.
PACKAGES = {"skimage": "scikit-image", "yaml": "pyyaml", "bioimage_cpp": "bioimage-cpp"}
ASKED_FOR = {"torch.utils.tensorboard": "tensorboard"}
# What a module of this project imports by name, out of sight of `code_hash`.
BY_NAME = {"validation.py": ("prediction.py", "quick_scores.py")}


def scripts_by_environment() -> dict[str, set[Path]]:
    """The scripts of the rules that name each environment file."""
    found = defaultdict(set)
    for file in sorted((WORKFLOW / "rules").glob("*.smk")):
        for rule in re.split(r"^(?=rule \w+:)", file.read_text(), flags=re.MULTILINE)[1:]:
            script = re.search(r'script:\s+"([^"]+)"', rule)
            conda = re.search(r'conda:\s+"([^"]+)"', rule)
            assert conda, f"{rule.splitlines()[0]} in {file.name} must have an environment"
            if script:
                found[(file.parent / conda[1]).resolve().name].add((file.parent / script[1]).resolve())
    return dict(found)


SCRIPTS = scripts_by_environment()


def modules_of(script: Path) -> set[Path]:
    """The files of this project that a script runs."""
    own = {script, JOB} | ({CHUNK} if CHUNK.stem in imports(script) else set())
    files = own.union(*map(imported_modules, own))
    for module in {name for file in files for name in BY_NAME.get(file.name, ())}:
        path = WORKFLOW / "lsdflow" / module
        files |= {path} | imported_modules(path)
    return files


def imports(file: Path) -> set[str]:
    """The modules that a file imports anywhere, other than relative ones."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module)
    return found


def packages_of(script: Path) -> set[str]:
    """The packages from elsewhere that a script needs."""
    names = {name for file in modules_of(script) for name in imports(file)}
    foreign = {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"lsdflow", JOB.stem, CHUNK.stem}
    packages = {PACKAGES.get(module, module) for module in foreign}
    return packages | {package for module, package in ASKED_FOR.items() if module in names}


def listed(environment: str) -> set[str]:
    """The packages that an environment file names, those for pip too."""
    lines = []
    for entry in yaml.safe_load((ENVIRONMENTS / environment).read_text())["dependencies"]:
        lines += entry["pip"] if isinstance(entry, dict) else [entry]
    return {re.match(r"[\w.-]+", line.split("::")[-1])[0].lower() for line in lines}


def test_every_script_has_an_environment():
    scripts = set((WORKFLOW / "scripts").glob("*.py")) - {JOB, CHUNK}
    assert set().union(*SCRIPTS.values()) == scripts


@pytest.mark.parametrize(
    ("environment", "script"), [(env, script) for env in sorted(SCRIPTS) for script in sorted(SCRIPTS[env])], ids=str
)
def test_environment_lists_what_the_script_imports(environment, script):
    missing = packages_of(script) - listed(environment)
    assert not missing, f"envs/{environment} lacks {', '.join(sorted(missing))} for {script.name}"


@pytest.mark.parametrize("environment", sorted(SCRIPTS))
def test_environment_lists_nothing_else(environment):
    needed = set().union(*(packages_of(script) for script in SCRIPTS[environment]))
    assert listed(environment) - needed <= {"python", "pip"}


def check_imports(python: str | Path, scripts: set[Path]) -> None:
    """Each module that a script imports can be imported by ``python``, from the project and its own packages only."""
    names = sorted({name for script in scripts for file in modules_of(script) for name in imports(file)})
    program = f"""
import importlib, json, sys
sys.path[:0] = {[str(WORKFLOW), str(WORKFLOW / "scripts")]}
failed = {{}}
for name in {names}:
    try:
        importlib.import_module(name)
    except Exception as error:
        failed[name] = repr(error)
print(json.dumps(failed))
"""
    done = subprocess.run([python, "-I", "-c", program], env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {}


@pytest.mark.parametrize("environment_file", sorted(SCRIPTS))
def test_scripts_import_without_the_user_s_paths(environment_file):
    check_imports(sys.executable, SCRIPTS[environment_file])


@pytest.mark.conda
def test_graph_runs_in_its_environments(project, tmp_path):
    """Snakemake's own packages are seen by scripts, so the environments' Pythons are asked on their own, too."""
    if shutil.which("conda") is None:
        pytest.skip("there is no conda on PATH")
    answer = project.run(tmp_path, TINY, arguments=["--use-conda"])
    assert answer.code == 0, answer.text
    assert (tmp_path / "results" / "tiny" / "summary.html").exists()
    built = {path.read_bytes(): path.with_suffix("") for path in (tmp_path / ".snakemake" / "conda").glob("*.yaml")}
    for environment_file, scripts in SCRIPTS.items():
        folder = built[(project.root / "envs" / environment_file).read_bytes()]
        check_imports(folder / "bin" / "python", scripts)
