"""What people have in their hands → faces, vectors, decisions, galleries; copies of an Embedder anywhere."""

import asyncio
import copy
import io
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.embed.networks import network, vector

from normface.data import open_reader, read_image
from normface.data.synthetic import face, photograph
from normface.embed import Embedder, FaceGallery, FaceRecord, Network, pytorch
from normface.errors import ConfigError, DataError, FaceError, InputError, ModelError
from normface.types import Embeddings

PEOPLE = [photograph(0, person, 0, strength=0.3) for person in range(3)]
GROUP = np.concatenate(PEOPLE, 1)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return network(tmp_path_factory.mktemp("model") / "m.onnx")


@pytest.fixture(scope="module")
def embedder(model):
    return Embedder.load(model)


@pytest.fixture(scope="module")
def forms(tmp_path_factory):
    path = tmp_path_factory.mktemp("forms") / "one.png"
    Image.fromarray(PEOPLE[0]).save(path)
    return {
        "str": str(path), "Path": path, "bytes": path.read_bytes(), "file": path.open("rb"), "PIL": Image.open(path),
        "array": PEOPLE[0], "float": PEOPLE[0] / 255, "tensor": torch.from_numpy(np.moveaxis(PEOPLE[0], 2, 0).copy()),
    }  # fmt: skip


class TestFaces:
    def test_one_record_a_face(self, embedder):
        found = embedder.faces(GROUP)
        assert len(found) == 3
        for each in found:
            assert isinstance(each, FaceRecord)
            assert np.linalg.norm(each.vector) == pytest.approx(1)
            assert each.crop.shape == (112, 96, 3)
            assert (each.found, each.landmarks.shape) == (3, (5, 2))
            assert each.box == each.face.box
            assert each.score == each.face.score
            assert each.quality == each.score  # there are no conditions
            assert 30 < each.eye_distance < 60
            assert each.norm > 0
        assert sorted(each.box[0] // 250 for each in found) == [0, 1, 2]
        (middle,) = embedder.faces(GROUP, faces="center")
        assert middle.box[0] // 250 == 1

    def test_none(self, embedder):
        assert embedder.faces(np.zeros((90, 90, 3), np.uint8)) == []

    def test_every_form_gives_the_same_vector(self, embedder, forms):
        wanted = embedder.faces(PEOPLE[0])[0].vector
        for name, picture in forms.items():
            (found,) = embedder.faces(picture)
            np.testing.assert_array_equal(found.vector, wanted, err_msg=name)
        (found,) = embedder.faces(PEOPLE[0][..., ::-1], order="BGR")
        np.testing.assert_array_equal(found.vector, wanted)

    def test_a_crop_is_what_the_caller_says(self, embedder):
        crop = face(0, 0, 0)
        (found,) = embedder.faces(crop, aligned=True)
        assert (found.face, found.box, found.landmarks, found.score, found.eye_distance) == (None,) * 5
        assert found.quality == 1
        with pytest.raises(InputError, match="align the photographs first"):
            embedder.faces(PEOPLE[0], aligned=True)


class TestEmbed:
    def test_pictures_of_mixed_sizes_and_forms(self, embedder, forms):
        large = np.pad(PEOPLE[1], ((40, 0), (0, 90), (0, 0)), mode="edge")
        found = embedder.embed([forms["bytes"], large, forms["Path"], GROUP])
        assert found.ids.tolist() == ["0", "1", "2", "3"]
        np.testing.assert_array_equal(found.vectors[0], embedder.faces(PEOPLE[0])[0].vector)
        np.testing.assert_array_equal(found.vectors[2], found.vectors[0])
        np.testing.assert_array_equal(found.vectors[3], embedder.faces(GROUP, faces="center")[0].vector)
        assert embedder.embed(forms["str"]).ids.tolist() == [forms["str"]]

    def test_crops_only_where_the_caller_says_so(self, embedder, forms, tmp_path):
        crop = face(0, 0, 0)
        with pytest.warns(DeprecationWarning, match="say aligned=True"):
            old = embedder.embed(crop)
        new = embedder.embed(crop, aligned=True)
        np.testing.assert_array_equal(old.vectors, new.vectors)
        Image.fromarray(crop).save(tmp_path / "crop.png")
        np.testing.assert_array_equal(embedder.embed([tmp_path / "crop.png"], aligned=True).vectors, new.vectors)
        np.testing.assert_array_equal(
            embedder.embed(PEOPLE[0], aligned=False).vectors, embedder.embed([forms["str"]]).vectors
        )

    def test_a_reader_of_photographs(self, embedder, drawn):
        reader = open_reader(drawn / "lfw" / "lfw-raw-fold1.zip").select([0, 3])
        found = embedder.embed(reader, aligned=False)
        assert found.ids.tolist() == reader.ids.tolist()
        np.testing.assert_array_equal(found.vectors[1], embedder.embed([reader.read(3 - 2)]).vectors[0])

    def test_errors_name_the_picture(self, embedder, forms, tmp_path):
        Image.fromarray(np.zeros((90, 90, 3), np.uint8)).save(tmp_path / "night.png")
        with pytest.raises(FaceError, match=r"a face in .*night\.png, got none found"):
            embedder.embed([forms["str"], str(tmp_path / "night.png")])
        with pytest.raises(DataError, match=r"gone\.jpg"):
            embedder.embed("gone.jpg")
        with pytest.raises(InputError, match="at least one image"):
            embedder.embed([])
        with pytest.raises(ConfigError, match="call Embedder.faces"):
            embedder.embed(GROUP, aligned=False, faces="all")


class TestVerify:
    def test_the_match_says_what_was_seen(self, embedder, forms):
        match = embedder.verify(forms["str"], GROUP)
        assert match.found == (1, 3)
        assert match.faces[1].box[0] // 250 == 1
        vectors = [embedder.faces(PEOPLE[0])[0].vector, embedder.faces(GROUP, faces="center")[0].vector]
        assert match.score == pytest.approx(float(vectors[0] @ vectors[1]), abs=1e-6)
        with pytest.raises(FaceError, match=r"a face in the second, got none"):
            embedder.verify(forms["bytes"], np.zeros((90, 90, 3), np.uint8))

    def test_every_face_with_every_face_best_first(self, embedder):
        matches = embedder.compare(GROUP, PEOPLE[2])
        assert [match.score for match in matches] == sorted((match.score for match in matches), reverse=True)
        assert [match.found for match in matches] == [(3, 1)] * 3
        assert matches[0].faces[0].box[0] // 250 == 2
        assert matches[0].score > 0.99
        assert embedder.verify(GROUP, PEOPLE[2], faces="all") == matches[0]


class TestFuse:
    def test_a_weighted_mean_of_unit_vectors(self):
        vectors = np.array([[3.0, 0], [0, 0.5]])
        np.testing.assert_allclose(Embedder.fuse(vectors), [2**-0.5, 2**-0.5], atol=1e-7)
        np.testing.assert_allclose(Embedder.fuse(vectors, [3, 4]), [0.6, 0.8], atol=1e-7)
        np.testing.assert_allclose(Embedder.fuse(vectors, [1, 0]), [1, 0], atol=1e-7)

    @pytest.mark.parametrize(
        ("vectors", "weights"),
        [(np.ones(3), None), (np.empty((0, 3)), None), (np.ones((2, 3)), [1]), (np.ones((2, 3)), [1, -1]),
         (np.ones((2, 3)), [0, 0]), ([[1, 0], [-1, 0]], None), ([[np.nan, 1]], None), (np.ones((1, 2)), [np.nan])],
    )  # fmt: skip
    def test_what_has_no_mean(self, vectors, weights):
        with pytest.raises(InputError, match="vectors"):
            Embedder.fuse(vectors, weights)


class TestGallery:
    def test_photographs_in_and_people_out(self, embedder, forms, tmp_path):
        with embedder.open_gallery(tmp_path / "people.db") as people:
            assert isinstance(people, FaceGallery)
            people.enrol("Ann", [forms["str"], forms["PIL"]], consent="form 12")
            people.enrol("Bob", PEOPLE[1])
            assert len(people) == 4  # two of Ann and their mean, one of Bob
            first, second = people.search(PEOPLE[1][..., ::-1], order="BGR")
            assert (first.person, second.person) == ("Bob", "Ann")
            assert first.score == pytest.approx(1, abs=1e-6)
            assert first.found == (1,)
            seen = people.search_all(GROUP[:, :500])
            assert {matches[0].person for _, matches in seen} == {"Ann", "Bob"}
            assert people.verify("Ann", forms["bytes"]).decision is True
            assert people.gallery.model == embedder.sha256

    def test_two_faces_that_may_be_meant(self, embedder, tmp_path):
        with embedder.open_gallery(tmp_path / "people.db") as people:
            with pytest.raises(FaceError, match=r"got 3 plausible ones; choose one by --faces"):
                people.enrol("Ann", GROUP)
            (seen,) = people.enrol("Ann", GROUP, faces="largest")
            assert seen.found == 3
            with pytest.raises(ConfigError, match="center, largest or best"):
                people.enrol("Ann", GROUP, faces="all")
            with pytest.raises(ConfigError, match="search_all"):
                people.search(GROUP, faces="all")
            for call in (people.search, lambda it: people.enrol("Bob", it), lambda it: people.verify("Ann", it)):
                with pytest.raises(FaceError, match="a face in the photograph, got none"):
                    call(np.zeros((90, 90, 3), np.uint8))


class Crops(torch.utils.data.Dataset):
    """Vectors computed where a DataLoader's worker is."""

    def __init__(self, embedder):
        self.embedder = embedder

    def __len__(self):
        return 4

    def __getitem__(self, i):
        return torch.from_numpy(vector(self.embedder, PEOPLE[i % 3]))


class TestCopies:
    """Whatever process or thread an Embedder comes to, it computes the same bits."""

    def test_pickle_and_deepcopy(self, embedder):
        wanted = vector(embedder, PEOPLE[0])  # its detector exists now, and goes along
        for twin in (pickle.loads(pickle.dumps(embedder)), copy.deepcopy(embedder), copy.copy(embedder)):
            assert twin.sha256 == embedder.sha256
            assert twin.operating_point == embedder.operating_point
            np.testing.assert_array_equal(vector(twin, PEOPLE[0]), wanted)

    def test_a_model_that_changed_meanwhile(self, tmp_path):
        path = network(tmp_path / "m.onnx")
        kept = pickle.dumps(Embedder.load(path))
        network(path, groups=9)
        with pytest.raises(ModelError, match="as it was when it was loaded"):
            pickle.loads(kept)
        path.unlink()
        with pytest.raises(ModelError, match="put the file back"):
            pickle.loads(kept)

    def test_a_model_of_pytorch(self):
        from normface import models

        model = models.build("smallresnet", channels=(4, 8, 8, 8), units=(1, 1, 1), dim=16).eval()
        made = Embedder(Network(pytorch.torch_runner(model), model.spec, "ab"))
        np.testing.assert_array_equal(vector(pickle.loads(pickle.dumps(made)), PEOPLE[0]), vector(made, PEOPLE[0]))

    @pytest.mark.slow
    @pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
    def test_processes(self, embedder, method):
        wanted = vector(embedder, PEOPLE[0])
        with ProcessPoolExecutor(1, multiprocessing.get_context(method)) as pool:
            for found in pool.map(vector, [embedder], PEOPLE):
                np.testing.assert_array_equal(found, wanted)

    @pytest.mark.slow
    def test_workers_of_a_data_loader(self, embedder):
        rows = torch.cat(list(torch.utils.data.DataLoader(Crops(embedder), batch_size=2, num_workers=2))).numpy()
        for row, found in enumerate(rows):
            np.testing.assert_array_equal(found, vector(embedder, PEOPLE[row % 3]))

    def test_threads_and_asyncio(self, embedder, model):
        wanted = vector(embedder, PEOPLE[0])
        fresh = Embedder.load(model)  # its detector is made by whichever thread comes first
        with ThreadPoolExecutor(4) as pool:
            for found in pool.map(vector, [fresh] * 8, [PEOPLE[0]] * 8):
                np.testing.assert_array_equal(found, wanted)

        async def several():
            return await asyncio.gather(*(asyncio.to_thread(vector, embedder, PEOPLE[0]) for _ in range(4)))

        for found in asyncio.run(several()):
            np.testing.assert_array_equal(found, wanted)


def test_the_default_model_on_the_examples():
    folder = Path(__file__).parents[2] / "examples" / "photographs"
    embedder = Embedder.load()
    found = embedder.embed(sorted(folder.glob("ann-*.jpg")))
    assert isinstance(found, Embeddings)
    (record,) = embedder.faces(folder / "ann-1.jpg")
    assert record.quality == 1 - record.assessment.risk
    turned = io.BytesIO()
    Image.fromarray(np.rot90(read_image(folder / "ann-1.jpg"))).save(turned, "PNG")
    match = embedder.verify(folder / "ann-1.jpg", turned.getvalue())
    assert match.score > 0.99  # the very same photograph, lying on its side
    assert [each.turn for each in match.faces] == [0, 90]
