"""One path for all verbs: the same photograph gives the same vector to the last bit, however it is asked for."""

import asyncio
import json

import cv2
import numpy as np
import pytest
import simplejpeg
from PIL import Image
from tests.embed.networks import network

from normface.data.synthetic import photograph
from normface.embed import Embedder
from normface.serve.engine import Engine
from normface.types import Embeddings

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return network(tmp_path_factory.mktemp("model") / "m.onnx")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Photographs looked at whole, reduced, and reduced but cut at a larger size; and one that lies on its side."""
    place = tmp_path_factory.mktemp("photographs")
    small = photograph(0, 0, 0, strength=0.3)
    large = cv2.resize(small, (1100, 1100), interpolation=cv2.INTER_CUBIC)
    far = np.full((1100, 1300, 3), 120, np.uint8)
    far[300:700, 400:800] = cv2.resize(small, (400, 400), interpolation=cv2.INTER_CUBIC)
    for name, image in {"small": small, "large": large, "far": far, "turned": np.rot90(small)}.items():
        (place / f"{name}.jpg").write_bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(image), 92))
    return place


@pytest.mark.slow
def test_every_verb_computes_the_same_vector(model, folder, run, tmp_path):
    embedder, files = Embedder.load(model), sorted(folder.glob("*.jpg"))
    records = {file.name: embedder.faces(file, faces="center")[0] for file in files}
    wanted = np.stack([each.vector for each in records.values()])
    assert [each.face.turn for each in records.values()] == [0, 0, 0, 90]

    np.testing.assert_array_equal(embedder.embed(files).vectors, wanted)

    assert run("embed", folder, "--out", tmp_path / "v.npz", "--images", "photographs", "--model", model)[0] == 0
    found = Embeddings.load(tmp_path / "v.npz")
    assert [name.rpartition("/")[2] for name in found.ids.tolist()] == list(records)
    np.testing.assert_array_equal(found.vectors, wanted)

    assert run("align", folder, tmp_path / "crops", "--template", "112x96", "--format", "png")[0] == 0
    crops = [tmp_path / "crops" / f"{file.stem}.png" for file in files]
    np.testing.assert_array_equal(embedder.embed(crops, aligned=True).vectors, wanted)

    engine = Engine(embedder, workers=1, batch=4, max_pixels=10_000_000)
    served = [seen for (seen,) in asyncio.run(engine.see([(file.name, file.read_bytes()) for file in files]))]
    engine.close()
    np.testing.assert_array_equal(np.stack([each.vector for each in served]), wanted)
    assert [each.face.box for each in served] == [each.box for each in records.values()]

    place = ["--gallery", f"file:{tmp_path / 'people.db'}", "--model", model]
    for file in files:
        assert run("enrol", file.stem, file, *place, "--twin")[0] == 0
    for file, vector in zip(files, wanted, strict=True):
        code, out, _ = run("search", file, *place, "-k", 1, "--json")
        told = json.loads(out)
        assert (code, told["matches"][0]["person"]) == (0, file.stem)
        assert told["face"]["box"] == [round(side, 2) for side in records[file.name].box]
        _, out, _ = run("verify", file, files[0], "--model", model, "--json")
        assert json.loads(out)["score"] == embedder.verify(file, files[0]).score
        assert json.loads(out)["score"] == pytest.approx(float(vector @ wanted[0]), abs=1e-6)


class TestFaces:
    @pytest.fixture
    def group(self, tmp_path):
        image = np.concatenate([photograph(0, person, 0, strength=0.3) for person in range(3)], 1)
        Image.fromarray(image).save(tmp_path / "group.png")
        return tmp_path / "group.png"

    def test_verify_says_which_face_and_compares_all(self, model, folder, group, run, tmp_path):
        code, out, _ = run("verify", group, folder / "small.jpg", "--model", model)
        assert code == 0
        assert f"{group}: 3 faces seen, used the one at 3" in out  # the middle one
        assert "eyes" in out
        words = ["--model", model, "--faces", "all", "--json", "--draw", tmp_path / "drawn.png"]
        code, out, _ = run("verify", group, folder / "small.jpg", *words)
        told = json.loads(out)
        assert [each["found"] for each in told["faces"]] == [3, 1]
        scores = [each["score"] for each in told["pairs"]]
        assert scores == sorted(scores, reverse=True)
        assert len(scores) == 3
        assert told["pairs"][0]["faces"][0]["box"][0] < 250  # the first person
        assert Image.open(tmp_path / "drawn.png").size == (1000, 250)
        _, out, _ = run("verify", group, folder / "small.jpg", "--model", model, "--faces", "all")
        assert "all 3 pairs of faces, best first" in out

    def test_enrol_asks_and_search_names_all(self, model, folder, group, run, tmp_path):
        place = ["--gallery", f"file:{tmp_path / 'people.db'}", "--model", model]
        code, _, err = run("enrol", "Ann", group, *place)
        assert code == 2
        assert "one face in" in err
        assert "--faces center, largest or best" in err
        assert not (tmp_path / "people.db").exists()
        code, out, _ = run("enrol", "Bob", group, *place, "--faces", "center")
        assert code == 0
        assert "3 faces seen" in out
        assert run("enrol", "Ann", folder / "small.jpg", *place, "--twin")[0] == 0
        code, out, _ = run("search", group, *place, "--faces", "all", "--json")
        told = json.loads(out)["faces"]
        named = {int(each["face"]["box"][0] // 250): each["matches"][0]["person"] for each in told}
        assert (len(told), named[0], named[1]) == (3, "Ann", "Bob")
        assert run("search", group, *place, "--faces", "all", "--draw", tmp_path / "drawn.png")[0] == 0
        assert Image.open(tmp_path / "drawn.png").size == (750, 250)

    def test_mistakes(self, model, folder, run, tmp_path):
        pair = [folder / "small.jpg", folder / "small.jpg", "--model", model]
        for words, told in (
            (["verify", *pair, "--faces", "both"], "--faces among center, largest, best, all"),
            (["verify", *pair, "--draw", tmp_path / "o.jpg"], "OUT.png"),
            (["verify", *pair, "--draw", tmp_path / "none" / "o.png"], "to write"),
            (["enrol", "Ann", *pair, "--faces", "all"], "one face of each photograph"),
            (["enrol", "Ann", *pair, "--keep", "some"], "templates among each, fused, both"),
        ):
            code, _, err = run(*words)
            assert code == 2, words
            assert told in err
            assert err.count("\n") == 1
