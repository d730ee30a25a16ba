"""What a listening service must live through: slow, many, large and broken requests, its end, its disk."""

import http.client
import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from benchmarks.service import mutated
from starlette.testclient import TestClient
from tests.serve.conftest import jpeg, write_model

from normface.data.synthetic import face
from normface.errors import ConfigError
from normface.serve import Settings, create_app, server

pytestmark = pytest.mark.slow

GUARD = 600  # seconds that end a test which hangs; no test asks to be faster


def pair(faces):
    return {"a": faces[0][0], "b": faces[0][1]}


def connect(url):
    return socket.create_connection((urlsplit(url).hostname, urlsplit(url).port), timeout=GUARD)


@pytest.mark.slow
def test_slow_heads_and_slow_bodies_are_hung_up_on(listening, faces, monkeypatch):
    url, hasty, begun = (
        listening(timeout=GUARD),
        listening(timeout=0.5),
        b"POST /v1/embed HTTP/1.1\r\nHost: 127.0.0.1\r\n",
    )
    rest = b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 100\r\n\r\n--x"
    with connect(url) as body:
        body.sendall(begun + rest)
        assert (
            httpx.post(f"{url}/v1/verify", files=pair(faces), timeout=GUARD).status_code == 200
        )  # nobody waits for it
    with connect(hasty) as body:
        body.sendall(begun + rest)
        assert body.recv(1000).startswith(b"HTTP/1.1 408 ")
    monkeypatch.setattr(server.Impatient, "patience", 0.5)
    with connect(url) as silent, connect(url) as head:
        head.sendall(begun)
        for _ in range(20 * GUARD):
            if select.select([head], [], [], 0.05)[0]:
                break
            with suppress(OSError):  # a byte now and then, as slow-loris does: it gains nothing by it
                head.sendall(b"X")
        assert ended(head)
        assert ended(silent)


def ended(connection):
    """True if the other end has closed the connection without a word."""
    try:
        return connection.recv(100) == b""
    except ConnectionResetError:  # a byte of ours crossed its end
        return True


def test_a_body_that_nobody_reads_does_not_keep_the_connection(listening):
    url = listening()
    for request in (b"POST /healthz", b"GET /", b"GET /nothing"):
        with connect(url) as sock:
            sock.sendall(request + b" HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000\r\n\r\nx")
            answer = b""
            while part := sock.recv(10_000):
                answer += part
        assert answer.startswith(b"HTTP/1.1 ")
        assert b"connection: close" in answer


def test_keeping_a_connection_between_requests_is_fine(listening, monkeypatch):
    connection = http.client.HTTPConnection(urlsplit(listening()).netloc, timeout=GUARD)
    for _ in range(2):
        monkeypatch.setattr(server.Impatient, "patience", GUARD)  # a request may take its time to arrive
        connection.request("GET", "/healthz")
        monkeypatch.setattr(server.Impatient, "patience", 0.1)
        assert connection.getresponse().read() == b'{"status":"ok"}'
        time.sleep(0.3)
    connection.close()


def test_an_answer_does_not_wait_for_the_callers_acknowledgement(listening, monkeypatch):
    """Without TCP_NODELAY its last packet leaves 40 ms later: Linux puts its acknowledgments off for so long."""
    met, delays = server.Impatient.connection_made, []

    def look(self, transport):
        delays.append(not transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        met(self, transport)

    monkeypatch.setattr(server.Impatient, "connection_made", look)
    assert httpx.get(f"{listening()}/healthz", timeout=GUARD).status_code == 200
    assert delays == [False]


def test_what_is_too_large_is_refused_by_its_length_and_by_its_bytes(listening):
    url = listening(max_upload=1000)
    told = httpx.post(f"{url}/v1/embed", files={"photographs": bytes(5000)}, timeout=GUARD)
    assert told.status_code == 413
    assert told.json()["expected"] == "at most 1,000 bytes"
    told = httpx.post(f"{url}/v1/embed", content=(bytes(100) for _ in range(50)), timeout=GUARD)
    assert told.status_code == 413
    assert httpx.post(f"{url}/v1/embed", files={"photographs": bytes(500)}, timeout=GUARD).status_code == 422


def test_no_path_leads_to_the_disk(listening_once):
    for path in ("/../../etc/passwd", "/page/../app.py", "/%2e%2e/app.py", "/ort/..%2fkeys.py", "//etc/passwd"):
        connection = http.client.HTTPConnection(urlsplit(listening_once).netloc, timeout=GUARD)
        connection.request("GET", path)
        assert connection.getresponse().status == 404, path
        connection.close()


@pytest.fixture
def listening_once(listening):
    return listening()


def test_bytes_that_are_no_http(listening_once):
    for garbage in (
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"\0" * 99,
    ):
        with connect(listening_once) as sock:
            sock.sendall(garbage)
            assert sock.recv(100).startswith(b"HTTP/1.1 400")
    with connect(listening_once) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nX: " + b"x" * 100_000)
        assert sock.recv(100).startswith(b"HTTP/1.1 400")
    assert httpx.get(f"{listening_once}/healthz", timeout=GUARD).status_code == 200


@pytest.mark.parametrize(("proxy", "statuses"), [("192.0.2.1", [200, 429]), ("10.0.0.0/8, 127.0.0.0/8", [200, 200])])
def test_forwarded_addresses_are_believed_of_named_proxies_alone(listening, proxy, statuses):
    url = listening(proxy=proxy, rate=0.001)  # one request of a caller, then none for long
    callers = [{"x-forwarded-for": f"203.0.113.{number}"} for number in range(2)]
    assert [httpx.get(f"{url}/metrics", headers=each, timeout=GUARD).status_code for each in callers] == statuses


def test_a_taken_port(listening_once):
    with pytest.raises(ConfigError, match=r"to listen on 127\.0\.0\.1"):
        server._bind("127.0.0.1", urlsplit(listening_once).port)


@pytest.mark.slow
def test_two_hundred_clients_at_once(listening, monkeypatch):
    monkeypatch.setattr(server.Impatient, "patience", GUARD)
    url, crop = listening(queue=32, rate=10_000, timeout=GUARD), jpeg(face(0, 0, 0))
    answers, together = [], threading.Barrier(200)

    def client(number):
        with httpx.Client(timeout=GUARD, verify=False) as session:
            together.wait(GUARD)
            while True:
                told = session.post(f"{url}/v1/embed", files={"photographs": crop}, data={"aligned": "true"})
                answers.append(told.status_code)
                if told.status_code == 200:
                    return told.json()["vectors"][0]
                assert int(told.headers["retry-after"]) >= 1
                time.sleep(random.Random(number).random())

    with ThreadPoolExecutor(200) as pool:
        vectors = list(pool.map(client, range(200)))
    assert answers.count(200) == 200
    assert set(answers) <= {200, 503}
    np.testing.assert_allclose(vectors, vectors[:1] * 200, atol=1e-6)


def test_more_than_the_queue_is_told_to_come_back(listening, faces):
    url = listening(queue=1, timeout=GUARD)
    with connect(url) as slow:
        slow.sendall(b"POST /v1/embed HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\n\r\nab")
        while "normface_requests_inside 1.0" not in httpx.get(f"{url}/metrics", timeout=GUARD).text:
            time.sleep(0.01)
        refused = httpx.post(f"{url}/v1/verify", files=pair(faces), timeout=GUARD)
        assert (refused.status_code, refused.json()["got"]) == (503, "more")
        assert int(refused.headers["retry-after"]) >= 1
        assert 'normface_refused_total{limit="queue"} 1.0' in httpx.get(f"{url}/metrics", timeout=GUARD).text
        slow.sendall(b"cde")
        assert slow.recv(1000).startswith(b"HTTP/1.1 415")
    assert httpx.post(f"{url}/v1/verify", files=pair(faces), timeout=GUARD).status_code == 200


def test_an_answer_that_takes_too_long(model, faces, monkeypatch):
    with TestClient(create_app(Settings(model=model, timeout=0.2)), base_url="http://127.0.0.1") as client:
        monkeypatch.setattr("normface.serve.engine.Engine._see", lambda self, jobs: None)  # never
        told = client.post("/v1/verify", files=pair(faces))
        assert (told.status_code, told.json()["expected"]) == (504, "an answer within 0.2 s")


def test_a_gallery_that_can_no_longer_be_written(client, service, faces):
    photographs = [("photographs", faces[0][0])]
    ann = client.post("/v1/people", files=photographs, data={"person": "Ann"}).json()["id"]
    store = service.app.state.service.gallery._store
    for connection in (store._write, store._notes):
        connection.execute("PRAGMA query_only = ON")
    told = client.post("/v1/people", files=photographs, data={"person": "Bob", "twin": "true"})
    assert (told.status_code, told.json()["expected"]) == (503, "a gallery that can enrol")
    assert client.delete(f"/v1/people/{ann}").status_code == 503
    assert client.post("/v1/search", files={"photograph": faces[0][0]}).json()["matches"][0]["person"] == "Ann"
    state = client.get("/readyz")
    assert state.status_code == 200
    assert "the gallery cannot enrol" in state.json()["warnings"][0]
    for connection in (store._write, store._notes):
        connection.execute("PRAGMA query_only = OFF")
    assert client.post("/v1/people", files=photographs, data={"person": "Bob", "twin": "true"}).status_code == 201
    assert client.delete(f"/v1/people/{ann}").status_code == 200
    assert client.get("/readyz").json() == {"ready": True, "warnings": []}


def test_a_gallery_file_that_vanishes(model, tmp_path, faces):
    settings = Settings(model=model, gallery=f"file:{tmp_path / 'people.db'}")
    with TestClient(create_app(settings), base_url="http://127.0.0.1") as client:
        assert client.get("/readyz").status_code == 200
        (tmp_path / "people.db").rename(tmp_path / "elsewhere.db")
        state = client.get("/readyz")
        assert (state.status_code, state.json()["ready"]) == (503, False)
        assert "removed or replaced" in state.json()["warnings"][0]
        assert client.get("/v1/people").status_code == 503
        (tmp_path / "elsewhere.db").rename(tmp_path / "people.db")
        assert client.get("/readyz").status_code == 200


def test_a_model_file_that_vanishes(tmp_path, faces):
    model = write_model(tmp_path / "m.onnx")
    with TestClient(create_app(Settings(model=model)), base_url="http://127.0.0.1") as client:
        for file in tmp_path.iterdir():
            file.unlink()
        assert client.post("/v1/verify", files=pair(faces)).json()["same"] is not None
        state = client.get("/readyz")
        assert state.status_code == 200
        assert "the model's file is missing" in state.json()["warnings"][0]


@pytest.mark.slow
def test_sigterm_under_load_answers_what_was_accepted(model, faces, tmp_path):
    words = ["serve", "--model", str(model), "--port", "0", "--workers", "1", "--rate", "1000",
             "--timeout", str(GUARD)]  # fmt: skip
    program = "from normface.cli import main; main()"
    process = subprocess.Popen([sys.executable, "-c", program, *words], stderr=subprocess.PIPE, text=True)
    try:
        url = json.loads(process.stderr.readline())["url"]
        ended = threading.Event()
        broken, answered = [], []

        def client(_):
            while not ended.is_set():
                try:
                    with httpx.Client(timeout=GUARD, verify=False) as session:
                        answered.append(session.post(f"{url}/v1/verify", files=pair(faces)).status_code)
                except httpx.ConnectError:
                    return
                except httpx.HTTPError as error:  # accepted by the kernel, seen by nobody: no request was begun
                    broken.append(type(error).__name__)
                    return

        with ThreadPoolExecutor(16) as pool:
            for number in range(16):
                pool.submit(client, number)
            while len(answered) < 8 and not broken:  # all are at it
                time.sleep(0.01)
            process.send_signal(signal.SIGTERM)
            log = process.stderr.read()
            ended.set()
        assert process.wait(GUARD) == 0
    finally:
        process.kill()
    told = [line for line in map(json.loads, log.splitlines()) if line["event"] == "request"]
    assert told[-1]["status"] == 200
    assert {line["status"] for line in told} == {200}
    assert len(answered) == len(told)  # each that was begun was answered, and the answer arrived
    assert json.loads(log.splitlines()[-1])["event"] == "ended"


@pytest.mark.slow
def test_malformed_uploads(client):
    """Three hundred here; ten thousand in benchmarks/service.py."""
    crops = {name: jpeg(face(0, 0, 0)) for name in "ab"}
    whole = httpx.Request("POST", "http://x", files=crops, data={"aligned": "true"})
    body, head = whole.read(), {"content-type": whole.headers["content-type"]}
    chance, statuses = random.Random(0), set()
    for _ in range(300):
        told = client.post("/v1/verify", content=mutated(chance, body), headers=head)
        statuses.add(told.status_code)
        assert told.status_code == 200 or {"expected", "got", "do", "request"} < set(told.json())
    assert statuses <= {200, 400, 422}
    assert {400, 422} <= statuses
    assert client.get("/readyz").status_code == 200


def test_nothing_of_an_upload_is_left_on_the_disk(client, faces, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    opened = []
    sys.addaudithook(lambda event, args: opened.append(args[0]) if event == "open" else None)
    padded = faces[0][0] + bytes(3_000_000)  # more than a spooled file would keep in memory
    assert client.post("/v1/verify", files={"a": padded, "b": padded}).status_code == 200
    assert not [each for each in opened if isinstance(each, (str, os.PathLike)) and Path(each).is_relative_to(tmp_path)]
