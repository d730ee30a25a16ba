"""Enrols, searches and forgets in many processes at once, then compares with brute force; run by test_mixed.

Arguments: the gallery, the number of processes, seconds. Prints one line of JSON.
"""

import json
import os
import random
import sys
import tempfile
import time
import traceback
import zlib
from collections import Counter
from pathlib import Path

import numpy as np

from normface.gallery import open_gallery

DIM = 32


def vectors(name):
    """The templates of the person called so: one to three."""
    seed = zlib.crc32(name.encode())
    return np.random.default_rng(seed).standard_normal((1 + seed % 3, DIM)).astype(np.float32)


def work(url, number, seconds, told):
    """What one process does; it alone changes its people."""
    rng, mine, done, wrong = random.Random(number), [], Counter(), []
    with open_gallery(url) as gallery:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            drawn, somebody = rng.random(), rng.choice(mine) if mine else None
            action = "enrol" if drawn < 0.3 or not somebody else "forget" if drawn < 0.4 else "search"
            try:
                if action == "enrol":
                    somebody = f"{number}-{done['enrol']}"
                    gallery.enrol(somebody, vectors(somebody))
                    mine.append(somebody)
                elif action == "forget":
                    assert gallery.forget(somebody) == len(vectors(somebody))
                    mine.remove(somebody)
                match = next(iter(gallery.search(vectors(somebody)[-1], 1)), None)
                found = match is not None and match.person == somebody and match.score > 0.9999
                assert found == (action != "forget"), f"{somebody} after {action}: {match}"
            except Exception:
                wrong.append(traceback.format_exc())
            done[action] += 1
    told.write_text(json.dumps({"mine": mine, "done": done, "wrong": wrong}))


def main(url, processes, seconds):
    """Let them work, and compare what they left."""
    with tempfile.TemporaryDirectory() as folder:
        places = [Path(folder, str(number)) for number in range(processes)]
        for number, place in enumerate(places):
            if not os.fork():
                try:
                    work(url, number, seconds, place)
                except BaseException:
                    place.write_text(json.dumps({"mine": [], "done": {}, "wrong": [traceback.format_exc()]}))
                finally:
                    os._exit(0)
        for _ in places:
            os.wait()
        told = [json.loads(place.read_text()) for place in places]
    left = [name for each in told for name in each["mine"]]
    rows = {name: vectors(name) / np.linalg.norm(vectors(name), axis=1, keepdims=True) for name in left}
    whole, owners = np.concatenate(list(rows.values())), [name for name in left for _ in rows[name]]
    wrong = [text for each in told for text in each["wrong"]]
    with open_gallery(url) as gallery:
        kept = Counter(name for part in gallery.export() for name in part.people)
        agreed = 0
        for query in np.random.default_rng(0).standard_normal((50, DIM)):
            match = gallery.search(query, 1)[0]
            scores = whole @ query / np.linalg.norm(query)
            agreed += match.person == owners[int(scores.argmax())] and abs(match.score - scores.max()) < 2e-6
        logged = Counter(event.action for event in gallery.audit())  # raises where its chain is broken
    done = sum((Counter(each["done"]) for each in told), Counter())
    same = kept == Counter(owners) and all(logged[action] == done[action] for action in ("enrol", "forget"))
    print(json.dumps({"done": done, "wrong": wrong, "as_the_oracle": same, "searches_that_agree": int(agreed)}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
