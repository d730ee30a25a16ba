"""Run one benchmark, print its figures, and keep them under results/ with machine, date and commit."""

import json
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

HERE = Path(__file__).parent
NAMES = sorted(p.stem for p in HERE.glob("*.py") if not p.stem.startswith("_"))


def machine() -> dict[str, object]:
    """What the figures were measured on."""
    import os

    import torch

    processor = torch.cpu.get_capabilities().get("cpu_name") or platform.processor()
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"processor": processor, "cores": os.cpu_count(), "gpu": gpu, "torch": torch.__version__}


def main() -> None:
    """The command line."""
    if len(sys.argv) != 2 or sys.argv[1] not in NAMES:
        sys.exit(f"usage: python -m benchmarks NAME, with NAME among {', '.join(NAMES)}")
    name = sys.argv[1]
    figures = import_module(f"benchmarks.{name}").run()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=HERE).stdout
    record = {"name": name, "date": f"{datetime.now(UTC):%Y-%m-%d}", "commit": commit.strip(), **machine(), **figures}
    (HERE / "results").mkdir(exist_ok=True)
    text = json.dumps(record, indent=2) + "\n"
    (HERE / "results" / f"{name}.json").write_text(text, encoding="utf-8")
    print(text, end="")


main()
