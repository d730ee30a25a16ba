"""The file of an embedded gallery: copies, older formats, full disks, forks, readers, and no key."""

import os
import select
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pytest
from tests.gallery.conftest import KEY, drawn

from normface.errors import ConfigError, DataError, InputError
from normface.gallery import Enrolments, open_gallery

HERE = Path(__file__).parent


def python(code, *arguments, **options):
    """Run code in another process, and return what it prints."""
    done = subprocess.run(
        [*options.pop("before", []), sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True,
        timeout=120, **options,
    )  # fmt: skip
    assert not done.returncode, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "sealed"])
def test_a_copy_without_its_log_has_everybody(place, key):
    copy = place.with_name("copy.db")
    with open_gallery(place, key=key) as gallery:
        gallery.enrol("Ann", drawn(0, 1))
        gallery.enrol("Bo", drawn(1, 1))
        end = time.monotonic() + 30
        while place.with_name("people.db-wal").exists() and time.monotonic() < end:
            shutil.copy(place, copy)
            with closing(sqlite3.connect(copy)) as db:
                if db.execute("SELECT count(*) FROM people").fetchone() == (2,):
                    break
            time.sleep(0.2)
        assert time.monotonic() < end
        shutil.copy(place, copy)
    with open_gallery(copy, key=key, create=False) as gallery:
        assert [person.name for person in gallery.people()] == ["Ann", "Bo"]
    if key:
        with pytest.raises(ConfigError, match="another key"):
            open_gallery(copy, key=b"x" * 32)


def test_an_empty_file_and_a_file_without_tables_are_named(place):
    place.parent.mkdir()
    place.touch()
    for create in (False, True):
        with pytest.raises(DataError, match="an empty file; restore the last backup"):
            open_gallery(place, create=create)
    assert not place.stat().st_size
    with closing(sqlite3.connect(place)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("VACUUM")  # as the main file was after the creation of format 1, before its first checkpoint
    with pytest.raises(DataError, match="without its -wal file"):
        open_gallery(place)


def test_a_file_that_was_removed_or_replaced_is_noticed(place, tmp_path):
    with open_gallery(place) as gallery:
        gallery.enrol("Ann", drawn(0, 1))
        gallery.backup(tmp_path / "backup.db")
        os.replace(tmp_path / "backup.db", place)
        for call in (lambda: len(gallery), lambda: gallery.enrol("Bo", drawn(1, 1))):
            with pytest.raises(DataError, match="removed or replaced"):
                call()
        place.unlink()
        with pytest.raises(DataError, match="removed or replaced"):
            gallery.people()


@pytest.mark.parametrize(("kind", "key"), [("plain", None), ("sealed", KEY)])
def test_a_file_of_format_1_is_brought_up_to_date(place, kind, key):
    place.parent.mkdir()
    with closing(sqlite3.connect(place)) as db:
        db.executescript((HERE / f"format1-{kind}.sql").read_text("utf-8"))
    if key:
        with pytest.raises(ConfigError, match="another key"):
            open_gallery(place, key=b"x" * 32)
        with closing(sqlite3.connect(place)) as db:
            assert db.execute("PRAGMA user_version").fetchone() == (1,)  # nothing was touched
    with open_gallery(place, key=key, model="the first") as gallery:
        people = gallery.people()
        assert sorted(person.name for person in people) == ["Ann", "Ann ", "Zoë", "ann"]  # equal today, and kept apart
        assert len({person.id for person in people}) == 4
        for row, name in enumerate(["Ann", "ann", "Ann ", "Zoë"]):
            assert gallery.search(np.eye(5)[row], 1)[0].person == name
            assert gallery.verify(name, np.eye(5)[row]).score == pytest.approx(1)
        assert gallery.person("ZOË").name == "Zoë"
        assert {p.name: p.consent for p in people} == {"Ann": "form 0", "ann": "form 1", "Ann ": "form 2", "Zoë": None}
        gallery.enrol("ann", np.eye(5)[4])  # the exact spelling
        assert gallery.person("ann").templates == 2
        kept = next(person.id for person in people if person.name == "Ann ")
        assert gallery.merge("ann", kept).templates == 3
        log = [(event.action, event.actor is None) for event in gallery.audit()]
        assert log[:9] == [("create", True)] + [("enrol", True)] * 5 + [
            ("search", True),
            ("forget", True),
            ("upgrade", False),
        ]
    with open_gallery(place, key=key) as gallery:
        assert len(gallery) == 5


def test_a_full_disk_does_not_refuse_to_forget(tmp_path):
    code = (
        "import os, sys, numpy as np\n"
        "from normface.gallery import open_gallery\n"
        "from normface.errors import DataError\n"
        "gallery = open_gallery(sys.argv[1] + '/people.db')\n"
        "for name in ('Ann', 'Bo'): gallery.enrol(name, np.random.default_rng(len(name)).normal(size=(8, 512)))\n"
        "gallery._store.wipe()\n"
        "with open(sys.argv[1] + '/ballast', 'wb', buffering=0) as file:\n"
        "    try:\n"
        "        while True: file.write(bytes(4096))\n"
        "    except OSError: pass\n"
        "try: gallery.enrol('Cy', np.ones((200, 512))); print('enrolled')\n"
        "except DataError as error: print('free disk space' in str(error))\n"
        "gone = gallery.forget('Ann'); print(gone, gone.wiped, [p.name for p in gallery.people()])\n"
        "gallery.close()\n"
        "gallery = open_gallery(sys.argv[1] + '/people.db', templates=False)\n"
        "print(gallery.forget('Bo'), len(gallery))\n"
    )
    disk = tmp_path / "disk"
    disk.mkdir()
    unshare = ["unshare", "-rm", "sh", "-c", f'mount -t tmpfs -o size=10m tmpfs {disk} && exec "$@"', "sh"]
    if not shutil.which("unshare") or subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("needs to mount a small disk")
    assert python(code, disk, before=unshare).splitlines() == ["True", "8 True ['Bo']", "8 0"]


@pytest.mark.slow
def test_processes_that_forget_at_once_report_no_error(place):
    """Emptying the write-ahead log while another process does so is refused by SQLite at once."""
    code = (
        "import sys\n"
        "from normface.gallery import open_gallery\n"
        "with open_gallery(sys.argv[1]) as gallery:\n"
        "    print(all(gallery.forget(f'{sys.argv[2]}{i}').wiped for i in range(25)))\n"
    )
    with open_gallery(place) as gallery:
        gallery.enrol_many(Enrolments([f"{a}{i}" for a in "abc" for i in range(25)], drawn(0, 75)))
    run = [
        subprocess.Popen(
            [sys.executable, "-c", code, place, who], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for who in "abc"
    ]
    assert [process.communicate() for process in run] == [("True\n", "")] * 3
    with open_gallery(place) as gallery:
        assert gallery.people() == []


def test_a_forked_child_searches_and_enrols(place):
    with open_gallery(place) as gallery:
        gallery.enrol("Ann", drawn(0, 1))
        assert gallery.search(drawn(0, 1)[0])[0].person == "Ann"
        source, sink = os.pipe()
        child = os.fork()
        if not child:
            try:
                found = gallery.search(drawn(0, 1)[0])[0].person
                gallery.enrol("Bo", drawn(1, 1))
                gallery.forget("Ann")
                gallery.close()
                os.write(sink, found.encode())
            finally:
                os._exit(0)
        os.close(sink)
        try:
            with os.fdopen(source) as pipe:
                assert select.select([pipe], [], [], 60)[0], "the child hangs"
                assert pipe.read() == "Ann"
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        assert [match.person for match in gallery.search(drawn(1, 1)[0])] == ["Bo"]
        gallery.enrol("Cy", drawn(2, 1))
        assert [event.action for event in gallery.audit()].count("enrol") == 3


def test_read_only(place):
    with open_gallery(place) as gallery:
        gallery.enrol("Ann", drawn(0, 1))
    before = place.read_bytes()
    with open_gallery(place, read_only=True) as gallery:
        assert gallery.search(drawn(0, 1)[0])[0].person == "Ann"
        assert next(gallery.export()).people == ["Ann"]
        with pytest.raises(ConfigError, match="read-only"):
            gallery.enrol("Bo", drawn(1, 1))
    assert place.read_bytes() == before
    with pytest.raises(InputError, match="nothing there"):
        open_gallery(place.with_name("none.db"), read_only=True)


def test_read_only_on_a_read_only_disk(place):
    with open_gallery(place) as gallery:
        gallery.enrol("Ann", drawn(0, 1))
    code = (
        "import sys, numpy as np\n"
        "from normface.gallery import open_gallery\n"
        "with open_gallery(sys.argv[1], read_only=True) as gallery: print(gallery.search(np.ones(32))[0].person)\n"
    )
    folder = place.parent
    mount = f'mount --bind {folder} {folder} && mount -o remount,ro,bind {folder} && exec "$@"'
    unshare = ["unshare", "-rm", "sh", "-c", mount, "sh"]
    if not shutil.which("unshare") or subprocess.run([*unshare, "true"], capture_output=True).returncode:
        pytest.skip("needs to mount a folder read-only")
    assert python(code, place, before=unshare) == "Ann\n"


def test_without_the_key(place, tmp_path):
    """Listing, forgetting, the log and backups need no templates, so no key; searching does."""
    with open_gallery(place, key=KEY) as gallery:
        gallery.enrol("Ann", drawn(0, 2))
        gallery.enrol("Bo", drawn(1, 1), thumbnail=[b"jpeg"])
        assert b"jpeg" not in place.read_bytes()
    with open_gallery(place, templates=False) as gallery:
        assert gallery.templates("Bo")[0].thumbnail is None
        assert [(p.name, p.templates) for p in gallery.people()] == [("Ann", 2), ("Bo", 1)]
        assert len(gallery) == 3
        assert gallery.forget("Ann") == 2
        gallery.backup(tmp_path / "backup.db")
        assert [event.action for event in gallery.audit()] == ["create", "enrol", "enrol", "forget"]
        for call in (
            lambda: gallery.search(drawn(1, 1)[0]), lambda: gallery.enrol("Cy", drawn(2, 1)),
            lambda: gallery.rename("Bo", "Bob"), lambda: list(gallery.export()),
        ):  # fmt: skip
            with pytest.raises(ConfigError):
                call()
        assert len(gallery) == 1
    with open_gallery(tmp_path / "backup.db", key=KEY) as gallery:
        assert gallery.search(drawn(1, 1)[0])[0].person == "Bo"
        assert [event.sealed for event in gallery.audit()] == [True, True, True, False, True]


def test_mistakes_with_paths_and_keys(place, monkeypatch, tmp_path):
    with open_gallery(place) as gallery:
        gallery.enrol("Ann", drawn(0, 1))
        whole = place.read_bytes()
        for path in (place, place.parent / "." / "people.db", place.with_name("people.db-wal")):
            with pytest.raises(InputError, match="other than the gallery's own"):
                gallery.backup(path)
        for folder in (".", tmp_path):
            with pytest.raises(InputError, match="a file"):
                gallery.backup(folder)
        assert place.read_bytes() == whole
    for call in (
        lambda: len(gallery),
        lambda: gallery.enrol("Bo", drawn(1, 1)),
        lambda: gallery.search(drawn(0, 1)[0]),
    ):
        with pytest.raises(InputError, match="one that was closed; open it again"):
            call()
    for empty in ("", "  "):
        monkeypatch.setenv("NORMFACE_GALLERY_KEY", empty)
        with pytest.raises(ConfigError, match="a key in NORMFACE_GALLERY_KEY, got nothing"):
            open_gallery(tmp_path / "new.db")
    assert not (tmp_path / "new.db").exists()
    monkeypatch.delenv("NORMFACE_GALLERY_KEY")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    open_gallery("file:~/x.db").close()
    assert (tmp_path / "home" / "x.db").exists()
    with pytest.raises(InputError, match="divide milliseconds by 1000"):
        Enrolments(["Ann"], drawn(0, 1), time=[1.79e12])


def test_an_error_before_the_first_enrolment_leaves_no_file(place):
    with pytest.raises(InputError), open_gallery(place) as gallery:
        gallery.enrol("A\nb", drawn(0, 1))
    assert list(place.parent.iterdir()) == []
    with suppress(InputError), open_gallery(place) as gallery:
        gallery.enrol("Ann", drawn(0, 1))
        gallery.enrol("A\nb", drawn(0, 1))
    with open_gallery(place, create=False) as gallery:
        assert len(gallery) == 1
