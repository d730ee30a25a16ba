"""The application: model, gallery, engine, routes and page, put together."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartParser

from ..embed import Embedder
from ..embed.loading import DEFAULT
from ..errors import ConfigError, InputError, ModelError, NormfaceError
from ..gallery import open_gallery
from .bodies import schemas
from .engine import Engine
from .gate import PROBLEM, Gate, Refused, problem
from .keys import KeyFile
from .limits import give_freed_memory_back
from .metrics import Metrics
from .routes import Service, api
from .schemas import Health, Readiness
from .settings import Settings

ORT_WEB = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
PAGE = Path(__file__).with_name("page")
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8", ".js": "text/javascript", ".mjs": "text/javascript", ".css": "text/css",
    ".wasm": "application/wasm", ".onnx": "application/octet-stream", ".svg": "image/svg+xml",
}  # fmt: skip
READY = 5  # seconds in which the gallery must answer
NOTHING = "default-src 'none'; base-uri 'none'; form-action 'none'"
STRICT = f"{NOTHING}; connect-src 'self'; style-src 'self'; img-src 'self' data: blob:"
# The viewer shows a report that may come from anywhere: in a frame of no origin, without requests and its scripts.
VIEWER = f"{NOTHING}; script-src 'self'; style-src 'unsafe-inline'; img-src data:"


def build(settings: Settings) -> FastAPI:
    """See `serve.create_app`."""
    if settings.model is not None and settings.model.is_dir():
        raise ModelError(
            "--model with an ONNX file", f"the folder {settings.model}", "export it: normface export RUN FILE.onnx"
        )
    keys = KeyFile(settings.keys) if settings.keys else None  # a service that can let nobody in does not start
    embedder = Embedder.load(settings.model, device=settings.device, detector=settings.detector)
    embedder.threads = 1  # the engine's workers are the threads
    metrics = Metrics()
    gallery = None
    if settings.gallery is not None:
        gallery = open_gallery(settings.gallery, model=embedder.sha256, operating_point=embedder.operating_point)
    give_freed_memory_back()
    cv2.setNumThreads(1)  # the workers take a photograph each, which gains more
    MultiPartParser.spool_max_size = sys.maxsize  # uploads, limited before, stay in memory: no face ever lies in /tmp
    engine = Engine(
        embedder,
        workers=settings.workers,
        batch=settings.batch,
        max_pixels=settings.max_pixels,
        memory=settings.memory - settings.memory // 4,
        observe=metrics.batch,
    )
    service = Service(settings, embedder, engine, gallery)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        yield
        engine.close()
        if gallery is not None:
            gallery.close()

    app = FastAPI(
        title="normface", version=version("normface"), lifespan=life, redirect_slashes=False,
        description="Face verification with certified thresholds: every decision names its operating point.",
        docs_url=None, redoc_url=None, openapi_url="/v1/openapi.json",
        dependencies=[Depends(HTTPBearer(auto_error=False, description="An API key."))] if settings.keys else [],
    )  # fmt: skip
    app.state.service = service
    app.include_router(api(service))
    _states(app, service, metrics)
    _page(app, settings)
    _errors(app)
    app.openapi()["components"]["schemas"] |= schemas()
    for path in app.openapi()["paths"].values():  # made now, not while a request waits
        for operation in path.values():
            for answer in operation["responses"].values():
                schema = answer.get("content", {}).get("application/json", {}).get("schema", {})
                if schema.get("$ref", "").endswith("/Problem"):
                    answer["content"] = {PROBLEM: answer["content"]["application/json"]}
    app.add_middleware(Gate, settings=settings, engine=engine, metrics=metrics, keys=keys)
    return app


def _states(app: FastAPI, service: Service, metrics: Metrics) -> None:
    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz", summary="Check that the process answers")
    async def healthz() -> Health:
        return Health()

    @app.head("/readyz", include_in_schema=False)
    @app.get("/readyz", summary="Check that requests can be answered", responses={503: {"model": Readiness}})
    async def readyz(response: Response) -> Readiness:
        warnings = list(service.faults.values())
        model = service.settings.model
        if model is not None and not model.is_file():
            warnings.append("the model's file is missing: the service runs from memory, but could not start again")
        ready = service.engine.alive
        if service.gallery is not None:
            try:
                async with asyncio.timeout(READY):
                    await asyncio.to_thread(len, service.gallery)
            except (NormfaceError, TimeoutError) as error:
                ready = False
                got = error.got if isinstance(error, NormfaceError) else f"no answer in {READY} s"
                warnings.append(f"the gallery cannot be read: {got}")
        response.status_code = 200 if ready else 503
        return Readiness(ready=ready, warnings=warnings)

    @app.get("/metrics", summary="Metrics for Prometheus", response_class=Response)
    async def figures() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")


def _page(app: FastAPI, settings: Settings) -> None:
    """Serve the page's files, read once at start: no path from a request reaches the file system."""
    files = {f"/{path.name}": path for path in PAGE.iterdir() if path.suffix in MEDIA_TYPES}
    files["/"] = files.pop("/index.html")
    scripts = "script-src 'self'"
    if settings.ort_web is not None:
        found = [settings.ort_web / name for name in ORT_WEB]
        if not all(path.is_file() for path in found):
            raise ConfigError(
                f"--ort-web with {', '.join(ORT_WEB)}", f"{settings.ort_web} without them",
                "run: npm pack onnxruntime-web, unpack it, and give its folder dist",
            )  # fmt: skip
        files |= {f"/ort/{path.name}": path for path in found}
        files["/ort/model.onnx"] = settings.model or DEFAULT
        scripts += " 'wasm-unsafe-eval'"
    if settings.root_path:
        app.get("", include_in_schema=False)(_elsewhere(f"{settings.root_path}/"))
    for url, path in files.items():
        headers = {
            "content-security-policy": f"{STRICT}; {scripts}; frame-src 'self'; frame-ancestors 'none'",
            "cache-control": "no-cache",
        }
        if path.stem == "viewer":  # its frame has no origin, so to the browser its script is another's
            policy = f"{VIEWER}; frame-ancestors 'self'"
            headers |= {"content-security-policy": policy, "cross-origin-resource-policy": "cross-origin"}
        app.get(url, include_in_schema=False)(_file(path.read_bytes(), MEDIA_TYPES[path.suffix], headers))


def _file(content: bytes, kind: str, headers: dict[str, str]) -> Any:
    async def send() -> Response:
        return Response(content, media_type=kind, headers=headers)

    return send


def _elsewhere(url: str) -> Any:
    async def send() -> Response:
        return RedirectResponse(url, 308)

    return send


def _errors(app: FastAPI) -> None:
    """Answer every error in the same format."""

    def told(
        request: Request, error: NormfaceError, status: int, headers: dict[str, str] | None = None
    ) -> JSONResponse:
        return JSONResponse(problem(error, status, request.state.request), status, headers, PROBLEM)

    @app.exception_handler(NormfaceError)
    async def ours(request: Request, error: NormfaceError) -> JSONResponse:
        if isinstance(error, Refused):
            return told(request, error, error.status, error.headers)
        if isinstance(error, ModelError):
            return told(request, error, 503)
        return told(request, error, 422)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, raised: RequestValidationError) -> JSONResponse:
        first = raised.errors()[0]  # without what was sent: it may be a name, or a face
        where = ".".join(str(part) for part in first["loc"][1:])
        error = InputError("fields as in /v1/openapi.json", f"{where}: {first['msg']}", f"correct {where}")
        return told(request, error, 422)

    @app.exception_handler(HTTPException)
    async def others(request: Request, error: HTTPException) -> JSONResponse:
        wanted = {404: "a known address", 405: "another method"}.get(error.status_code, "a well-formed request")
        told_error = InputError(wanted, str(error.detail), "see /v1/openapi.json")
        return told(request, told_error, error.status_code, dict(error.headers or {}))
