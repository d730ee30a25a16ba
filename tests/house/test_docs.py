"""What the documents show is run; what they name exists."""

import json
import multiprocessing
import re
import runpy
import sys

import pytest
import simplejpeg
from benchmarks import losses, paper
from tests.conftest import ROOT

from normface.cli import VERBS
from normface.data.synthetic import photograph
from normface.train import load_config
from normface.types import InputSpec

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "src").rglob("*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_python_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for picture, name in enumerate(("a.jpg", "b.jpg")):
        (tmp_path / name).write_bytes(simplejpeg.encode_jpeg(photograph(0, 0, picture)))
    for code in re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL):
        exec(compile(code, page.name, "exec"), {})


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text("utf-8")):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_exist(page):
    text = page.read_text("utf-8")
    assert set(re.findall(r"^normface (\w+)", text, re.MULTILINE)) <= set(VERBS)
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert set(re.findall(r"^make ([a-z-]+)", text, re.MULTILINE)) <= targets


def test_the_readmes_specification_is_one():
    block = re.search(r"```json\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)[1]
    assert InputSpec.from_json(block).template == "112x112"


def test_the_table_of_losses_is_the_measured_one():
    figures = json.loads((ROOT / "benchmarks" / "results" / "avx512-bf16" / "losses.json").read_text("utf-8"))
    assert losses.table(figures) in (ROOT / "docs" / "losses.md").read_text("utf-8")


def test_the_papers_tables_are_the_measured_ones():
    figures = json.loads((ROOT / "benchmarks" / "results" / "avx512-bf16" / "paper.json").read_text("utf-8"))
    page = (ROOT / "docs" / "tables.md").read_text("utf-8")
    assert paper.table(figures) in page
    assert paper.differences(figures) in page
    row = paper.ROWS["from scratch: ArcFace, growing"]
    assert load_config("scratch").loss.model_dump() == json.loads(json.dumps(row["loss"]))


@pytest.mark.slow
@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.py")), ids=lambda p: p.name)
def test_examples_run(example):
    assert len(example.read_text("utf-8").splitlines()) < 60
    process = multiprocessing.get_context("forkserver").Process(target=run_example, args=(str(example),))
    process.start()
    process.join()
    assert process.exitcode == 0


def run_example(file):
    sys.argv = [file]
    runpy.run_path(file, run_name="__main__")
