"""The typed configuration of a run: a TOML recipe, plus `--set optim.lr=0.05` on the command line."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..errors import ConfigError


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ModelConfig(_Frozen):
    """A registered model by name, with the keyword arguments of its factory."""

    name: str = "smallresnet"
    options: dict[str, Any] = {}


class LossConfig(_Frozen):
    """A registered loss by name, with the keyword arguments of its factory."""

    name: str = "CosineSoftmax"
    options: dict[str, Any] = {}


class StartConfig(_Frozen):
    """Initialization of a run; by default random weights."""

    run: str | None = Field(
        default=None, description="run folder or checkpoint whose network is taken, or `default`: the built-in model"
    )
    agents: bool = Field(
        default=False, description="take its class weights too, by people's names; new people start from random ones"
    )
    freeze: tuple[str, ...] = Field(default=(), description="parameters kept as they are, by the start of their name")
    freeze_until: float = Field(default=1.0, gt=0, le=1, description="fraction of the run after which they learn too")


class DataConfig(_Frozen):
    """Selection and augmentation of images; shift, rotation, zoom and light are uniform in ± the number."""

    min_images: int = Field(default=2, ge=1, description="leave out people with fewer images")
    per_person: int | None = Field(
        default=None, ge=2, description="images of each person in a batch (P×K sampling); none: shuffle all images"
    )
    balance: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="0 samples images uniformly, 1 samples people uniformly; values between interpolate",
    )
    mirror: bool = Field(default=True, description="mirror every second image")
    shift: float = Field(default=0.0, ge=0, description="pixels")
    rotate: float = Field(default=0.0, ge=0, le=180, description="degrees")
    zoom: float = Field(default=0.0, ge=0, lt=1, description="fraction of the size")
    light: float = Field(default=0.0, ge=0, lt=1, description="fraction of brightness and of contrast")
    colour: float = Field(default=0.0, ge=0, le=1, description="fraction of saturation")
    crop: float = Field(default=0.0, ge=0, le=1, description="probability of a random resized crop (20 to 100 %)")
    blur: float = Field(default=0.0, ge=0, le=1, description="probability of a Gaussian blur of 0 to 4 pixels")
    low_resolution: float = Field(default=0.0, ge=0, le=1, description="probability of reducing to 20 to 100 %")
    occlude: float = Field(default=0.0, ge=0, le=1, description="probability of a gray rectangle over 2 to 33 %")

    mix: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="probability of mixing an image with another one (mixup); such images have no label, but a teacher",
    )

    @model_validator(mode="after")
    def _one_sampling(self) -> DataConfig:
        if self.per_person and self.balance:
            raise ValueError("data.balance has no effect with data.per_person: remove one of them")
        return self


class OptimConfig(_Frozen):
    """SGD with momentum or AdamW; rate and weight decay of each parameter are scaled by `Model.multipliers()`."""

    algorithm: Literal["sgd", "adamw"] = Field(
        default="sgd", description="adamw, with decoupled weight decay, for transformers: lr=1e-3, weight_decay=0.05"
    )

    epochs: float = Field(default=7.0, gt=0)
    batch: int = Field(default=64, ge=2)
    lr: float = Field(default=0.1, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1, description="of adamw: β₁")
    nesterov: bool = Field(default=True, description="of sgd; false: PyTorch's plain momentum, as arcface_torch has it")
    beta: float = Field(default=0.999, ge=0, lt=1, description="of adamw: β₂")
    weight_decay: float = Field(default=5e-4, ge=0)
    class_decay: float = Field(default=5e-4, ge=0, description="weight decay of the class weights")
    scale_decay: float = Field(default=5e-4, ge=0, description="weight decay of a learned scale")
    warmup: float = Field(default=0.05, ge=0, lt=1, description="fraction of the run with linearly rising rate")
    schedule: Literal["cosine", "step", "poly"] = "cosine"
    milestones: tuple[float, ...] = Field(
        default=(0.57, 0.86), description="fractions of the run where a step divides lr by 10"
    )
    power: float = Field(default=2.0, gt=0, description="of poly: (1 - progress)^power")
    convention: Literal["torch", "caffe"] = Field(
        default="torch",
        description="of momentum. torch: times the current rate; caffe: no Nesterov, each gradient times its own rate",
    )
    compress: Literal["none", "bf16"] = Field(
        default="none", description="bf16: halve the traffic of the network's gradients between ranks by rounding them"
    )
    clip: float | None = Field(default=None, gt=0, description="longest gradient, over all parameters together")
    clip_network: float | None = Field(
        default=None, gt=0, description="longest gradient of the network alone, without class weights and scale"
    )
    accumulate: int = Field(default=1, ge=1, description="parts of a batch that go through the network one by one")
    average: float = Field(
        default=0.0, ge=0, lt=1, description="what a running average of the network keeps a step; it is what is used"
    )


class ValidateConfig(_Frozen):
    """Validation on people held out from training, or by a protocol on images of its own; none by default."""

    people: int = Field(default=0, ge=0, description="people held out from training, all pairs of whom are compared")
    protocol: str | None = Field(
        default=None, description="of normface evaluate instead, such as agedb_30, bin, lfw, pairs_csv or blufr"
    )
    data: str | None = Field(default=None, description="of the protocol: folder with lists and crops, as --data")
    lists: tuple[str, ...] = Field(
        default=(), description="of the protocol, if not those of the data folder, as --list"
    )
    crops: str | None = Field(default=None, description="of the protocol, if not those of the data folder, as --crops")
    metric: str | None = Field(default=None, description="of the protocol, which decides; none: its first")
    every: float = Field(default=1.0, gt=0, description="epochs from one look to the next; the best network is kept")
    patience: int | None = Field(default=None, ge=1, description="looks without a better one that end the run")

    @model_validator(mode="after")
    def _one_kind(self) -> ValidateConfig:
        if self.people and self.protocol:
            raise ValueError("validate_on.people and validate_on.protocol exclude each other: remove one of them")
        if not self.protocol and (self.data or self.lists or self.crops or self.metric):
            raise ValueError("validate_on.data, lists, crops and metric belong to a validate_on.protocol: name one")
        return self


class DistillConfig(_Frozen):
    """Distillation from one or several teachers' embeddings of the same view; none by default."""

    teacher: str | tuple[str, ...] | None = Field(
        default=None, description="ONNX file or name in the catalogue; a list for several"
    )
    match: Literal["features", "concatenate", "heads", "similarity"] = Field(
        default="features",
        description="how the network meets them, see train.matching: its features themselves (one teacher of its "
        "dimension), by linear heads that are dropped afterwards, or by the similarities within a batch",
    )
    weight: float = Field(default=10.0, gt=0)
    labels: float = Field(default=1.0, ge=0, description="what the loss on labels is multiplied by; 0: no labels")
    clean: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share of images of which the teachers see the view without light, color, blur, low resolution "
        "and occlusion",
    )
    confidence: float = Field(
        default=0.0,
        ge=0,
        description="weight of the loss that makes a feature's norm, divided by √D, its cosine to the teachers",
    )
    views: int | None = Field(
        default=None,
        ge=1,
        description="views of each image, whose embeddings are kept on disk; none: every view is new, and asked for",
    )
    hold_out: str = Field(
        default="",
        description="of unlabeled images whose id begins so, a tenth is never trained on (data.held_out)",
    )

    @property
    def teachers(self) -> tuple[str, ...]:
        """All teachers."""
        return (self.teacher,) if isinstance(self.teacher, str) else self.teacher or ()


class TrainConfig(_Frozen):
    """The complete configuration of a run."""

    model: ModelConfig = Field(default_factory=ModelConfig)
    loss: LossConfig = Field(default_factory=LossConfig)
    start: StartConfig = Field(default_factory=StartConfig)
    data: DataConfig = Field(default_factory=DataConfig)
    optim: OptimConfig = Field(default_factory=OptimConfig)
    distill: DistillConfig = Field(default_factory=DistillConfig)
    validate_on: ValidateConfig = Field(default_factory=ValidateConfig)
    seed: int = Field(default=0, ge=0)
    precision: Literal["auto", "bf16", "fp32"] = Field(
        default="auto", description="auto: bf16 where the hardware has it"
    )
    compile: bool | Literal["auto", "reduce-overhead"] = Field(
        default="auto",
        description="torch.compile the network, which takes a minute or two at the start. auto: on GPUs; "
        "reduce-overhead: with CUDA graphs too, on one GPU without optim.accumulate",
    )
    recompute: bool = Field(
        default=False,
        description="compute the network's units again in the backward pass: less memory, a third more time",
    )
    sync_batch_norm: bool = Field(
        default=False, description="of several ranks: batch statistics over all ranks instead of each rank's own"
    )
    save_every: int = Field(default=200, ge=1, description="steps between checkpoints")
    keep: int = Field(default=1, ge=1, description="checkpoints kept, as snapshots for evaluate --snapshots")

    @model_validator(mode="after")
    def _as_the_teachers_can(self) -> TrainConfig:
        given = self.distill
        if self.data.mix and (not given.teachers or given.views):
            raise ValueError(
                "data.mix needs distill.teacher, and every view new: set distill.teacher, drop distill.views"
            )
        if given.match == "features" and len(given.teachers) > 1:
            raise ValueError("several teachers need distill.match: set it to concatenate, heads or similarity")
        if given.match == "similarity" and given.confidence:
            raise ValueError("distill.confidence needs cosines to the teachers: set distill.match=concatenate or heads")
        return self

    @model_validator(mode="after")
    def _whole_batches(self) -> TrainConfig:
        if self.optim.accumulate > 1 and self.data.per_person:
            raise ValueError("optim.accumulate would split the people of data.per_person: remove one of them")
        if self.optim.batch % self.optim.accumulate or self.optim.batch // self.optim.accumulate < 2:
            raise ValueError("optim.accumulate must divide optim.batch into parts of 2 or more")
        return self


def load_config(recipe: str | Path, overrides: Iterable[str] = ()) -> TrainConfig:
    """Read a recipe: a TOML file, or the name of a built-in one (`normface`, `softmax`).

    Args:
        overrides: `section.key=value`, with the value as in TOML; a bare word is a string.

    Raises:
        ConfigError: an unknown recipe, invalid TOML, an unknown key or a value out of range; lists all faults.
    """
    path = Path(recipe)
    if not path.suffix and not path.is_file():
        path = Path(__file__).parents[1] / "recipes" / f"{recipe}.toml"
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        shipped = ", ".join(sorted(p.stem for p in (Path(__file__).parents[1] / "recipes").glob("*.toml")))
        raise ConfigError(f"a TOML file or a recipe among {shipped}", str(recipe), "correct the name") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError("a recipe in TOML", f"{recipe} ('{error}')", "correct the file") from error
    for override in overrides:
        _set(raw, override)
    return parse_config(raw, str(recipe))


def parse_config(raw: dict[str, Any], source: str) -> TrainConfig:
    """Validate a configuration read from `source`. Raises ConfigError with all faults."""
    try:
        return TrainConfig.model_validate(raw)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"a valid configuration in {source}", faults, "correct these keys") from error


def _set(raw: dict[str, Any], override: str) -> None:
    dotted, equals, text = override.partition("=")
    *sections, key = dotted.strip().split(".")
    if not equals or not key:
        raise ConfigError("section.key=value", repr(override), "for example: --set optim.lr=0.05")
    for section in sections:
        raw = raw.setdefault(section, {})
        if not isinstance(raw, dict):
            raise ConfigError("section.key=value", repr(override), f"{section!r} is no section")
    try:
        raw[key] = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        raw[key] = text.strip()
