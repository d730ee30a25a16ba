"""The command `normface align`: cut aligned faces out of photographs."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import simplejpeg
import typer

from .. import report
from ..atomic import replacing
from ..data import decode_reduced
from ..errors import DataError
from ..faces import find_template, open_detector
from ..faces.batch import JOURNAL, Entry, Work, align_all, kind_of
from ..faces.photographs import Photographs, open_photographs, read_landmarks
from ..system_facts import usable_cores
from .terminal import Computer, FaceDetector, Json, out, progress

PICTURES, SIDE = 200, 120  # number of rejected photographs in the report; their longer side, in pixels


def align(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="Photographs: folder, zip, or text file of paths.")],
    folder: Annotated[Path, typer.Argument(metavar="DST", help="Folder for the crops.")],
    template: Annotated[
        str, typer.Option(help="112x112, 112x96, 144x144, 128x128 (Light CNN), or a JSON file with your own template.")
    ] = "112x112",
    faces: Annotated[
        str, typer.Option(help="Which face to keep if a photograph shows several: center, largest or all.")
    ] = "center",
    detector: FaceDetector = "mtcnn",
    weights: Annotated[
        Path | None, typer.Option(help="ONNX file of the detector, for --detector yunet, scrfd or retinaface.")
    ] = None,
    device: Computer = "auto",
    landmarks: Annotated[
        Path | None, typer.Option(help="Skip detection: read landmarks from lines `name x1 … x5 y1 … y5`.")
    ] = None,
    format: Annotated[str, typer.Option(help="jpg (quality 95) or png.")] = "jpg",
    detail: Annotated[
        int, typer.Option(help="Reduce large photographs for detection, to this shorter side in pixels or more.")
    ] = 500,
    workers: Annotated[int | None, typer.Option(help="Number of threads. Default: one per core.")] = None,
    as_json: Json = False,
) -> None:
    """Detect faces in photographs and write aligned crops for training and evaluation.

    Writes the crops into DST, in the folder structure of SRC. `align.jsonl` records each face's position, score, eye
    distance, pose and sharpness, or the reason why a photograph was rejected. `report.html` shows the rejected ones.
    To continue an interrupted run, run the same command again.

    Example: `normface align photographs crops`.
    """
    began = time.perf_counter()
    goal = find_template(template)
    settings: dict[str, Any] = {
        "template": [goal.points.tolist(), goal.height, goal.width], "faces": faces, "format": format, "detail": detail,
        "detector": detector if landmarks is None else "none: landmarks", "sha256": _sha256(landmarks or weights),
    }  # fmt: skip
    photographs = open_photographs(source)
    opened = open_detector(detector, weights=weights, device=device) if landmarks is None else None
    work = Work(
        goal, settings, choice=faces, format=format, detail=detail,  # type: ignore[arg-type]
        detector=opened,
        landmarks=None if landmarks is None else read_landmarks(landmarks),
    )  # fmt: skip
    threads = usable_cores() if workers is None else workers
    with progress("aligning", "photographs") as update:
        entries = align_all(photographs, folder, work, workers=threads, progress=update)
    page = folder / "report.html"
    summary = summarize(entries)
    write_page(page, source, photographs, entries, summary, {**settings, "template": template})
    if as_json:
        places = {
            "journal": str(folder / JOURNAL),
            "report": str(page),
            "unread": dict(photographs.unread),
            "device": getattr(opened, "device", None),
        }
        out.print_json(json.dumps({**summary, **places, "seconds": round(time.perf_counter() - began, 1)}))
        return
    out.print(f"{summary['crops']:,} crops from {summary['aligned']:,} of {summary['photographs']:,} photographs in "
              f"{folder}", soft_wrap=True, markup=False)  # fmt: skip
    for reason, number in summary["refused"].items():
        out.print(f"  {number:6,} {reason}", soft_wrap=True, markup=False)
    out.print(f"journal: {folder / JOURNAL}\nreport:  {page}", soft_wrap=True, markup=False)


def _sha256(path: Path | None) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path and path.is_file() else None


def summarize(entries: list[Entry]) -> dict[str, Any]:
    """Count photographs, crops, and rejections by reason, most frequent first."""
    refused = Counter(kind_of(entry["refused"]) for entry in entries if "refused" in entry)
    crops = [len(entry["faces"]) for entry in entries if "faces" in entry]
    return {
        "photographs": len(entries), "aligned": len(crops), "crops": sum(crops), "refused": dict(refused.most_common()),
    }  # fmt: skip


def write_page(
    path: Path, source: Path, photographs: Photographs, entries: list[Entry], summary: dict[str, Any], settings: Any
) -> None:
    """Write the HTML report."""
    refused = [(entry["photograph"], entry["refused"]) for entry in entries if "refused" in entry]
    shown = [(name, reason, thumbnail(photographs, name)) for name, reason in refused[:PICTURES]]
    eyes = [face["eye_distance"] for entry in entries for face in entry.get("faces", ())]
    facts = {key: f"{summary[key]:,}" for key in ("photographs", "aligned", "crops")}
    if eyes:
        facts["eye distance, median"] = f"{np.median(eyes):.0f} px"
    facts |= {key: str(value) for key, value in settings.items() if value is not None}
    page = report.render_photographs(f"Faces of {source}", facts, summary["refused"], shown, refused[PICTURES:])
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def thumbnail(photographs: Photographs, name: str) -> bytes | None:
    """Return a small JPEG of a photograph, or None if it cannot be read."""
    try:
        image = decode_reduced(photographs.source.read(name), name, SIDE).image
    except DataError:
        return None
    share = SIDE / max(image.shape[:2])
    size = [max(1, round(share * side)) for side in image.shape[1::-1]]
    return bytes(simplejpeg.encode_jpeg(cv2.resize(image, size, interpolation=cv2.INTER_AREA), 70))
