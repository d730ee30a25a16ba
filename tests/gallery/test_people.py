"""What is done with people in an embedded gallery: names, ids, templates, questions at enrolment, the log, exports."""

import os
import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from tests.gallery.conftest import KEY, brute_force, drawn

from normface.errors import ConfigError, DataError, InputError
from normface.gallery import Enrolments, PersonId, acting, open_gallery, settle
from normface.gallery.archive import load_archive, save_archive
from normface.gallery.names import checked_name, folded, near
from normface.types import Estimate, OperatingPoint

POINT = OperatingPoint(0.5, 0.001, Estimate(0.001, 0, 0.002, 3000), Estimate(0.9, 0.8, 1, 3000), "lfw", "m", "d")


@pytest.fixture(params=[None, KEY], ids=["plain", "sealed"])
def gallery(request, place):
    with open_gallery(place, key=request.param) as opened:
        yield opened


def turned(row, cosine, seed):
    """A vector at this cosine to another."""
    side = drawn(seed, 1, len(row))[0]
    side -= side @ row / (row @ row) * row
    return cosine * row / np.linalg.norm(row) + np.sqrt(1 - cosine**2) * side / np.linalg.norm(side)


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        (" Ann\u00a0 Lee ", "Ann Lee"),  # NBSP
        ("مه\u200cدی", "مه\u200cدی"),  # ZWNJ, as Persian writes it
        ("ශ්\u200dරී", "ශ්\u200dරී"),  # ZWJ, as Sinhala writes it
        ("e\u0301", "é"), ("..", ".."), ("a/b", "a/b"), ("👩\u200d🚀", "👩\u200d🚀"), ("Lee\u2028Ann", "Lee Ann"),
    ],
)  # fmt: skip
def test_names_as_they_are_written(name, kept):
    assert checked_name(name) == kept


def test_equal_and_near_names():
    """Equal by Unicode's caseless matching; near by letters alone, as in UTS 39's skeletons but for look-alikes."""
    assert folded("STRASSE") == folded("straße")
    assert folded("E\u0301ve") == folded("éVE")
    assert folded("Ann") != folded("Anne")
    assert near("Lee, Ann") == near("ann lee") == near("Ànn-Lee") == near("ANN\u200d LEE")
    assert near("Ann") != near("Anne")
    assert near("李雷") != near("李蕾")


def test_one_person_whatever_the_spelling(gallery):
    for number, name in enumerate(["Ann Lee", " ann  lee", "ANN LEE "]):
        gallery.enrol(name, drawn(number, 1))
    (person,) = gallery.people()
    assert (person.name, person.templates) == ("Ann Lee", 3)
    assert gallery.verify("ann lee", drawn(2, 1)[0]).person == "Ann Lee"
    assert gallery.forget(person.id) == 3
    with pytest.raises(InputError, match="the id of an enrolled person"):
        gallery.forget(person.id)
    with pytest.raises(InputError, match="16 hexadecimal digits"):
        PersonId.parse("../x")


def test_pages_by_name(gallery):
    names = ["b", "B2", "a", "é", "Bo"]
    gallery.enrol_many(Enrolments(names, drawn(0, 5)))
    gallery.tag("b", ["x"])
    gallery.tag("Bo", ["x"])
    listed = [person.name for person in gallery.people()]
    assert listed == sorted(names, key=folded)
    pages, after = [], None
    while page := gallery.people(after=after, limit=2):
        pages += [person.name for person in page]
        after = page[-1].id
    assert pages == listed
    assert [person.name for person in gallery.people(prefix="B")] == ["b", "B2", "Bo"]
    assert [person.name for person in gallery.people(prefix="b", tag="x")] == ["b", "Bo"]


def test_templates_are_listed_removed_moved_and_found_at_once(gallery, place, request):
    """Every change is seen by another reader of the same file, whose index follows."""
    rows = drawn(0, 6)
    key = KEY if "sealed" in request.node.name else None
    with open_gallery(place, key=key) as other:
        numbers = gallery.enrol("Ann", rows[:4], quality=[1, 2, 3, 4], source=[f"{i:064x}" for i in range(4)],
                                thumbnail=[b"jpeg", None, None, None])  # fmt: skip
        gallery.enrol("Bo", rows[4:], consent="form")
        enrolled = {"Ann": rows[:4], "Bo": rows[4:]}

        def agree():
            for each in (gallery, other):
                for row in rows:
                    found = [(m.person, pytest.approx(m.score, abs=1e-6)) for m in each.search(row, 9)]
                    assert brute_force(enrolled, row, 9) == found

        agree()
        listed = gallery.templates("ann")
        assert [t.number for t in listed] == numbers
        assert [t.quality for t in listed] == [1, 2, 3, 4]
        assert [t.source for t in listed] == [f"{i:064x}" for i in range(4)]
        assert [t.thumbnail for t in listed] == [b"jpeg", None, None, None]
        assert gallery.remove("Ann", numbers[1]) == 1
        enrolled["Ann"] = rows[[0, 2, 3]]
        agree()
        with pytest.raises(InputError, match=f"template {numbers[1]}"):
            gallery.remove("Ann", numbers[1])
        cy = gallery.split("Ann", [numbers[0], numbers[3]], "Cy")
        assert (cy.name, cy.templates) == ("Cy", 2)
        enrolled |= {"Ann": rows[[2]], "Cy": rows[[0, 3]]}
        agree()
        assert [t.thumbnail for t in gallery.templates("Cy")] == [b"jpeg", None]
        with pytest.raises(InputError, match="the last one; forget the person"):
            gallery.remove("Ann", numbers[2])
        for wrong in ([], [numbers[2]], [numbers[0]]):
            with pytest.raises(InputError, match="some but not all"):
                gallery.split("Ann", wrong, "Di")
        gallery.tag("Cy", ["night"])
        merged = gallery.merge("Cy", "Bo")
        assert (merged.name, merged.templates, merged.tags, merged.consent) == ("Bo", 4, ("night",), "form")
        enrolled["Bo"] = np.concatenate([rows[4:], enrolled.pop("Cy")])
        agree()
        id = gallery.person("Bo").id
        assert gallery.rename("Bo", "Bob").id == id
        with pytest.raises(InputError, match="unused name"):
            gallery.rename("Ann", "BOB")
        enrolled["Bob"] = enrolled.pop("Bo")
        agree()
        assert other.verify("Bob", rows[0]).score == pytest.approx(1)
    actions = [event.action for event in gallery.audit() if event.action != "search"]
    assert actions == [
        "create",
        "enrol",
        "enrol",
        "remove",
        "split",
        "split",
        "tag",
        "merge",
        "merge",
        "rename",
        "verify",
    ]
    with open_gallery(place, key=key) as again:  # all rows open, and the header's count is right
        assert len(again) == 5


def test_search_by_tag_and_threshold(gallery):
    rows = drawn(0, 40)
    gallery.enrol_many(
        Enrolments([f"p{i}" for i in range(40)], rows, tags=[["even"] if i % 2 == 0 else [] for i in range(40)])
    )
    query = drawn(7, 1)[0]
    even = brute_force({f"p{i}": rows[i : i + 1] for i in range(0, 40, 2)}, query, 5)
    found = gallery.search(query, 5, tag="even")
    assert [(m.person, pytest.approx(m.score, abs=1e-6)) for m in found] == even
    assert gallery.search(query, 5, tag="nobody's") == []
    bar = even[1][1]
    assert all(match.score >= bar for match in gallery.search(query, 40, threshold=bar))


def test_who_is_enrolled_twice(place):
    ann = drawn(0, 1)[0]
    with open_gallery(place, operating_point=POINT) as gallery:
        first = Enrolments(["Ann"], ann[None], source=["a" * 64])
        assert gallery.doubts(first) == []
        gallery.enrol_many(first)
        rows = np.stack([ann, turned(ann, 0.8, 1), turned(ann, 0.3, 2), turned(ann, 0.2, 3), drawn(9, 1)[0]])
        some = Enrolments(["ANN", "Ann", "Ann", "Bo", "Bo"], rows, source=["a" * 64, *"bcde"])
        assert [(d.row, d.kind) for d in gallery.doubts(some)] == [
            (0, "duplicate"),
            (2, "unlike"),
            (3, "unlike"),
            (4, "unlike"),
        ]
        known = Enrolments(["Bo", "Ánn"], np.stack([turned(ann, 0.9, 4), drawn(11, 1)[0]]))
        doubts = gallery.doubts(known)
        assert [(d.row, d.kind, d.other) for d in doubts] == [(1, "name", "Ann"), (0, "known", "Ann")]
        assert doubts[1].score == pytest.approx(0.9, abs=1e-6)
        same = settle(known, doubts, same_person=True)
        assert (same.accepted.people, same.open) == (["Ann", "Ánn"], {})
        assert settle(known, doubts, twin=True).accepted.people == ["Bo", "Ánn"]
        asked = settle(known, doubts)
        assert (asked.accepted.people, list(asked.open)) == (["Ánn"], [0])
        assert "nearly called as Ann" in asked.warnings[0]
        batch = Enrolments(["X", "X", "Y"], np.stack([rows[4], rows[4], rows[4]]))  # within one call too
        assert [(d.row, d.kind, d.other) for d in gallery.doubts(batch)] == [(1, "duplicate", None), (2, "known", "X")]
        assert gallery.sources(["a" * 64, "f" * 64]) == {"a" * 64: {"Ann"}}
        with pytest.raises(ConfigError, match="both"):
            settle(known, doubts, same_person=True, twin=True)
        assert len(gallery) == 1  # nothing was written


def test_rejected_searches_are_logged_under_nobody(place):
    with open_gallery(place, operating_point=POINT) as gallery, acting("key 1a2b"):
        gallery.enrol("Ann", drawn(0, 1))
        gallery.search(drawn(0, 1)[0])
        gallery.search(turned(drawn(0, 1)[0], 0.3, 1))
        told = [(event.action, event.person, event.actor) for event in gallery.audit()][1:]
    assert told == [("enrol", "Ann", "key 1a2b"), ("search", "Ann", "key 1a2b"), ("search", None, "key 1a2b")]


def altered(place, *statements):
    with closing(sqlite3.connect(place)) as db:
        for trigger in ("audit_stays", "audit_holds"):
            db.execute(f"DROP TRIGGER {trigger}")
        for statement in statements:
            db.execute(statement)
        db.commit()


CUT = "DELETE FROM audit WHERE number > 2"
RESIGNED = (
    "UPDATE meta SET value = (SELECT CAST(X'0000000000000002' || hash AS BLOB) FROM audit WHERE number = 2) "
    "WHERE name = 'head'"
)


@pytest.mark.parametrize(
    ("key", "changes", "match"),
    [
        (None, [CUT], "cut after line 2"), (KEY, [CUT], "cut after line 2"),
        (KEY, [CUT, RESIGNED], "cut after line 2"),  # whoever knows the format but not the key
        (KEY, ["UPDATE audit SET seal = zeroblob(32) WHERE number = 3"], "line 3 .* not written with this"),
        (None, ["UPDATE audit SET actor = 'user else' WHERE number = 3"], "changed at line 3"),
        (None, ["DELETE FROM audit WHERE number = 1"], "changed at line 1"),
    ],
)  # fmt: skip
def test_a_log_that_was_altered(place, key, changes, match):
    with open_gallery(place, key=key) as gallery:
        for number, name in enumerate(["Ann", "Bo", "Cy"]):
            gallery.enrol(name, drawn(number, 1))
        assert len(list(gallery.audit())) == 4
    altered(place, *changes)
    with open_gallery(place, key=key) as gallery, pytest.raises(DataError, match=match):
        list(gallery.audit())


def test_an_older_copy_is_noticed_by_the_counter(place, tmp_path, monkeypatch):
    monkeypatch.setenv("NORMFACE_GALLERY_COUNTERS", str(tmp_path / "counters"))
    with open_gallery(place) as gallery:
        gallery.enrol("Ann", drawn(0, 1))
        gallery.backup(tmp_path / "old.db")
        gallery.forget("Ann")
        list(gallery.audit())
    os.replace(tmp_path / "old.db", place)
    with pytest.raises(DataError, match="an older copy, of 2 lines"):
        open_gallery(place)
    (counter,) = (tmp_path / "counters").iterdir()
    counter.unlink()  # as the message says
    with open_gallery(place) as gallery:
        assert len(gallery) == 1


def test_retention(place):
    with open_gallery(place, key=KEY) as gallery, open_gallery(place, key=KEY) as other:
        gallery.enrol("Ann", drawn(0, 1))
        gallery.enrol("Bo", drawn(1, 1))
        assert len(other) == 2
        gallery.forget("Ann")
        kept = len(list(gallery.audit()))
        assert gallery.prune(datetime(2000, 1, 1, tzinfo=UTC)) == 0
        assert gallery.prune(datetime(2100, 1, 1, tzinfo=UTC)) == kept
        (event,) = gallery.audit()
        assert (event.action, event.number) == ("prune", kept + 1)
        assert [match.person for match in other.search(drawn(0, 1)[0])] == ["Bo"]  # though no line told it so
        gallery.enrol("Cy", drawn(2, 1))
        assert [event.action for event in gallery.audit()] == ["prune", "search", "enrol"]
        assert b"Ann" not in b"".join(file.read_bytes() for file in place.parent.iterdir())
    altered(place, f"DELETE FROM audit WHERE number <= {kept + 1}",
            "UPDATE meta SET value = (SELECT X'0000000000000005' || value FROM meta) WHERE name = 'none'")  # fmt: skip
    with open_gallery(place, key=KEY) as gallery, pytest.raises(DataError, match="changed at line"):
        list(gallery.audit())


@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "sealed"])
def test_an_export_comes_back_whole(place, tmp_path, key):
    """Ids, consent, dates, tags, sources, and names with slashes."""
    with open_gallery(place) as gallery:
        names = ["a/b", "a/c", "a/b", "Zoë"]
        some = Enrolments(
            names, drawn(0, 4), [1, np.nan, 2, 3], [1e9, 1.1e9, 1.2e9, 1.3e9], ["f", None, "f", "g"],
            [f"{i:064x}" for i in range(4)], tags=[["x"], [], ["y"], []],
        )  # fmt: skip
        gallery.enrol_many(some)
        people, templates = gallery.people(), {p.name: gallery.templates(p.name) for p in gallery.people()}
        assert save_archive(tmp_path / "all.npz", gallery.export()) == (3, 4)
    assert (tmp_path / "all.npz").stat().st_mode & 0o777 == 0o600
    with open_gallery(place.with_name("new.db"), key=key) as new:
        new.enrol_many(load_archive(tmp_path / "all.npz"))
        assert new.people() == people
        for name, listed in templates.items():
            assert [replace(each, number=0) for each in new.templates(name)] == [replace(t, number=0) for t in listed]
        with pytest.raises(InputError, match="an unused id for Di"):
            new.enrol_many(Enrolments(["Di"], drawn(5, 1), ids=[people[0].id]))
