"""Examples and notebooks run, and the documentation site builds."""

import json
import multiprocessing
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
NEEDS = {"lightning_loop": ["lightning"], "transformers_trainer": ["transformers", "accelerate"]}  # in no extra: large
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda p: p.name)
def test_examples_run(example):
    assert len(example.read_text("utf-8").splitlines()) < 60
    for package in NEEDS.get(example.stem, ()):
        pytest.importorskip(package)
    process = multiprocessing.get_context("forkserver").Process(target=run_example, args=(str(example),))
    process.start()
    process.join()
    assert process.exitcode == 0


def run_example(file):
    sys.argv = [file]
    runpy.run_path(file, run_name="__main__")


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.name)
def test_notebooks_run(notebook, tmp_path):
    """All cells of a notebook in order, in a process of its own."""
    cells = json.loads(notebook.read_text("utf-8"))["cells"]
    code = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    (tmp_path / "cells.py").write_text(code, encoding="utf-8")
    environment = os.environ | {"MPLBACKEND": "agg"}
    done = subprocess.run(
        [sys.executable, "cells.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert notebook.stat().st_size < 200_000  # small pictures


@pytest.mark.slow
def test_the_site_builds(tmp_path):
    """Without a warning, where the extra `docs` is installed."""
    for needed in ("zensical", "mkdocstrings", "nbconvert"):
        pytest.importorskip(needed)
    for part in "docs src examples README.md CONTRIBUTING.md CHANGELOG.md zensical.toml Makefile".split():
        (shutil.copytree if (ROOT / part).is_dir() else shutil.copy)(ROOT / part, tmp_path / part)
    recipe = re.search(r"^docs:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)[1]
    script = recipe.replace("$(BIN)", str(Path(sys.executable).parent)).replace("\t@", "")
    done = subprocess.run(["bash", "-ec", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "build" / "site" / "index.html").read_text("utf-8")
    assert "0.9221" in page  # the part of the README that the first page shows
    assert not re.findall(r"(?:src|href)=\"https?:[^\"]*\.(?:js|css|woff2?)", page)  # nothing from a network
    losses = (tmp_path / "build" / "site" / "api" / "losses.html").read_text("utf-8")
    assert "at which a sample can reach probability 0.99" in losses  # a docstring
