"""Run one benchmark, print its figures, and keep them under results/ with machine, date and commit."""

import argparse
import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

HERE = Path(__file__).parent
NAMES = sorted(p.stem for p in HERE.glob("*.py") if not p.stem.startswith("_"))


def machine() -> dict[str, object]:
    """What the figures were measured on."""
    import torch

    processor = torch.cpu.get_capabilities().get("cpu_name") or platform.processor()
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"processor": processor, "cores": os.cpu_count(), "gpu": gpu, "torch": torch.__version__}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--data", help="folder of real faces; without it NORMFACE_DATA, then ../shared/data")
    given = parser.parse_args()
    if given.data:
        os.environ["NORMFACE_DATA"] = given.data
    name = given.name
    figures = import_module(f"benchmarks.{name}").run()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=HERE).stdout
    record = {"name": name, "date": f"{datetime.now(UTC):%Y-%m-%d}", "commit": commit.strip(), **machine(), **figures}
    (HERE / "results").mkdir(exist_ok=True)
    text = json.dumps(record, indent=2) + "\n"
    (HERE / "results" / f"{name}.json").write_text(text, encoding="utf-8")
    print(text, end="")


main()
