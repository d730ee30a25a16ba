"""The card of a model: LFW, BLUFR, rates per person, by sex and age, on poor photographs, speed; gates against another.

    python -m benchmarks model_card [MODEL] [--quick] [--against CARD.json] [--out DIR]

MODEL is a run, an ONNX file or a name of the catalogue; without one, the model that ships. Vectors (mirror sum) are
kept in build/benchmarks/model_card by the model's SHA-256, parts in the partial card: a call that was stopped goes on.
Writes NAME.json and NAME.md. With --against, every row is compared with that of the other card; exits with 1 unless the
interval of each excludes that the model is worse.
"""

import argparse
import json
import math
import re
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.conditions import ADULTS, KINDS, TWIN, alterations, first_people, unlabeled
from benchmarks.harness.command import BUILD, facts
from benchmarks.harness.faces import shared
from benchmarks.harness.sheet import LeftOut, Sheet
from normface.atomic import replacing
from normface.data import Reader, open_reader
from normface.data.catalogue import by_sha256, sha256_of
from normface.data.held_out import held_out
from normface.embed import Embedder
from normface.embed.loading import DEFAULT, model_path
from normface.protocols import PROTOCOLS, inputs_of, read_groups, threshold_at
from normface.protocols.comparisons import every_pair
from normface.protocols.group_rates import rates_of
from normface.protocols.group_rates import slices as by_group
from normface.protocols.named_pairs import people
from normface.protocols.rates import STEADY, Between, Listed, rate
from normface.report.render import markdown_table
from normface.types import Embeddings, Face

QUICK = None
FAR = 0.001  # of the threshold that all rates are told at
BLOCK = 512
CROPS = ("blur, 2 % of the face's width", "blur, 4 % of the face's width", "face 22 px wide", "face 14 px wide",
         "light × 0.1", "noise, σ 60", "drawn mask", "bar over the eyes", "JPEG quality 5")  # fmt: skip
CAVEAT = (
    "UTKFace has no identities: impostor pairs are two photographs, without those of a cosine above 0.8. Photographs "
    "are of the tenth that the recipe `distill` holds out; the default model of version 1 was trained on them, "
    "unlabeled."
)
Row = dict[str, Any]


def run(sheet: Sheet, model: str | None = None) -> None:
    """All parts; rows are figures of `rows`, by part."""
    if not (shared() / "lfw" / "lfw-112x96.zip").exists():
        raise LeftOut("real faces are not there; set NORMFACE_DATA")
    embedder = Embedder.load(model, certified=False)
    sheet.resume(f"{embedder.sha256} {sha256_of(Path(__file__))}")
    lfw = open_reader(shared() / "lfw" / "lfw-112x96.zip")
    if sheet.quick:
        lfw = lfw.select(np.flatnonzero(np.isin(lfw.ids, quick_images())))
    vectors = embedded(embedder, lfw, "quick" if sheet.quick else "lfw")
    sheet.measure("facts", about, embedder, model, vectors)
    for name in ("lfw", "lfw_view1"):
        sheet.measure(f"rows/{name}", protocol, name, vectors, sheet.quick)
    if sheet.quick:
        sheet.leave_out("rows/blufr", "a quick card; leave --quick out")
    else:
        sheet.measure("rows/blufr", protocol, "blufr", vectors, False)
    names, subjects = people(vectors.ids.tolist())
    found = every_pair(vectors, subjects, FAR)
    threshold = threshold_at(found, FAR)
    sheet.put("threshold", threshold)
    sheet.put("people", len(names))
    everyone = np.ones(len(found.ids), bool)
    whole = rates_of(found, threshold, np.ones(len(found.scores), bool), found.impostors(everyone, everyone))
    sheet.measure("rows/every pair", lambda: rows_of_rates({n: each.estimate for n, each in whole.items() if each}))
    sheet.measure("rows/sex", sexes, found, threshold)
    sheet.measure("rows/age", ages, embedder, threshold, sheet.quick)
    chosen = lfw.select(np.flatnonzero(np.isin(people(lfw.ids.tolist())[0][subjects], sorted(first_people()))))
    if sheet.quick:
        chosen = chosen.select(np.arange(min(len(chosen), 150)))
    for name in CROPS:
        sheet.measure(f"rows/on poor crops, {name.replace('/', ' ')}", poor, embedder, chosen, name, threshold)
    sheet.measure("speed", speed, embedder)


def quick_images() -> list[str]:
    """The images of every fifth pair of View 2, which keeps all folds, and of every eighth of View 1."""
    views = [inputs_of(name).read_pairs(inputs_of(name).find_lists(shared())) for name in ("lfw", "lfw_view1")]
    chosen: list[str] = []
    for view, rows in zip(views, (np.s_[::5], np.s_[::8]), strict=True):
        assert view
        chosen += [*view[0].left[rows].tolist(), *view[0].right[rows].tolist()]
    return sorted(set(chosen))


def embedded(embedder: Embedder, reader: Reader, name: str) -> Embeddings:
    """Vectors of aligned crops, kept in blocks, so that a call that was stopped goes on."""
    folder = BUILD / "model_card" / embedder.sha256[:12]
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for start in range(0, len(reader), BLOCK):
        path = folder / f"{name}-{start:06d}.npz"
        if not path.exists():
            embedder.embed(reader.select(np.arange(start, min(start + BLOCK, len(reader))))).save(path)
        parts.append(Embeddings.load(path))
    features = np.concatenate([each.vectors * each.norms[:, None] for each in parts])
    return Embeddings(features, np.concatenate([each.ids for each in parts]))


def about(embedder: Embedder, model: str | None, vectors: Embeddings) -> dict[str, Any]:
    """What the model is: its size, its licenses, and what was looked at."""
    path = model_path(model)
    listed = by_sha256(embedder.sha256)
    licenses = listed.terms if listed else "not stated in the file; see whoever published it"
    if path == DEFAULT:
        licenses = "code Apache-2.0; weights for research only, as the photographs they were trained on"
    return {
        "model": "default" if path == DEFAULT else path.name, "sha256": embedder.sha256,
        "megabytes": round(path.stat().st_size / 1e6, 2) if path.is_file() else None,
        "numbers": int(vectors.vectors.shape[1]), "template": embedder.spec.template, "licenses": licenses,
        "images": len(vectors),
    }  # fmt: skip


def protocol(name: str, vectors: Embeddings, partial: bool) -> dict[str, Row]:
    """Rows of a published protocol."""
    lists = inputs_of(name).find_lists(shared())
    options = {"partial": True} if partial else {}
    result = PROTOCOLS.build(name, vectors, *lists, **options)
    kept = ("accuracy", "vr", "dir", "tar_per_person")
    return {
        key: {**asdict(each), "better": "higher"}
        for key, each in result.metrics.items()
        if key.partition("@")[0].removesuffix("_per_person") in kept or key.startswith(kept)
    }  # fmt: skip


def rows_of_rates(rates: Mapping[str, Any]) -> dict[str, Row]:
    """Rows of FAR and FRR, per comparison and per person: a FRR is told as TAR."""
    rows = {}
    for name, each in rates.items():
        given = asdict(each) if not isinstance(each, Mapping) else dict(each)
        if name.startswith("frr"):
            low, high = 1 - given["high"], 1 - given["low"]
            given |= {"value": 1 - given["value"], "low": low, "high": high}
        rows[name.replace("frr", "tar")] = given | {"better": "lower" if name.startswith("far") else "higher"}
    return rows


def sexes(found: Any, threshold: float) -> dict[str, Row]:
    """Rows of women and men."""
    told = by_group(found, threshold, read_groups(shared() / "lfw" / "sex.csv", found.ids))
    rows: dict[str, Row] = {}
    for each in told["rows"]:
        rates = {name: each[name] for name in ("far", "frr", "far_per_person", "frr_per_person") if each[name]}
        rows |= {f"{each['group']}, {name}": row for name, row in rows_of_rates(rates).items()}
    return rows


def ages(embedder: Embedder, threshold: float, quick: bool) -> dict[str, Row]:
    """FAR within each age band of the tenth of UTKFace that is held out."""
    reader = unlabeled()
    rows: dict[str, Row] = {}
    for name, (low, high) in {**KINDS, **ADULTS}.items():
        chosen = [
            row for row, id in enumerate(reader.ids.tolist())
            if id.startswith("utk/") and held_out(id) and low <= int(re.split(r"[/_]", id)[1]) <= high
        ]  # fmt: skip
        vectors = embedded(embedder, reader.select(np.array(chosen[: 60 if quick else None])), f"utk-{low}-{quick}")
        cosines = np.triu(vectors.vectors @ vectors.vectors.T, 1)
        cosines[cosines > TWIN] = 0
        likest = np.argsort(-cosines, axis=None)[: int((cosines >= threshold).sum()) + STEADY]
        left, right = np.unravel_index(likest, cosines.shape)
        accepted = cosines[left, right] >= threshold
        one_each = np.ones(len(vectors), int)
        few, more = (Listed.of(left[kept], right[kept], len(vectors)) for kept in (accepted, accepted | True))
        estimate = rate(few, Between(one_each, one_each), longer=more)
        assert estimate
        rows[f"{name}, far"] = {**asdict(estimate.estimate), "better": "lower"}
    return rows


def poor(embedder: Embedder, reader: Reader, name: str, threshold: float) -> dict[str, Row]:
    """TAR and FAR over every pair of crops of the first fold's people, all altered alike."""
    import cv2

    alter, draw = alterations()[name], np.random.default_rng(0)
    crops = []
    for row in range(len(reader)):
        crop = reader.read(row)
        height, width = crop.shape[:2]
        face = Face((0, 0, width, height), np.zeros((5, 2)), 1.0)
        crops.append(cv2.resize(np.asarray(alter(crop, face, draw)), (width, height)))
    vectors = Embeddings(embedder.embed(np.stack(crops), aligned=True).vectors, reader.ids)
    found = every_pair(vectors, people(vectors.ids.tolist())[1], 1.0)
    far, tar = found.rates(threshold)
    return {
        "tar": {**asdict(tar.estimate), "better": "higher"}, "far": {**asdict(far.estimate), "better": "lower"},
    }  # fmt: skip


def speed(embedder: Embedder) -> dict[str, Any]:
    """Milliseconds for one crop in both orientations, the least and the median of 50."""
    crop = np.random.default_rng(0).integers(0, 256, (1, embedder.spec.height, embedder.spec.width, 3), dtype=np.uint8)
    spent = []
    for _ in range(50):
        began = time.perf_counter()
        embedder.features(crop)
        spent.append(1000 * (time.perf_counter() - began))
    return {"two_orientations_least_ms": round(min(spent), 2), "median_ms": round(float(np.median(spent)), 2),
            "threads": embedder.threads, "device": embedder.device}  # fmt: skip


def flat(card: Mapping[str, Any]) -> dict[str, Row]:
    """All rows of a card by one name each."""
    return {f"{part}: {name}": row for part, rows in card.get("rows", {}).items() for name, row in rows.items()}


def compared(card: Mapping[str, Any], other: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each row of both cards: the gain over the other card with its 95 % interval, and what that says.

    The interval takes both cards' intervals as independent: ends add as squares. They are of the same photographs, so
    that it is too wide rather than too narrow. `better` where it excludes 0 from below, `worse` from above.
    """
    ours, theirs = flat(card), flat(other)
    rows = []
    for name in (each for each in ours if each in theirs):
        new, old = ours[name], theirs[name]
        sign = 1 if new["better"] == "higher" else -1
        gain = new["value"] - old["value"]
        below = math.hypot(new["value"] - new["low"], old["high"] - old["value"])
        above = math.hypot(new["high"] - new["value"], old["value"] - old["low"])
        low, high = sorted((sign * (gain - below), sign * (gain + above)))
        verdict = "better" if low > 0 else "worse" if high < 0 else "undecided"
        rows.append({"row": name, "gain": sign * gain, "low": low, "high": high, "verdict": verdict})
    return rows


def markdown(card: Mapping[str, Any], gates: list[dict[str, Any]]) -> str:
    """The card as a page."""
    told, verdicts = card.get("facts", {}), {each["row"]: each for each in gates}

    def percent(*values: float) -> str:
        return " to ".join(f"{100 * value:.3g}" for value in values)

    head = ["what", "%", "95 % interval", "n", *(["gain, points", "says"] if gates else [])]
    lines = [head]
    for name, row in flat(card).items():
        line = [name, percent(row["value"]), percent(row["low"], row["high"]), f"{row['n']:,.0f}"]
        if gates:
            gate = verdicts.get(name)
            line += [percent(gate["low"], gate["high"]), gate["verdict"]] if gate else ["–", "not in the other card"]
        lines.append(line)
    text = [f"# {told.get('model', card['name'])}", ""]
    text += [f"- {key.replace('_', ' ')}: {value}" for key, value in told.items()]
    text += [f"- {key.replace('_', ' ')}: {value}" for key, value in card.get("speed", {}).items()]
    text += [
        f"- processor: {card['cores']} cores of {card['processor']} ({card['kind']}), GPU: {card['gpu'] or 'none'}"
    ]
    text += [f"- threshold at FAR {100 * FAR:g} % over every pair: {card.get('threshold', math.nan):.4f}"]
    if card["quick"]:
        text += ["- **a quick card, of a part of the photographs**"]
    text += [f"- left out: {place}: {why}" for place, why in card["left_out"].items()]
    text += ["", markdown_table(lines), "", CAVEAT, ""]
    return "\n".join(text)


def main(words: list[str]) -> int:
    """The command line. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks model_card", description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", help="run, ONNX file or name; default: the model that ships")
    parser.add_argument("--quick", action="store_true", help="a part of the photographs")
    parser.add_argument(
        "--against", type=Path, metavar="CARD.json", help="an earlier card, of the model to be replaced"
    )
    parser.add_argument("--out", type=Path, default=BUILD / "model_card", help="folder (%(default)s)")
    given = parser.parse_args(words)
    name = re.sub(r"\W+", "-", Path(given.model).stem) if given.model else "default"
    sheet = Sheet(name, given.out / f"{name}.json", facts=facts(), quick=given.quick)
    sheet.attempt(name, run, sheet, given.model)
    file = sheet.finish()
    card = json.loads(file.read_text("utf-8"))
    gates = []
    if given.against:
        other = json.loads(given.against.read_text("utf-8"))
        if other["quick"] != card["quick"]:
            parser.error("expected two cards of the same photographs, got a quick one and a whole one; make both alike")
        gates = compared(card, other)
    page = given.out / f"{name}.md"
    with replacing(page) as temporary:
        temporary.write_text(markdown(card, gates), encoding="utf-8")
    if gates:
        with replacing(given.out / f"{name}.gates.json") as temporary:
            temporary.write_text(json.dumps(gates, indent=2) + "\n", encoding="utf-8")
    print(page.read_text("utf-8"), end="")
    return int(bool(sheet.failed) or any(each["verdict"] != "better" for each in gates))
