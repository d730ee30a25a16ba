"""IJB-B and IJB-C: comparisons of templates of many images, 1:1 and 1:N (Whitelam 2017, Maze 2018).

A template is the normalized sum of the means of its media. The weight of an image is its norm, a sign of quality in
some models. Lists may have two forms: InsightFace's `meta` (`image template medium`; `template template label`) and the
official protocols (CSV with TEMPLATE_ID, SUBJECT_ID, FILENAME, SIGHTING_ID; pairs of template numbers).
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, reason
from ..types import Bools, Embeddings, Floats, Ints, Result, ScoreSet, Templates
from .inputs import PROTOCOLS, reads
from .lists import read_text
from .named_pairs import Ids, partly, present, rows_of
from .open_set import Search, estimates
from .pairs import joined
from .verification import cosines, curves, rates, separation

IJB_FARS = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
WANTED = "a list of IJB's"
_COLUMNS = "TEMPLATE_ID", "SUBJECT_ID", "FILENAME", "SIGHTING_ID"


@dataclass(frozen=True)
class Media:
    """Listed images [M]: id, number of the template, of the medium (a still or a video), and of the subject or -1."""

    ids: Ids
    template: Ints
    medium: Ints
    subject: Ints


def read_media(*paths: str | Path) -> Media:
    """Read `image template medium` lines, or official CSV files. Raises DataError naming the file and the line."""
    return Media(*(np.concatenate(each) for each in zip(*map(_media, paths), strict=True)))


def _media(path: str | Path) -> tuple[Ids, Ints, Ints, Ints]:
    text, _ = read_text(path, WANTED)
    if not text.strip():
        raise DataError(WANTED, f"nothing in {path}", "take the published list")
    try:
        if text[:200].upper().startswith("TEMPLATE_ID"):
            rows = list(csv.DictReader(text.splitlines(), skipinitialspace=True))
            template, subject, ids, medium = ([row[name] for row in rows] for name in _COLUMNS)
            return np.array(ids), *(np.array(each, np.int64) for each in (template, medium, subject))  # type: ignore[return-value]
        cells = np.array(text.split()).reshape(-1, 3)
        return cells[:, 0], cells[:, 1].astype(np.int64), cells[:, 2].astype(np.int64), np.full(len(cells), -1)
    except (KeyError, TypeError, ValueError) as error:
        want = f"lines `image template medium`, or CSV with {', '.join(_COLUMNS)}"
        raise DataError(f"{want} in {path}", "other lines", "take the published list") from error


def read_matches(path: str | Path, media: Media) -> tuple[Ints, Ints, Bools]:
    """Read the template numbers of both sides [M], and whether they show one subject.

    The latter comes from the third column, or from the media's subjects.

    Raises DataError for another file and for labels that contradict the subjects.
    """
    want = f"lines of two template numbers[, label] in {path}"
    try:
        with Path(path).open(encoding="utf-8-sig") as file:
            first = file.readline()
            width = len(first.replace(",", " ").split())
            if width not in (2, 3):
                raise DataError(want, f"{width} columns", "correct it")
            file.seek(0)
            numbers = np.loadtxt(file, np.int64, delimiter="," if "," in first else None, ndmin=2)
    except OSError as error:
        raise DataError(want, reason(error), "correct the path") from error
    except DataError:
        raise
    except ValueError as error:
        raise DataError(want, "other lines", "correct it") from error
    left, right = numbers[:, 0], numbers[:, 1]
    known = dict(zip(media.template.tolist(), media.subject.tolist(), strict=True))
    if (strange := np.setdiff1d(numbers[:, :2], media.template)).size:
        raise DataError("templates of the media list", f"{strange.size} others (first: {strange[0]}) in {path}",
                        "take lists of one set")  # fmt: skip
    named = min(known.values()) >= 0
    if not named and width == 2:
        raise DataError(f"a label for each pair in {path}", "none, nor subjects of the media", "take the official CSV")
    subjects = np.array([known[each] for each in np.unique(numbers[:, :2]).tolist()])
    a, b = (np.searchsorted(np.unique(numbers[:, :2]), each) for each in (left, right))
    same = numbers[:, 2] == 1 if width == 3 else subjects[a] == subjects[b]
    if named and ((subjects[a] == subjects[b]) != same).any():
        row = int(np.flatnonzero((subjects[a] == subjects[b]) != same)[0])
        raise DataError("labels that agree with the subjects", f"others in line {row + 1} of {path}", "take one set")
    return left, right, same


def pool(embeddings: Embeddings, templates: Templates, *, norms: bool = True) -> Floats:
    """Compute template vectors [T, D], unit rows, of templates numbered from 0: means of the media, summed.

    norms: weigh each image by its norm before normalization; otherwise all images have equal weights.
    """
    from scipy.sparse import csr_array

    count = int(templates.template.max()) + 1
    media = templates.template * (int(templates.medium.max()) + 1) + templates.medium
    _, medium, sizes = np.unique(media, return_inverse=True, return_counts=True)
    weights = 1 / sizes[medium]
    if norms:
        weights = weights * embeddings.norms[templates.item]
    order = np.argsort(templates.template, kind="stable")
    starts = np.searchsorted(templates.template[order], np.arange(count + 1))
    dtype = embeddings.vectors.dtype
    each = csr_array((weights[order].astype(dtype), templates.item[order], starts), shape=(count, len(embeddings)))
    pooled = np.asarray(each @ embeddings.vectors)
    lengths = np.linalg.norm(pooled, axis=1, keepdims=True)
    if not lengths.all():
        raise DataError("templates whose images do not cancel out", "one of length 0", "look for broken vectors")
    pooled /= lengths
    return pooled


def _images(lists: Sequence[Path], ids: Ids) -> Bools:
    """Mask of the images that the media list names."""
    return np.isin(ids, read_media(lists[0]).ids)


@PROTOCOLS.register
@reads("ijb/*_face_tid_mid.txt", "ijb/*_template_pair_label.txt", ids="as in the media list", images=_images)
def ijb_verification(
    embeddings: Embeddings,
    media_file: str | Path,
    matches_file: str | Path,
    *,
    norms: bool = True,
    partial: bool = False,
    conditions: Mapping[str, Any] | None = None,
) -> Result:
    """IJB-B or IJB-C, 1:1: TAR at FAR 1 % to 1e-6, as far as the impostor pairs resolve.

    Args:
        embeddings: of every image of the media list, ids as there; norms as the model gave them.
        media_file: `ijbc_face_tid_mid.txt`, or an official CSV.
        matches_file: `ijbc_template_pair_label.txt`, or an official `ijbc_11_G1_G2_matches.csv`.
        norms: weigh images by their norms.
        partial: leave out images without vectors, and templates without images.
        conditions: recorded among the facts.

    Returns:
        tar@far=…, intervals by bootstrap over subjects (templates that genuine pairs join are one); ROC and histograms.

    Raises:
        DataError: other files, ids without vectors, labels that contradict the subjects.
    """
    media = read_media(media_file)
    left, right, same = read_matches(matches_file, media)
    media, facts = _available(media, embeddings) if partial else (media, {})
    numbers = np.unique(media.template)
    if partial:
        kept = np.isin(left, numbers) & np.isin(right, numbers)
        facts = partly(facts, int(kept.sum()), len(left), "template pairs")
        left, right, same = left[kept], right[kept], same[kept]
    result = judge_templates(embeddings, media, left, right, same, norms=norms)
    facts |= {**result.facts, "pairs_sha256": _digest(media_file, matches_file), **(conditions or {})}
    return Result(result.protocol, result.metrics, result.curves, facts)


def judge_templates(
    embeddings: Embeddings, media: Media, left: Ints, right: Ints, same: Bools, *, norms: bool = True
) -> Result:
    """`ijb_verification` for lists in memory.

    Takes the template numbers of both sides [M] and whether they show one subject.
    """
    numbers = np.unique(media.template)
    vectors = pool(embeddings, _templates(media, numbers, embeddings), norms=norms)
    a, b = _places(numbers, left), _places(numbers, right)
    pooled = ScoreSet(cosines(vectors, a, b), same, np.zeros(len(same), np.int8))
    found, of_tars = rates(pooled, joined(a, b, same, len(numbers)), IJB_FARS)
    facts = {
        "templates": len(numbers), "images": len(media.ids), "genuine_pairs": int(same.sum()),
        "impostor_pairs": int((~same).sum()), "norms": norms, "d_prime": separation(pooled), **of_tars,
    }  # fmt: skip
    return Result("ijb_verification", found, curves(pooled), facts)


@PROTOCOLS.register
@reads(
    "ijb/*_face_tid_mid.txt", "ijb/*_1N_probe_mixed.csv", "ijb/*_1N_gallery_*.csv", ids="as in the media list",
    images=_images,
)  # fmt: skip
def ijb_identification(
    embeddings: Embeddings,
    media_file: str | Path,
    probe_file: str | Path,
    *gallery_files: str | Path,
    norms: bool = True,
    partial: bool = False,
    conditions: Mapping[str, Any] | None = None,
) -> Result:
    """IJB-B or IJB-C, 1:N: closed-set CMC at ranks 1, 5 and 10, DIR at FPIR 10 % and 1 %; means over the galleries.

    Args:
        embeddings, norms, partial, conditions: as for `ijb_verification`.
        media_file: `ijbc_face_tid_mid.txt`, or an official CSV.
        probe_file, gallery_files: `ijbc_1N_probe_mixed.csv`; `ijbc_1N_gallery_G1.csv` and `…G2.csv`. Each gallery is
            searched by all probes: those whose subject is in the other have no mate.

    Returns:
        cmc@rank=…, dir@fpir=…,rank=1, intervals by bootstrap over subjects; curves cmc and dir of the first gallery.

    Raises:
        DataError: other files, ids without vectors, a gallery with a subject twice, no probe with a mate.
    """
    if not gallery_files:
        raise DataError("at least one gallery file", "none", "name the galleries")
    media = read_media(media_file)
    lists = [_subjects(path) for path in (probe_file, *gallery_files)]
    for path, (template, _) in zip((probe_file, *gallery_files), lists, strict=True):
        if (strange := np.setdiff1d(template, media.template)).size:
            raise DataError("templates of the media list", f"{strange.size} others (first: {strange[0]}) in {path}",
                            "take lists of one set")  # fmt: skip
    wanted = np.isin(media.template, np.concatenate([template for template, _ in lists]))
    media = Media(media.ids[wanted], media.template[wanted], media.medium[wanted], media.subject[wanted])
    total = len(np.unique(media.template))
    media, facts = _available(media, embeddings) if partial else (media, {})
    numbers = np.unique(media.template)
    facts = partly(facts, len(numbers), total, "templates")
    vectors = pool(embeddings, _templates(media, numbers, embeddings), norms=norms)
    people = np.unique(np.concatenate([subject for _, subject in lists]))
    (probes, who), *galleries = [_rows(*each, numbers, people) for each in lists]
    searches = []
    for path, (rows, enrolled) in zip(gallery_files, galleries, strict=True):
        if len(np.unique(enrolled)) < len(enrolled):
            raise DataError(f"one template a subject in {path}", "two", "take the published list")
        if not np.isin(who, enrolled).any():
            raise DataError(f"probes of subjects in {path}", "none", "take lists of one set")
        searches.append(Search.of(vectors[probes], who, vectors[rows], enrolled))
    found, notes = estimates(searches, len(people))
    facts |= {
        "templates": len(numbers), "probes": len(probes), "galleries": [len(rows) for rows, _ in galleries],
        "probes_with_mate": [len(each.rank) for each in searches], "norms": norms,
        "list_sha256": _digest(media_file, probe_file, *gallery_files), "notes": notes, **(conditions or {}),
    }  # fmt: skip
    shown = {"cmc": searches[0].cmc()} | ({"dir": searches[0].dir()} if len(searches[0].best) else {})
    return Result("ijb_identification", found, shown, facts)


def _available(media: Media, embeddings: Embeddings) -> tuple[Media, dict[str, Any]]:
    (kept,), told = present(embeddings, media.ids)
    return Media(media.ids[kept], media.template[kept], media.medium[kept], media.subject[kept]), told


def _templates(media: Media, numbers: Ints, embeddings: Embeddings) -> Templates:
    (item,) = rows_of(embeddings, media.ids)
    medium = np.unique(media.medium, return_inverse=True)[1]
    return Templates(item, np.searchsorted(numbers, media.template), medium)


def _places(numbers: Ints, wanted: Ints) -> Ints:
    """Positions of `wanted` in sorted numbers that contain them all: by a table, unless the numbers are huge."""
    if numbers[-1] > 10_000_000:
        return np.searchsorted(numbers, wanted)
    table = np.zeros(int(numbers[-1]) + 1, np.int64)
    table[numbers] = np.arange(len(numbers))
    return table[wanted]


def _rows(template: Ints, subject: Ints, numbers: Ints, people: Ints) -> tuple[Ints, Ints]:
    kept = np.isin(template, numbers)
    return np.searchsorted(numbers, template[kept]), np.searchsorted(people, subject[kept])


def _subjects(path: str | Path) -> tuple[Ints, Ints]:
    """Templates of a 1:N list, without repetitions, and their subjects."""
    try:
        lines = read_text(path, WANTED)[0].splitlines()
        cells = [line.split(",")[:2] for line in lines if line.strip()]
        if not cells[0][0].strip('" ').isdigit():
            cells = cells[1:]  # a header
        both = np.unique(np.array([[cell.strip('" ') for cell in each] for each in cells]).astype(np.int64), axis=0)
        template, subject = both.T
    except (IndexError, ValueError) as error:
        raise DataError(f"lines `template,subject…` in {path}", "other lines", "take the published list") from error
    if len(np.unique(template)) < len(template):
        raise DataError(f"one subject a template in {path}", "several", "take the published list")
    return template, subject


def _digest(*paths: str | Path) -> str:
    return hashlib.sha256(b"".join(Path(path).read_bytes() for path in paths)).hexdigest()
