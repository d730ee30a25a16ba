"""The command `normface serve`: start the HTTP service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import ConfigError
from ..serve import Settings, run
from .keys import add
from .terminal import Computer, FaceDetector, Json

DEFAULT = Settings()


def serve(
    model: Annotated[
        Path | None,
        typer.Option(help="FILE.onnx (from other tools: with FILE.spec.json beside it). Default: the built-in model."),
    ] = None,
    gallery: Annotated[
        str | None,
        typer.Option(
            envvar="NORMFACE_GALLERY",
            help="Gallery URL: file:people.db, postgres://… and others. "
            "If omitted, the service has no gallery and people cannot be enrolled.",
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; any but a loopback address requires --keys.")
    ] = DEFAULT.host,
    port: Annotated[
        int, typer.Option(help="Port; 0 picks a free one and prints it in the first line of the log.")
    ] = DEFAULT.port,
    keys: Annotated[
        Path | None, typer.Option(help="File of API keys from `normface keys add`; reloaded when it changes.")
    ] = None,
    new: Annotated[
        str | None,
        typer.Option("--new-key", hidden=True, help="Now: normface keys add SCOPES --keys FILE."),
    ] = None,
    expires: Annotated[str | None, typer.Option(hidden=True, help="Now an option of: normface keys add.")] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="Host name to accept besides --host (protects from DNS rebinding).")
    ] = None,
    behind_proxy: Annotated[
        str | None,
        typer.Option(help="Addresses or networks of proxies whose X-Forwarded-* headers are trusted, with commas."),
    ] = None,
    root_path: Annotated[
        str, typer.Option(help="Prefix of the path at which a proxy shows the service, such as /faces.")
    ] = DEFAULT.root_path,
    rate: Annotated[float, typer.Option(help="Requests per second allowed for each key or address.")] = DEFAULT.rate,
    max_upload: Annotated[int, typer.Option(help="Largest request, in bytes.")] = DEFAULT.max_upload,
    max_pixels: Annotated[int, typer.Option(help="Largest photograph, in pixels.")] = DEFAULT.max_pixels,
    memory: Annotated[
        int, typer.Option(help="Bytes that all requests may hold at once, decoded pixels included.")
    ] = DEFAULT.memory,
    timeout: Annotated[
        float, typer.Option(help="Seconds allowed for receiving a request, and again for answering it.")
    ] = DEFAULT.timeout,
    queue: Annotated[int, typer.Option(help="Concurrent requests; others get 503 and Retry-After.")] = DEFAULT.queue,
    workers: Annotated[int, typer.Option(help="Photographs processed in parallel.")] = DEFAULT.workers,
    batch: Annotated[int, typer.Option(help="Largest batch of photographs per worker.")] = DEFAULT.batch,
    device: Computer = "auto",
    detector: FaceDetector = "mtcnn",
    ort_web: Annotated[
        Path | None, typer.Option(help="Folder `dist` of onnxruntime-web; lets the page embed in the browser.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Serve verification, enrolment and search over HTTP, with a web page at `/`.

    Listens on this machine only, unless `--host` says otherwise. Logs JSON lines without names or images to stderr.
    On SIGTERM, answers the requests it has accepted, then exits.

    Example: `normface serve --gallery file:people.db`.
    """
    if new is not None:
        if keys is None:
            raise ConfigError("--new-key with --keys FILE", "--new-key alone", "add --keys FILE")
        add(new, keys, expires, as_json)
        return
    run(Settings(
        model=model, gallery=gallery, host=host, port=port, keys=keys, hosts=tuple(allow_host or ()),
        proxy=behind_proxy, root_path=root_path,
        memory=memory, rate=rate, max_upload=max_upload, max_pixels=max_pixels, timeout=timeout, queue=queue,
        workers=workers, batch=batch, device=device, detector=detector, ort_web=ort_web,
    ))  # fmt: skip
