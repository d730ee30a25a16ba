"""deepface's API (PyPI `deepface[api]`), from the virtual environment that DEEPFACE names, as its service.sh starts it.

    python3 -m venv DIR && DIR/bin/pip install 'deepface[api]'
    DIR/bin/pip install --no-deps --target DIR/haar 'opencv-python-headless<5'   # for the Haar cascades

Neither TensorFlow nor PyTorch is wanted: since 0.0.103 it computes by ONNX Runtime where they are missing. It would
fetch weights from GitHub when a model is first used; files of the names that it looks for are laid there instead. Its
model `SFace` is whatever network lies under that file's name.
"""

import os
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.harness.sheet import MissingPeer
from benchmarks.service import Server

ROOT = Path(os.environ.get("DEEPFACE", ""))
INSTALL = (
    "python3 -m venv DIR && DIR/bin/pip install 'deepface[api]' && DIR/bin/pip install --no-deps --target DIR/haar "
    "'opencv-python-headless<5' && export DEEPFACE=DIR"
)


def check() -> str:
    """Return its version. Raises MissingPeer where there is none to start."""
    if "DEEPFACE" not in os.environ or not (ROOT / "bin" / "gunicorn").exists() or len(_cascades()) < 2:
        raise MissingPeer("deepface", INSTALL)
    return version()


@contextmanager
def serving(network: Path, yunet: Path, workers: int) -> Iterator[Server]:
    """Its API on loopback with so many processes; its script says 1.

    network: takes RGB pixels of 0 to 255, [N, 3, 112, 112], as its SFace client feeds them.
    """
    package = next(ROOT.glob("lib/python3*/site-packages/deepface/api/src"))
    with tempfile.TemporaryDirectory() as home:
        weights = Path(home, ".deepface", "weights")
        weights.mkdir(parents=True)
        named = {"face_recognition_sface_2021dec.onnx": network, "face_detection_yunet_2023mar.onnx": yunet}
        for name, file in {**named, **{file.name: file for file in _cascades()}}.items():
            (weights / name).symlink_to(file.resolve())
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        told = {
            "HOME": home, "DEEPFACE_FACE_RECOGNITION_MODELS": "SFace", "DEEPFACE_FACE_DETECTION_MODELS": "opencv,yunet",
        }  # fmt: skip
        words = [f"--workers={workers}", "--timeout=7200", f"--bind=127.0.0.1:{port}", "app:create_app()"]
        with subprocess.Popen(
            [(ROOT / "bin" / "gunicorn").resolve(), *words], cwd=package, env=os.environ | told,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        ) as process:  # fmt: skip
            try:
                _wait(port)
                yield Server(port, process.pid)
            finally:
                process.terminate()


def version() -> str:
    """Of deepface."""
    return next(ROOT.glob("lib/python3*/site-packages/deepface-*.dist-info")).stem.partition("-")[2]


def _cascades() -> list[Path]:
    """OpenCV's own, of the face and of the eyes; wheels of OpenCV 5 have them no more."""
    names = ("haarcascade_frontalface_default.xml", "haarcascade_eye.xml")
    return [file for name in names if (file := ROOT / "haar" / "cv2" / "data" / name).is_file()]


def _wait(port: int, seconds: float = 120) -> None:
    """Until it answers."""
    end = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).close()
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)
