"""What an embedded gallery must survive."""

import json
import sqlite3
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from tests.gallery.conftest import KEY, brute_force, drawn, unit

from normface.errors import ConfigError, DataError, InputError, MissingDependency, ModelError, NormfaceError
from normface.gallery import Enrolments, open_gallery
from normface.gallery import store as stores
from normface.types import Estimate, OperatingPoint

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent


@pytest.mark.slow
def test_killed_while_it_enrols_twenty_times(place):
    killed = subprocess.run(
        [sys.executable, HERE / "killed.py", place, "20", "1"], capture_output=True, text=True, timeout=3000
    )
    times = [json.loads(line) for line in killed.stdout.splitlines()]
    assert len(times) == 20, killed.stderr
    assert all(each["intact"] for each in times), killed.stderr
    assert sum(each["acknowledged"] for each in times) > 20


def test_an_installation_that_cannot_search_leaves_no_file(place, monkeypatch):
    monkeypatch.setitem(sys.modules, "numkong", None)
    with pytest.raises(MissingDependency, match=r"normface\[gallery\]"):
        open_gallery(place)
    assert not place.exists()


def test_a_full_disk(place):
    with open_gallery(place, model="m") as gallery:
        gallery.enrol("Ann", drawn(0, 2))
        before = place.stat().st_size
        pages = before // 16384
        gallery._store._write.execute(f"PRAGMA max_page_count = {pages + 4}")
        with pytest.raises(DataError, match="free disk space"):
            gallery.enrol_many(Enrolments(["Bo"] * 5000, drawn(1, 5000)))
        gallery._store._write.execute("PRAGMA max_page_count = 1000000")
        assert [p.name for p in gallery.people()] == ["Ann"]
        gallery.enrol("Bo", drawn(1, 1))  # and goes on where there is space again
        assert len(gallery) == 3


def test_a_file_that_may_not_grow(place):
    """The same from the operating system: the write-ahead log itself meets a limit."""
    code = (
        "import resource, sys, numpy as np\n"
        "from normface.gallery import open_gallery, Enrolments\n"
        "from normface.errors import DataError\n"
        "gallery = open_gallery(sys.argv[1]); gallery.enrol('Ann', np.ones((1, 32)))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))\n"
        "rows = np.random.default_rng(0).normal(size=(40_000, 32))\n"
        "try: gallery.enrol_many(Enrolments(['Bo'] * len(rows), rows))\n"
        "except DataError as error: print(error)\n"
        "print([p.name for p in gallery.people()])\n"
    )
    done = subprocess.run([sys.executable, "-c", code, place], capture_output=True, text=True)
    assert "free disk space" in done.stdout, done.stderr
    assert done.stdout.splitlines()[-1] == "['Ann']"
    with open_gallery(place) as gallery:
        assert len(gallery) == 1


def test_foreign_files(place):
    place.parent.mkdir()
    place.write_bytes(b"no database " * 1000)
    with pytest.raises(DataError, match="not a database"):
        open_gallery(place)
    place.unlink()
    with sqlite3.connect(place) as db:
        db.execute("CREATE TABLE mine (x)")
    db.close()
    with pytest.raises(DataError, match="another application"):
        open_gallery(place)
    with pytest.raises(InputError, match="nothing there"):
        open_gallery(place.with_name("none.db"), create=False)
    assert not place.with_name("none.db").exists()
    with pytest.raises(ConfigError, match="milvus:"):
        open_gallery("redis:here")


def test_keys(place, monkeypatch, tmp_path):
    with open_gallery(place, key=KEY) as gallery:
        gallery.enrol("Ann", drawn(0, 1))
    for wrong in (b"x" * 32, None):
        with pytest.raises(ConfigError, match=r"the key of .*, got (another key|none)"):
            open_gallery(place, key=wrong)
    for broken in ("too short", b"x" * 31, "zz" * 32):
        with pytest.raises(ConfigError, match="64 hexadecimal digits"):
            open_gallery(place, key=broken)
    file = tmp_path / "master.key"
    file.write_text(KEY.hex() + "\n")
    for right in (KEY.hex(), str(file)):
        with open_gallery(place, key=right) as gallery:
            assert len(gallery) == 1
    monkeypatch.setenv("NORMFACE_GALLERY_KEY", KEY.hex())
    with open_gallery(place) as gallery:
        assert len(gallery) == 1
    monkeypatch.delenv("NORMFACE_GALLERY_KEY")
    plain = tmp_path / "plain.db"
    open_gallery(plain).close()
    with pytest.raises(ConfigError, match="no key"):
        open_gallery(plain, key=KEY)


def test_sealed_templates_are_nowhere_readable(place):
    rows = drawn(0, 50, 128)
    with open_gallery(place, key=KEY) as gallery:
        gallery.enrol_many(Enrolments([f"p{i}" for i in range(50)], rows))
        files = everything(place)
        for row in unit(rows).astype(np.float32):
            assert row.tobytes()[:12] not in files
            assert row.tobytes()[-12:] not in files


@pytest.mark.parametrize(
    "name", ["", "  ", "a\nb", "a\x00b", "\ud800", "x" * 201, "a\x1b[31mb", "a\u202eb", "\u200d", 7, None]
)
def test_names_that_are_refused(place, name):
    with open_gallery(place) as gallery:
        with pytest.raises(InputError, match="printable"):
            gallery.enrol(name, drawn(0, 1))
        with pytest.raises(InputError, match="printable"):
            gallery.forget(name)


def test_names_are_never_paths(place):
    names = ["../../evil", "/etc/passwd", "..", "C:\\x", "%s'; DROP TABLE people; --", "李雷", "👩‍🚀"[:1], "Zoë"]
    with open_gallery(place) as gallery:
        for number, name in enumerate(names):
            gallery.enrol(name, drawn(number, 1))
        assert sorted(p.name for p in gallery.people()) == sorted(names)
        assert gallery.search(drawn(1, 1)[0], 1)[0].person == "/etc/passwd"
    assert {p.name for p in place.parent.iterdir()} == {"people.db", "people.db-reserve"}


def test_readers_see_what_another_process_enrols(place):
    """Two processes: one enrols and forgets, this one searches meanwhile and is never wrong."""
    code = (
        "import sys, numpy as np\n"
        "from normface.gallery import open_gallery\n"
        "gallery = open_gallery(sys.argv[1])\n"
        "for number, line in enumerate(sys.stdin):\n"
        "    word, name = line.split()\n"
        "    if word == 'enrol': gallery.enrol(name, np.random.default_rng(int(name)).standard_normal((2, 32)))\n"
        "    else: gallery.forget(name)\n"
        "    print('done', flush=True)\n"
    )
    enrolled = {}
    with open_gallery(place) as gallery:
        gallery.enrol("first", drawn(0, 1))
        enrolled["first"] = drawn(0, 1)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        other = subprocess.Popen([sys.executable, "-c", code, place], **pipes)
        for word, number in [("enrol", 1), ("enrol", 2), ("forget", 1), ("enrol", 3), ("enrol", 1), ("forget", 2)]:
            other.stdin.write(f"{word} {number}\n")
            other.stdin.flush()
            assert other.stdout.readline() == "done\n"
            rows = np.random.default_rng(number).standard_normal((2, 32))
            enrolled.pop(str(number), None)
            if word == "enrol":
                enrolled[str(number)] = rows
            found = gallery.search(rows[0], 9)
            expected = brute_force(enrolled, rows[0], 9)
            assert [m.person for m in found] == [name for name, _ in expected]
            gallery.enrol(f"mine{number}", drawn(10 + number, 1))  # both may write
            enrolled[f"mine{number}"] = drawn(10 + number, 1)
        other.communicate()


def test_an_enrolment_while_another_process_checks_the_file_is_no_damage(place, monkeypatch):
    connect, late = sqlite3.connect, []
    with open_gallery(place) as other:
        other.enrol("Ann", drawn(0, 1))

        def enrol(statement):
            if "INDEXED BY people" in statement and not late:
                late.append(other.enrol("Bo", drawn(1, 1)))

        def traced(*arguments, **options):
            db = connect(*arguments, **options)
            db.set_trace_callback(enrol)
            return db

        monkeypatch.setattr(sqlite3, "connect", traced)
        with open_gallery(place) as gallery:
            assert late
            assert len(gallery) == 2


def test_a_second_writer_waits_and_then_is_told(place, monkeypatch):
    monkeypatch.setattr(stores, "WAIT", 0.3)
    with open_gallery(place) as gallery, open_gallery(place) as other:
        other.enrol("Ann", drawn(0, 1))
        with gallery._store.writing():
            match = other.search(drawn(0, 1)[0])[0]  # searches do not wait
            assert match.person == "Ann"
            with pytest.raises(DataError, match="another process writing"):
                other.enrol("Bo", drawn(1, 1))
        other.enrol("Bo", drawn(1, 1))
        assert [event.action for event in gallery.audit()].count("search") == 1  # noted late, not lost


def test_a_reader_that_holds_old_pages_is_told_of(place, monkeypatch):
    monkeypatch.setattr(stores, "WAIT", 0.3)
    with open_gallery(place) as gallery, open_gallery(place) as other:
        gallery.enrol("Ann", drawn(0, 1))
        with other._store.reading() as db:
            db.execute("SELECT count(*) FROM templates").fetchone()
            gone = gallery.forget("Ann")
            assert (gone, gone.wiped) == (1, False)  # erased, and an answer rather than an error
            assert gallery.search(drawn(0, 1)[0]) == []
            assert unit(drawn(0, 1)).astype(np.float32).tobytes() in everything(place)
        end = time.monotonic() + 20
        while place.with_name("people.db-wal").stat().st_size and time.monotonic() < end:
            time.sleep(0.1)  # a thread tries again each second
        assert unit(drawn(0, 1)).astype(np.float32).tobytes() not in everything(place)


def test_an_operating_point_decides_for_its_own_model_alone(place):
    far = Estimate(0.001, 0, 0.002, 3000)
    point = OperatingPoint(0.5, 0.001, far, Estimate(0.9, 0.8, 1.0, 3000), "lfw", "m", "d")
    with pytest.raises(ModelError, match="operating point of the model n"):
        open_gallery(place, model="n", operating_point=point)
    with open_gallery(place, operating_point=point) as gallery:
        gallery.enrol("Ann", np.eye(2)[0])
        assert gallery.model == "m"
        decisions = [gallery.verify("Ann", [np.cos(a), np.sin(a)]).decision for a in (1.0, 1.1)]
        assert decisions == [True, False]  # cosines 0.540 and 0.454
        assert gallery.search([0, 1.0])[0].decision is False


@pytest.mark.slow
def test_threads_search_and_enrol_together(place):
    rows, failures = drawn(0, 40), []

    def search():
        try:
            for number in range(60):
                match = gallery.search(rows[number % 10], 1)[0]
                assert match.person == f"p{number % 10}"
        except Exception as error:
            failures.append(error)

    with open_gallery(place) as gallery:
        gallery.enrol_many(Enrolments([f"p{i}" for i in range(10)], rows[:10]))
        threads = [threading.Thread(target=search) for _ in range(4)]
        for thread in threads:
            thread.start()
        for number in range(10, 40):
            gallery.enrol(f"p{number}", rows[number])
        gallery.forget("p30")
        for thread in threads:
            thread.join()
        assert not failures
        assert len(gallery) == 39
        assert [event.action for event in gallery.audit()].count("search") == 240


def test_a_clock_that_goes_backwards(place, monkeypatch):
    times = iter([2e9, *np.linspace(1.9e9, 1e9, 100)])
    monkeypatch.setattr(time, "time", lambda: next(times))
    with open_gallery(place) as gallery:
        gallery.enrol("Ann", drawn(0, 1))
        gallery.search(drawn(0, 1)[0])
        gallery.enrol("Bo", drawn(1, 1))
        gallery.forget("Ann")
        assert gallery.search(drawn(1, 1)[0], 9)[0].person == "Bo"
        events = list(gallery.audit())
    assert [e.number for e in events] == list(range(1, len(events) + 1))
    assert [e.action for e in events] == ["create", "enrol", "search", "enrol", "forget", "search"]
    assert all(a.time > b.time for a, b in pairwise(events))  # told as the clock told it


def everything(place):
    """All bytes of all files of the gallery."""
    return b"".join(file.read_bytes() for file in sorted(place.parent.iterdir()))


@pytest.mark.parametrize(
    ("key", "dim"),
    [
        pytest.param(None, 512, marks=pytest.mark.slow, id="plain"), pytest.param(None, 64, id="plain, short"),
        pytest.param(KEY, 64, marks=pytest.mark.slow, id="sealed"),
    ],
)  # fmt: skip
def test_no_byte_of_a_forgotten_template_is_left(place, key, dim):
    """In no file, whatever was enrolled and forgotten around it: neither vector nor what was stored for it nor key."""
    rng, rows = np.random.default_rng(0), {}
    with open_gallery(place, key=key) as gallery:
        for turn in range(8):
            names = [f"{turn}-{i}" for i in range(8)]
            for name in names:
                rows[name] = drawn(turn * 100 + names.index(name), 2, dim)
            pairs = [(name, row) for name in names for row in rows[name]]
            gallery.enrol_many(Enrolments(*map(list, zip(*pairs, strict=True))))
            query = (
                "SELECT name, vector, wrapped FROM templates JOIN people p ON p.id = person JOIN keys USING (person)"
            )
            stored = {}
            with gallery._store.reading() as db:
                for name, vector, wrapped in db.execute(query):
                    stored.setdefault(name, []).extend(filter(None, [vector, wrapped]))
            gone = rng.choice(sorted(rows), 6, replace=False).tolist()
            for name in gone:
                gallery.forget(name)
            files = everything(place)
            for name in gone:
                for row in unit(rows.pop(name)).astype(np.float32):
                    stored[name].append(row.tobytes())
                for blob in stored[name]:
                    assert not any(blob[at : at + 12] in files for at in range(0, len(blob) - 12, 160))
        assert len(gallery) == 2 * len(rows)
        size = place.stat().st_size
        gallery.compact()
        assert place.stat().st_size <= size  # less where whole pages became free
        assert len(gallery) == 2 * len(rows)
        kept = unit(next(iter(rows.values()))).astype(np.float32)
        assert (kept[0].tobytes() in everything(place)) is (key is None)  # the search for bytes does find what is there


def test_forgotten_is_out_of_memory_too(place):
    with open_gallery(place) as gallery:
        gallery.enrol_many(Enrolments(["Ann", "Bo", "Cy"], drawn(0, 3)))
        assert len(gallery) == 3
        code = gallery._index._codes[2].tobytes()
        gallery.forget("Cy")
        assert code not in gallery._index._codes.tobytes()


def test_the_log_tells_who_and_when_and_cannot_be_changed(place):
    with open_gallery(place) as gallery:
        gallery.enrol("Ann", drawn(0, 2), consent="form 12")
        gallery.search(drawn(0, 1)[0])
        gallery.verify("Ann", drawn(0, 1)[0])
        gallery.forget("Ann")
        told = [(e.action, e.person) for e in gallery.audit()]
        assert told == [("create", None)] + [(action, "Ann") for action in ("enrol", "search", "verify", "forget")]
    with sqlite3.connect(place) as db:
        for change in ("UPDATE audit SET person = 'Bo'", "DELETE FROM audit"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                db.execute(change)
        db.execute("DROP TRIGGER audit_holds")  # whoever can do that is found out all the same
        db.execute("UPDATE audit SET person = 'Bo' WHERE number = 3")
    db.close()
    with open_gallery(place) as gallery, pytest.raises(DataError, match="audit log was changed at line 3"):
        list(gallery.audit())


def broken(change):
    rows = drawn(0, 3)
    change(rows)
    return rows


@pytest.mark.parametrize(
    "rows",
    [
        broken(lambda r: r.__setitem__((1, 3), np.nan)), broken(lambda r: r.__setitem__((2, 0), np.inf)),
        broken(lambda r: r.__setitem__(0, 0)), np.zeros((0, 32)), np.array([["a"]]), np.zeros((2, 2, 2)), 3.0,
    ],
    ids=["nan", "infinity", "zeros", "no rows", "text", "three axes", "a number"],
)  # fmt: skip
def test_vectors_that_are_refused(place, rows):
    with open_gallery(place) as gallery:
        gallery.enrol("Ann", drawn(0, 1))
        with pytest.raises(NormfaceError):
            gallery.enrol("Bo", rows)
        with pytest.raises(NormfaceError):
            gallery.search(rows)
        assert [p.name for p in gallery.people()] == ["Ann"]
