"""Memory under the worst requests that the limits allow: docs/service.md has the table."""

import base64
import io
import json
import os
import subprocess
import sys
import threading

import httpx
import pytest
from PIL import Image
from tests.serve.conftest import jpeg

from normface.data.decoding import decoding_cost
from normface.data.synthetic import photograph
from normface.serve import Settings

MOST = 1200 << 20  # as in deploy/normface.service
SIDE = 7000
UPLOAD = 15 << 20

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="peaks are read from Linux's /proc")


def encoded(mode, kind, side=SIDE, **options):
    file = io.BytesIO()
    Image.new(mode, (side, side), options.pop("color", 0)).save(file, kind, **options)
    return file.getvalue()


@pytest.fixture
def peak():
    """The service with four workers and the default model; called with bodies: statuses, and the peak in bytes."""
    words = ["serve", "--port", "0", "--workers", "4", "--timeout", "600", "--rate", "1000"]
    program = "from normface.cli import main; main()"
    process = subprocess.Popen([sys.executable, "-c", program, *words], stderr=subprocess.PIPE, text=True)
    url = json.loads(process.stderr.readline())["url"]
    threading.Thread(target=process.stderr.read, daemon=True).start()

    def measured(*bodies):
        with open(f"/proc/{process.pid}/clear_refs", "w") as file:
            file.write("5")  # the peak begins anew
        statuses = []

        def send(body):
            statuses.append(httpx.post(f"{url}/v1/embed", timeout=900, **body).status_code)

        threads = [threading.Thread(target=send, args=(body,)) for body in bodies]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with open(f"/proc/{process.pid}/status") as file:
            (line,) = [line for line in file if line.startswith("VmHWM")]
        assert len(statuses) == len(bodies)
        return set(statuses), int(line.split()[1]) << 10

    yield measured
    process.terminate()
    process.wait(600)


def photographs(data, count=1):
    return {"files": [("photographs", data)] * count}


@pytest.mark.slow
def test_eight_pngs_of_49_million_pixels_in_one_request(peak):
    data = encoded("RGB", "PNG")
    assert len(data) < 200_000
    statuses, most = peak(photographs(data, 8))
    assert statuses == {422}  # no face
    assert most < MOST


@pytest.mark.nightly
def test_the_worst_requests(peak):
    text = {"content": json.dumps({"photographs": [base64.b64encode(bytes(11 << 20)).decode()]}),
            "headers": {"content-type": "application/json"}}  # fmt: skip
    real, large = photographs(jpeg(photograph(0, 0, 0)), 32), photographs(bytes(UPLOAD))
    progressive = encoded("RGB", "JPEG", 5000, progressive=True, subsampling=0)
    cases = {
        "4 × 32 photographs": [real] * 4,
        "3 × 2 RGBA PNGs": [photographs(encoded("RGBA", "PNG"), 2)] * 3,
        "4 JPEGs": [photographs(encoded("RGB", "JPEG"))] * 4,
        "4 progressive JPEGs of 25 MP": [photographs(progressive)] * 4,
        "24 uploads of 15 MiB": [large] * 24,
        "12 JSON bodies of 15 MiB": [text] * 12,
    }
    cases["all at once"] = [*cases["3 × 2 RGBA PNGs"], *cases["4 JPEGs"], *cases["24 uploads of 15 MiB"][:12], real]
    for name, bodies in cases.items():
        statuses, most = peak(*bodies)
        print(f"{name}: {most >> 20} MiB, {statuses}")
        assert statuses <= {200, 422, 503}, name
        assert most < MOST, name


@pytest.mark.parametrize(
    ("data", "beside"),
    [
        (encoded("RGB", "PNG", 100), 5), (encoded("RGB", "JPEG", 96), 0), (encoded("RGB", "WEBP", 100), 30),
        (encoded("RGB", "JPEG", 96, progressive=True, subsampling=0), 6),
        (encoded("RGB", "JPEG", 96, progressive=True, subsampling=2), 3),
        (encoded("I;16", "PNG", 100), 30), (encoded("P", "GIF", 100), 8),
    ],
)  # fmt: skip
def test_what_decoding_needs_is_known_from_the_header(data, beside):
    height, width, found = decoding_cost(data, "it")
    assert height == width
    assert found == beside * height * width


def test_requests_are_a_quarter_of_the_memory():
    settings = Settings()
    assert 3 * settings.max_upload <= settings.memory // 4
