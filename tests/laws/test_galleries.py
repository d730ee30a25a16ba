"""What holds of every gallery: after any sequence of calls it answers as a brute-force search over the same people."""

import gc
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.gallery import postgres
from tests.gallery.conftest import brute_force, drawn, unit

from normface.errors import InputError, ModelError
from normface.gallery import Enrolments, Gallery, open_gallery

pytestmark = pytest.mark.slow

DIM = 16
KINDS = {
    "embedded": lambda folder: ("file:" + str(folder / "people.db"), None),
    "sealed": lambda folder: ("file:" + str(folder / "people.db"), b"k" * 32),
    "milvus": lambda folder: ("milvus:" + str(folder / "people.milvus.db"), None),
    "postgres": lambda folder: (postgres.new_url(), None),
    "qdrant": lambda folder: ("qdrant:" + str(folder / "people.qdrant"), None),
}
NAMES = st.sampled_from(["Ann", "Bö", "../../etc/passwd", "李 雷", "O'Neill \"; DROP TABLE people; --", "e\u0301"])
SEEDS = st.integers(0, 40)  # few, so that vectors come twice and scores are tied


class Law(RuleBasedStateMachine):
    kind: str

    @initialize()
    def begin(self):
        self.folder = tempfile.TemporaryDirectory()
        self.url, self.key = KINDS[self.kind](Path(self.folder.name))
        self.gallery = open_gallery(self.url, model="m", key=self.key)
        self.enrolled = {}

    def expect(self, name, rows):
        name = {"e\u0301": "é"}.get(name, name)
        self.enrolled[name] = np.concatenate([self.enrolled.get(name, np.zeros((0, DIM), np.float32)), rows])

    @rule(name=NAMES, seed=SEEDS, count=st.integers(1, 3))
    def enrol(self, name, seed, count):
        rows = drawn(seed, count, DIM)
        assert len(set(self.gallery.enrol(name, rows))) == count
        self.expect(name, rows)

    @rule(names=st.lists(NAMES, min_size=1, max_size=6), seed=SEEDS)
    def enrol_many(self, names, seed):
        rows = drawn(seed, len(names), DIM)
        self.gallery.enrol_many(Enrolments(names, rows))
        for name, row in zip(names, rows, strict=True):
            self.expect(name, row[None])

    @rule(seed=SEEDS, k=st.integers(1, 7), exact=st.sampled_from([None, True, False]))
    def search(self, seed, k, exact):
        query = drawn(seed, 1, DIM)[0]
        found = self.gallery.search(query, k, exact=exact)
        expected = brute_force(self.enrolled, query, k)
        np.testing.assert_allclose([m.score for m in found], [score for _, score in expected], atol=2e-6)
        everybody = dict(brute_force(self.enrolled, query, 99))
        assert len({m.person for m in found}) == len(found)
        for match in found:  # whoever is named has this score, also where scores are tied
            assert match.score == pytest.approx(everybody[match.person], abs=2e-6)

    @rule(name=NAMES, seed=SEEDS)
    def verify(self, name, seed):
        query, known = drawn(seed, 1, DIM)[0], {"e\u0301": "é"}.get(name, name)
        if known in self.enrolled:
            expected = brute_force({known: self.enrolled[known]}, query, 1)[0][1]
            assert self.gallery.verify(name, query).score == pytest.approx(expected, abs=2e-6)
        else:
            with pytest.raises(InputError, match="enrolled"):
                self.gallery.verify(name, query)

    @rule(name=NAMES)
    def forget(self, name):
        known = {"e\u0301": "é"}.get(name, name)
        if known in self.enrolled:
            assert self.gallery.forget(name) == len(self.enrolled.pop(known))
        else:
            with pytest.raises(InputError, match="enrolled"):
                self.gallery.forget(name)

    @rule()
    def compact(self):
        self.gallery.compact()

    @rule()
    def reopen(self):
        self.gallery.close()
        self.gallery = open_gallery(self.url, model="m", key=self.key)

    @precondition(lambda self: self.enrolled)
    @rule()
    def export(self):
        found = {}
        for part in self.gallery.export():
            for name, row in zip(part.people, part.vectors, strict=True):
                found.setdefault(name, []).append(row)
        assert {name: len(rows) for name, rows in found.items()} == {n: len(r) for n, r in self.enrolled.items()}
        for name, rows in found.items():
            kept = unit(self.enrolled[name]).astype(np.float32)
            np.testing.assert_allclose(sorted(map(tuple, rows)), sorted(map(tuple, kept)), atol=1e-7)

    @invariant()
    def counts(self):
        assert isinstance(self.gallery, Gallery)
        assert len(self.gallery) == sum(map(len, self.enrolled.values()))
        people = {p.name: p.templates for p in self.gallery.people()}
        assert people == {name: len(rows) for name, rows in self.enrolled.items()}

    def teardown(self):
        self.gallery.close()
        gc.collect()
        self.folder.cleanup()


@pytest.fixture(autouse=True)
def available(request):
    """Skip what is not installed here."""
    kind = request.node.callspec.params["kind"]
    if kind == "postgres":
        postgres.server()
    for name, module in (("milvus", "pymilvus"), ("qdrant", "qdrant_client")):
        if kind == name:
            pytest.importorskip(module)


def follow_the_law(kind, examples, steps):
    law = type(f"Law_{kind}", (Law,), {"kind": kind})
    run_state_machine_as_test(
        law,
        settings=settings(max_examples=examples, stateful_step_count=steps, deadline=None, derandomize=True,
                          suppress_health_check=list(HealthCheck)),
    )  # fmt: skip


@pytest.mark.parametrize(("kind", "examples"), [("embedded", 3), ("sealed", 3), ("postgres", 2), ("qdrant", 1)])
def test_like_brute_force(kind, examples):
    follow_the_law(kind, examples, 10)


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("kind", "examples"), [("embedded", 20), ("sealed", 20), ("milvus", 4), ("postgres", 10), ("qdrant", 4)]
)
def test_like_brute_force_at_length(kind, examples):
    follow_the_law(kind, examples, 25)


@pytest.mark.parametrize("kind", ["embedded", "milvus", "postgres", "qdrant"])
def test_another_model(kind, tmp_path):
    url, key = KINDS[kind](tmp_path)
    with open_gallery(url, model="the first", key=key) as gallery:
        gallery.enrol("Ann", drawn(0, 2))
        with pytest.raises(ModelError, match="length 32.*length 31"):
            gallery.enrol("Bo", drawn(0, 1, 31))
        with pytest.raises(ModelError, match="length 32.*length 31"):
            gallery.search(drawn(0, 1, 31)[0])
    with pytest.raises(ModelError, match="the second.*the first"):
        open_gallery(url, model="the second", key=key)
    with open_gallery(url, key=key) as gallery:
        assert (gallery.model, gallery.dim, len(gallery)) == ("the first", 32, 2)


@pytest.mark.parametrize("kind", ["embedded", "milvus", "postgres", "qdrant"])
def test_to_another_model_without_a_break(kind, tmp_path):
    url, key = KINDS[kind](tmp_path)
    old, new = {"Ann": drawn(1, 2), "Bo": drawn(2, 1)}, {"Ann": drawn(3, 1, 24), "Bo": drawn(4, 2, 24)}
    with (
        open_gallery(url, model="the first", key=key) as gallery,
        open_gallery(url, model="the first", key=key) as other,
    ):
        for name, rows in old.items():
            gallery.enrol(name, rows)
        migration = gallery.migrate("the second")
        assert migration.missing() == ["Ann", "Bo"]
        migration.enrol("Ann", new["Ann"])
        assert other.search(old["Bo"][0], 1)[0].person == "Bo"  # both answer as before
        assert gallery.search(old["Ann"][1], 1)[0].score == pytest.approx(1)
        with pytest.raises(InputError, match="Bo"):
            migration.switch()
        with pytest.raises(ModelError, match="the third.*the second"):
            gallery.migrate("the third")
        migration = gallery.migrate("the second")  # goes on
        assert migration.missing() == ["Bo"]
        migration.enrol("Bo", new["Bo"])
        assert migration.switch() == 3
        assert (gallery.model, gallery.dim, len(gallery)) == ("the second", 24, 3)
        assert gallery.search(new["Bo"][1], 1)[0].person == "Bo"
        with pytest.raises(ModelError, match="the first.*the second"):
            other.search(old["Ann"][0])
    with open_gallery(url, model="the second", key=key) as gallery:
        assert gallery.search(new["Ann"][0], 1)[0].person == "Ann"
        migration = gallery.migrate("the third")
        migration.enrol("Ann", drawn(5, 1, 8))
        assert migration.abandon() == 1
        assert len(gallery) == 3
