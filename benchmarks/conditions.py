"""What a certificate's conditions catch: impostor pairs accepted before and after, of people no cut was chosen on.

Both photographs of a pair are altered alike. Conditions are learned from LFW's people outside its first fold, training
faces and half of UTK's photographs, and kept in build/benchmarks/conditions.json; reports are of the first fold's
original photographs, found and aligned anew, and of UTK's other half (which the network saw in training, unlabeled).
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import cv2
import numpy as np

from benchmarks.harness.faces import shared
from benchmarks.harness.sheet import ROOT, LeftOut, Sheet
from normface.atomic import replacing
from normface.conditions import Conditions
from normface.data import Reader, decode, open_reader
from normface.embed import Embedder, Portrait
from normface.embed.conditions import learn
from normface.errors import FaceError
from normface.faces import find_template, signals
from normface.faces.photographs import open_photographs
from normface.types import Face, Floats, Image

QUICK = None
KEPT = ROOT / "build" / "benchmarks" / "conditions.json"
KINDS = {"children to 4 years": (0, 4), "children of 5 to 10 years": (5, 10), "children of 11 to 15 years": (11, 15)}
ADULTS = {"adults of 20 to 40 years": (20, 40), "adults of 41 to 59 years": (41, 59), "60 years and older": (60, 116)}
TWIN = 0.8  # photographs of UTK more alike than that show one person

Alter = Callable[[Image, Face, np.random.Generator], Image]


def run(sheet: Sheet) -> None:
    """Learn, then a part for each alteration and each age."""
    if not (shared() / "lfw" / "lfw-raw-fold1.zip").exists():
        raise LeftOut("real faces are not there; set NORMFACE_DATA")
    embedder = Embedder.load()
    assert embedder.operating_point
    threshold = embedder.operating_point.threshold
    sheet.put("threshold", threshold)
    sheet.measure("learned", learned, embedder, threshold, sheet)
    conditions = Conditions(**json.loads(KEPT.read_bytes()))
    sheet.measure("cost", cost, conditions)
    sheet.measure("lfw_crops", crops, embedder, conditions, first_fold().select(range(1000)), False)
    for name, ages in {**KINDS, **ADULTS}.items():
        sheet.measure(f"utk/{name}", crops, embedder, conditions, utk(ages, 1, 420), True)
    photographs = originals(sheet.pick(150, 30))
    for name, alter in alterations().items():
        sheet.measure(f"photographs/{name}", altered, embedder, conditions, photographs, alter)


def learned(embedder: Embedder, threshold: float, sheet: Sheet) -> dict[str, Any]:
    """Learn conditions and keep them."""
    lfw, people = open_reader(shared() / "lfw" / "lfw-112x96.zip"), first_people()
    draw = np.random.default_rng(0)
    inside = [row for row, name in enumerate(lfw.ids.tolist()) if name.split("/")[0] not in people]
    training = open_reader(shared() / "train" / "faces-112.zip")
    one_each = np.unique(training.labels, return_index=True)[1]
    adults = np.concatenate([np.flatnonzero(mask(ages, 0)) for ages in ADULTS.values()])
    made = learn(
        embedder, lfw.select(np.sort(draw.permutation(inside)[:2000])),
        [training.select(np.sort(draw.permutation(one_each)[:900])),
         unlabeled().select(np.sort(draw.permutation(adults)[:900]))],
        {name: utk(ages, 0, 500) for name, ages in KINDS.items()}, threshold=threshold,
    )  # fmt: skip
    with replacing(KEPT) as temporary:
        temporary.write_text(json.dumps(asdict(made)), encoding="utf-8")
    return {**made.facts, "bytes": KEPT.stat().st_size}


def first_people() -> set[str]:
    """The people of the first fold of LFW's pairs."""
    rows = (shared() / "lfw" / "pairs.txt").read_text("utf-8").splitlines()[1:601]
    return {name for row in rows for name in row.split("\t")[::2] if not name.isdigit()}


def first_fold() -> Reader:
    """Aligned crops of the first fold's people."""
    reader, people = open_reader(shared() / "lfw" / "lfw-112x96.zip"), first_people()
    return reader.select([row for row, name in enumerate(reader.ids.tolist()) if name.split("/")[0] in people])


def unlabeled() -> Reader:
    """UTK's faces, and others."""
    return open_reader(shared() / "train" / "faces-unlabelled-112.zip")


def mask(ages: tuple[int, int], half: int) -> Any:
    """Which images are UTK's of these ages, in one half by the hash of their names."""

    def fits(name: str) -> bool:
        folder, _, file = name.partition("/")
        if folder != "utk" or not ages[0] <= int(file.split("_")[0]) <= ages[1]:
            return False
        return hashlib.sha256(name.encode()).digest()[0] % 2 == half

    return np.array([fits(name) for name in unlabeled().ids.tolist()])


def utk(ages: tuple[int, int], half: int, most: int) -> Reader:
    """UTK's faces of these ages in one half."""
    rows = np.random.default_rng(1).permutation(np.flatnonzero(mask(ages, half)))[:most]
    return unlabeled().select(np.sort(rows))


def originals(count: int) -> list[tuple[str, Image]]:
    """One original photograph of each of some people of the first fold."""
    photographs = open_photographs(shared() / "lfw" / "lfw-raw-fold1.zip")
    by_person: dict[str, str] = {}
    for name in photographs.names:
        by_person.setdefault(name.split("/")[-2], name)
    return [(person, decode(photographs.source.read(name), name)) for person, name in list(by_person.items())[:count]]


def alterations() -> dict[str, Alter]:
    """Name → an alteration of a photograph whose face was found."""

    def blur(share: float) -> Alter:
        return lambda image, face, draw: np.asarray(cv2.GaussianBlur(image, (0, 0), share * wide(face)))

    def resize(x: float, y: float) -> Alter:
        return lambda image, face, draw: np.asarray(cv2.resize(image, None, fx=x, fy=y, interpolation=cv2.INTER_AREA))

    def shrink(pixels: int) -> Alter:
        return lambda image, face, draw: resize(pixels / wide(face), pixels / wide(face))(image, face, draw)

    def cover(top: float, bottom: float, color: tuple[int, int, int]) -> Alter:
        def covered(image: Image, face: Face, draw: np.random.Generator) -> Image:
            x0, y0, x1, y1 = face.box
            found, rows = image.copy(), [int(max(0, y0 + share * (y1 - y0))) for share in (top, bottom)]
            found[rows[0] : rows[1], int(max(0, x0)) : int(x1)] = color
            return found

        return covered

    def pattern(image: Image, face: Face, draw: np.random.Generator) -> Image:
        """A mask with folds and a print, as one color is easily told."""
        found, (x0, y0, x1, y1) = image.copy(), (int(max(0, side)) for side in face.box)
        top, height = int(y0 + 0.58 * (y1 - y0)), image.shape[0]
        bottom = min(height, int(y0 + 1.05 * (y1 - y0)))
        rows, columns = np.mgrid[top:bottom, x0:x1]
        folds = 25 * np.sin(2 * np.pi * rows / max(0.12 * (y1 - y0), 1)) + 12 * np.sin(columns / 2.0)
        print_ = draw.normal(0, 12, (*rows.shape, 3)) + folds[..., None] + np.array((120, 160, 210))
        area = found[top:bottom, x0:x1]
        found[top:bottom, x0:x1] = np.clip(print_[: area.shape[0], : area.shape[1]], 0, 255).astype(np.uint8)
        return found

    def noise(image: Image, face: Face, draw: np.random.Generator) -> Image:
        return np.clip(image + draw.normal(0, 60, image.shape), 0, 255).astype(np.uint8)

    def jpeg(image: Image, face: Face, draw: np.random.Generator) -> Image:
        return np.asarray(cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 5])[1], 1))

    return {
        "untouched": lambda image, face, draw: image,
        **{f"blur, {share} % of the face's width": blur(share / 100) for share in (2, 3, 4, 5, 10)},
        **{f"face {pixels} px wide": shrink(pixels) for pixels in (22, 18, 14)},
        "light × 0.1": lambda image, face, draw: (image * 0.1).astype(np.uint8),
        "noise, σ 60": noise,
        "upside down": lambda image, face, draw: image[::-1, ::-1].copy(),
        **{f"squeezed to {share}": resize(share, 1) for share in (0.8, 0.7, 0.6)},
        "drawn mask": cover(0.58, 1.05, (120, 160, 210)), "drawn mask with folds": pattern,
        "bar over the eyes": cover(0.28, 0.5, (10, 10, 10)),
        "JPEG quality 5": jpeg,
    }  # fmt: skip


def wide(face: Face) -> float:
    """A face's width, in pixels."""
    return face.box[2] - face.box[0]


def altered(
    embedder: Embedder, conditions: Conditions, photographs: list[tuple[str, Image]], alter: Alter
) -> dict[str, Any]:
    """Alter each photograph, find its face and judge pairs."""
    portraits, people, draw = [], [], np.random.default_rng(0)
    for person, image in photographs:
        try:
            whole = embedder.portrait(image).face
            assert whole
            portraits.append(embedder.portrait(alter(image, whole, draw)))
            people.append(person)
        except FaceError:
            continue
    return {"tried": len(photographs), **judged(embedder, conditions, portraits, people, 2.0)}


def crops(embedder: Embedder, conditions: Conditions, reader: Reader, unlabeled: bool) -> dict[str, Any]:
    """Judge pairs of aligned crops."""
    portraits = [embedder.portrait(reader.read(row), aligned=True) for row in range(len(reader))]
    people = reader.ids.tolist() if unlabeled else reader.identities[reader.labels].tolist()
    return judged(embedder, conditions, portraits, people, TWIN if unlabeled else 2.0)


def judged(
    embedder: Embedder, conditions: Conditions, portraits: list[Portrait], people: list[str], twin: float
) -> dict[str, Any]:
    """Of all impostor pairs: accepted without conditions, still decided, accepted of these."""
    assert embedder.operating_point
    features = np.concatenate([
        embedder.features(np.stack([each.crop for each in portraits[start : start + 64]]))
        for start in range(0, len(portraits), 64)
    ])  # fmt: skip
    vectors: Floats = features / np.linalg.norm(features, axis=1, keepdims=True)
    template = find_template(embedder.spec.template)
    assessed = conditions.assess(vectors, [signals(each.crop, each.face, template) for each in portraits])
    inside = np.array([each.inside for each in assessed])
    cosines, names = vectors @ vectors.T, np.array(people)
    impostor = np.triu((names[:, None] != names) & (cosines <= twin), 1)
    accepted, decided = impostor & (cosines >= embedder.operating_point.threshold), inside[:, None] & inside
    pairs, left = int(impostor.sum()), int((impostor & decided).sum())
    return {
        "photographs": len(portraits), "undecided": float(1 - inside.mean()), "pairs": pairs,
        "accepted_before": float(accepted.sum() / pairs), "pairs_undecided": float(1 - left / pairs),
        "pairs_decided": left, "accepted_of_decided": int((accepted & decided).sum()),
        "norm_median": float(np.median(np.linalg.norm(features, axis=1))),
        "risk_median": float(np.median([each.risk or 0 for each in assessed])),
    }  # fmt: skip


def cost(conditions: Conditions) -> Mapping[str, Any]:
    """Milliseconds a photograph: its signals and its assessment, the least of some rounds."""
    draw = np.random.default_rng(0)
    crop = draw.integers(0, 256, (112, 96, 3), dtype=np.uint8)
    face = Face((0, 0, 96, 112), draw.uniform(20, 90, (5, 2)), 1.0)
    vector = draw.normal(size=(1, conditions.dim))
    spent = []
    for _ in range(200):
        began = time.perf_counter()
        conditions.assess(vector, [signals(crop, face)])
        spent.append(time.perf_counter() - began)
    return {"least_ms": round(1000 * min(spent), 3), "median_ms": round(1000 * float(np.median(spent)), 3)}
