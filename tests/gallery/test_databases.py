"""Galleries in PostgreSQL, Qdrant and Milvus: what the laws of galleries do not say."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from tests.gallery import postgres
from tests.gallery.conftest import KEY, brute_force, drawn, unit

from normface.errors import ConfigError, DataError, InputError
from normface.gallery import Enrolments, acting, milvus, open_gallery
from normface.types import Estimate, OperatingPoint

pytestmark = pytest.mark.slow

KINDS = {
    "postgres": lambda folder: postgres.new_url(),
    "qdrant": lambda folder: f"qdrant:{folder / 'people'}",
    "milvus": lambda folder: f"milvus:{folder / 'people.db'}",
}


@pytest.fixture(params=KINDS)
def url(request, tmp_path):
    for kind, module in (("qdrant", "qdrant_client"), ("milvus", "pymilvus")):
        if request.param == kind:
            pytest.importorskip(module)
    return KINDS[request.param](tmp_path)


@pytest.fixture
def database():
    return postgres.new_url()


def test_what_is_kept_is_what_was_given(url):
    rows, times = drawn(0, 5, 64), np.array([1e9, 1.1e9, 1.2e9, 1.3e9, 1.4e9])
    consent = [None, "a", "b", None, None]
    some = Enrolments(["Bo", "Ann", "Ann", "ann", "Cy"], rows, [0.5, np.nan, 2, 3, 4], times, consent)
    with open_gallery(url, model="m") as gallery, acting("key 12"):
        numbers = gallery.enrol_many(some)
        assert numbers == sorted(set(numbers))
        assert [(p.name, p.templates, p.enrolled.timestamp()) for p in gallery.people()] == [
            ("Ann", 3, 1.1e9), ("Bo", 1, 1e9), ("Cy", 1, 1.4e9),
        ]  # fmt: skip
        found = gallery.templates("ANN")
        assert [(t.number, t.quality, t.time.timestamp()) for t in found] == [
            (numbers[1], None, 1.1e9), (numbers[2], 2, 1.2e9), (numbers[3], 3, 1.3e9),
        ]  # fmt: skip
        (part,) = gallery.export()
        order = np.argsort(part.time)
        assert np.array_equal(part.vectors[order], unit(rows).astype(np.float32))  # to the last bit
        assert part.select(order).consent == consent
        ann = gallery.person("Ann")
        assert gallery.person(ann.id) == ann
        assert gallery.people(after=ann.id, limit=1)[0].name == "Bo"
        assert gallery.people(prefix="c")[0].name == "Cy"
        gallery.forget(ann.id)
        events = list(gallery.audit())
    assert [(event.action, event.person) for event in events] == [
        *[("enrol", name) for name in ("Bo", "Ann", "ann", "Cy")], ("export", None), ("forget", "Ann"),
    ]  # fmt: skip
    assert [event.number for event in events] == list(range(1, 7))
    assert {event.actor for event in events} == {None if url.startswith("milvus") else "key 12"}


def test_questions_before_an_enrolment(url):
    """As an embedded gallery asks them; the cosines are made: 1, 0.8, 0.6 and 0."""
    far = Estimate(0.001, 0, 0.002, 3000)
    point = OperatingPoint(0.7, 0.001, far, Estimate(0.9, 0.8, 1.0, 3000), "lfw", "m", "d")
    axes = np.eye(4)
    ann, like_ann, unlike_ann = axes[0], 0.8 * axes[0] + 0.6 * axes[1], 0.6 * axes[0] + 0.8 * axes[2]
    hashes = ["a" * 64, "b" * 64]
    with open_gallery(url, operating_point=point) as gallery:
        assert gallery.search(ann) == []
        assert gallery.doubts(Enrolments(["Ann"], ann[None])) == []
        gallery.enrol("Ann", ann, source=hashes[:1])
        gallery.enrol("Bo", axes[3], source=hashes[1:])
        assert gallery.sources([*hashes, "c" * 64, "' or 1 = 1"]) == {hashes[0]: {"Ann"}, hashes[1]: {"Bo"}}
        assert gallery.templates("Ann")[0].source == hashes[0]
        assert sorted(source for part in gallery.export() for source in part.source) == hashes
        for name, row, source, kind, other, score in [
            ("ann", ann, None, "duplicate", None, 1.0), ("Ann", like_ann, hashes[0], "duplicate", None, 0.8),
            ("Cy", like_ann, None, "known", "Ann", 0.8), ("Ann", unlike_ann, None, "unlike", None, 0.6),
            ("Ann", like_ann, None, None, None, None), ("Cy", unlike_ann, None, None, None, None),
            ("Cy", axes[1], hashes[1], "known", "Bo", 1.0),
        ]:  # fmt: skip
            found = gallery.doubts(Enrolments([name], row[None], source=[source]))
            assert [(each.kind, each.other) for each in found] == ([(kind, other)] if kind else [])
            if kind:
                assert found[0].score == pytest.approx(score, abs=1e-6)
        assert [match.decision for match in gallery.search(like_ann)] == [True, False]
        assert gallery.search(axes[1])[0].decision is False
        searches = [(event.person, event.detail) for event in gallery.audit() if event.action == "search"]
    assert searches == [
        (None, "empty"), ("Ann", "best of 2: cosine 0.8000"), (None, "best of 2: cosine 0.0000, rejected"),
    ]  # fmt: skip


def test_one_person_with_more_templates_than_are_asked_for_hides_nobody(url):
    near = np.ones((40, 8)) + 0.01 * drawn(1, 40, 8)
    enrolled = {"Ann": near} | {f"p{i}": drawn(10 + i, 1, 8) for i in range(5)}
    with open_gallery(url) as gallery:
        for name, rows in enrolled.items():
            gallery.enrol(name, rows)
        found = gallery.search(np.ones(8), 4)
        expected = brute_force(enrolled, np.ones(8), 4)
        assert [match.person for match in found] == [name for name, _ in expected]
        np.testing.assert_allclose([match.score for match in found], [score for _, score in expected], atol=1e-6)
        for match in found:
            assert gallery.verify(match.person, np.ones(8)).score == match.score


def test_threads_enrol_search_and_forget_together(url):
    failures = []

    def work(number):
        try:
            for turn in range(5):
                name, row = f"{number}-{turn}", drawn(100 * number + turn, 1)[0]
                gallery.enrol(name, row)
                assert gallery.search(row, 1)[0].person == name
                if turn % 2:
                    gallery.forget(name)
        except Exception as error:
            failures.append(error)

    with open_gallery(url) as gallery:
        gallery.enrol("first", drawn(99, 1)[0])
        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
        assert len(gallery) == 1 + 4 * 3


def test_what_databases_do_not_offer_is_said_in_one_line(url, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"expected a gallery at .*, or enrol people first"):
        open_gallery(url, create=False)
    with pytest.raises(ConfigError, match="cannot search encrypted templates"):
        open_gallery(url, key=KEY)
    with open_gallery(url) as gallery:
        with pytest.raises(DataError, match="a backup function"):
            gallery.backup(tmp_path / "copy")
        for call in (lambda: gallery.tag("Ann", ["staff"]), lambda: gallery.rename("Ann", "Bo")):
            with pytest.raises(ConfigError, match="use file:PATH"):
                call()


# PostgreSQL.


def test_a_process_is_killed_and_loses_nothing_and_others_write_meanwhile(database):
    code = (
        "import sys, numpy as np\n"
        "from normface.gallery import open_gallery\n"
        "gallery = open_gallery(sys.argv[1], model='m')\n"
        "for number in range(10_000):\n"
        "    gallery.enrol(f'{sys.argv[2]}-{number}', np.random.default_rng(number).standard_normal((2, 32)))\n"
        "    print(number, flush=True)\n"
    )
    others = [
        subprocess.Popen([sys.executable, "-c", code, database, name], stdout=subprocess.PIPE, text=True)
        for name in ("a", "b")
    ]
    told = [[other.stdout.readline() for _ in range(20)][-1] for other in others]
    with open_gallery(database, model="m") as gallery:
        gallery.enrol("mine", drawn(1000, 1))
        for other in others:
            other.kill()
            other.communicate()
        assert told == ["19\n", "19\n"]
        people = {person.name: person.templates for person in gallery.people()}
        assert people.pop("mine") == 1
        assert set(people.values()) == {2}
        assert {f"{name}-{number}" for name in "ab" for number in range(20)} <= set(people)
        assert len(gallery) == 1 + 2 * len(people)
        assert gallery.search(drawn(7, 2)[1], 1)[0].score == pytest.approx(1)


def test_all_templates_of_a_call_or_none(database, monkeypatch):
    with open_gallery(database) as gallery:
        gallery.enrol("Ann", drawn(0, 1))
        monkeypatch.setattr(gallery._database, "note", lambda *notes: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            gallery.enrol("Bo", drawn(1, 3))
        with pytest.raises(ZeroDivisionError):
            gallery.forget("Ann")
        monkeypatch.undo()
        assert [p.name for p in gallery.people()] == ["Ann"]
        assert len(gallery) == 1


def test_the_server_ends_all_connections(database):
    with open_gallery(database) as gallery:
        gallery.enrol("Ann", drawn(0, 1))
        with postgres.connect() as db:
            db.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'normface'")
        free = gallery._database._free
        free[:] = [(used - 10, connection) for used, connection in free]  # idle for ten seconds
        assert gallery.search(drawn(0, 1)[0], 1)[0].person == "Ann"


def test_a_forked_child_has_connections_of_its_own(database):
    with open_gallery(database) as gallery:
        gallery.enrol("Ann", drawn(0, 1))
        child = os.fork()
        if not child:
            found = gallery.search(drawn(0, 1)[0], 1)
            os._exit(0 if found[0].person == "Ann" else 1)
        assert gallery.search(drawn(0, 1)[0], 1)[0].person == "Ann"
        assert os.waitpid(child, 0)[1] == 0
        assert gallery.verify("Ann", drawn(0, 1)[0]).score == pytest.approx(1)


def test_an_index_that_the_docs_name_is_used_and_exact_searches_do_without(database):
    enrolled = {f"p{i}": drawn(i, 1) for i in range(300)}
    query = drawn(1000, 1)[0]
    with open_gallery(database) as gallery:
        gallery.enrol_many(Enrolments(list(enrolled), np.concatenate(list(enrolled.values()))))

        def scans():
            with gallery._database._connection() as db:
                db.execute("SELECT pg_stat_force_next_flush()")
                used = "SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = 'people_near'"
                return db.execute(used).fetchone()[0]

        with gallery._database._connection() as db:
            db.execute(
                "CREATE INDEX people_near ON normface_templates USING hnsw ((vector::vector(32)) vector_ip_ops) "
                "WHERE version = 1"
            )
            db.execute("SET seq_page_cost = 1000")  # so small a table is read faster without
        expected = [name for name, _ in brute_force(enrolled, query, 5)]
        assert [match.person for match in gallery.search(query, 5, exact=True)] == expected
        assert scans() == 0
        assert len(gallery.search(query, 5)) == 5
        assert scans() == 1
        assert len(gallery.search(query, 60)) == 40  # as many as the index gives by itself
        with gallery._database._connection() as db:
            db.execute("SET hnsw.iterative_scan = strict_order")
        assert len(gallery.search(query, 60)) == 60


def test_a_server_that_is_not_there_is_one_line_without_the_password():
    pytest.importorskip("psycopg")
    with pytest.raises(DataError, match="check that PostgreSQL is running") as caught:
        open_gallery("postgres://ann:secret@127.0.0.1:1/people")
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="postgres://USER@HOST/DATABASE"):
        open_gallery("postgres:here")


# Qdrant.


def test_a_qdrant_server_that_is_not_there_is_one_line():
    pytest.importorskip("qdrant_client")
    with pytest.raises(DataError, match="Qdrant to answer at http://127.0.0.1:1"):
        open_gallery("qdrant://127.0.0.1:1")


def test_a_write_that_fails_midway_leaves_nothing(tmp_path, monkeypatch):
    pytest.importorskip("qdrant_client")
    from normface.gallery import qdrant

    monkeypatch.setattr(qdrant, "POINTS_AT_ONCE", 2)
    with open_gallery(f"qdrant:{tmp_path / 'people'}") as gallery:
        gallery.enrol("Ann", drawn(0, 1))
        upsert, calls = gallery._database._folder.client.upsert, []

        def fail(*arguments, **options):
            calls.append(1)
            if len(calls) == 2:
                raise OSError("disk full")
            return upsert(*arguments, **options)

        monkeypatch.setattr(gallery._database._folder.client, "upsert", fail)
        with pytest.raises(DataError, match="disk full"):
            gallery.enrol("Bo", drawn(1, 5))
        assert [p.name for p in gallery.people()] == ["Ann"]


# Milvus.


def test_a_collection_without_hashes_of_photographs_goes_on(tmp_path, monkeypatch):
    pytest.importorskip("pymilvus")
    url, create = f"milvus:{tmp_path / 'people.db'}", milvus.Milvus._create

    def as_before(self, name, fields, *others, **options):
        create(self, name, {field: kind for field, kind in fields.items() if field != "source"}, *others, **options)

    monkeypatch.setattr(milvus.Milvus, "_create", as_before)
    monkeypatch.setattr(milvus.Milvus, "_has", lambda self, version, column: column != "source")
    with open_gallery(url) as gallery:
        gallery.enrol("Ann", drawn(0, 1))
    monkeypatch.undo()
    with open_gallery(url) as gallery:
        gallery.enrol("Bo", drawn(1, 1), source=["a" * 64])
        assert gallery.sources(["a" * 64]) == {}
        assert gallery.templates("Bo")[0].source is None
        assert [part.people for part in gallery.export()] == [["Ann", "Bo"]]
