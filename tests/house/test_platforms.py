"""Nothing that Windows or macOS lack is needed to import the package; `make check` checks its types for both."""

import importlib.util
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import normface
from normface.data.folder import file_name
from normface.data.images import Record
from normface.errors import DataError
from normface.faces.batch import crop_names

SOURCE = Path(normface.__file__).parent
# Imports every module; where one of ours asks for a module that only Unix has, there is none.
WITHOUT_UNIX = """
import builtins, pkgutil, normface
found, unix = builtins.__import__, set("fcntl grp posix pty pwd resource syslog termios tty".split())

def without(name, globals=None, *rest, **more):
    if name in unix and (globals or {}).get("__name__", "").startswith("normface"):
        raise ImportError(f"{globals['__name__']} asks for {name}")
    return found(name, globals, *rest, **more)

builtins.__import__ = without
names = [module.name for module in pkgutil.walk_packages(normface.__path__, "normface.")]
for name in names:
    found(name)
print(len(names))
"""


@pytest.mark.slow
def test_every_module_imports_without_what_only_unix_has():
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", WITHOUT_UNIX], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    files = [path for path in SOURCE.rglob("*.py") if path != SOURCE / "__init__.py"]
    assert int(done.stdout) == len(files)


def windows(name: str):
    """A module of ours as Windows would have it, which has no `os.pread`."""
    spec = importlib.util.find_spec(name)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "platform", "win32")
        patch.delattr(os, "pread")
        spec.loader.exec_module(module)
    return module


def test_parts_of_a_file_are_read_by_many_threads_on_windows_too(tmp_path):
    within = windows("normface.data.pread")
    assert within.read_at is not os.pread
    data = os.urandom(1 << 16)
    (tmp_path / "file").write_bytes(data)
    with (tmp_path / "file").open("rb", buffering=0) as file, ThreadPoolExecutor(8) as pool:
        places = [(start * 997 % len(data), start % 300) for start in range(2000)]
        read = pool.map(lambda place: within.read_at(file.fileno(), place[1], place[0]), places)
        assert all(found == data[start : start + length] for found, (start, length) in zip(read, places, strict=True))


@pytest.mark.parametrize("identity", ["..\\up", "C:", "a\\..\\..\\b", "a/b", ".."])
def test_no_person_of_a_data_set_leads_out_of_a_folder_of_windows(identity):
    with pytest.raises(DataError, match="inside the folder"):
        file_name(Record("x.jpg", b"", identity, None))


def test_no_photograph_leads_out_of_the_folder_of_crops():
    assert list(crop_names(["a/b.jpg", "/etc/x.jpg", "../x.jpg", "a/../../x.jpg"])) == ["a/b.jpg"]


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_the_command_line_ends_well_where_its_signs_cannot_be_printed(encoding):
    command = [sys.executable, "-c", "from normface.cli import main; main()", "bound", "--classes", "1000"]
    done = subprocess.run(command, env={**os.environ, "PYTHONIOENCODING": encoding}, capture_output=True)
    assert done.returncode == 0, done.stderr
