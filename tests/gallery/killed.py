"""Enrols until it is killed, fifty times over; run by test_faults. Prints one JSON line for each time.

Each enroller is forked from here, so that a time costs milliseconds; another fork checks before the next one.
"""

import json
import os
import random
import signal
import sys
import time
import traceback

import numpy as np

from normface.gallery import open_gallery

DIM = 64


def vectors(name):
    """The templates of the person called so: one to three."""
    number = int(name)
    return np.random.default_rng(number).standard_normal((1 + number % 3, DIM)).astype(np.float32)


def enrol(place, first, pipe):
    """Enrol people for ever; each is acknowledged on the pipe once `enrol` has returned."""
    with open_gallery(place) as gallery:
        os.write(pipe, b"open\n")
        for number in range(first, first + 10_000):
            gallery.enrol(str(number), vectors(str(number)))
            os.write(pipe, b"%d\n" % number)


def forked(work, *arguments):
    """Run work in a child that ends without coming back."""
    child = os.fork()
    if not child:
        code = 1
        try:
            work(*arguments)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return child


def check(place, acknowledged, last):
    """Everybody acknowledged is there, whole, and found; at most one more, whole too."""
    kept = {}
    with open_gallery(place) as gallery:
        for part in gallery.export():
            for name, row in zip(part.people, part.vectors, strict=True):
                kept.setdefault(name, []).append(row)
        assert set(acknowledged) <= set(kept), "acknowledged and lost"
        assert len(set(kept) - set(acknowledged)) <= last, "never asked for"
        for name, rows in kept.items():
            expected = vectors(name)
            expected /= np.linalg.norm(expected, axis=1, keepdims=True)
            np.testing.assert_allclose(rows, expected, atol=1e-6)
        names = list(kept)
        if not names:
            return
        whole = np.concatenate([np.stack(kept[name]) for name in names]).astype(np.float64)
        owners = [name for name in names for _ in kept[name]]
        for name in names[:: max(1, len(names) // 5)]:
            query = vectors(name)[0] + np.float32(0.5)
            assert gallery.search(query, 1)[0].person == owners[int(np.argmax(whole @ query))]
        sum(1 for _ in gallery.audit())  # its chain is whole


def main(place, times, seed):
    """Kill, check, and again."""
    rng, acknowledged, first = random.Random(seed), [], 0
    for time_ in range(times):
        source, sink = os.pipe()
        child = forked(enrol, place, first, sink)
        os.close(sink)
        with os.fdopen(source, "rb") as pipe:
            told = [pipe.readline() for _ in range(rng.randrange(4))]
            time.sleep(rng.random() * 0.01)
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            new = [line.strip().decode() for line in [*told, *pipe] if line.strip().isdigit()]
        acknowledged += new
        first = int(new[-1]) + 2 if new else first + 1  # whoever was under way may be there: never again
        _, status = os.waitpid(forked(check, place, acknowledged, time_ + 1), 0)
        print(json.dumps({"acknowledged": len(new), "intact": status == 0}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
