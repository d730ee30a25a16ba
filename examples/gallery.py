"""A private gallery: enrol, search and forget people, with random vectors instead of a network. Runs in a second."""

import os
import tempfile
from pathlib import Path

import numpy as np

from normface.gallery import Enrolments, open_gallery

rng = np.random.default_rng(0)
people = {f"person {number}": rng.standard_normal(512) for number in range(200)}


def photographs(person: str, count: int) -> np.ndarray:
    """Simulated features of `count` photographs of a person."""
    return people[person] + 0.8 * rng.standard_normal((count, 512))


with tempfile.TemporaryDirectory() as folder:
    place, key = f"file:{folder}/people.db", os.urandom(32)  # store a key separately from the gallery

    with open_gallery(place, model="sha256 of the weights", key=key) as gallery:
        gallery.enrol("person 0", photographs("person 0", 3), consent="form 12 of 2026-11-24")
        names = [name for name in people if name != "person 0" for _ in range(2)]
        gallery.enrol_many(Enrolments(names, np.concatenate([photographs(name, 1) for name in names])))
        print(f"{len(gallery.people())} people, {len(gallery)} templates")

        for match in gallery.search(photographs("person 7", 1)[0], k=3):
            print(f"  {match.person}: cosine {match.score:.3f}")  # with an operating point: match.decision
        print(f"person 0 against themselves: {gallery.verify('person 0', photographs('person 0', 1)[0]).score:.3f}")

        gallery.backup(Path(folder, "backup.db"))
        print(f"{gallery.forget('person 0')} templates of person 0 erased")
        for event in list(gallery.audit())[-3:]:
            print(f"  {event.number} {event.action} {event.person} ({event.detail})")

    with open_gallery(place, key=key) as gallery:  # another network: new vectors for everybody, while searches continue
        migration = gallery.migrate("sha256 of other weights")
        for name in migration.missing():
            migration.enrol(name, rng.standard_normal((1, 256)))
        print(f"{migration.switch()} old templates erased; vectors now have {gallery.dim} numbers")
