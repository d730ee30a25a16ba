"""Bodies of requests: a multipart form, JSON with photographs in base64, or one image as it is."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeVar

from fastapi import Depends, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, BeforeValidator, Field, ValidationError, WithJsonSchema
from starlette.datastructures import FormData, UploadFile

from .gate import Refused

MOST = 32  # photographs in one request
LARGE = 1 << 18  # bytes that are no longer read on the event loop
FORM, JSON, BYTES = "multipart/form-data", "application/json", "application/octet-stream"
BodyT = TypeVar("BodyT", bound=BaseModel)


def _pixels(value: object) -> object:
    """Bytes of a photograph; JSON has them in base64, perhaps as a data URL."""
    if not isinstance(value, str):
        return value
    _, _, text = value.rpartition(",") if value.startswith("data:") else ("", "", value)
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("not base64") from error


Photo = Annotated[bytes, BeforeValidator(_pixels), WithJsonSchema({"type": "string", "format": "byte"})]
Photos = Annotated[list[Photo], Field(min_length=1, description=f"1 to {MOST} photographs.")]
Aligned = Annotated[bool, Field(description="The images are aligned crops already: detect nothing.")]
Mirror = Annotated[
    bool, Field(description="Embed both orientations, as certificates expect; false embeds one, in half the time.")
]
Anyway = Annotated[
    bool, Field(description="Go on with photographs that the certificate does not cover, instead of not deciding.")
]
Which = Annotated[
    Literal["center", "largest", "best", "all"],
    Field(description="Which face of several: that nearest the center, the largest, the best scored, or all."),
]
Crops = Annotated[bool, Field(description="Also send the aligned crops back.")]


class EmbedBody(BaseModel):
    """Photographs to embed."""

    photographs: Photos
    aligned: Aligned = False
    mirror: Mirror = True
    crops: Crops = False


class VerifyBody(BaseModel):
    """Two photographs, or one and the name of an enrolled person."""

    a: Photo = Field(description="A photograph.")
    b: Photo | None = Field(None, description="Another photograph, unless `person` is given.")
    person: str | None = Field(None, description="An enrolled person, instead of `b`.", examples=["Ann"])
    prior: float = Field(0.5, gt=0, lt=1, description="Prior probability of the same person.")
    faces: Which = "center"
    aligned: Aligned = False
    mirror: Mirror = True
    anyway: Anyway = False
    crops: Crops = False


class EnrolBody(BaseModel):
    """Photographs of one person."""

    person: str = Field(description="1 to 200 printable characters.", examples=["Ann"])
    photographs: Photos
    consent: str | None = Field(
        None, max_length=1000, description="Note on the consent: to what, when, where it is filed."
    )
    same_person: bool = Field(
        False, description="It is one person: enrol also what is unlike, and a known face under its known name."
    )
    twin: bool = Field(False, description="They are two people: enrol a face that is known by another name.")
    faces: Literal["center", "largest", "best"] | None = Field(
        None, description="Which face of several; without it a photograph with several that may be meant is refused."
    )
    aligned: Aligned = False
    anyway: Anyway = False
    crops: Crops = False


class SearchBody(BaseModel):
    """A photograph to search for, or several."""

    photograph: Photo | None = Field(None, description="A photograph, unless `photographs` are given.")
    photographs: list[Photo] | None = Field(
        None, min_length=1, description=f"1 to {MOST} photographs, instead of `photograph`."
    )
    k: int = Field(5, ge=1, le=100, description="Number of people to return for each face.")
    faces: Which = "center"
    tag: str | None = Field(None, max_length=100, description="Search only people with this tag.")
    threshold: float | None = Field(None, ge=-1, le=1, description="Leave out people with a lower cosine.")
    aligned: Aligned = False
    anyway: Anyway = False
    crops: Crops = False


BODIES = (EmbedBody, VerifyBody, EnrolBody, SearchBody)


def sent(kind: type[BodyT]) -> Any:
    """Return the dependency that reads a request's body as `kind`, in any of its forms; its query may have fields too.

    Raises RequestValidationError for fields that do not fit and Refused (415) for another type of content.
    """

    async def read(request: Request) -> BodyT:
        content = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if content == FORM:
            async with request.form() as form:
                fields = await _fields(form)
            return _checked(kind, {**request.query_params, **fields})
        body = await request.body()
        if content == JSON:
            return await (asyncio.to_thread if len(body) > LARGE else _at_once)(_json, kind, request.query_params, body)
        if content == BYTES or content.startswith("image/"):
            return _checked(kind, {**request.query_params, **_image(kind, body)})
        if not body:
            return _checked(kind, {})
        raise Refused(415, f"{FORM}, {JSON} or an image", content or "no Content-Type", "say what you send")

    return Depends(read)


def described(kind: type[BaseModel]) -> dict[str, Any]:
    """Return what OpenAPI says of a body: its three forms, and the fields that may be in the query."""
    name = kind.__name__.removesuffix("Body")
    fields = kind.model_json_schema()["properties"]
    query = [
        {"name": field, "in": "query", "required": False, "schema": fields[field],
         "description": f"{fields[field]['description']} For an image as body."}
        for field in fields if "format" not in json.dumps(fields[field])
    ]  # fmt: skip
    raw = {"type": "string", "format": "binary", "description": "One image, of any type image/*."}
    content = {
        FORM: {"schema": {"$ref": f"#/components/schemas/{name}Form"}},
        JSON: {"schema": {"$ref": f"#/components/schemas/{name}Json"}},
        BYTES: {"schema": raw},
    }
    return {"requestBody": {"required": True, "content": content}, "parameters": query}


def schemas() -> dict[str, Any]:
    """Return OpenAPI's components that `described` refers to."""
    found = {}
    for kind in BODIES:
        schema = kind.model_json_schema()
        name = schema.pop("title").removesuffix("Body")
        found[f"{name}Json"] = schema
        found[f"{name}Form"] = json.loads(json.dumps(schema).replace('"format": "byte"', '"format": "binary"'))
    return found


async def _fields(form: FormData) -> dict[str, Any]:
    """A form's fields; those that come several times as a list."""
    fields: dict[str, Any] = {}
    for name in form:
        values = [await value.read() if isinstance(value, UploadFile) else value for value in form.getlist(name)]
        fields[name] = values if len(values) > 1 or name == "photographs" else values[0]
    return fields


def _image(kind: type[BaseModel], body: bytes) -> dict[str, Any]:
    """An image as the first photograph of a body."""
    first = next(name for name in ("a", "photograph", "photographs") if name in kind.model_fields)
    return {first: [body] if first == "photographs" else body}


def _json(kind: type[BodyT], query: Mapping[str, str], body: bytes) -> BodyT:
    try:
        fields = json.loads(body)
        if not isinstance(fields, dict):
            raise ValueError("no object")
    except ValueError as error:
        told = {"loc": ("body", "JSON"), "msg": "Invalid JSON", "type": "json_invalid"}
        raise RequestValidationError([told]) from error
    return _checked(kind, {**query, **fields})


async def _at_once(call: Callable[..., BodyT], *args: Any) -> BodyT:
    return call(*args)


def _checked(kind: type[BodyT], fields: Mapping[str, Any]) -> BodyT:
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        found = [{"loc": ("body", *each["loc"]), "msg": each["msg"], "type": each["type"]} for each in error.errors()]
        raise RequestValidationError(found) from error
