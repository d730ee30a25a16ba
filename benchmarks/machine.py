"""The speed test of `normface doctor --machine`: product, detection, embedding, verification, bare training steps."""

from benchmarks.harness.sheet import Sheet
from normface.machine.speed import parts

QUICK = 30  # seconds that `all --quick` gives it


def run(sheet: Sheet) -> None:
    """Names and units are those of `normface.machine.speed.UNITS`."""
    for name, work in parts(sheet.pick(30.0, 10.0), bf16=sheet.has_bf16).items():
        sheet.measure(name, work)
