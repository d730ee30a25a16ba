"""Where real data lie, and small data that many tests share."""

import atexit
import gc
import multiprocessing
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

if not os.path.exists("/dev/nvidia0"):
    os.environ["TRITON_INTERPRET"] = "1"  # before anything imports Triton: its kernels then run on CPU tensors

ROOT = Path(__file__).parents[1]
# No property may depend on how fast the machine is.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")
# The tests' processes are forked from one that has imported this: torch's import takes each 2 s otherwise.
multiprocessing.set_forkserver_preload(
    ["pytest", "normface.data", "normface.train.loop", "torch.multiprocessing", "torch.utils.tensorboard"]
)


def pytest_collection_finish() -> None:
    """What was imported stays: leave its half a million objects out of every later collection of garbage."""
    gc.collect()
    gc.freeze()
    atexit.register(gc.unfreeze)  # at the very end it goes too, as C++ libraries expect


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The real faces: NORMFACE_DATA, or ../shared/data beside the project; skips where they are absent."""
    place = Path(os.environ.get("NORMFACE_DATA", ROOT.parent / "shared" / "data"))
    if not (place / "lfw" / "pairs.txt").exists():
        pytest.skip(f"no real faces at {place} (set NORMFACE_DATA)")
    return place


@pytest.fixture(scope="session")
def drawn(tmp_path_factory) -> Path:
    """A small synthetic data set."""
    from normface.data.synthetic import write_dataset

    folder = tmp_path_factory.mktemp("drawn")
    write_dataset(folder, people=12, images=8, folds=2, fold_people=4, fold_images=3, fold_pairs=6)
    return folder
