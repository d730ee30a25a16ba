"""The routes under /v1, which connect the engine and the gallery."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from itertools import product
from typing import Annotated, Any, TypeVar

import cv2
import numpy as np
import simplejpeg
from fastapi import APIRouter, Form, Query, Response
from fastapi import Path as InPath

from .. import cosine
from ..embed import Embedder, FaceRecord, covered, refuse_outside
from ..embed.embedder import Mirror
from ..errors import ConfigError, DataError, FaceError, InputError, ModelError
from ..faces import Choice
from ..gallery import Enrolments, Erased, Gallery, PersonId, Unknown, settle
from ..gallery import Person as EnrolledPerson
from ..gallery.names import checked_name
from ..report import llr
from ..types import Match, OperatingPoint, SearchRule
from .bodies import MOST, EmbedBody, EnrolBody, SearchBody, VerifyBody, described, sent
from .engine import Engine
from .gate import Refused
from .schemas import (
    About,
    Certificate,
    Decision,
    Embedded,
    Enrolled,
    Face,
    Forgotten,
    Found,
    Pair,
    People,
    Person,
    Problem,
    Ranked,
    Searched,
    SearchThreshold,
    Template,
    Templates,
    Verification,
)
from .settings import Settings

REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "Not a whole, well-formed request"},
    401: {"model": Problem, "description": "No key that is known"},
    403: {"model": Problem, "description": "A key without the scope, or another site's page"},
    408: {"model": Problem, "description": "Sent too slowly"},
    413: {"model": Problem, "description": "Too many bytes"},
    415: {"model": Problem, "description": "Another type of content than those listed"},
    421: {"model": Problem, "description": "Called by another host's name"},
    422: {"model": Problem, "description": "No image, no face, or a field that does not fit"},
    429: {"model": Problem, "description": "Too many requests of one caller; see Retry-After"},
    503: {"model": Problem, "description": "Too many requests at once (see Retry-After), or a gallery that fails"},
    504: {"model": Problem, "description": "No answer in time"},
}
GONE: dict[int | str, dict[str, Any]] = {404: {"model": Problem, "description": "Nobody of that name or id"}}
DOUBT: dict[int | str, dict[str, Any]] = {
    409: {"model": Problem, "description": "A face known by another name, or unlike the person's other photographs"}
}
LATER: dict[int | str, dict[str, Any]] = {
    202: {"model": Forgotten, "description": "Erased; the bytes go when another process has ended reading"}
}
MOST_PEOPLE = 1000  # people in one answer
MOST_PAIRS = 100  # pairs of faces in one answer
MOST_RANKED = 3200  # matches in one answer: of 32 faces with the largest k
Id = Annotated[str, InPath(description="A person's id; not a name.", examples=["5c1f6c1b5f0e4b0f"])]
T = TypeVar("T")


@dataclass
class Service:
    """State shared by all requests. `faults`: the gallery's last failure of each kind of use."""

    settings: Settings
    embedder: Embedder
    engine: Engine
    gallery: Gallery | None
    faults: dict[str, str] = field(default_factory=dict)

    async def see(
        self, photographs: Sequence[tuple[str, bytes]], aligned: bool, *, mirror: bool = True, faces: Choice = "center"
    ) -> list[list[FaceRecord]]:
        """Find and embed the chosen faces in photographs, given with their names for messages."""
        if len(photographs) > MOST:
            raise InputError(f"at most {MOST} photographs", str(len(photographs)), "send the rest in another request")
        how: Mirror = "sum" if mirror else "none"
        return await self.engine.see(photographs, aligned=aligned, mirror=how, faces=faces)

    async def keep(self, use: str, call: Callable[..., T], *args: Any, **options: Any) -> T:
        """Call the gallery in a thread. Raises Refused (503) if the store fails."""
        try:
            found = await asyncio.to_thread(call, *args, **options)
        except (DataError, ModelError) as error:
            self.faults[use] = f"the gallery cannot {use}: {error.got}"
            raise Refused(503, f"a gallery that can {use}", "one that fails", "report it to the operator") from error
        self.faults.pop(use, None)
        return found

    def face(self, seen: FaceRecord, crops: bool) -> Face:
        """Return a face as JSON for clients."""
        found = seen.face
        points = None
        if crops and found is not None:
            back = cv2.invertAffineTransform(self.engine.template.fit(found.landmarks))
            points = (found.landmarks @ back[:, :2].T + back[:, 2]).round(2).tolist()
        jpeg = base64.b64encode(simplejpeg.encode_jpeg(seen.crop, 92)).decode() if crops else None
        return Face(
            box=[round(side, 2) for side in found.box] if found else None,
            landmarks=found.landmarks.round(2).tolist() if found else None,
            score=round(found.score, 4) if found else None, found=seen.found, norm=seen.norm,
            turn=found.turn if found else 0, risk=seen.assessment.risk, outside=list(seen.assessment.outside),
            crop=f"data:image/jpeg;base64,{jpeg}" if jpeg else None, crop_landmarks=points,
        )  # fmt: skip


def api(service: Service) -> APIRouter:
    """Return the routes; those about people only with a gallery."""
    router = APIRouter(prefix="/v1", responses=REFUSALS)
    about(router, service)
    compare(router, service)
    if service.gallery is not None:
        people(router, service, service.gallery)
        one_person(router, service, service.gallery)
    return router


def about(router: APIRouter, service: Service) -> None:
    """Add the routes that describe the service and compute embeddings."""
    embedder, settings = service.embedder, service.settings
    point = embedder.operating_point

    @router.get("/about", summary="Model, operating point and requirements", responses={401: {}, 403: {}})
    async def about() -> About:
        tools = embedder.tools()
        return About(
            version=version("normface"), model=embedder.name, model_sha256=embedder.sha256,
            operating_point=Certificate.of(point), calibrated=bool(point and point.calibration),
            conditions=bool(point and point.conditions),
            gallery=service.gallery is not None, keys=settings.keys is not None, max_upload=settings.max_upload,
            spec=asdict(embedder.spec), device=tools["device"], detector=tools["detector"],
            detector_device=tools["detector_device"], browser=settings.ort_web is not None,
        )  # fmt: skip

    @router.post("/embed", summary="Embed the central face of each photograph", openapi_extra=described(EmbedBody))
    async def embed(asked: Annotated[EmbedBody, sent(EmbedBody)]) -> Embedded:
        seen = await service.see(_numbered(asked.photographs), asked.aligned, mirror=asked.mirror)
        found = [faces[0] for faces in seen]
        return Embedded(
            vectors=[each.vector.tolist() for each in found], dim=len(found[0].vector), model_sha256=embedder.sha256,
            faces=[service.face(each, asked.crops) for each in found],
        )  # fmt: skip


def compare(router: APIRouter, service: Service) -> None:
    """Add the route that compares two photographs, or one with an enrolled person."""
    embedder, gallery = service.embedder, service.gallery
    point = embedder.operating_point

    @router.post(
        "/verify", summary="Decide whether two photographs show the same person", responses=GONE,
        openapi_extra=described(VerifyBody),
    )  # fmt: skip
    async def verify(asked: Annotated[VerifyBody, sent(VerifyBody)]) -> Verification:
        person = asked.person
        if (asked.b is None) == (person is None):
            raise InputError("b or person", "neither" if person is None else "both", "give one of them")
        if person is not None and gallery is None:
            raise InputError("photograph b", "person, on a service without a gallery", "send b instead of person")
        files = [("photograph a", asked.a), *([("photograph b", asked.b)] if asked.b is not None else [])]
        names = [name for name, _ in files]
        seen = await service.see(files, asked.aligned, mirror=asked.mirror, faces=asked.faces)
        exact = [[cosine.exact(face.vector) for face in faces] for faces in seen]
        compared: list[tuple[Match, tuple[int, ...]]] = []
        for rows in product(*(range(len(faces)) for faces in seen)):
            chosen = [faces[row] for faces, row in zip(seen, rows, strict=True)]
            if person is not None and gallery is not None:
                match = await _of_somebody(service, "verify", gallery.verify, checked_name(person), chosen[0].vector)
            else:
                score = float(cosine.paired(*(faces[row] for faces, row in zip(exact, rows, strict=True))))
                match = Match(score, point.accepts(score) if point else None)
            compared.append((covered(match, chosen, names, anyway=asked.anyway), rows))
        compared.sort(key=lambda each: -each[0].score)
        match, best = compared[0]
        calibration = point.calibration if point and not match.outside else None
        shown = [[service.face(each, asked.crops) for each in faces] for faces in seen]
        every = asked.faces == "all"
        return Verification(
            **decision(match, point).model_dump(), operating_point=Certificate.of(point), prior=asked.prior,
            probability=calibration.probability(match.score, asked.prior) if calibration else None,
            faces=[faces[row] for faces, row in zip(shown, best, strict=True)], seen=shown if every else None,
            pairs=[_pair(each, rows, point) for each, rows in compared[:MOST_PAIRS]] if every else None,
        )  # fmt: skip


def people(router: APIRouter, service: Service, gallery: Gallery) -> None:
    """Add the routes that list, enrol and search people."""
    embedder = service.embedder
    point = embedder.operating_point

    @router.get("/people", summary="List the people enrolled, by name", responses=GONE, response_model=People)
    async def listed(
        limit: Annotated[int, Query(ge=1, le=MOST_PEOPLE, description="People on a page.")] = 100,
        after: Annotated[str | None, Query(description="The `next` of the page before.")] = None,
        q: Annotated[str, Query(max_length=200, description="Beginning of the name.")] = "",
        tag: Annotated[str | None, Query(max_length=100, description="Only people with this tag.")] = None,
    ) -> Response:
        last = None if after is None else PersonId.parse(after)

        def page() -> bytes:  # in a thread to the last byte: a thousand people take longer than the event loop may
            found = gallery.people(prefix=q, after=last, limit=limit + 1, tag=tag)
            following = found[limit - 1].id if len(found) > limit else None
            return People(people=[_person(each) for each in found[:limit]], next=following).model_dump_json().encode()

        return Response(await _of_somebody(service, "list", page), media_type="application/json")

    @router.post(
        "/people", summary="Enrol a person, or add photographs of an enrolled one", status_code=201, responses=DOUBT,
        openapi_extra=described(EnrolBody),
    )  # fmt: skip
    async def enrol(asked: Annotated[EnrolBody, sent(EnrolBody)]) -> Enrolled:
        name = checked_name(asked.person)
        photographs = _numbered(asked.photographs)
        seen = await service.see(photographs, asked.aligned, faces=asked.faces or "center")
        found = [faces[0] for faces in seen]
        if asked.faces is None:
            _refuse_several(found, photographs)
        if not asked.anyway:
            refuse_outside(found, [number for number, _ in photographs], "the field anyway=true")
        vectors, norms = np.stack([each.vector for each in found]), np.array([each.norm for each in found])
        some = Enrolments(
            [name] * len(found), vectors, norms, consent=[asked.consent] * len(found),
            source=[hashlib.sha256(data).hexdigest() for data in asked.photographs],
        )  # fmt: skip
        doubts = await service.keep("enrol", gallery.doubts, some)
        settled = settle(some, doubts, same_person=asked.same_person, twin=asked.twin)
        if settled.open:
            row, question = next(iter(settled.open.items()))
            expected = f"photographs of {name} alone"
            do = "send same_person=true if it is one person, twin=true if they are two people"
            raise Refused(409, expected, f"{question} (photograph {row + 1})", do)
        added = await service.keep("enrol", gallery.enrol_many, settled.accepted) if settled.accepted else []
        whose = await service.keep("list", gallery.person, settled.accepted.people[0] if settled.accepted else name)
        return Enrolled(
            person=whose.name, id=whose.id, added=len(added), duplicates=settled.duplicates, warnings=settled.warnings,
            faces=[service.face(each, asked.crops) for each in found],
        )  # fmt: skip

    @router.post("/search", summary="Search for the people most similar to a face", openapi_extra=described(SearchBody))
    async def search(asked: Annotated[SearchBody, sent(SearchBody)]) -> Found:
        if (asked.photograph is None) == (asked.photographs is None):
            got = "neither" if asked.photograph is None else "both"
            raise InputError("photograph or photographs", got, "give one of them")
        given = [each for each in (asked.photograph, *(asked.photographs or ())) if each is not None]
        one = asked.photographs is None
        files = [("the photograph", given[0])] if one else _numbered(given)
        seen = await service.see(files, asked.aligned, faces=asked.faces)
        if (count := sum(map(len, seen))) * asked.k > MOST_RANKED:
            got = f"{count} faces with k = {asked.k}"
            raise InputError(
                f"at most {MOST_RANKED:,} matches in one answer", got, "lower k, or send fewer photographs"
            )
        limits = {"tag": asked.tag, "threshold": asked.threshold}
        searches = list[Searched]()
        rule: SearchRule | None = None
        for number, ((name, _), faces) in enumerate(zip(files, seen, strict=True), 1):
            for face in faces:
                found = await service.keep("search", gallery.search, face.vector, asked.k, **limits)
                matches = [covered(match, [face], [name], anyway=asked.anyway) for match in found]
                rule = rule or next((match.rule for match in matches), None)
                ranked = [
                    Ranked(rank=rank, person=str(match.person), **decision(match, point).model_dump())
                    for rank, match in enumerate(matches, 1)
                ]
                searches.append(Searched(photograph=number, face=service.face(face, asked.crops), matches=ranked))
        return Found(
            matches=searches[0].matches, face=searches[0].face,
            templates=rule.templates if rule else await service.keep("search", len, gallery),
            operating_point=Certificate.of(point), search=SearchThreshold.of(rule, point),
            searches=None if one and asked.faces != "all" else searches, note=rule.words if rule else "no decision",
        )  # fmt: skip


def one_person(router: APIRouter, service: Service, gallery: Gallery) -> None:
    """Add the routes that show, change and erase a person by id."""

    @router.get("/people/{id}", summary="A person and their templates", responses=GONE)
    async def shown(id: Id) -> Templates:
        person = await _of_somebody(service, "list", gallery.person, PersonId(id))
        templates = await _of_somebody(service, "list", gallery.templates, PersonId(id))
        return Templates(
            person=_person(person),
            templates=[Template(number=t.number, time=t.time, quality=t.quality, source=t.source) for t in templates],
        )

    @router.patch("/people/{id}", summary="Rename a person, or change their tags", responses=GONE)
    async def change(
        id: Id,
        name: Annotated[str | None, Form(description="A new name.")] = None,
        add_tags: Annotated[list[str], Form(description="Tags to add.")] = [],  # noqa: B006  # FastAPI copies it
        remove_tags: Annotated[list[str], Form(description="Tags to remove.")] = [],  # noqa: B006
    ) -> Person:
        if name is not None:
            await _of_somebody(service, "rename", gallery.rename, PersonId(id), checked_name(name))
        if add_tags or remove_tags:
            await _of_somebody(service, "tag", gallery.tag, PersonId(id), add_tags, remove_tags)
        return _person(await _of_somebody(service, "list", gallery.person, PersonId(id)))

    @router.post("/people/{id}/merge", summary="Move all templates of a person to another", responses=GONE)
    async def merge(id: Id, into: Annotated[str, Form(description="The id of the person who stays.")]) -> Person:
        return _person(await _of_somebody(service, "merge", gallery.merge, PersonId(id), PersonId.parse(into)))

    @router.post("/people/{id}/split", summary="Move some templates of a person to a new one", responses=GONE)
    async def split(
        id: Id,
        templates: Annotated[list[int], Form(description="Numbers of the templates.")],
        name: Annotated[str, Form(description="Name of the new person.")],
    ) -> Person:
        return _person(await _of_somebody(service, "split", gallery.split, PersonId(id), templates, checked_name(name)))

    @router.delete("/people/{id}", summary="Erase a person", responses={**GONE, **LATER})
    async def forget(id: Id, response: Response) -> Forgotten:
        person = await _of_somebody(service, "list", gallery.person, PersonId(id))
        return _forgotten(person.name, await _of_somebody(service, "forget", gallery.forget, PersonId(id)), response)

    @router.delete(
        "/people/{id}/templates/{number}", summary="Erase one template of a person", responses={**GONE, **LATER}
    )
    async def remove(id: Id, number: int, response: Response) -> Forgotten:
        person = await _of_somebody(service, "list", gallery.person, PersonId(id))
        erased = await _of_somebody(service, "remove", gallery.remove, PersonId(id), number)
        return _forgotten(person.name, erased, response)


async def _of_somebody(
    service: Service, use: str, call: Callable[..., T], person: str = "", *args: Any, **options: Any
) -> T:
    """Call the gallery about a person. Raises Refused (404) for an unknown name or id."""
    try:
        return await service.keep(use, call, *([person] if person else []), *args, **options)
    except (Refused, ConfigError):
        raise
    except Unknown as error:
        what = "id" if isinstance(person, PersonId) or not person else "name"
        raise Refused(
            404, f"the {what} of an enrolled person", "another", "list them: GET /v1/people; addresses take ids"
        ) from error


def _pair(match: Match, rows: tuple[int, ...], point: OperatingPoint | None) -> Pair:
    """A comparison of two faces, or of a face with a person."""
    return Pair(a=rows[0], b=rows[1] if len(rows) > 1 else None, **decision(match, point).model_dump())


def _refuse_several(found: Sequence[FaceRecord], photographs: Sequence[tuple[str, bytes]]) -> None:
    """Raise FaceError for the first photograph with several faces that may be meant."""
    for seen, (name, _) in zip(found, photographs, strict=True):
        if seen.likely > 1:
            raise FaceError(
                f"one face in {name}", f"{seen.likely} that may be meant",
                "send faces=center, largest or best, or cut the photograph",
            )  # fmt: skip


def _person(found: EnrolledPerson) -> Person:
    return Person(**{**asdict(found), "tags": list(found.tags)})


def _forgotten(name: str, erased: Erased, response: Response) -> Forgotten:
    response.status_code = 200 if erased.wiped else 202
    return Forgotten(person=name, erased=erased, wiped=erased.wiped)


def decision(match: Match, point: OperatingPoint | None) -> Decision:
    """Return a Match as JSON for clients, with its likelihood ratio and a note."""
    if point is None:
        note = "no decision: this model has no operating point (create one with: normface calibrate)"
    elif match.undecided:
        note = "undecided: the certificate does not cover this; give other photographs, or send anyway=true"
    elif match.outside:
        note = "decided at the operating point, although the certificate does not cover this"
    elif match.rule:
        note = match.rule.warning or "decided at the threshold for searches among so many templates"
    else:
        note = "decided at the operating point"
    return Decision(
        score=match.score, same=match.decision, decision=match.verdict, risk=match.risk, outside=list(match.outside),
        llr=llr(point, match), note=note,
    )  # fmt: skip


def _numbered(photographs: list[bytes]) -> list[tuple[str, bytes]]:
    return [(f"photograph {number}", data) for number, data in enumerate(photographs, 1)]
