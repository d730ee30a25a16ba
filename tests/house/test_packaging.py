"""What `pip install normface` brings: files, lean extras, and a wheel that works with nothing else."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from email import message_from_bytes
from importlib.metadata import packages_distributions
from pathlib import Path
from time import sleep

import pytest
import simplejpeg
import yaml
from tests.conftest import ROOT

from normface.data.synthetic import photograph

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
HEAVY = re.compile(r"torch|triton|nvidia|cuda|cupy|tensorflow|jax", re.IGNORECASE)
FREE = ("data", "report", "serve", "gallery", "milvus", "postgres", "qdrant", "ytf")  # no torch needed
# Every photograph that lies in a package is one too many.
PHOTOGRAPHS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm")


def package_files() -> set[str]:
    """What belongs into the package: every file of the source tree but what Python and setuptools leave there."""
    files = (path for path in (ROOT / "src" / "normface").rglob("*") if path.is_file())
    return {str(path.relative_to(ROOT / "src")) for path in files if "__pycache__" not in path.parts}


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[Path, Path]:
    """Wheel and sdist as `make dist` builds them, the wheel from the sdist; without the network."""
    pytest.importorskip("build")
    tree, out = tmp_path_factory.mktemp("tree") / "normface", tmp_path_factory.mktemp("built")
    skip = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "demo-out*", "runs")
    shutil.copytree(ROOT, tree, ignore=skip)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", out, tree]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(out.glob("*.whl")), next(out.glob("*.tar.gz"))


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_nothing_else(built):
    with zipfile.ZipFile(built[0]) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
        told = message_from_bytes(wheel.read(next(n for n in wheel.namelist() if n.endswith("/METADATA"))))
        assert any(name.endswith("licenses/LICENSE") for name in wheel.namelist())
    assert names == package_files()
    assert {"normface/py.typed", "normface/weights/default.onnx", "normface/serve/page/index.html",
            "normface/report/pages/style.css", "normface/recipes/normface.toml"} <= names  # fmt: skip
    assert built[0].stat().st_size < 10 << 20
    # Nothing heavy without an extra, nor with one that has nothing to do with it.
    asked = told.get_all("Requires-Dist")
    assert not [line for line in asked if HEAVY.match(line) and "extra ==" not in line]
    assert not [line for line in asked if HEAVY.match(line) and any(f'extra == "{name}"' in line for name in FREE)]
    assert told["Version"] == PROJECT["version"]


@pytest.mark.slow
def test_the_sdist_holds_what_is_built_from_and_neither_tests_nor_photographs(built):
    with tarfile.open(built[1]) as sdist:
        names = {member.name.partition("/")[2] for member in sdist if member.isfile()}
    assert {f"src/{name}" for name in package_files()} <= names
    beside = {name for name in names if not name.startswith("src/")}
    assert beside == {"CHANGELOG.md", "CITATION.cff", "LICENSE", "MANIFEST.in", "PKG-INFO", "README.md",
                      "constraints.txt", "pyproject.toml", "setup.cfg"}  # fmt: skip
    assert not [name for name in names if name.lower().endswith(PHOTOGRAPHS)]


@pytest.mark.slow
def test_both_pass_twines_check(built):
    pytest.importorskip("twine")
    done = subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *built], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_the_wheel_verifies_photographs_in_an_environment_that_has_nothing_else(built, tmp_path):
    place = tmp_path / "bare"
    venv.create(place, with_pip=False)
    python = place / ("Scripts" if os.name == "nt" else "bin") / "python"
    install(python, str(built[0]))
    packages = [path.name for path in place.rglob("*.dist-info")]
    assert not [name for name in packages if HEAVY.match(name)]
    site = next(place.rglob("normface")).parent
    # Offline: no socket can be made.
    (site / "offline.pth").write_text("import socket; socket.socket.connect = socket.getaddrinfo = None\n", "ascii")
    pictures = [tmp_path / "a.jpg", tmp_path / "b.jpg"]
    for number, path in enumerate(pictures):
        path.write_bytes(simplejpeg.encode_jpeg(photograph(0, 0, number)))
    command = [python.with_name("normface"), "verify", *pictures, "--anyway", "--json"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert -1 <= json.loads(done.stdout)["score"] <= 1


def install(python: Path, what: str) -> None:
    """Install into a bare environment, with uv where it is at hand; registries fail now and then."""
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    given = {"PIP_INDEX_URL": "UV_DEFAULT_INDEX", "PIP_CERT": "SSL_CERT_FILE"}  # uv reads none of pip's settings
    environment = {**{uvs: os.environ[pips] for pips, uvs in given.items() if pips in os.environ}, **os.environ}
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-compile", what]
    commands = ([[uv, "pip", "install", "-q", "--python", python, what]] * 2 if uv else []) + [pip, pip]
    for command in commands:
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode == 0:
            return
        sleep(5)
    pytest.fail(f"expected to install {what}, got {done.stderr[-1000:]}")


def required() -> list[tuple[str, str, str]]:
    """Every `require("module", "extra")` of the source."""
    found = []
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "require":
                given = [each.value for each in node.args if isinstance(each, ast.Constant)]
                if len(given) == 2:
                    found.append((path.name, *given))
    return found


def members(extra: str) -> set[str]:
    """The distributions that an extra names, in one spelling, those of the extras that it names included."""
    found = set()
    for line in EXTRAS[extra]:
        name, more = re.match(r"([\w.-]+)(?:\[(.*?)\])?", line).groups()
        if name == "normface":
            found |= set().union(*(members(each) for each in more.split(",")))
        else:
            found.add(re.sub(r"[-_.]+", "-", name).lower())
    return found


@pytest.mark.slow
def test_an_extra_that_a_message_names_brings_the_package():
    known = packages_distributions()
    calls = required()
    assert len(calls) > 20
    for file, module, extra in calls:
        owners = {re.sub(r"[-_.]+", "-", each).lower() for each in known.get(module.partition(".")[0], ())}
        if owners:  # else it is not installed here
            assert owners & members(extra), f"{file}: {module} is not in the extra {extra}"


def test_extras_are_lean():
    for extra in FREE:
        assert not [name for name in members(extra) if HEAVY.match(name)], extra
    own = [re.match(r"[\w.-]+", line)[0] for line in PROJECT["dependencies"]]
    assert not [name for name in own if HEAVY.match(name)]
    assert "triton" not in members("all")  # PyTorch's builds for GPUs bring it; it is a gigabyte
    for extra, lines in EXTRAS.items():
        assert len({re.match(r"[\w.-]+", line)[0] for line in lines}) == len(lines), extra
    tools = {"pytest", "mypy", "ruff", "twine"}
    assert not tools & members("all")
    assert tools < members("dev")


def test_what_is_pinned_is_within_the_bounds_stated():
    from packaging.requirements import Requirement

    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text("utf-8"), re.MULTILINE))
    pinned = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pinned.items()}
    for line in (*PROJECT["dependencies"], *(line for lines in EXTRAS.values() for line in lines)):
        asked = Requirement(line)
        if asked.name != "normface":
            assert asked.specifier.contains(pinned[re.sub(r"[-_.]+", "-", asked.name).lower()]), line


def test_the_citation_is_whole_and_states_no_second_version():
    told = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert {"cff-version", "message", "title", "authors", "license"} <= set(told)
    assert told["license"] == PROJECT["license"]
    assert "version" not in told
    assert f"## {PROJECT['version']}" in (ROOT / "CHANGELOG.md").read_text("utf-8")
