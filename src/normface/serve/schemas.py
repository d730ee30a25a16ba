"""What the service answers, in OpenAPI's terms."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ..types import Estimate, OperatingPoint

_FAR = {"value": 0.001, "low": 0.0002, "high": 0.0029, "n": 3000}
_TAR = {"value": 0.981, "low": 0.9755, "high": 0.9856, "n": 3000}
_POINT = {
    "threshold": 0.3512, "target_far": 0.001, "far": _FAR, "tar": _TAR, "protocol": "lfw, mirror sum",
    "model_sha256": "9f…", "data_sha256": "ea…",
}  # fmt: skip
_DECISION = {
    "score": 0.6127, "same": True, "decision": "same", "llr": 6.9, "risk": 0.0008, "outside": [],
    "note": "decided at the operating point",
}  # fmt: skip
_FACE = {
    "box": [71.2, 62.0, 172.9, 203.4], "landmarks": [[100, 112], [147, 111], [124, 140], [105, 166], [144, 165]],
    "score": 0.9998, "found": 1, "norm": 21.4, "risk": 0.0008, "outside": [], "crop": None, "crop_landmarks": None,
}  # fmt: skip


def _shown(*examples: dict[str, Any]) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": list(examples)})


class Fault(BaseModel):
    """Why there is no answer."""

    model_config = _shown({
        "expected": "a face in photograph a", "got": "none found", "do": "give a photograph with a visible face",
        "request": "5c1f6c1b5f0e4b0f9a3c6f1d2e3b4a59",
    })  # fmt: skip
    expected: str
    got: str
    do: str
    request: str = Field(description="As in the header X-Request-Id and in the log.")


class Rate(BaseModel):
    """A measured share with its 95 % interval and the number of comparisons behind it."""

    value: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, found: Estimate) -> Rate:
        """From an Estimate."""
        return cls(value=found.value, low=found.low, high=found.high, n=found.n)


class Certificate(BaseModel):
    """The operating point: which threshold, and which errors it made on which comparisons."""

    model_config = _shown(_POINT)
    threshold: float = Field(description="One person where the cosine is at least this.")
    target_far: float | None = Field(description="The false accept rate asked for; null: that of best accuracy.")
    far: Rate
    tar: Rate
    protocol: str
    model_sha256: str
    data_sha256: str

    @classmethod
    def of(cls, point: OperatingPoint | None) -> Certificate | None:
        """From an OperatingPoint."""
        if point is None:
            return None
        return cls(
            threshold=point.threshold, target_far=point.target_far, far=Rate.of(point.far), tar=Rate.of(point.tar),
            protocol=point.protocol, model_sha256=point.model_sha256, data_sha256=point.data_sha256,
        )  # fmt: skip


class Face(BaseModel):
    """The face that was taken: the one nearest the photograph's centre. Coordinates in the photograph's pixels."""

    model_config = _shown(_FACE)
    box: list[float] | None = Field(description="x0, y0, x1, y1; null for an image that came aligned.")
    landmarks: list[list[float]] | None = Field(description="Left eye, right eye, nose, mouth corners: x, y.")
    score: float | None = Field(description="The detector's certainty.")
    found: int = Field(description="Faces in the photograph.")
    norm: float = Field(description="Length of the feature before it was normalized.")
    risk: float | None = Field(
        description="Estimated share of strangers, photographed likewise, whom the photograph would match; null "
        "where the certificate has no conditions."
    )
    outside: list[str] = Field(description="Why the certificate does not cover the photograph; empty where it does.")
    crop: str | None = Field(description="The aligned crop as a data URL, where `crops` was asked for.")
    crop_landmarks: list[list[float]] | None = Field(description="In the crop's pixels.")


class Decision(BaseModel):
    """A comparison."""

    model_config = _shown(_DECISION)
    score: float = Field(description="Cosine, −1 to 1: higher is more alike.")
    same: bool | None = Field(description="The operating point's decision; null without one, and where undecided.")
    decision: Literal["same", "different", "undecided"] | None = Field(
        description="`undecided`: the certificate does not cover a photograph; null without an operating point."
    )
    llr: float | None = Field(description="Log-likelihood ratio (natural), where the certificate is calibrated.")
    risk: float | None = Field(description="Estimated false match risk of the worse photograph.")
    outside: list[str] = Field(description="What the certificate does not cover, a sentence each.")
    note: str


class Verification(Decision):
    """Are two faces one person's, and how is that known?"""

    model_config = _shown(
        {**_DECISION, "probability": 0.999, "prior": 0.5, "operating_point": _POINT, "faces": [_FACE, _FACE]}
    )
    probability: float | None = Field(description="Of one person, if it was `prior` before; null without calibration.")
    prior: float
    operating_point: Certificate | None
    faces: list[Face]


class Ranked(Decision):
    """A person in a search."""

    model_config = _shown({"rank": 1, "person": "Ann", **_DECISION})
    rank: int
    person: str


class Found(BaseModel):
    """The people most like a face, best first."""

    model_config = _shown({
        "matches": [{"rank": 1, "person": "Ann", **_DECISION}], "templates": 120, "operating_point": _POINT,
        "face": _FACE,
        "note": "Each of 120 templates was one comparison: a false match among them is likelier than its FAR.",
    })  # fmt: skip
    matches: list[Ranked]
    templates: int = Field(description="How many were compared: a person has one of each photograph.")
    operating_point: Certificate | None
    face: Face
    note: str


class Person(BaseModel):
    """Somebody enrolled. No image of her is kept."""

    model_config = _shown({"name": "Ann", "templates": 3, "enrolled": "2026-11-24T12:00:00Z", "consent": "form 12"})
    name: str
    templates: int
    enrolled: datetime
    consent: str | None


class People(BaseModel):
    """Everybody enrolled, by name."""

    people: list[Person]


class Enrolled(BaseModel):
    """What was added."""

    model_config = _shown({"person": "Ann", "added": 2, "faces": [_FACE, _FACE]})
    person: str
    added: int
    faces: list[Face]


class Forgotten(BaseModel):
    """Who was erased, and how many templates."""

    model_config = _shown({"person": "Ann", "erased": 3})
    person: str
    erased: int


class Embedded(BaseModel):
    """Unit vectors. They are biometric data: keep them as such."""

    model_config = _shown({"vectors": [[0.12, -0.08, 0.03]], "dim": 3, "model_sha256": "9f…", "faces": [_FACE]})
    vectors: list[list[float]]
    dim: int
    model_sha256: str
    faces: list[Face]


class About(BaseModel):
    """What this service is."""

    version: str
    model: str
    model_sha256: str
    operating_point: Certificate | None
    calibrated: bool
    conditions: bool = Field(description="Whether the certificate says which photographs it covers.")
    gallery: bool
    keys: bool = Field(description="Whether API keys are asked for.")
    max_upload: int
    spec: dict[str, Any] = Field(description="The model's InputSpec.")
    browser: bool = Field(description="Whether the page may embed in the browser (onnxruntime-web is served).")


class Health(BaseModel):
    """The process answers."""

    status: str = "ok"


class Readiness(BaseModel):
    """Whether requests can be answered, and what its keeper should look at."""

    ready: bool
    warnings: list[str]
