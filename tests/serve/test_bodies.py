"""Photographs in every form that a body may have, and a client generated from the service's description."""

import asyncio
import base64
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from tests.serve.conftest import jpeg
from tests.serve.test_api import faulty, verify

from normface.data.synthetic import face

pytestmark = pytest.mark.slow


def b64(data):
    return base64.b64encode(data).decode()


class TestForms:
    def test_json_and_a_bare_image_are_answered_as_a_form(self, client, faces):
        a, b = faces[0]
        score = verify(client, a, b).json()["score"]
        assert client.post("/v1/verify", json={"a": b64(a), "b": b64(b)}).json()["score"] == score
        url = f"data:image/jpeg;base64,{b64(b)}"
        assert client.post("/v1/verify", json={"a": b64(a), "b": url, "prior": 0.1}).json()["prior"] == 0.1
        vectors = [
            client.post("/v1/embed", **sent).json()["vectors"][0]
            for sent in (
                {"files": [("photographs", a)]}, {"json": {"photographs": [b64(a)]}},
                {"content": a, "headers": {"content-type": "image/jpeg"}},
                {"content": a, "headers": {"content-type": "application/octet-stream"}},
            )
        ]  # fmt: skip
        np.testing.assert_array_equal(vectors, vectors[:1] * 4)

    def test_a_bare_image_with_fields_in_the_query(self, client, faces):
        kind = {"content-type": "image/jpeg"}
        told = client.post("/v1/people", content=faces[0][0], headers=kind, params={"person": "Ann"})
        assert (told.status_code, told.json()["added"]) == (201, 1)
        found = client.post("/v1/search", content=faces[0][0], headers=kind, params={"k": 1, "crops": True}).json()
        assert found["matches"][0]["person"] == "Ann"
        assert found["face"]["crop"].startswith("data:image/jpeg")
        told = client.post("/v1/verify", content=faces[0][0], headers=kind, params={"person": "Ann"}).json()
        assert told["score"] == pytest.approx(1, abs=1e-5)

    def test_mistakes(self, client, faces):
        assert faulty(client.post("/v1/verify", json={"a": "ä", "b": "ä"}), 422, "a: Value error, not base64")
        told = client.post("/v1/verify", content=b"{", headers={"content-type": "application/json"})
        assert faulty(told, 422, "Invalid JSON")
        told = client.post("/v1/search", content=b"x", headers={"content-type": "text/plain"})
        assert faulty(told, 415, "multipart/form-data, application/json or an image", "text/plain")
        assert told.json()["type"] == "urn:normface:problem:1:wrong-content-type"
        blank = jpeg(np.zeros((90, 90, 3), np.uint8))
        assert verify(client, blank, blank).json()["type"] == "urn:normface:problem:1:unsuitable-face"
        assert verify(client, b"x", blank).json()["type"] == "urn:normface:problem:1:unreadable-image"

    def test_large_json_is_read_in_a_thread(self, client, faces, monkeypatch):
        called, to_thread = [], asyncio.to_thread

        async def threaded(call, *args, **options):
            called.append(call)
            return await to_thread(call, *args, **options)

        monkeypatch.setattr("normface.serve.bodies.asyncio.to_thread", threaded)
        padded = b64(faces[0][0] + bytes(1 << 20))
        assert client.post("/v1/embed", json={"photographs": [padded]}).status_code == 200
        assert "_json" in [call.__name__ for call in called]


def test_one_orientation_where_one_is_asked_for(client, model):
    from normface.data.decoding import decode
    from normface.embed import Embedder

    crop = jpeg(face(0, 0, 0))
    told = client.post("/v1/embed", files=[("photographs", crop)], data={"aligned": "true", "mirror": "false"}).json()
    one = Embedder.load(model).embed(decode(crop, "x")[None], mirror="none", aligned=True).vectors[0]
    np.testing.assert_allclose(told["vectors"][0], one, atol=1e-6)
    told = verify(client, crop, crop, aligned="true", mirror="false").json()
    assert (told["decision"], told["score"]) == ("undecided", pytest.approx(1, abs=1e-6))
    assert "both orientations" in told["outside"][0]
    assert verify(client, crop, crop, aligned="true", mirror="false", anyway="true").json()["decision"] == "same"


def test_no_bodies_where_none_belong(client):
    for method, path in (("GET", "/v1/people"), ("GET", "/healthz"), ("DELETE", "/v1/people/x"), ("HEAD", "/healthz")):
        told = client.request(method, path, content=b"x")
        assert told.status_code == 400, (method, path)
        assert told.headers["connection"] == "close"
    assert client.request("GET", "/healthz", headers={"content-length": "0"}).status_code == 200


def test_health_by_head(client):
    for path in ("/healthz", "/readyz"):
        told = client.head(path)
        assert (told.status_code, told.content) == (200, b"")


@pytest.mark.slow
def test_a_generated_client(listening, faces, tmp_path):
    """By openapi-python-client, where it is installed: it needs an environment of its own (an older typer)."""
    program = shutil.which("openapi-python-client")
    if program is None:
        pytest.skip("openapi-python-client is not installed (pipx install openapi-python-client)")
    import httpx

    url = listening(gallery=f"file:{tmp_path / 'people.db'}")
    described = tmp_path / "openapi.json"
    described.write_bytes(httpx.get(f"{url}/v1/openapi.json", timeout=600).content)
    command = [program, "generate", "--path", described, "--output-path", tmp_path / "made", "--meta", "none"]
    (tmp_path / "config.yml").write_text("post_hooks: []\npackage_name_override: faces_client\n")
    done = subprocess.run([*command, "--config", tmp_path / "config.yml"], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    for number, data in enumerate((faces[0][0], faces[0][1])):
        (tmp_path / f"{number}.jpg").write_bytes(data)
    (tmp_path / "made").rename(tmp_path / "faces_client")
    done = subprocess.run(
        [sys.executable, "-c", GENERATED, url], cwd=tmp_path, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"score": 1.0, "added": 2, "found": "Ann", "vectors": 1, "status": 422}


GENERATED = """
import io, json, sys
from faces_client import Client, models
from faces_client.api.default import embed_v1_embed_post as embed, enrol_v1_people_post as enrol
from faces_client.api.default import search_v1_search_post as search, verify_v1_verify_post as verify
from faces_client.types import File

def photograph(number):
    return File(io.BytesIO(open(f"{number}.jpg", "rb").read()), f"{number}.jpg", "image/jpeg")

client = Client(sys.argv[1], timeout=600)
same = verify.sync(client=client, body=models.VerifyForm(a=photograph(0), b=photograph(0)))
added = enrol.sync(client=client, body=models.EnrolForm(person="Ann", photographs=[photograph(0), photograph(1)]))
found = search.sync(client=client, body=models.SearchForm(photograph=photograph(0), k=1))
vectors = embed.sync(client=client, body=File(io.BytesIO(open("0.jpg", "rb").read())))
fault = verify.sync(client=client, body=models.VerifyForm(a=photograph(0)))
print(json.dumps({"score": round(same.score, 5), "added": added.added, "found": found.matches[0].person,
                  "vectors": len(vectors.vectors), "status": fault.status}))
"""
