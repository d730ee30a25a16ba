"""What becomes of a gallery whose file was damaged: it is named, and a backup restored."""

import shutil
import sqlite3

import numpy as np
import pytest
from tests.gallery.conftest import KEY, drawn

from normface.errors import DataError
from normface.gallery import Enrolments, open_gallery

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "sealed"])
def test_a_corrupted_page_is_named_and_a_backup_restored(place, key):
    rows = drawn(0, 600, 512)
    with open_gallery(place, key=key) as gallery:
        gallery.enrol_many(Enrolments([f"p{i}" for i in range(600)], rows))
        gallery.backup(place.with_name("backup.db"))
        gallery.enrol("late", drawn(1, 1, 512))
    whole = place.read_bytes()
    rng, found = np.random.default_rng(0), []
    for at in [*rng.integers(4 * 16384, len(whole), 12).tolist(), len(whole) // 2]:
        broken = bytearray(whole)
        broken[at : at + 40] = rng.bytes(40)
        place.write_bytes(broken)
        try:
            with open_gallery(place, key=key) as gallery:  # what was hit may be free space: then all is as it was
                assert len(gallery) == 601
                assert gallery.search(rows[7], 1)[0].person == "p7"
        except DataError as error:
            found.append(str(error))
    assert len(found) >= 10
    assert all(str(place) in text and "restore the last backup" in text for text in found)
    broken = bytearray(whole)
    broken[5 * 16384 : 6 * 16384] = bytes(16384)  # a page of zeros
    place.write_bytes(broken)
    with pytest.raises(DataError, match="intact gallery"):
        open_gallery(place, key=key)
    shutil.copy(place.with_name("backup.db"), place)  # as docs/gallery.md says
    for tail in ("-wal", "-shm"):
        place.with_name(place.name + tail).unlink(missing_ok=True)
    with open_gallery(place, key=key) as gallery:
        assert len(gallery) == 600
        assert gallery.search(rows[7], 1)[0].person == "p7"


@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "sealed"])
def test_no_page_is_damaged_unnoticed(place, key):
    """Each page in turn lost (zeros), or overwritten by its neighbor: named at opening, or nothing is amiss."""
    rows = drawn(0, 90, 256)
    with open_gallery(place, key=key) as gallery:
        gallery.enrol_many(Enrolments([f"p{i}" for i in range(90)], rows))
        for number in range(20, 50):
            gallery.forget(f"p{number}")  # leaves free pages
        people, events = gallery.people(), list(gallery.audit())
    whole, named = place.read_bytes(), []
    pages = [whole[at : at + 16384] for at in range(0, len(whole), 16384)]
    for number in range(len(pages)):
        for other in (bytes(16384), pages[number - 1]):
            place.write_bytes(b"".join([*pages[:number], other, *pages[number + 1 :]]))
            try:
                with open_gallery(place, key=key) as gallery:
                    assert (gallery.people(), list(gallery.audit())) == (people, events)
                    for probe in (0, 19, 50, 89):
                        assert gallery.search(rows[probe], 1, exact=probe % 2 == 0)[0].person == f"p{probe}"
                        assert gallery.verify(f"p{probe}", rows[probe]).score > 0.999
            except DataError as error:
                named.append(str(error))
    assert all(str(place) in text for text in named)
    assert len(named) > len(pages)  # free pages may go; the others are more than half


def test_a_damaged_gallery_is_not_backed_up(place):
    with open_gallery(place) as gallery:
        gallery.enrol_many(Enrolments([f"p{i}" for i in range(90)], drawn(0, 90, 512)))
        gallery.compact()
        with place.open("r+b") as file:  # damaged after it was opened
            file.seek(place.stat().st_size // 16384 // 2 * 16384)
            file.write(bytes(16384))
        with pytest.raises(DataError, match="restore the last backup"):
            gallery.backup(place.with_name("backup.db"))
    assert not place.with_name("backup.db").exists()


def test_moved_rows_are_found_out(place):
    """Whoever can write the file cannot give one person's template to another."""
    with open_gallery(place, key=KEY) as gallery:
        gallery.enrol("Ann", drawn(0, 1))
        gallery.enrol("Bo", drawn(1, 1))
    with sqlite3.connect(place) as db:
        db.execute("UPDATE templates SET vector = (SELECT vector FROM templates WHERE id = 1) WHERE id = 2")
    db.close()
    with pytest.raises(DataError, match="template 2 .* not as it was written"):
        open_gallery(place, key=KEY)
