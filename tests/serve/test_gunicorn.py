"""A real gunicorn loads the application once, forks its workers, and all of them serve one embedded gallery."""

import re
import socket
import subprocess
import sys
import time

import httpx
import pytest

pytest.importorskip("gunicorn")
pytestmark = pytest.mark.slow


@pytest.fixture
def url(model, tmp_path):
    """Where gunicorn serves, with three workers."""
    (tmp_path / "faces.py").write_text(
        "from pathlib import Path\n"
        "from normface.serve import Settings, create_app\n"
        f"app = create_app(Settings(model=Path({str(model)!r}), gallery='file:{tmp_path / 'people.db'}', workers=1))\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = [
        sys.executable, "-m", "gunicorn", "--preload", "--workers", "3", "--worker-class", "asgi",
        "--bind", f"127.0.0.1:{port}", "faces:app",
    ]  # fmt: skip
    with open(tmp_path / "log", "w+") as log:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log)
        try:
            end = time.monotonic() + 60
            while not ready(f"http://127.0.0.1:{port}"):
                assert process.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < end, (tmp_path / "log").read_text()
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(60)
    assert "Traceback" not in (tmp_path / "log").read_text()


def ready(url):
    try:
        return httpx.get(f"{url}/readyz").status_code == 200
    except httpx.TransportError:
        return False


def search(url, photograph):
    """By a new connection, which any worker may take."""
    answer = httpx.post(f"{url}/v1/search", files={"photograph": photograph}, timeout=60)
    assert answer.status_code == 200, answer.text
    matches = answer.json()["matches"]
    return matches[0]["person"] if matches else None


def test_all_workers_serve_one_gallery(url, faces):
    for number, name in enumerate(("Ann", "Bo", "Cy")):
        files = {"photographs": faces[number][0]}
        enrolled = httpx.post(f"{url}/v1/people", data={"person": name, "twin": "true"}, files=files, timeout=60)
        assert enrolled.status_code == 201, enrolled.text
        assert {search(url, faces[number][0]) for _ in range(6)} == {name}
    gone = httpx.delete(f"{url}/v1/people/{enrolled.json()['id']}")
    assert gone.status_code == 200
    assert "Cy" not in {search(url, faces[2][0]) for _ in range(6)}
    people = [httpx.get(f"{url}/v1/people").json()["people"] for _ in range(6)]
    assert {tuple(each["name"] for each in some) for some in people} == {("Ann", "Bo")}
    workers = set()
    for _ in range(100):
        told = httpx.get(f"{url}/metrics").text
        workers |= set(re.findall(r"^process_start_time_seconds (\S+)$", told, re.MULTILINE))
        if len(workers) > 1:
            return
    pytest.fail("one worker answered everything")
