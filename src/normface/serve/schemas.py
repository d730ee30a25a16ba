"""Response schemas of the service, for OpenAPI."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ..types import Estimate, OperatingPoint, SearchRule

_FAR = {"value": 0.001, "low": 0.0002, "high": 0.0029, "n": 3000}
_TAR = {"value": 0.981, "low": 0.9755, "high": 0.9856, "n": 3000}
_POINT = {
    "threshold": 0.3512, "target_far": 0.001, "far": _FAR, "tar": _TAR, "protocol": "lfw, mirror sum",
    "far_per_person": {"value": 0.0008, "low": 0.0002, "high": 0.0026, "n": 4281},
    "tar_per_person": {"value": 0.974, "low": 0.967, "high": 0.98, "n": 1680}, "commonest_five": 0.12,
    "confident": False, "model_sha256": "9f…", "data_sha256": "ea…",
}  # fmt: skip
_SEARCH = {
    "threshold": 0.4715, "templates": 120, "false_matches": 0.0012, "table": True, "enrolled": 1000,
    "target_fpir": 0.01,
    "fpir": {"value": 0.0098, "low": 0.0071, "high": 0.0131, "n": 5749},
    "fnir": {"value": 0.131, "low": 0.118, "high": 0.145, "n": 1680}, "warning": None,
}  # fmt: skip
_DECISION = {
    "score": 0.6127, "same": True, "decision": "same", "llr": 6.9, "risk": 0.0008, "outside": [],
    "note": "decided at the operating point",
}  # fmt: skip
_FACE = {
    "box": [71.2, 62.0, 172.9, 203.4], "landmarks": [[100, 112], [147, 111], [124, 140], [105, 166], [144, 165]],
    "score": 0.9998, "found": 1, "turn": 0, "norm": 21.4, "risk": 0.0008, "outside": [],
    "crop": None, "crop_landmarks": None,
}  # fmt: skip


def _shown(*examples: dict[str, Any]) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": list(examples)})


class Problem(BaseModel):
    """An error (RFC 9457): what was expected, what was received, and what to do."""

    model_config = _shown({
        "type": "urn:normface:problem:1:unsuitable-face", "title": "Unsuitable face", "status": 422,
        "detail": "expected a face in photograph a, got none found; give a photograph with a visible face",
        "expected": "a face in photograph a", "got": "none found", "do": "give a photograph with a visible face",
        "request": "5c1f6c1b5f0e4b0f9a3c6f1d2e3b4a59",
    })  # fmt: skip
    type: str = Field(description="urn:normface:problem:1:…, where 1 is the version; for programs.")
    title: str
    status: int
    detail: str = Field(description="The next three members in one sentence; for people.")
    expected: str
    got: str
    do: str
    request: str = Field(description="As in the header X-Request-Id and in the log.")


class Rate(BaseModel):
    """A measured rate with its 95 % interval and number of comparisons, or of people."""

    value: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, found: Estimate) -> Rate:
        """Convert an Estimate."""
        return cls(value=found.value, low=found.low, high=found.high, n=found.n)


class Certificate(BaseModel):
    """The operating point: a threshold with its measured error rates."""

    model_config = _shown(_POINT)
    threshold: float = Field(description="Accept if the cosine is at least this.")
    target_far: float | None = Field(description="The false accept rate requested; null for best accuracy.")
    far: Rate
    tar: Rate
    far_per_person: Rate | None = Field(description="Mean over people of each one's own rate; null if unknown.")
    tar_per_person: Rate | None = Field(description="Likewise, of genuine comparisons.")
    commonest_five: float | None = Field(
        description="Share of the genuine comparisons of the five most frequent people; above a third, read the rates "
        "per person."
    )
    confident: bool = Field(description="Whether the upper limit of `far`, not its value, was kept at `target_far`.")
    protocol: str
    model_sha256: str
    data_sha256: str

    @classmethod
    def of(cls, point: OperatingPoint | None) -> Certificate | None:
        """Convert an OperatingPoint."""
        if point is None:
            return None
        far, tar = (Rate.of(rate) if rate else None for rate in (point.far_per_person, point.tar_per_person))
        return cls(
            threshold=point.threshold, target_far=point.target_far, far=Rate.of(point.far), tar=Rate.of(point.tar),
            far_per_person=far, tar_per_person=tar, commonest_five=point.commonest_five, confident=point.confident,
            protocol=point.protocol, model_sha256=point.model_sha256, data_sha256=point.data_sha256,
        )  # fmt: skip


class SearchThreshold(BaseModel):
    """How a search is decided: by the certificate's row for as many templates as the gallery has."""

    model_config = _shown(_SEARCH)
    threshold: float = Field(description="Accept if the cosine is at least this.")
    templates: int = Field(description="In the gallery now.")
    false_matches: float = Field(description="How many enrolled people a search for a stranger is expected to accept.")
    table: bool = Field(description="False: the certificate has no thresholds for searches; a verification's decides.")
    enrolled: int | None = Field(description="Size of gallery that the row is for: the next one in the table.")
    target_fpir: float | None = Field(description="The false positive identification rate requested.")
    fpir: Rate | None = Field(description="Share of searches for strangers that accept anybody, in such a gallery.")
    fnir: Rate | None = Field(description="Share of searches for enrolled people that do not accept them; per person.")
    warning: str | None = Field(description="Why this threshold is not that of such a search; null if it is.")

    @classmethod
    def of(cls, rule: SearchRule | None, point: OperatingPoint | None) -> SearchThreshold | None:
        """Convert a SearchRule of an operating point."""
        if rule is None or point is None:
            return None
        row = rule.point
        return cls(
            threshold=rule.threshold, templates=rule.templates, false_matches=rule.false_matches, table=row is not None,
            enrolled=row.enrolled if row else None, target_fpir=point.search.target_fpir if point.search else None,
            fpir=Rate.of(row.fpir) if row else None, fnir=Rate.of(row.fnir) if row else None, warning=rule.warning,
        )  # fmt: skip


class Face(BaseModel):
    """A face; by default the one nearest the center among the certain ones. Coordinates: the photograph's pixels."""

    model_config = _shown(_FACE)
    box: list[float] | None = Field(description="x0, y0, x1, y1; null for an aligned image.")
    landmarks: list[list[float]] | None = Field(description="Left eye, right eye, nose, mouth corners: x, y.")
    score: float | None = Field(description="Confidence of the detector.")
    found: int = Field(description="Number of faces in the photograph.")
    turn: int = Field(description="Degrees clockwise by which the photograph must be turned to stand upright.")
    norm: float = Field(description="Length of the feature before normalization.")
    risk: float | None = Field(
        description="Estimated share of strangers, photographed likewise, whom the photograph would match; null "
        "without conditions."
    )
    outside: list[str] = Field(description="Why the certificate does not cover the photograph; empty if it does.")
    crop: str | None = Field(description="The aligned crop as a data URL, if `crops` was requested.")
    crop_landmarks: list[list[float]] | None = Field(description="In the crop's pixels.")


class Decision(BaseModel):
    """A comparison."""

    model_config = _shown(_DECISION)
    score: float = Field(description="Cosine, −1 to 1: higher is more similar.")
    same: bool | None = Field(description="Decision at the operating point; null without one, and if undecided.")
    decision: Literal["same", "different", "undecided"] | None = Field(
        description="`undecided`: the certificate does not cover a photograph; null without an operating point."
    )
    llr: float | None = Field(description="Natural log-likelihood ratio; null without calibration.")
    risk: float | None = Field(description="Estimated false match risk of the worse photograph.")
    outside: list[str] = Field(description="What the certificate does not cover, a sentence each.")
    note: str


class Pair(Decision):
    """A face of photograph a compared with one of photograph b, or with the person."""

    model_config = _shown({**_DECISION, "a": 0, "b": 1})
    a: int = Field(description="Which of `seen[0]`, from 0.")
    b: int | None = Field(description="Which of `seen[1]`; null for a person.")


class Verification(Decision):
    """Whether two faces are of the same person, with the evidence; with `faces=all`, of the best pair of faces."""

    model_config = _shown(
        {**_DECISION, "probability": 0.999, "prior": 0.5, "operating_point": _POINT, "faces": [_FACE, _FACE],
         "seen": None, "pairs": None}
    )  # fmt: skip
    probability: float | None = Field(description="Posterior of the same person, given `prior`; null if uncalibrated.")
    prior: float
    operating_point: Certificate | None
    faces: list[Face] = Field(description="The face used of each photograph.")
    seen: list[list[Face]] | None = Field(description="With `faces=all`, all faces of each photograph; else null.")
    pairs: list[Pair] | None = Field(
        description="With `faces=all`, the pairs of faces, best first, at most 100; else null. The more pairs, the "
        "likelier a false match among them."
    )


class Ranked(Decision):
    """A person in a search result."""

    model_config = _shown({"rank": 1, "person": "Ann", **_DECISION})
    rank: int
    person: str


class Searched(BaseModel):
    """A face that was searched for."""

    model_config = _shown({"photograph": 1, "face": _FACE, "matches": [{"rank": 1, "person": "Ann", **_DECISION}]})
    photograph: int = Field(description="Number of the photograph, from 1.")
    face: Face
    matches: list[Ranked]


class Found(BaseModel):
    """The people most similar to a face, best first; of several faces those of the first one, and all in `searches`."""

    model_config = _shown({
        "matches": [{"rank": 1, "person": "Ann", **_DECISION}], "templates": 120, "operating_point": _POINT,
        "search": _SEARCH, "face": _FACE, "searches": None,
        "note": "threshold 0.4715 for up to 1,000 templates, …",
    })  # fmt: skip
    matches: list[Ranked]
    templates: int = Field(description="Number of templates compared; a person has one per photograph.")
    operating_point: Certificate | None = Field(description="The model's, for verification.")
    search: SearchThreshold | None = Field(
        description="What the decisions are made by; null without an operating point, and if nobody is enrolled."
    )
    face: Face
    searches: list[Searched] | None = Field(
        description="With `faces=all` or `photographs`, each face; else null. The more, the likelier a false match."
    )
    note: str


class Person(BaseModel):
    """An enrolled person. Images are not stored."""

    model_config = _shown({
        "id": "5c1f6c1b5f0e4b0f", "name": "Ann", "templates": 3, "enrolled": "2026-11-24T12:00:00Z",
        "consent": "form 12", "tags": ["staff"],
    })  # fmt: skip
    id: str | None = Field(description="Stands for the person in addresses; a new name does not change it.")
    name: str
    templates: int
    enrolled: datetime
    consent: str | None
    tags: list[str]


class People(BaseModel):
    """A page of the people enrolled, by name."""

    people: list[Person]
    next: str | None = Field(description="Send it as `after` for the next page; null on the last one.")


class Template(BaseModel):
    """A template of a person; vectors are not shown."""

    model_config = _shown({"number": 7, "time": "2026-11-24T12:00:00Z", "quality": 21.4, "source": "5c1f…"})
    number: int
    time: datetime
    quality: float | None
    source: str | None = Field(description="SHA-256 of the photograph.")


class Templates(BaseModel):
    """A person's templates, oldest first."""

    person: Person
    templates: list[Template]


class Enrolled(BaseModel):
    """The templates added."""

    model_config = _shown({
        "person": "Ann", "id": "5c1f6c1b5f0e4b0f", "added": 2, "duplicates": 0, "warnings": [], "faces": [_FACE, _FACE],
    })  # fmt: skip
    person: str
    id: str | None
    added: int
    duplicates: int = Field(description="Photographs that were enrolled under this name before, so not again.")
    warnings: list[str] = Field(description="Such as somebody enrolled under nearly the same name.")
    faces: list[Face]


class Forgotten(BaseModel):
    """The person, and how many of their templates were erased."""

    model_config = _shown({"person": "Ann", "erased": 3, "wiped": True})
    person: str
    erased: int
    wiped: bool = Field(
        description="Whether the bytes are gone from the files. If not (status 202), another process still reads an "
        "older state, and they go when it has ended."
    )


class Embedded(BaseModel):
    """Unit vectors. They are biometric data: protect them accordingly."""

    model_config = _shown({"vectors": [[0.12, -0.08, 0.03]], "dim": 3, "model_sha256": "9f…", "faces": [_FACE]})
    vectors: list[list[float]]
    dim: int
    model_sha256: str
    faces: list[Face]


class About(BaseModel):
    """Description of the service."""

    version: str
    model: str
    model_sha256: str
    operating_point: Certificate | None
    calibrated: bool
    conditions: bool = Field(description="Whether the certificate says which photographs it covers.")
    gallery: bool
    keys: bool = Field(description="Whether API keys are required.")
    max_upload: int
    spec: dict[str, Any] = Field(description="The model's InputSpec.")
    device: str = Field(description="What really runs the network: cpu, cuda, …")
    detector: str = Field(description="Name of what finds faces.")
    detector_device: str = Field(description="What really runs it.")
    browser: bool = Field(description="Whether the page may embed in the browser (onnxruntime-web is served).")


class Health(BaseModel):
    """The process answers."""

    status: str = "ok"


class Readiness(BaseModel):
    """Whether requests can be answered, and warnings for the operator."""

    ready: bool
    warnings: list[str]
