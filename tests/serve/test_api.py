"""What the requests answer: scores of the bare Embedder, decisions with their certificate, people."""

import io
import json
import logging
from dataclasses import asdict, replace

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient
from tests.serve.conftest import POINT, jpeg, write_model

from normface.conditions import Conditions
from normface.data.decoding import decode
from normface.embed import Embedder
from normface.errors import ConfigError, ModelError
from normface.serve import Settings, create_app, new_key
from normface.types import Estimate, SearchPoint, SearchTable

pytestmark = pytest.mark.slow

BAD = 'Ann "<script>alert(1)</script>" / ../../etc/passwd'


def verify(client, a, b, **fields):
    return client.post("/v1/verify", files={"a": a, "b": b}, data=fields)


def enrol(client, person, *photographs, **fields):
    files = [("photographs", each) for each in photographs]
    return client.post("/v1/people", files=files, data={"person": person, **fields})


def faulty(response, status, *parts):
    told = response.json()
    assert response.status_code == status, told
    assert response.headers["content-type"] == "application/problem+json"
    assert set(told) == {"type", "title", "status", "detail", "expected", "got", "do", "request"}
    assert (told["type"][:23], told["status"]) == ("urn:normface:problem:1:", status)
    assert told["request"] == response.headers["x-request-id"]
    text = f"{told['expected']}, got {told['got']}; {told['do']}"
    for part in parts:
        assert part in text, text
    return True


class TestVerify:
    def test_is_the_embedders_verdict_with_its_certificate(self, client, model, faces):
        embedder = Embedder.load(model)
        for a, b in ((faces[0][0], faces[0][1]), (faces[0][0], faces[1][0])):
            told = verify(client, a, b).json()
            match = embedder.verify(decode(a, "a"), decode(b, "b"))
            assert told["score"] == pytest.approx(match.score, abs=1e-6)
            assert told["same"] == match.decision == (match.score >= POINT.threshold)
            assert told["operating_point"]["threshold"] == POINT.threshold
            assert told["operating_point"]["far"] == {"value": 0.008, "low": 0.002, "high": 0.02, "n": 500}
            assert told["operating_point"]["model_sha256"] == embedder.sha256
            assert told["probability"] == pytest.approx(POINT.calibration.probability(match.score))
            assert told["llr"] == pytest.approx(POINT.calibration.llr(match.score))

    def test_of_one_photograph_is_one(self, client, faces):
        told = verify(client, faces[0][0], faces[0][0]).json()
        assert told["score"] == pytest.approx(1, abs=1e-6)
        assert told["same"] is True

    def test_probability_follows_the_prior(self, client, faces):
        told = verify(client, faces[0][0], faces[0][0], prior=0.01).json()
        odds = np.exp(told["llr"]) * 0.01 / 0.99
        assert told["probability"] == pytest.approx(odds / (1 + odds))
        assert faulty(verify(client, faces[0][0], faces[0][0], prior=1), 422, "prior: Input should be less than 1")

    def test_without_an_operating_point_nothing_is_decided(self, tmp_path, faces):
        bare = write_model(tmp_path / "bare.onnx", point=None)
        with TestClient(create_app(Settings(model=bare)), base_url="http://127.0.0.1") as client:
            told = verify(client, faces[0][0], faces[0][1]).json()
            assert told["same"] is told["probability"] is told["operating_point"] is told["llr"] is None
            assert "no operating point" in told["note"]
            assert client.get("/v1/people").status_code == 404

    def test_what_the_certificate_does_not_cover_is_undecided_and_not_enrolled(self, tmp_path, faces):
        dark = Conditions({"light": (254, 255)}, ("odd",), (), ((*[0.0] * 192, -1.0),), 0.0, (-10.0,), (0.025,))
        strict = write_model(tmp_path / "strict.onnx", replace(POINT, conditions=dark))
        settings = Settings(model=strict, gallery=f"file:{tmp_path / 'people.db'}")
        with TestClient(create_app(settings), base_url="http://127.0.0.1") as client:
            assert client.get("/v1/about").json()["conditions"] is True
            told = verify(client, faces[0][0], faces[0][1]).json()
            assert (told["decision"], told["same"], told["risk"]) == ("undecided", None, 0.025)
            assert [text.split(" (")[0] for text in told["outside"]] == [
                "photograph a: too dark", "photograph b: too dark",
            ]  # fmt: skip
            assert told["faces"][0]["outside"][0].startswith("too dark")
            anyway = verify(client, faces[0][0], faces[0][0], anyway="true").json()
            assert (anyway["decision"], anyway["same"]) == ("same", True)
            assert "does not cover" in anyway["note"]
            assert faulty(enrol(client, "Ann", faces[0][0]), 422, "photograph 1: too dark", "anyway=true")
            assert enrol(client, "Ann", faces[0][0], anyway="true").status_code == 201
            found = client.post("/v1/search", files={"photograph": faces[0][0]}).json()
            assert (found["matches"][0]["decision"], found["matches"][0]["same"]) == ("undecided", None)
            found = client.post("/v1/search", files={"photograph": faces[0][0]}, data={"anyway": "true"}).json()
            assert found["matches"][0]["decision"] == "same"
            assert verify(client, faces[0][0], faces[0][0], aligned="true").status_code == 422

    def test_crops_with_landmarks_where_the_template_has_them(self, client, faces):
        told = verify(client, faces[0][0], faces[1][0], crops="true").json()
        for face in told["faces"]:
            assert face["crop"].startswith("data:image/jpeg;base64,")
            eyes = np.array(face["crop_landmarks"])[:2]
            np.testing.assert_allclose(eyes, [[38.3, 51.7], [73.5, 51.5]], atol=8)  # InsightFace's 112×112
        assert verify(client, faces[0][0], faces[1][0]).json()["faces"][0]["crop"] is None

    def test_mistakes(self, client, faces):
        ok = faces[0][0]
        assert faulty(verify(client, b"", ok), 422, "photograph a to be an image", "an empty file")
        assert faulty(verify(client, ok, b"text"), 422, "photograph b to be an image")
        assert faulty(verify(client, ok, jpeg(np.zeros((90, 90, 3), np.uint8))), 422, "a face in photograph b")
        assert faulty(verify(client, ok, ok[:2000]), 422, "photograph b")
        assert faulty(client.post("/v1/verify", files={"a": ok}), 422, "b or person", "neither")
        assert faulty(verify(client, ok, ok, person="Ann"), 422, "b or person", "both")
        assert faulty(client.post("/v1/verify"), 422, "a: Field required")
        assert faulty(client.post("/v1/verify", json={"a": 1}), 422, "a: ")
        assert faulty(client.get("/v1/verify"), 405, "another method")
        assert faulty(client.get("/v2"), 404, "a known address")
        head = {"content-type": "multipart/form-data"}
        assert faulty(client.post("/v1/verify", content=b"x", headers=head), 400, "a well-formed request")

    def test_exif_turns_are_undone(self, client, faces):
        turned = io.BytesIO()
        image, exif = Image.open(io.BytesIO(faces[0][0])).transpose(Image.Transpose.ROTATE_90), Image.Exif()
        exif[0x0112] = 6
        image.save(turned, "JPEG", quality=95, exif=exif)
        assert verify(client, faces[0][0], turned.getvalue()).json()["score"] > 0.99


class TestEmbed:
    def test_is_the_embedders_vector(self, client, model, faces):
        files = [("photographs", faces[0][0]), ("photographs", faces[1][0])]
        told = client.post("/v1/embed", files=files).json()
        embedder = Embedder.load(model)
        for vector, data in zip(told["vectors"], (faces[0][0], faces[1][0]), strict=True):
            np.testing.assert_allclose(vector, embedder.faces(data)[0].vector, atol=1e-6)
        assert (told["dim"], told["model_sha256"]) == (192, embedder.sha256)

    def test_not_too_many(self, client):
        assert faulty(client.post("/v1/embed", files=[("photographs", b"x")] * 33), 422, "at most 32 photographs")


@pytest.fixture(scope="module")
def group(faces):
    """A photograph with two faces: the first person at the left, the second, larger, at the right."""
    small, large = (decode(faces[person][0], "x") for person in (0, 1))
    large = np.asarray(Image.fromarray(large).resize([5 * side // 4 for side in large.shape[1::-1]]))
    canvas = np.full((large.shape[0], small.shape[1] + large.shape[1], 3), 128, np.uint8)
    canvas[: small.shape[0], : small.shape[1]] = small
    canvas[:, small.shape[1] :] = large
    return jpeg(canvas)


class TestFaces:
    """Which face of several, as on the command line; the oracle is the Embedder."""

    def test_verify(self, client, model, faces, group):
        embedder = Embedder.load(model)
        largest = verify(client, group, faces[1][0], faces="largest").json()
        assert largest["score"] == pytest.approx(embedder.verify(group, faces[1][0], faces="largest").score, abs=1e-6)
        assert (largest["seen"], largest["pairs"]) == (None, None)
        every = verify(client, group, faces[1][0], faces="all").json()
        expected = embedder.compare(group, faces[1][0])
        assert len(expected) == 2
        assert [each["score"] for each in every["pairs"]] == pytest.approx([each.score for each in expected], abs=1e-6)
        assert every["score"] == every["pairs"][0]["score"]
        assert [len(side) for side in every["seen"]] == [2, 1]
        best = every["pairs"][0]
        assert every["faces"] == [every["seen"][0][best["a"]], every["seen"][1][best["b"]]]
        assert every["faces"][0]["box"] == largest["faces"][0]["box"]
        assert faulty(verify(client, group, group, faces="leftmost"), 422, "faces: Input should be")

    def test_verify_with_a_person(self, client, faces, group):
        enrol(client, "Bob", faces[1][0])
        told = client.post("/v1/verify", files={"a": group}, data={"person": "Bob", "faces": "all"}).json()
        assert [each["b"] for each in told["pairs"]] == [None, None]
        assert told["score"] == max(each["score"] for each in told["pairs"]) > 0.98

    def test_enrol_asks(self, client, group):
        assert faulty(enrol(client, "Ann", group), 422, "one face in photograph 1", "send faces=center")
        told = enrol(client, "Ann", group, faces="largest")
        assert told.status_code == 201
        assert told.json()["faces"][0]["found"] == 2
        assert enrol(client, "Ann", group, faces="all").status_code == 422

    def test_search_of_every_face_of_many_photographs(self, client, faces, group):
        for person, name in enumerate(("Ann", "Bob")):
            assert enrol(client, name, faces[person][0], twin="true").status_code == 201
        files = [("photographs", group), ("photographs", faces[0][1])]
        told = client.post("/v1/search", files=files, data={"k": 1, "faces": "all"}).json()
        found = {(each["photograph"], each["matches"][0]["person"]) for each in told["searches"]}
        assert found >= {(1, "Ann"), (1, "Bob")}
        assert [each["photograph"] for each in told["searches"]] == [1, 1, 2]
        assert (told["face"], told["matches"]) == (told["searches"][0]["face"], told["searches"][0]["matches"])
        single = client.post("/v1/search", files={"photograph": group}, data={"faces": "largest", "k": 1}).json()
        assert (single["matches"][0]["person"], single["searches"]) == ("Bob", None)
        assert faulty(client.post("/v1/search"), 422, "photograph or photographs", "neither")
        both = [("photograph", group), ("photographs", group)]
        assert faulty(client.post("/v1/search", files=both), 422, "photograph or photographs", "both")
        wide = {"k": 100, "faces": "all"}
        told = client.post("/v1/search", files=[("photographs", group)] * 17, data=wide)
        assert faulty(told, 422, "at most 3,200 matches", "34 faces with k = 100")
        many = [("photographs", b"x")] * 33
        assert faulty(client.post("/v1/search", files=many), 422, "at most 32 photographs")

    def test_what_computes_is_told(self, client):
        told = client.get("/v1/about").json()
        assert (told["device"], told["detector"], told["detector_device"]) == ("cpu", "mtcnn", "cpu")


class TestPeople:
    def test_enrol_search_verify_forget(self, client, faces):
        for person, name in enumerate(("Ann", BAD, "Łukasz 李")):
            told = enrol(client, name, *faces[person], consent="form 12", same_person="true")
            assert told.status_code == 201
            assert (told.json()["person"], told.json()["added"]) == (name, 2)
        listed = client.get("/v1/people").json()["people"]
        assert {each["name"]: each["templates"] for each in listed} == {"Ann": 2, BAD: 2, "Łukasz 李": 2}
        assert {each["consent"] for each in listed} == {"form 12"}
        found = client.post("/v1/search", files={"photograph": faces[1][0]}, data={"k": 2}).json()
        assert [match["rank"] for match in found["matches"]] == [1, 2]
        assert found["matches"][0]["person"] == BAD
        assert found["matches"][0]["score"] == pytest.approx(1, abs=1e-5)
        assert found["matches"][0]["same"] is True
        assert found["templates"] == 6
        assert found["operating_point"]["threshold"] == POINT.threshold
        # No table of thresholds for searches: said, with the false matches to expect at verification's
        assert (found["search"]["table"], found["search"]["threshold"]) == (False, POINT.threshold)
        assert found["search"]["false_matches"] == pytest.approx(6 * POINT.far.value)
        assert "decided by a verification threshold" in found["note"] == found["search"]["warning"]
        assert found["matches"][0]["note"] == found["note"]
        one = client.post("/v1/verify", files={"a": faces[1][1]}, data={"person": BAD}).json()
        assert one["score"] == pytest.approx(1, abs=1e-5)
        assert len(one["faces"]) == 1
        gone = client.delete(f"/v1/people/{next(each['id'] for each in listed if each['name'] == BAD)}")
        assert gone.json() == {"person": BAD, "erased": 2, "wiped": True}
        found = client.post("/v1/search", files={"photograph": faces[1][0]}).json()
        assert BAD not in [match["person"] for match in found["matches"]]

    def test_a_search_is_decided_by_the_row_for_its_gallery(self, tmp_path, faces):
        rate = Estimate(0.01, 0.005, 0.02, 100)
        rows = SearchPoint(1, 0.95, rate, rate, 0.012), SearchPoint(10, 0.9999999, rate, rate, 0.011)
        table = SearchTable(0.01, rows, 100, 200, "drawn faces", "data")
        made = write_model(tmp_path / "table.onnx", replace(POINT, search=table))
        settings = Settings(model=made, gallery=f"file:{tmp_path / 'people.db'}")
        with TestClient(create_app(settings), base_url="http://127.0.0.1") as client:
            for person, row in ((0, rows[0]), (1, rows[1])):
                assert enrol(client, f"p{person}", faces[person][0], twin="true").status_code == 201
                found = client.post("/v1/search", files={"photograph": faces[2][0]}).json()
                told = found["search"]
                assert (told["threshold"], told["enrolled"], told["templates"]) == (
                    row.threshold, row.enrolled, person + 1
                )  # fmt: skip
                assert told["false_matches"] == pytest.approx(row.false_matches * told["templates"] / row.enrolled)
                assert told["warning"] is None
                assert told["fpir"] == asdict(rate)
                for match in found["matches"]:
                    assert match["same"] is (match["score"] >= row.threshold)
                assert "expected false matches" in found["note"]

    def test_nobody_of_that_name(self, client, faces):
        enrol(client, "Ann", faces[0][0])
        for path in ("Ann", "x%2F..%2FAnn", "..", "%2E%2E", "0" * 16):  # an address never names a person
            assert client.delete(f"/v1/people/{path}").status_code in (404, 405), path
        assert faulty(client.delete("/v1/people/Ann"), 404, "the id of an enrolled person")
        assert [each["name"] for each in client.get("/v1/people").json()["people"]] == ["Ann"]
        told = client.post("/v1/verify", files={"a": faces[0][0]}, data={"person": "Bob"})
        assert faulty(told, 404, "an enrolled person")

    @pytest.mark.parametrize("name", ["", " ", "a\nb", "a\0b", "x" * 201, "\u202eevil"])
    def test_names_that_are_none(self, client, faces, name):
        assert faulty(enrol(client, name, faces[0][0]), 422)
        assert client.get("/v1/people").json() == {"people": [], "next": None}

    def test_a_photograph_without_a_face_enrols_nobody(self, client, faces):
        blank = jpeg(np.zeros((90, 90, 3), np.uint8))
        assert faulty(enrol(client, "Ann", faces[0][0], blank), 422, "a face in photograph 2")
        assert client.get("/v1/people").json() == {"people": [], "next": None}

    def test_an_empty_gallery(self, client, faces):
        found = client.post("/v1/search", files={"photograph": faces[0][0]}).json()
        assert (found["matches"], found["templates"]) == ([], 0)

    def test_ids_and_pages(self, client, faces):
        for number, name in enumerate(("ann", "Bob", "Bo")):
            enrol(client, name, faces[number][0])
        first = client.get("/v1/people", params={"limit": 2}).json()
        assert [each["name"] for each in first["people"]] == ["ann", "Bo"]
        second = client.get("/v1/people", params={"limit": 2, "after": first["next"]}).json()
        assert ([each["name"] for each in second["people"]], second["next"]) == (["Bob"], None)
        assert [each["name"] for each in client.get("/v1/people", params={"q": "BO"}).json()["people"]] == ["Bo", "Bob"]
        assert client.get("/v1/people", params={"after": "0" * 16}).status_code == 404

    def test_change_merge_split_and_remove(self, client, faces):
        """Everything about a person by id, in the audit log under the caller."""
        ann, bob = (
            enrol(client, name, *faces[n], same_person="true").json()["id"] for n, name in enumerate(("Ann", "Bob"))
        )
        told = client.patch(f"/v1/people/{ann}", data={"name": "Ann B", "add_tags": ["staff", "night"]}).json()
        assert (told["id"], told["name"], told["tags"]) == (ann, "Ann B", ["night", "staff"])
        assert client.patch(f"/v1/people/{ann}", data={"name": "Bob"}).status_code == 422
        photograph = {"photograph": faces[1][0]}
        found = client.post("/v1/search", files=photograph, data={"tag": "staff", "k": 5}).json()["matches"]
        assert [match["person"] for match in found] == ["Ann B"]
        found = client.post("/v1/search", files=photograph, data={"threshold": 0.9999, "k": 5}).json()["matches"]
        assert [match["person"] for match in found] == ["Bob"]
        numbers = [each["number"] for each in client.get(f"/v1/people/{bob}").json()["templates"]]
        split = client.post(f"/v1/people/{bob}/split", data={"templates": numbers[:1], "name": "Cy"}).json()
        assert client.post(f"/v1/people/{split['id']}/merge", data={"into": ann}).json()["templates"] == 3
        numbers = [each["number"] for each in client.get(f"/v1/people/{ann}").json()["templates"]]
        gone = client.delete(f"/v1/people/{ann}/templates/{numbers[0]}").json()
        assert gone == {"person": "Ann B", "erased": 1, "wiped": True}
        assert client.get(f"/v1/people/{ann}").json()["person"]["templates"] == 2
        log = list(client.app.state.service.gallery.audit())
        assert [event.action for event in log][-1] == "remove"
        assert log[-1].actor == "address testclient"

    def test_who_is_enrolled_twice(self, client, faces):
        assert enrol(client, "Ann", faces[0][0]).json()["duplicates"] == 0
        again = enrol(client, "ANN", *faces[0]).json()
        assert (again["person"], again["added"], again["duplicates"]) == ("Ann", 1, 1)
        assert faulty(enrol(client, "Bob", faces[0][0]), 409, "photographs of Bob alone", "a face known as Ann")
        assert enrol(client, "Bob", faces[0][0], twin="true").json()["person"] == "Bob"
        assert faulty(enrol(client, "Ann", faces[1][0], anyway="true"), 409, "unlike the other photographs of Ann")
        assert enrol(client, "Ann", faces[1][0], same_person="true").json()["added"] == 1
        assert enrol(client, "Änn", faces[2][0]).json()["warnings"] == [
            "Änn is new, and nearly called as Ann, who is enrolled"
        ]


class TestKeys:
    @pytest.fixture
    def tokens(self, tmp_path):
        return {scope: new_key(tmp_path / "keys", (scope,)) for scope in ("read", "enrol", "admin")}

    @pytest.fixture
    def guarded(self, model, tmp_path, tokens):
        app = create_app(Settings(model=model, gallery=f"file:{tmp_path / 'p.db'}", keys=tmp_path / "keys"))
        with TestClient(app) as client:
            yield client

    def test_each_may_do_its_own(self, guarded, tokens, faces):
        def statuses(token):
            guarded.headers["authorization"] = f"Bearer {token}"
            return (
                verify(guarded, faces[0][0], faces[0][1]).status_code,
                guarded.get("/metrics").status_code,
                enrol(guarded, "Ann", faces[0][0]).status_code,
                guarded.delete("/v1/people/Nobody").status_code,
            )

        assert statuses(tokens["read"]) == (200, 200, 403, 403)
        assert statuses(tokens["enrol"]) == (403, 403, 201, 403)
        assert statuses(tokens["admin"]) == (200, 200, 201, 404)

    def test_missing_wrong_and_replayed_keys(self, guarded, tokens, tmp_path, faces):
        assert faulty(guarded.get("/v1/people"), 401, "an API key", "none")
        assert guarded.get("/v1/people").headers["www-authenticate"] == "Bearer"
        for value in ("Bearer nf_0", f"Basic {tokens['read']}", "Bearer ", f"Bearer {tokens['read']}x", "é"):
            assert guarded.get("/v1/people", headers={"authorization": value.encode("latin-1")}).status_code == 401
        seen = {"authorization": f"Bearer {tokens['read']}"}
        assert guarded.get("/v1/people", headers=seen).status_code == 200
        lines = (tmp_path / "keys").read_text().splitlines()
        (tmp_path / "keys").write_text("\n".join(lines[1:]))  # withdrawn: what was overheard is worth nothing now
        assert faulty(guarded.get("/v1/people", headers=seen), 401, "unknown, revoked or expired")

    def test_no_body_is_read_without_a_key(self, guarded):
        def never():
            raise AssertionError("the body was read")
            yield b""

        assert guarded.post("/v1/verify", content=never(), headers={"content-length": "5"}).status_code == 401

    def test_open_without_one(self, guarded):
        for path in ("/", "/healthz", "/readyz", "/v1/about", "/v1/openapi.json"):
            assert guarded.get(path).status_code == 200
        assert guarded.get("/v1/about").json()["keys"] is True
        assert guarded.get("/v1/openapi.json").json()["components"]["securitySchemes"]


class TestGate:
    def test_other_sites_and_rebound_names(self, client):
        assert faulty(client.get("/v1/about", headers={"host": "evil.example"}), 421, "another Host")
        assert client.get("/v1/about", headers={"host": "localhost:8000"}).status_code == 200
        assert client.get("/v1/about", headers={"host": "[::1]:8000"}).status_code == 200
        assert client.get("/v1/people", headers={"origin": "http://127.0.0.1"}).status_code == 200
        for origin in ("https://evil.example", "null", "http://127.0.0.1:81"):
            assert faulty(client.get("/v1/people", headers={"origin": origin}), 403, "another site's")

    def test_every_answer_is_closed_to_other_sites(self, client):
        for path in ("/", "/viewer.html", "/v1/about", "/nothing"):
            headers = client.get(path).headers
            assert "default-src 'none'" in headers["content-security-policy"]
            assert "unsafe-eval" not in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["referrer-policy"] == "no-referrer"
        assert "unsafe-inline" not in client.get("/").headers["content-security-policy"]
        assert "script-src 'self'" in client.get("/viewer.html").headers["content-security-policy"]

    def test_rate(self, model):
        with TestClient(create_app(Settings(model=model, rate=2)), base_url="http://127.0.0.1") as client:
            statuses = [client.post("/v1/embed").status_code for _ in range(6)]
            assert statuses[:4] == [422] * 4
            assert set(statuses[4:]) <= {422, 429}
            refused = client.post("/v1/embed")
            assert faulty(refused, 429, "at most 2 requests per second")
            assert int(refused.headers["retry-after"]) >= 1
            assert client.get("/healthz").status_code == 200

    def test_logs_and_metrics_name_nobody(self, client, faces, caplog):
        count = 'normface_requests_total{method="POST",route="/v1/people",status="201"} '
        before = float(client.get("/metrics").text.partition(count)[2].partition("\n")[0] or 0)
        with caplog.at_level(logging.INFO, "normface.serve"):
            id = enrol(client, "Ann Secret", *faces[0], consent="signed by Ann Secret").json()["id"]
            client.delete(f"/v1/people/{id}")
            client.delete(f"/v1/people/{id}")
        told = [record.fields for record in caplog.records if record.getMessage() == "request"]
        assert [(each["method"], each["route"], each["status"]) for each in told] == [
            ("POST", "/v1/people", 201), ("DELETE", "/v1/people/{id}", 200),
            ("DELETE", "/v1/people/{id}", 404),
        ]  # fmt: skip
        assert all(set(each) == {"id", "method", "route", "status", "ms"} for each in told)
        figures = client.get("/metrics").text
        for text in (json.dumps(told), figures, client.get("/readyz").text):
            assert "Secret" not in text
        assert f"{count}{before + 1}" in figures
        assert "normface_batch_photographs_count" in figures
        assert "process_resident_memory_bytes" in figures

    def test_an_error_of_the_service_tells_nothing(self, client, faces, caplog, monkeypatch):
        def broken(*args, **options):
            raise RuntimeError("Ann Secret")

        monkeypatch.setattr("normface.serve.engine.Engine.see", broken)
        with caplog.at_level(logging.INFO, "normface.serve"):
            response = verify(client, faces[0][0], faces[0][1])
        assert faulty(response, 500, "an internal error")
        assert "Secret" not in response.text
        from normface.serve.logs import Lines

        lines = [Lines().format(record) for record in caplog.records if record.name == "normface.serve"]
        assert any('"error": "RuntimeError"' in line for line in lines)
        assert not any("Secret" in line for line in lines)


def test_openapi_has_an_example_of_every_answer(client):
    told = client.get("/v1/openapi.json").json()
    assert set(told["paths"]) == {
        "/v1/about", "/v1/embed", "/v1/verify", "/v1/people", "/v1/people/{id}", "/v1/search",
        "/v1/people/{id}/merge", "/v1/people/{id}/split", "/v1/people/{id}/templates/{number}",
        "/healthz", "/readyz", "/metrics",
    }  # fmt: skip
    for name in ("Verification", "Found", "Enrolled", "Embedded", "Forgotten", "Problem", "Certificate"):
        assert told["components"]["schemas"][name]["examples"], name


def test_a_run_folder_or_nothing(tmp_path):
    with pytest.raises(ModelError, match="normface export RUN"):
        create_app(Settings(model=tmp_path))
    with pytest.raises(ModelError, match="nothing at"):
        create_app(Settings(model=tmp_path / "absent.onnx"))


def test_a_folder_that_is_not_onnxruntimes(model, tmp_path):
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(ConfigError, match="--ort-web with ort.wasm.min.mjs"):
            create_app(Settings(model=model, ort_web=folder))
