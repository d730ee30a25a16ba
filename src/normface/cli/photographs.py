"""Shared by the verbs that take photographs: which face to use, and what was seen."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import typer

from ..embed import Embedder
from ..errors import ConfigError, DataError, counted
from ..faces import Choice, eye_distance
from ..faces.video import is_video
from ..types import Face

_log = logging.getLogger("normface")
Faces = Annotated[  # a str, because typer would import pydantic for Choice
    str, typer.Option(help="Which of several faces: center (nearest to it), largest, best (highest score), or all.")
]
Draw = Annotated[
    Path | None,
    typer.Option("--draw", metavar="OUT.png", help="Draw the faces into a copy of the photographs; used ones green."),
]


def warn_without_conditions(embedder: Embedder) -> None:
    """Warn if the model has a certificate that does not say which photographs it covers."""
    if embedder.operating_point and embedder.operating_point.conditions is None:
        _log.warning(
            "the certificate of %s has no conditions, so any photograph is decided (measure them: normface calibrate … "
            "--conditions FACES)", embedder.name,
        )  # fmt: skip


def warn_of_videos(unread: Mapping[str, int], source: Path) -> None:
    """Warn if a folder of photographs holds videos: they are not read with them."""
    kinds = {kind: count for kind, count in unread.items() if is_video(f"x{kind.partition(' ')[0]}")}
    if kinds:
        _log.warning(
            "%s holds %s, which are not read with photographs; embed each by itself: normface embed CLIP --out F.npz",
            source, counted(sum(kinds.values()), "video"),
        )  # fmt: skip


def chosen(faces: str) -> Choice:
    """Return the choice of an option. Raises ConfigError for another word."""
    for choice in get_args(Choice):
        if choice == faces:
            return cast(Choice, choice)
    raise ConfigError(f"--faces among {', '.join(get_args(Choice))}", repr(faces), "correct --faces")


def told(name: str, face: Face | None, found: int) -> str:
    """Describe the face used in a photograph, as text."""
    if face is None:
        return f"{name}: an aligned crop"
    box = " ".join(f"{side:.0f}" for side in face.box)
    turned = f", photograph turned by {face.turn}°" if face.turn else ""
    seen = "followed, used one that in its best frame is at" if is_video(name) else "seen, used the one at"
    return (
        f"{name}: {counted(found, 'face')} {seen} {box}: score {face.score:.3f}, "
        f"eyes {eye_distance(face.landmarks):.0f} px apart{turned}"
    )


def as_dict(name: str, face: Face | None, found: int) -> dict[str, Any]:
    """Describe the face used in a photograph, as JSON values."""
    if face is None:
        return {"photograph": name, "found": found, "box": None, "score": None, "eye_distance": None, "turn": 0}
    return {
        "photograph": name, "found": found, "box": [round(side, 2) for side in face.box],
        "score": round(face.score, 4), "eye_distance": round(eye_distance(face.landmarks), 2), "turn": face.turn,
    }  # fmt: skip


def draw(embedder: Embedder, to: Path, photographs: Sequence[Path], used: Sequence[Sequence[Face | None]]) -> None:
    """Write the photographs with their faces side by side into a PNG. Raises DataError if it cannot be written."""
    import cv2

    from ..data.pictures import open_picture
    from ..faces.draw import draw_faces, side_by_side
    from ..faces.finding import find_faces
    from ..faces.photographs import Photograph

    if videos := [str(path) for path in photographs if is_video(path)]:
        raise ConfigError("photographs for --draw", f"the video {videos[0]}", "drop --draw")
    if to.suffix.lower() != ".png":
        raise ConfigError("a file OUT.png for --draw", str(to), "give it the ending .png")
    opened = [Photograph.open(open_picture(path), str(path)) for path in photographs]
    found = find_faces(embedder.detector, opened)
    drawn = [
        draw_faces(photograph, [face for face in chosen if face], faces)
        for photograph, chosen, faces in zip(opened, used, found, strict=True)
    ]
    try:
        to.write_bytes(cv2.imencode(".png", side_by_side(drawn)[..., ::-1])[1].tobytes())
    except OSError as error:
        raise DataError(f"to write {to}", f"'{error.strerror}'", "give another file") from error
