"""The central types: frozen, NumPy only, validated on construction. Scores are cosines: higher is more similar."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .atomic import replacing
from .conditions import Conditions
from .errors import ConfigError, DataError, InputError, counted, reason

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]
Bools = NDArray[np.bool_]
Image = NDArray[np.uint8]

RULE_OF_30 = 30  # number of errors below which a rate is uncertain (ISO/IEC 19795-1; Doddington et al. 2000)
RATES = (  # rates with countable errors
    "accuracy", "far", "frr", "tar", "vr", "dir", "tpir", "cmc", "rank1", "fpir", "fnir", "eer", "fta", "fte",
)  # fmt: skip
PER_PERSON, WITHOUT = "_per_person", "_without_failures"  # suffixes of names of metrics, in this order


@dataclass(frozen=True)
class InputSpec:
    """Input specification of a network: one preprocessing for training, evaluation, export and serving.

    Attributes:
        height, width: of the aligned crop, in pixels.
        channels: 3 (color) or 1 (gray, ITU-R 601 luma).
        order: of the color channels that the network was trained with.
        mean, std: one per channel, in pixel values 0 to 255: the network sees (pixel - mean) / std.
        template: name of the five-point template the crops are aligned to (`faces.TEMPLATES`).
    """

    height: int
    width: int
    channels: int = 3
    order: Literal["RGB", "BGR"] = "RGB"
    mean: tuple[float, ...] = (127.5, 127.5, 127.5)
    std: tuple[float, ...] = (128.0, 128.0, 128.0)
    template: str = "112x96"

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(map(float, self.mean)))
        object.__setattr__(self, "std", tuple(map(float, self.std)))
        legal = (
            self.height > 0 and self.width > 0 and self.channels in (1, 3) and self.order in ("RGB", "BGR")
            and len(self.mean) == len(self.std) == self.channels and min(self.std) > 0
        )  # fmt: skip
        if not legal:
            raise ConfigError(
                "an InputSpec with positive sizes, 1 or 3 channels, order RGB or BGR, one mean and one "
                "positive std per channel", repr(self), "correct the specification",
            )  # fmt: skip

    def prepare(self, images: Image) -> NDArray[np.float32]:
        """Convert RGB crops [N, height, width, 3] uint8 to network input [N, channels, height, width] float32.

        Raises InputError for another shape or dtype: crops are never resized silently.
        """
        expected = (self.height, self.width, 3)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != expected:
            raise InputError(
                f"uint8 RGB crops of shape [N, {self.height}, {self.width}, 3]",
                f"{images.dtype} of shape {list(images.shape)}",
                f"align the photographs to the template {self.template!r} first",
            )
        if self.channels == 1:
            pixels = images.astype(np.float32) @ np.array([[0.299], [0.587], [0.114]], np.float32)
        else:
            pixels = (images[..., ::-1] if self.order == "BGR" else images).astype(np.float32)
        pixels -= np.asarray(self.mean, np.float32)
        pixels /= np.asarray(self.std, np.float32)
        return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))

    def to_json(self) -> str:
        """Serialize as one line of JSON, as in checkpoints, ONNX metadata and `model.spec.json`."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> InputSpec:
        """Read what `to_json` wrote. Raises ConfigError for anything else."""
        try:
            return cls(**json.loads(text))
        except (TypeError, ValueError) as error:
            if isinstance(error, ConfigError):
                raise
            names = ", ".join(cls.__dataclass_fields__)
            raise ConfigError(f"an InputSpec as JSON with the keys {names}", f"'{error}'", "correct it") from error


@dataclass(frozen=True)
class Embeddings:
    """Embeddings: unit vectors with ids. The constructor normalizes them and keeps the norms.

    Attributes:
        vectors: [N, D] floating point; rows have norm 1 after construction.
        ids: [N] strings, unique, such as `Name/Name_0001.jpg`.
        norms: [N] lengths before normalization: a quality signal in some networks, not in the default model.
    """

    vectors: Floats
    ids: NDArray[np.str_]
    norms: Floats = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        vectors, ids = np.asarray(self.vectors), np.asarray(self.ids, dtype=np.str_)
        if vectors.ndim != 2 or ids.shape != vectors.shape[:1] or not vectors.size:
            raise DataError(
                "vectors [N, D] and ids [N] with N, D ≥ 1",
                f"vectors {list(vectors.shape)} and ids {list(ids.shape)}", "give one id for each vector",
            )  # fmt: skip
        if vectors.dtype.kind != "f":
            raise DataError(
                "floating-point vectors",
                str(vectors.dtype),
                "convert them: vectors.astype('f4'), times the scale if they are quantized",
            )
        if vectors.dtype not in (np.float32, np.float64):
            vectors = vectors.astype(np.float32)
        lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))
        broken = ids[~np.isfinite(lengths) | (lengths == 0)]
        if broken.size:
            raise DataError(
                "finite, non-zero vectors",
                f"{broken.size} of {len(ids)} with NaN, infinity or only zeros (first: {broken[0]})",
                "embed those images again or leave them out",
            )
        unique, counts = np.unique(ids, return_counts=True)
        if len(unique) < len(ids):
            raise DataError(
                "each id once", f"{len(ids) - len(unique)} repetitions (first: {unique[counts > 1][0]})",
                "leave the duplicates out",
            )  # fmt: skip
        norms = lengths if self.norms is None else np.asarray(self.norms)
        if norms.shape != ids.shape:
            raise DataError(f"norms [{len(ids)}]", f"{list(norms.shape)}", "give one norm for each vector")
        object.__setattr__(self, "vectors", (vectors / lengths[:, None]).astype(vectors.dtype))
        object.__setattr__(self, "norms", norms.astype(vectors.dtype))
        object.__setattr__(self, "ids", ids)

    def __len__(self) -> int:
        return len(self.ids)

    def save(self, path: str | Path) -> None:
        """Save as .npz with `vectors`, `norms` and `ids`."""
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez(file, vectors=self.vectors, norms=self.norms, ids=self.ids)

    @classmethod
    def load(cls, path: str | Path) -> Embeddings:
        """Load an .npz with `vectors`, `ids` and optionally `norms`, written by any system.

        Raises DataError for a missing, unsuitable or pickled file.
        """
        want = "an .npz file with the arrays 'vectors' [N, D] and 'ids' [N] of strings"
        try:
            found = np.load(path, allow_pickle=False)
            arrays: dict[str, Any] = {} if isinstance(found, np.ndarray) else {n: found[n] for n in found.files}
        except OSError as error:
            raise DataError(want, f"{path}: {reason(error)}", "correct the path") from error
        except Exception as error:  # zipfile and numpy each have their own
            raise DataError(want, f"{path}, damaged or with other contents", "write it with numpy.savez") from error
        if not {"vectors", "ids"} <= arrays.keys():
            held = ", ".join(arrays) or "no named arrays"
            raise DataError(want, f"{path} with {held}", "write one with numpy.savez(path, vectors=…, ids=…)")
        return cls(*(arrays[name] for name in ("vectors", "ids", "norms") if name in arrays))


@dataclass(frozen=True)
class Pairs:
    """Comparisons to make: `left[i]` with `right[i]`, both indices into Embeddings.

    Attributes:
        left, right: [M] integers.
        same: [M] True for genuine pairs.
        fold: [M] integers from 0: the cross-validation fold of each pair.
    """

    left: Ints
    right: Ints
    same: Bools
    fold: Ints

    def __post_init__(self) -> None:
        _same_length(self, "left", "right", "same", "fold")


@dataclass(frozen=True)
class Templates:
    """Templates of several images: image `item[i]` of medium `medium[i]` belongs to `template[i]`; all [M], from 0."""

    item: Ints
    template: Ints
    medium: Ints

    def __post_init__(self) -> None:
        _same_length(self, "item", "template", "medium")


@dataclass(frozen=True)
class OpenSet:
    """Open-set identification: indices of the enrolled `gallery` [G] and of the `probes` [P]."""

    gallery: Ints
    probes: Ints


@dataclass(frozen=True)
class ScoreSet:
    """Cosine `scores` [M] of comparisons, whether each is genuine (`same`), and its `fold`."""

    scores: Floats
    same: Bools
    fold: Ints

    def __post_init__(self) -> None:
        _same_length(self, "scores", "same", "fold")
        if not np.isfinite(self.scores).all():
            raise DataError("finite scores", "NaN or infinity", "check the embeddings for NaN and infinity")
        if self.same.all() or not self.same.any():
            raise DataError(
                "genuine and impostor comparisons", f"only {'genuine' if self.same.any() else 'impostor'} ones",
                "give pairs of both kinds",
            )  # fmt: skip

    @cached_property
    def genuine(self) -> Floats:
        """Scores of genuine comparisons."""
        return self.scores[self.same]

    @cached_property
    def impostor(self) -> Floats:
        """Scores of impostor comparisons."""
        return self.scores[~self.same]


@dataclass(frozen=True)
class Estimate:
    """An estimated value with its 95 % interval [low, high] and its number `n` of trials."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Result:
    """Result of a protocol: the only input of `report`.

    Attributes:
        protocol: its name.
        metrics: name → Estimate.
        curves: name → {axis: values}, ready to draw.
        facts: conditions and counts, JSON values.
    """

    protocol: str
    metrics: Mapping[str, Estimate]
    curves: Mapping[str, Mapping[str, list[float]]] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def few_errors(self) -> dict[str, int]:
        """Rates measured on fewer than 30 errors, with their number: too few by the Rule of 30 of ISO/IEC 19795-1.

        A TAR at a FAR needs both false rejects and false accepts, and an EER as many of the rarer kind of comparison. A
        mean over people is judged by the errors of its comparisons.
        """
        found = {}
        for name, each in self.metrics.items():
            kind, _, at = name.partition("@")
            bare = kind.removesuffix(WITHOUT).removesuffix(PER_PERSON)
            if bare not in RATES:
                continue
            of = self.metrics.get(name.replace(PER_PERSON, "", 1), each)
            trials = of.n
            if bare == "eer":
                trials = min(self.facts.get(f"{which}_pairs", trials) for which in ("genuine", "impostor"))
            errors = round(min(of.value, 1 - of.value) * trials)
            if bare == "tar":
                errors = min(errors, self.facts.get("false_accepts", {}).get(at, errors))
            if errors < RULE_OF_30:
                found[name] = errors
        return found

    def to_json(self) -> str:
        """Serialize as JSON."""
        return json.dumps(asdict(self), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Result:
        """Read what `to_json` wrote."""
        raw = json.loads(text)
        raw["metrics"] = {name: Estimate(**value) for name, value in raw["metrics"].items()}
        return cls(**raw)


@dataclass(frozen=True)
class Calibration:
    """Map from scores to natural log-likelihood ratios: how much more likely a score is for the same person.

    Attributes:
        slope, intercept: of the logistic map with the lowest `cllr`; the slope is never negative.
        pav_scores, pav_llrs: the best monotonic map (pool adjacent violators), a step function: from `pav_scores[i]`
            on it is `pav_llrs[i]`. One additional error at each end keeps it finite; its ends limit the ratios.
        cllr, min_cllr: cost of the logistic and of the best monotonic map, in bits (Brümmer and du Preez 2006); 0 is
            perfect, 1 is uninformative. Measured on the comparisons that the maps were fitted to.
    """

    slope: float
    intercept: float
    pav_scores: tuple[float, ...]
    pav_llrs: tuple[float, ...]
    cllr: float
    min_cllr: float

    def __post_init__(self) -> None:
        for name in ("pav_scores", "pav_llrs"):
            object.__setattr__(self, name, tuple(map(float, getattr(self, name))))
        steps = len(self.pav_llrs) == len(self.pav_scores)
        if not steps or any(list(each) != sorted(each) for each in (self.pav_scores, self.pav_llrs)):
            raise ConfigError("rising pav_scores and as many rising pav_llrs", "others", "run normface calibrate again")

    def llr(self, score: float) -> float:
        """Log-likelihood ratio by the logistic map, limited to the range of the PAV map."""
        line = self.slope * score + self.intercept
        return min(max(line, self.pav_llrs[0]), self.pav_llrs[-1]) if self.pav_llrs else line

    def probability(self, score: float, prior: float = 0.5) -> float:
        """Posterior probability that both are the same person, given the probability `prior` before the comparison.

        Raises InputError unless 0 < prior < 1.
        """
        if not 0 < prior < 1:
            raise InputError("a prior probability between 0 and 1", str(prior), "correct prior")
        return 0.5 + 0.5 * math.tanh((self.llr(score) + math.log(prior / (1 - prior))) / 2)


@dataclass(frozen=True)
class SearchPoint:
    """The threshold of searches in a gallery of one size, with the error rates it had.

    Attributes:
        enrolled: templates in the gallery.
        threshold: accept if cosine ≥ threshold.
        fpir: false positive identification rate: share of searches for strangers that accept somebody; `n` people.
        fnir: false negative identification rate: share of searches for enrolled people that do not accept them, with
            one template per person; mean over `n` people.
        false_matches: mean number of people that a search for a stranger accepts.
        extrapolated: True if `enrolled` exceeds the number of measured people; `fpir` is then an upper bound.
    """

    enrolled: int
    threshold: float
    fpir: Estimate
    fnir: Estimate
    false_matches: float
    extrapolated: bool = False


@dataclass(frozen=True)
class SearchTable:
    """Thresholds of searches by size of gallery, all for one false positive identification rate.

    Attributes:
        target_fpir: the rate requested.
        points: one for each size, rising.
        people, images: numbers of people and images searched for.
        protocol, data_sha256: name and hash of the set of images.
        confident: True if the upper limit of `fpir`, not its value, was kept at or below `target_fpir`.
    """

    target_fpir: float
    points: tuple[SearchPoint, ...]
    people: int
    images: int
    protocol: str
    data_sha256: str
    confident: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "points", tuple(self.points))
        sizes = [each.enrolled for each in self.points]
        if not sizes or sizes != sorted(set(sizes)) or sizes[0] < 1:
            raise ConfigError(
                "search points of rising sizes", str(sizes), "run normface calibrate identification again"
            )

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> SearchTable:
        """Convert the output of `asdict`."""
        points = [
            {**each, "fpir": Estimate(**each["fpir"]), "fnir": Estimate(**each["fnir"])} for each in raw["points"]
        ]
        return cls(**{**raw, "points": tuple(SearchPoint(**each) for each in points)})


@dataclass(frozen=True)
class SearchRule:
    """The rule that decides a search in a gallery.

    Attributes:
        templates: number in the gallery.
        threshold: accept if cosine ≥ threshold.
        false_matches: expected number of enrolled people that a search for a stranger accepts.
        point: the row of the certificate's search table; None without a table: then `threshold` is for verification.
    """

    templates: int
    threshold: float
    false_matches: float
    point: SearchPoint | None = None

    @property
    def warning(self) -> str | None:
        """Warning if the threshold is not for such a search; None if it is."""
        told = (
            f"among {counted(self.templates, 'template')} a search for a stranger is expected to accept "
            f"{self.false_matches:.2g} people"
        )
        if self.point is None:
            do = "make thresholds for searches: normface calibrate identification"
            return f"decided by a verification threshold: {told}; {do}"
        if self.templates > self.point.enrolled:
            most = f"{counted(self.point.enrolled, 'template')}, the most in the certificate's table"
            return f"decided by the threshold for {most}: {told}; add that size: normface calibrate identification"
        return None

    @property
    def words(self) -> str:
        """The rule in a sentence."""
        if self.warning or not self.point:
            return self.warning or ""
        rate = self.point.fpir
        return (
            f"threshold {self.threshold:.4f} for up to {counted(self.point.enrolled, 'template')}, among which "
            f"{100 * rate.value:.3g} % of searches for a stranger ({100 * rate.low:.3g} to {100 * rate.high:.3g}) "
            f"accept somebody; expected false matches among the {self.templates:,} here: {self.false_matches:.2g}"
        )

    def accepts(self, score: float) -> bool:
        """Decide one match."""
        return bool(score >= self.threshold)


@dataclass(frozen=True)
class OperatingPoint:
    """Operating point: a threshold with the error rates it had for one model on one data set.

    Attributes:
        threshold: accept if cosine ≥ threshold.
        target_far: the false accept rate requested; None for the threshold of best accuracy.
        far, tar: measured at the threshold, with intervals and counts (impostor and genuine comparisons).
        protocol: name and conditions, such as `lfw, mirror sum`.
        model_sha256, data_sha256: of the model's weights and of the comparison list.
        calibration: map from scores to likelihood ratios; None in older files.
        far_per_person, tar_per_person: means over people of each person's rate, with `n` people; None if people are
            unknown, and in older files.
        commonest_five: share of the genuine comparisons of the five most frequent people; None as above.
        confident: True if the upper limit of `far`, not its value, was kept at or below `target_far`.
        conditions: the photographs that the rates hold for; None if they were not measured.
        search: thresholds for searches in galleries of several sizes; None if they were not measured.
    """

    threshold: float
    target_far: float | None
    far: Estimate
    tar: Estimate
    protocol: str
    model_sha256: str
    data_sha256: str
    calibration: Calibration | None = None
    far_per_person: Estimate | None = None
    tar_per_person: Estimate | None = None
    commonest_five: float | None = None
    confident: bool = False
    conditions: Conditions | None = None
    search: SearchTable | None = None

    def accepts(self, score: float) -> bool:
        """Decide one comparison."""
        return bool(score >= self.threshold)

    def for_search(self, templates: int) -> SearchRule:
        """Return the rule for a search among this number of templates: the smallest sufficient row, or the last one.

        Without a table the threshold is for verification, and the rule says so.
        """
        if self.search is None:
            return SearchRule(templates, self.threshold, templates * self.far.value)
        rows = self.search.points
        point = next((each for each in rows if each.enrolled >= templates), rows[-1])
        return SearchRule(templates, point.threshold, point.false_matches * templates / point.enrolled, point)

    def to_json(self) -> str:
        """Serialize as one line of JSON, as in files next to models and in ONNX metadata."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> OperatingPoint:
        """Read what `to_json` wrote. Raises ConfigError for anything else."""
        try:
            raw = json.loads(text)
            calibration = Calibration(**raw["calibration"]) if raw.get("calibration") else None
            conditions = Conditions(**raw["conditions"]) if raw.get("conditions") else None
            search = SearchTable.of(raw["search"]) if raw.get("search") else None
            rates: dict[str, Any] = {name: Estimate(**raw[name]) for name in ("far", "tar")}
            for name in ("far_per_person", "tar_per_person"):
                rates[name] = Estimate(**raw[name]) if raw.get(name) else None
            point = cls(**{**raw, **rates, "calibration": calibration, "conditions": conditions, "search": search})
            thresholds = [point.threshold, *(each.threshold for each in (search.points if search else ()))]
            if not all(math.isfinite(each) for each in thresholds):
                raise ValueError(f"a threshold that is no number: {thresholds}")
            return point
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise ConfigError("an operating point as JSON", f"'{error}'", "create one: normface calibrate") from error


@dataclass(frozen=True)
class Face:
    """A detected face: `box` (x0, y0, x1, y1) and `landmarks` [5, 2] (x, y) in pixels, `score` in [0, 1].

    Landmarks as seen in the upright face: left eye, right eye, nose, left mouth corner, right mouth corner.
    Pixel centers have integer coordinates; the first is (0, 0).
    `turn`: degrees clockwise (0, 90, 180 or 270) by which the photograph must be turned to stand upright; box and
    landmarks are in its pixels as it is.
    """

    box: tuple[float, float, float, float]
    landmarks: Floats
    score: float
    turn: int = 0


@dataclass(frozen=True)
class Match:
    """A comparison.

    Attributes:
        score: the cosine.
        decision: of the operating point; None without one, and None if undecided.
        person: the matched person.
        outside: reasons, as sentences, why the operating point does not cover this comparison. It is undecided, unless
            a decision was requested anyway.
        risk: the estimated false match risk of the worse photograph; None without conditions.
        rule: the rule of a search; None outside searches, and without an operating point.
        faces: the face used in each compared photograph, in its pixels; None for an aligned crop.
        found: number of faces in each of these photographs.
    """

    score: float
    decision: bool | None
    person: str | None = None
    outside: tuple[str, ...] = ()
    risk: float | None = None
    rule: SearchRule | None = None
    faces: tuple[Face | None, ...] = field(default=(), compare=False)
    found: tuple[int, ...] = field(default=(), compare=False)

    @property
    def undecided(self) -> bool:
        """Whether an operating point exists that does not cover this comparison."""
        return self.decision is None and bool(self.outside)

    @property
    def verdict(self) -> Literal["same", "different", "undecided"] | None:
        """The decision as a word; None without an operating point."""
        if self.undecided:
            return "undecided"
        return None if self.decision is None else "same" if self.decision else "different"


@dataclass(frozen=True)
class ClassShard:
    """The classes [start, stop) of `total` that this rank holds within a process `group`."""

    start: int
    stop: int
    total: int
    group: Any = None

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop <= self.total:
            raise InputError("0 ≤ start < stop ≤ total", f"{self.start}, {self.stop}, {self.total}", "correct them")


def _same_length(record: Any, *names: str) -> None:
    shapes = {name: np.shape(getattr(record, name)) for name in names}
    if len(set(shapes.values())) != 1 or len(shapes[names[0]]) != 1:
        raise InputError("arrays of one length", str(shapes), "give one entry of each per comparison")
