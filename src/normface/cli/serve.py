from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import ConfigError
from ..serve import Settings, run
from .keys import add
from .terminal import Json

DEFAULT = Settings()


def serve(
    model: Annotated[Path | None, typer.Option(help="FILE.onnx (with FILE.spec.json beside it if foreign).")] = None,
    gallery: Annotated[
        str | None,
        typer.Option(help="Where people are kept: file:people.db or milvus:URI. If omitted, nobody can be enrolled."),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; any but this machine's own needs --keys.")
    ] = DEFAULT.host,
    port: Annotated[
        int, typer.Option(help="0 takes a free one, which the first line of the log names.")
    ] = DEFAULT.port,
    keys: Annotated[
        Path | None, typer.Option(help="File of API keys, from `normface keys add`; read again when it changes.")
    ] = None,
    new: Annotated[
        str | None,
        typer.Option("--new-key", hidden=True, help="Now: normface keys add SCOPES --keys FILE."),
    ] = None,
    expires: Annotated[str | None, typer.Option(hidden=True, help="Now an option of: normface keys add.")] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="Another name by which the service may be called (DNS rebinding).")
    ] = None,
    behind_proxy: Annotated[
        str | None, typer.Option(help="Address of the proxy whose X-Forwarded-For is believed.")
    ] = None,
    rate: Annotated[float, typer.Option(help="Requests a second for each key or address.")] = DEFAULT.rate,
    max_upload: Annotated[int, typer.Option(help="Bytes of one request.")] = DEFAULT.max_upload,
    max_pixels: Annotated[int, typer.Option(help="Of one photograph.")] = DEFAULT.max_pixels,
    timeout: Annotated[
        float, typer.Option(help="Seconds for a request to arrive, and again for its answer.")
    ] = DEFAULT.timeout,
    queue: Annotated[int, typer.Option(help="Requests at once; more get 503 and Retry-After.")] = DEFAULT.queue,
    workers: Annotated[int, typer.Option(help="Photographs looked at in parallel.")] = DEFAULT.workers,
    batch: Annotated[int, typer.Option(help="Photographs that a worker takes together.")] = DEFAULT.batch,
    ort_web: Annotated[
        Path | None, typer.Option(help="The folder dist of onnxruntime-web: the page may then embed in the browser.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Verify, enrol and search over HTTP, with a page at `/`.

    Listens on this machine alone unless told otherwise. Logs are JSON lines on stderr, without names and images.
    SIGTERM ends it when what was accepted is answered.
    """
    if new is not None:
        if keys is None:
            raise ConfigError("the file for the key", "none", "name it: --keys FILE")
        add(new, keys, expires, as_json)
        return
    run(Settings(
        model=model, gallery=gallery, host=host, port=port, keys=keys, hosts=tuple(allow_host or ()),
        proxy=behind_proxy, rate=rate, max_upload=max_upload, max_pixels=max_pixels, timeout=timeout, queue=queue,
        workers=workers, batch=batch, ort_web=ort_web,
    ))  # fmt: skip
