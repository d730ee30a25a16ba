"""Batches over requests: the numbers of the bare Embedder, each photograph's fault its own."""

import asyncio
import gc
import io
import os
import re
import select
import signal
import struct
import sys
import threading
import time
import zlib

import numpy as np
import pytest
from PIL import Image
from tests.serve.conftest import jpeg

from normface.data.decoding import decode
from normface.data.synthetic import face, photograph
from normface.embed import Embedder
from normface.errors import DataError, FaceError, InputError
from normface.serve.engine import Engine, check_scans

pytestmark = pytest.mark.slow


@pytest.fixture
def engine(model):
    sizes = []
    engine = Engine(
        Embedder.load(model),
        workers=2,
        batch=4,
        max_pixels=10_000_000,
        observe=lambda size, seconds: sizes.append(size),
    )
    engine.sizes = sizes
    yield engine
    engine.close()


def see(engine, *photographs, **options):
    """The face of each photograph."""
    found = asyncio.run(engine.see([(f"photograph {i}", data) for i, data in enumerate(photographs)], **options))
    return [each for (each,) in found]


def test_equals_the_embedder(engine, faces):
    found = see(engine, *faces[0], *faces[1])
    for data, seen in zip([*faces[0], *faces[1]], found, strict=True):
        alone = engine.embedder
        crop = alone.crop(decode(data, "x"))
        np.testing.assert_array_equal(seen.crop, crop[0])
        np.testing.assert_allclose(seen.vector, alone.embed(crop, aligned=True).vectors[0], atol=1e-6)
        assert seen.norm == pytest.approx(alone.embed(crop, aligned=True).norms[0], rel=1e-5)
        assert seen.found == 1
    engine.close()  # sizes are told behind the answers
    assert sum(engine.sizes) == 4


@pytest.fixture
def held(engine, monkeypatch):
    """An event that the engine's two workers wait for, each with the first batch that it takes."""
    go_on, see = threading.Event(), engine._see
    monkeypatch.setattr(engine, "_see", lambda jobs: (go_on.wait(), see(jobs)))
    return go_on


def test_many_requests_share_batches(engine, faces, held):
    async def all_at_once():
        requests = asyncio.gather(*(engine.see([("one", faces[i % 3][0])]) for i in range(16)))
        await asyncio.sleep(0)
        held.set()
        return await requests

    found = asyncio.run(all_at_once())
    engine.close()
    assert sum(engine.sizes) == 16
    assert max(engine.sizes) == 4
    for i, ((seen,),) in enumerate(found):
        np.testing.assert_allclose(seen.vector, found[i % 3][0][0].vector, atol=1e-6)


def test_a_fault_is_one_photographs_own(engine, faces):
    async def all_at_once():
        uploads = [faces[0][0], b"no image", jpeg(np.zeros((100, 100, 3), np.uint8)), faces[1][0]]
        return await asyncio.gather(*(engine.see([("it", data)]) for data in uploads), return_exceptions=True)

    first, second, third, fourth = asyncio.run(all_at_once())
    assert first[0][0].found == fourth[0][0].found == 1
    assert isinstance(second, DataError)
    assert isinstance(third, FaceError)


def test_a_batch_that_fails_is_done_one_by_one(engine, faces, monkeypatch):
    whole = engine.embedder.features

    def features(crops, *rest):
        if len(crops) > 1:
            raise MemoryError
        return whole(crops, *rest)

    monkeypatch.setattr(engine.embedder, "features", features)
    assert len(see(engine, *faces[0], *faces[1])) == 4
    monkeypatch.setattr(engine.embedder, "features", lambda crops, *rest: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        see(engine, *faces[0])
    assert engine.alive


def test_aligned_crops(engine):
    crop = face(0, 0, 0)
    (seen,) = see(engine, jpeg(crop), aligned=True)
    assert seen.face is None
    np.testing.assert_allclose(seen.vector, engine.embedder.embed(jpeg(crop), aligned=True).vectors[0], atol=1e-6)
    with pytest.raises(InputError, match="align the photographs first"):
        see(engine, jpeg(photograph(0, 0, 0)), aligned=True)


def test_large_photographs_are_looked_at_reduced_and_told_in_their_own_pixels(engine, faces):
    small = decode(faces[0][0], "x")
    large = jpeg(np.asarray(Image.fromarray(small).resize((2000, 2000), Image.Resampling.BICUBIC)))
    (near,), (far,) = see(engine, faces[0][0]), see(engine, large)
    np.testing.assert_allclose((far.face.landmarks + 0.5) / 8 - 0.5, near.face.landmarks, atol=2.0)
    assert far.vector @ near.vector > 0.98


def png(width, height):
    """A PNG whose few bytes claim so many pixels."""
    chunks = {b"IHDR": struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0), b"IDAT": zlib.compress(b""), b"IEND": b""}
    each = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks.items())
    return b"\x89PNG\r\n\x1a\n" + b"".join(each)


def test_too_many_pixels_are_refused_before_they_are_decoded(engine, faces):
    with pytest.raises(DataError, match="9000 × 9000 pixels, more than 10,000,000"):
        see(engine, png(9000, 9000))
    with pytest.raises(DataError, match="more than"):
        see(engine, png(60000, 60000))
    bomb = bytearray(faces[0][0])
    frame = bomb.index(b"\xff\xc0") + 5
    bomb[frame : frame + 4] = struct.pack(">HH", 60000, 60000)
    with pytest.raises(DataError, match="60000 × 60000 pixels"):
        see(engine, bytes(bomb))


def test_a_jpeg_of_a_thousand_scans():
    with pytest.raises(DataError, match="at most 64 scans"):
        check_scans(b"\xff\xd8" + 1000 * b"\xff\xda\x00\x08\x01\x01\x00\x00\x01\x00", "it")


def test_a_photograph_that_is_refused_is_not_kept(engine, faces):
    """Not even until the garbage collector runs: errors hold frames, and those would hold megabytes of uploads."""

    async def refused(data):
        with pytest.raises((DataError, FaceError)):
            await engine.see([("it", data), ("another", faces[0][0])])

    gc.disable()
    try:
        for data in (b"no image" + bytes(9), jpeg(np.zeros((100, 100, 3), np.uint8)), faces[0][0][:3000]):
            before = sys.getrefcount(data)
            asyncio.run(refused(data))
            time.sleep(0.1)  # a worker drops its last batch
            assert sys.getrefcount(data) <= before
    finally:
        gc.enable()


def test_what_was_given_up_is_not_begun(engine, faces, held):
    async def give_up():
        tasks = [asyncio.create_task(engine.see([("it", faces[0][0])])) for _ in range(40)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(give_up())
    held.set()
    engine.close()
    assert sum(engine.sizes) <= 8  # a batch of four for each of two workers
    assert engine.waiting == 0
    assert not engine.alive


def test_closing_finishes_what_waits(engine, faces):
    async def go():
        task = asyncio.create_task(engine.see([("it", faces[0][0])] * 6))
        await asyncio.sleep(0)
        await asyncio.to_thread(engine.close)
        return await task

    assert len(asyncio.run(go())) == 6


def test_a_forked_child_has_threads_of_its_own(engine, faces):
    """As in servers that load the application before they fork their workers, such as gunicorn --preload."""
    see(engine, faces[0][0])
    source, sink = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(sink, see(engine, faces[0][0])[0].vector.tobytes())
        finally:
            os._exit(0)
    os.close(sink)
    try:
        with os.fdopen(source, "rb") as pipe:
            assert select.select([pipe], [], [], 60)[0], "the child hangs"
            told = pipe.read()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert told == see(engine, faces[0][0])[0].vector.tobytes()


def test_a_file_that_needs_too_much_memory_is_told_how_small_to_be(model):
    """Of a WebP each pixel may take 30 bytes: the size that is named is one that is taken, and the next is not."""
    engine = Engine(Embedder.load(model), workers=1, batch=1, max_pixels=50_000_000, memory=24 << 20)
    try:

        def sized(width, height):
            file = io.BytesIO()
            Image.new("RGB", (width, height)).save(file, "WEBP")
            return file.getvalue()

        with pytest.raises(DataError, match=r"at most 24 MiB.*2000 × 1000.*pixels, or as") as told:
            see(engine, sized(2000, 1000))
        width, height = map(int, re.search(r"at most (\d+) × (\d+) pixels", str(told.value)).groups())
        assert width * height < 24 * 2**20 / 30
        with pytest.raises(FaceError):
            see(engine, sized(width, height))
        with pytest.raises(DataError, match="MiB"):
            see(engine, sized(width + width // 9, height + height // 9))
    finally:
        engine.close()
