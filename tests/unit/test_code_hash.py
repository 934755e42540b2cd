"""The hash of a script's library code changes with what the script runs, and with nothing else."""

import shutil
from pathlib import Path

import pytest

from lsdflow import code_hash as module

ROOT = Path(__file__).parents[2]


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of four modules, of which a script imports one directly, one through it, and one not."""
    folder = tmp_path / "lsdflow"
    direct = '"""Doc."""\nimport numpy\nfrom lsdflow.parts import deep\n\n\n'
    files = {
        "__init__.py": "",
        "direct.py": direct + 'def f(x):\n    """Doc."""\n    return x + 1\n',
        "apart.py": "value = 1\n",
        "parts/__init__.py": "",
        "parts/deep.py": "class A:\n    pass\n",
        "parts/other.py": "value = 2\n",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (tmp_path / "script.py").write_text("import os\nfrom lsdflow.direct import f\n")
    use(monkeypatch, folder)
    return folder


def use(monkeypatch, folder):
    monkeypatch.setattr(module, "PACKAGE", folder)
    forget()


def forget():
    for function in (module.code_hash, module.imported_modules, module._direct_imports, module._bare_code):
        function.cache_clear()


@pytest.fixture(autouse=True)
def _no_stale_answers():
    yield
    forget()


def hash_of(package):
    forget()
    return module.code_hash(package.parent / "script.py")


def replace(file, old, new):
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_the_hash_is_sixteen_digits_and_stays(package):
    first = hash_of(package)
    assert len(first) == 16 and int(first, 16) >= 0
    assert hash_of(package) == first


def test_imports_are_found_directly_and_through_one_another(package):
    found = module.imported_modules(package.parent / "script.py")
    assert {str(file.relative_to(package)) for file in found} == {"direct.py", "parts/__init__.py", "parts/deep.py"}


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [("direct.py", "x + 1", "x + 2"), ("parts/deep.py", "pass", "size = 3"), ("parts/__init__.py", "", "a = 1\n")],
)
def test_an_edit_of_an_imported_module_changes_the_hash(package, file, old, new):
    before = hash_of(package)
    (package / file).write_text((package / file).read_text().replace(old, new) if old else new)
    assert hash_of(package) != before


@pytest.mark.parametrize("file", ["apart.py", "parts/other.py"])
def test_an_edit_of_a_module_that_is_not_imported_does_not(package, file):
    before = hash_of(package)
    replace(package / file, "value", "something_else")
    assert hash_of(package) == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""Doc."""\nimport', '"""Other words, of the module."""\nimport'),
        ('    """Doc."""\n', '    """Other words,\n\n    of the function.\n    """\n'),
        ('    """Doc."""\n', ""),
        ("    return", "    # A comment.\n    return"),
        ("x + 1", "(x  +  1)  # layout"),
    ],
)
def test_comments_docstrings_and_layout_do_not_count(package, old, new):
    before = hash_of(package)
    replace(package / "direct.py", old, new)
    assert hash_of(package) == before


def test_a_new_import_counts(package):
    before = hash_of(package)
    (package.parent / "script.py").write_text("from lsdflow import apart\nfrom lsdflow.direct import f\n")
    assert hash_of(package) != before


def test_a_renamed_module_counts(package):
    before = hash_of(package)
    (package / "parts/deep.py").rename(package / "parts/deeper.py")
    replace(package / "direct.py", "import deep", "import deeper")
    assert hash_of(package) != before


def test_modules_that_import_each_other_are_no_endless_loop(package):
    (package / "parts/deep.py").write_text("from lsdflow import direct\n")
    assert len(hash_of(package)) == 16


# --- the workflow's own scripts -------------------------------------------------------------------------------


@pytest.fixture
def workflow(tmp_path, monkeypatch):
    """A copy of the library and the scripts that may be edited."""
    without_caches = shutil.ignore_patterns("__pycache__")
    for folder in ("lsdflow", "scripts"):
        shutil.copytree(ROOT / "workflow" / folder, tmp_path / folder, ignore=without_caches)
    use(monkeypatch, tmp_path / "lsdflow")
    return tmp_path


def changed_by(workflow, *files):
    """The scripts whose hash changes when a line of code is added to ``files`` of the library."""

    def all_hashes():
        forget()
        return {script.stem: module.code_hash(script) for script in (workflow / "scripts").glob("*.py")}

    before = all_hashes()
    for file in files:
        path = workflow / "lsdflow" / file
        path.write_text(path.read_text() + "\nADDED = 1\n")
    after = all_hashes()
    return {name for name in before if before[name] != after[name]}


def test_editing_figures_redraws_and_does_not_retrain(workflow):
    figures = [file.relative_to(workflow / "lsdflow") for file in (workflow / "lsdflow/figures").glob("*.py")]
    changed = changed_by(workflow, *figures)
    assert {"plot_scores", "plot_training", "plot_panel", "plot_resources", "summary"} <= changed
    assert all(name.startswith("plot_") or name == "summary" for name in changed)


def test_editing_the_networks_retrains_and_touches_no_data_or_segmentation(workflow):
    changed = changed_by(workflow, "networks.py")
    assert {"train", "predict"} <= changed
    assert not changed & {"import_volume", "simulate_volume", "fragments", "merge_tree", "evaluate", "compare"}


def test_editing_metrics_scores_again_and_does_not_retrain(workflow):
    changed = changed_by(workflow, "metrics/voi.py")
    assert "evaluate" in changed
    assert not changed & {"train", "predict", "fragments", "merge_tree"}


def test_editing_the_configurations_checks_reruns_nothing(workflow):
    assert changed_by(workflow, "configuration.py") == set()
