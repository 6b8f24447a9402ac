"""Serve a run over HTTP: POST a part's views, get the decision. FastAPI and uvicorn are the extra ``mvad[serve]``.

One part is scored at a time, on all cores; a few more wait, the others are refused with 429 before their bodies are read.
Pictures are decoded from the request; no name in a request is ever used as a path.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hmac
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import imagecodecs
import numpy as np

from mvad.datasets.photographs.category import Photographs
from mvad.datasets.photographs.layouts import montage_of
from mvad.datasets.photographs.pictures import read_header
from mvad.datasets.scan import NEW, UNKNOWN, ImageRef, SampleRef
from mvad.datasets.shards.loader import batch_of
from mvad.datasets.shards.schema import Sample
from mvad.errors import BadInput, MissingComponent
from mvad.model.evaluation.pictures import grey_levels
from mvad.model.evaluation.predict import tiff_of
from mvad.pipeline.judge import Judge
from mvad.pipeline.photographs import new_part, photographs_of

MAPS = ("png", "tiff", "none")
_BUCKETS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Upper bounds of the histogram of latencies, seconds."""
_NAME_BYTES = 200
_RECEIVERS = 16
"""Requests whose bodies may come at the same time."""
_DRAIN_SECONDS = 5.0
_UNKNOWN_BYTES = 1_000_000
_OPEN = ("/health", "/docs", "/openapi.json")
"""What is answered without the token."""
_KINDS = {b"\x89PNG": ".png", b"\xff\xd8": ".jpg", b"BM": ".bmp", b"II*\0": ".tif", b"MM\0*": ".tif", b"RIFF": ".webp"}
"""Endings by the first bytes of a picture."""


@dataclass(frozen=True)
class ServeOptions:
    """Limits of the server.

    Attributes
    ----------
    max_mb, max_megapixels
        Greatest size of a request's body, and of all pictures of a part.
    queue
        Parts that may wait while another is scored; more are refused with 429.
    max_seconds
        Time for a body to come, so that slow senders do not keep others out.
    token
        Text that requests must bear (``Authorization: Bearer``); "": none.
    """

    max_mb: float = 64.0
    max_megapixels: float = 128.0
    queue: int = 4
    token: str = ""
    max_seconds: float = 30.0


@dataclass
class Counts:
    """What the server did, for ``/metrics``; safe for threads."""

    answers: Counter[str] = field(default_factory=Counter)
    decisions: Counter[str] = field(default_factory=Counter)
    buckets: Counter[float] = field(default_factory=Counter)
    seconds: float = 0.0
    scored: int = 0
    in_flight: int = 0
    receiving: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def decided(self, decision: str, seconds: float) -> None:
        """Count a decision and its latency, seconds."""
        with self._lock:
            self.decisions[decision] += 1
            self.scored += 1
            self.seconds += seconds
            for bound in _BUCKETS:
                if seconds <= bound:
                    self.buckets[bound] += 1

    def answered(self, status: int) -> None:
        """Count an answer by its status."""
        with self._lock:
            self.answers[str(status)] += 1

    def text(self) -> str:
        """Return the counts in Prometheus' text format 0.0.4."""
        with self._lock:
            lines = ["# HELP mvad_answers_total Answers by status.", "# TYPE mvad_answers_total counter"]
            lines += [f'mvad_answers_total{{status="{status}"}} {count}' for status, count in sorted(self.answers.items())]
            lines += ["# HELP mvad_decisions_total Decisions on parts.", "# TYPE mvad_decisions_total counter"]
            lines += [f'mvad_decisions_total{{decision="{name}"}} {self.decisions[name]}' for name in ("normal", "anomalous")]
            lines += ["# HELP mvad_parts_in_flight Parts that are scored or wait.", "# TYPE mvad_parts_in_flight gauge"]
            lines += [f"mvad_parts_in_flight {self.in_flight}"]
            lines += [
                "# HELP mvad_decision_seconds Seconds from the body to the decision.",
                "# TYPE mvad_decision_seconds histogram",
            ]
            lines += [f'mvad_decision_seconds_bucket{{le="{bound}"}} {self.buckets[bound]}' for bound in _BUCKETS]
            lines += [f'mvad_decision_seconds_bucket{{le="+Inf"}} {self.scored}']
            lines += [f"mvad_decision_seconds_sum {self.seconds:.6f}", f"mvad_decision_seconds_count {self.scored}"]
        return "\n".join(lines) + "\n"


def part_of(
    name: str, pictures: Mapping[str, bytes], photographs: Photographs, max_megapixels: float
) -> tuple[SampleRef, dict[Path, bytes]]:  # fmt: skip
    """Return a part whose pictures are in memory, by view, and their contents; the headers are checked.

    Raises
    ------
    BadInput
        If a view is none of the run's, or a picture is of another kind or too large.
    """
    views, montage = photographs.framing.views, photographs.layout.montage != (1, 1)
    if montage and len(pictures) != 1:
        raise BadInput(f"{name}: {len(pictures)} pictures; expected one montage of {len(views)} views")
    refs, contents, pixels = [], {}, 0
    for view, content in pictures.items():
        if not montage and view not in views:
            raise BadInput(f"{name}: the view {view} is none of {', '.join(views)}; name each file by its view")
        ending = next((ending for head, ending in _KINDS.items() if content.startswith(head)), ".png")
        path = Path(f"{view}{ending}")
        header = read_header(path, content)
        pixels += header.width * header.height
        if pixels > max_megapixels * 1e6:
            raise BadInput(
                f"{view}: {header.width} x {header.height} pixels, with which the part has more than {max_megapixels:g} megapixels; send smaller pictures"
            )
        refs.append(ImageRef(view, path, None, UNKNOWN))
        contents[path] = content
    if not refs:
        raise BadInput(f"{name}: has no picture; send one file per view ({', '.join(views)})")
    found = montage_of(refs, photographs.layout) if montage else refs
    return SampleRef(photographs.dataset, photographs.category, NEW, UNKNOWN, name, found), contents


def answer(
    judge: Judge, photographs: Photographs, name: str, pictures: Mapping[str, bytes], maps: str, limit: float
) -> dict[str, Any]:
    """Return the decision on a part as plain values, with its maps as base64.

    ``maps``: ``png`` grey levels of all views side by side with the values of black and white, ``tiff`` (V, H, W) float32, or ``none``.

    Raises
    ------
    BadInput
        If the part cannot be read or does not fit.
    """
    ref, contents = part_of(name, pictures, photographs, limit)
    prediction, scored = judge.decide(new_part(ref, photographs, "", contents))
    said = prediction.to_json()
    for local in ("path", "picture", "pose", "fit", "cut"):
        said.pop(local)
    if maps == "png":
        levels, low, high = grey_levels(scored.maps)
        png = bytes(imagecodecs.png_encode(levels, level=1))
        said["map"] = {"png": base64.b64encode(png).decode(), "black": low, "white": high}
    elif maps == "tiff":
        said["map"] = {"tiff": base64.b64encode(tiff_of(scored)).decode()}
    return said | {"model_sha256": judge.model_sha256}


def make_app(judge: Judge, options: ServeOptions) -> Any:
    """Return the ASGI application.

    Raises
    ------
    MissingComponent
        If FastAPI or python-multipart is not installed.
    BadInput
        If the run is not one on photographs.
    """
    try:
        import python_multipart  # noqa: F401 - what FastAPI reads forms with
        from fastapi import FastAPI, Request
        from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
        from starlette.datastructures import UploadFile
        from starlette.exceptions import HTTPException
        from starlette.formparsers import MultiPartException
        from starlette.requests import ClientDisconnect
    except ImportError as error:
        raise MissingComponent(f"the server needs {error.name}; pip install 'mvad[serve]'") from error
    photographs, counts = photographs_of(judge.run), Counts()
    if photographs.framing.depth_range is not None or photographs.framing.has_normals:
        raise BadInput(
            f"{judge.run.path}: uses depth or normal maps, which are not sent; train on --modalities rgb, or use mvad watch"
        )
    views = list(photographs.framing.views)
    app = FastAPI(title=f"mvad: {judge.run.name}", version=judge.model_sha256[:12], docs_url=None, redoc_url=None)
    scoring = asyncio.Lock()

    def refused(status: int, what: str, **headers: str) -> Any:
        return JSONResponse({"error": what}, status, headers)

    @app.middleware("http")
    async def guarded(request: Request, call: Callable[[Request], Awaitable[Any]]) -> Any:
        if options.token and request.url.path not in _OPEN:
            given = request.headers.get("authorization", "").encode("latin-1", "replace")  # as starlette decodes headers
            if not hmac.compare_digest(given, f"Bearer {options.token}".encode()):
                counts.answered(401)
                await _drain(request, _UNKNOWN_BYTES)
                return refused(401, "give the token as Authorization: Bearer TOKEN", **{"WWW-Authenticate": "Bearer"})
        response = await call(request)
        counts.answered(response.status_code)
        return response

    @app.get("/health", summary="Whether the server is ready, and with which model.")
    def health() -> dict[str, Any]:
        return {"status": "ok", "views": views, **judge.facts()}

    @app.get("/metrics", summary="Counts and latencies in Prometheus' text format.", response_class=PlainTextResponse)
    def metrics() -> Any:
        return PlainTextResponse(counts.text(), media_type="text/plain; version=0.0.4")

    @app.get("/docs", include_in_schema=False, response_class=HTMLResponse)
    def docs() -> Any:
        return HTMLResponse(_DOCS)

    def busy() -> Any:
        return refused(429, f"{counts.in_flight} parts are scored or wait; send it again", **{"Retry-After": "1"})

    @contextlib.asynccontextmanager
    async def waiting() -> AsyncIterator[None]:
        counts.in_flight += 1
        try:
            yield
        finally:
            counts.in_flight -= 1

    async def predict(request: Any) -> Any:
        limit = int(options.max_mb * 1e6)
        if counts.in_flight > options.queue or counts.receiving >= _RECEIVERS:
            await _drain(request, limit)
            return busy()
        if int(request.headers.get("content-length") or 0) > limit:
            await _drain(request, 2 * limit)
            return refused(413, f"the body is larger than {options.max_mb:g} MB; send smaller pictures")
        maps = request.query_params.get("maps", "png")
        if maps not in MAPS:
            await _drain(request, limit)
            return refused(422, f"maps={maps}: choose from {', '.join(MAPS)}")
        counts.receiving += 1
        receiving = True
        try:
            began = time.perf_counter()
            reading = _limited(request, limit).form(max_files=len(views), max_fields=4, max_part_size=1024)
            form = await asyncio.wait_for(reading, options.max_seconds)
            name = str(form.get("part") or "part")[:_NAME_BYTES]
            pictures: dict[str, bytes] = {}
            for field_name, value in form.multi_items():
                if isinstance(value, UploadFile):
                    view = field_name if field_name in views else PurePosixPath(value.filename or field_name).stem
                    if view in pictures:
                        return refused(422, f"{name}: the view {view} is sent twice")
                    pictures[view] = await value.read()
            counts.receiving, receiving = counts.receiving - 1, False
            if counts.in_flight > options.queue:
                return busy()
            async with waiting(), scoring:
                said = await asyncio.to_thread(answer, judge, photographs, name, pictures, maps, options.max_megapixels)
            counts.decided(said["decision"], time.perf_counter() - began)
            return JSONResponse(said)
        except TimeoutError:
            return refused(408, f"the body did not come within {options.max_seconds:g} s; send it faster")
        except _TooLarge:
            return refused(413, f"the body is larger than {options.max_mb:g} MB; send smaller pictures")
        except ClientDisconnect:
            return refused(400, "the sender hung up")
        except (MultiPartException, HTTPException) as error:
            return refused(422, f"not a form of pictures: {getattr(error, 'detail', error)}")
        except BadInput as error:
            return refused(422, str(error))
        finally:
            counts.receiving -= receiving

    predict.__annotations__["request"] = Request
    app.post("/predict", summary="Decide on a part: one file per view, named by the view.", openapi_extra=_form_of(views))(
        predict
    )
    app.state.counts = counts
    return app


def warm_up(judge: Judge) -> None:
    """Score a black part once, so that the first request is as fast as the others."""
    framing = photographs_of(judge.run).framing
    views, size = len(framing.views), framing.size
    rgb, mask = np.zeros((views, size, size, 3), np.uint8), np.zeros((views, size, size), np.uint8)
    ones = np.ones(views, np.uint8)
    judge.detector.score(batch_of(Sample("warm", UNKNOWN, 0, mask, ones, 0 * ones, rgb=rgb), None))


def serve(app: Any, host: str, port: int) -> None:
    """Serve an application until the process is told to end; what was accepted is answered first.

    Raises
    ------
    MissingComponent
        If uvicorn is not installed.
    """
    try:
        import uvicorn
    except ImportError as error:
        raise MissingComponent("the server needs uvicorn; pip install 'mvad[serve]'") from error
    uvicorn.run(app, host=host, port=port, log_level="warning", access_log=False, timeout_keep_alive=30)


class _TooLarge(Exception):
    """A body that is longer than it may be."""


def _limited(request: Any, limit: int) -> Any:
    """Return a request whose body ends in ``_TooLarge`` where it is longer than a limit, whatever its headers say."""
    received = 0
    receive = request._receive

    async def counted() -> Any:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > limit:
            raise _TooLarge
        return message

    request._receive = counted
    return request


async def _drain(request: Any, limit: int) -> None:
    """Read a body that is refused, up to a limit and for a few seconds: a sender that is cut off would not see the answer."""
    from starlette.requests import ClientDisconnect

    received = 0
    with contextlib.suppress(TimeoutError, ClientDisconnect):
        async with asyncio.timeout(_DRAIN_SECONDS):
            async for chunk in request.stream():
                received += len(chunk)
                if received > limit:
                    return


def _form_of(views: list[str]) -> dict[str, Any]:
    """Return what OpenAPI says of the form."""
    files = {name: {"type": "string", "format": "binary", "description": f"picture of the view {name}"} for name in views}
    part = {"type": "string", "description": "name of the part"}
    schema = {"type": "object", "properties": {"part": part, **files}}
    maps = {"name": "maps", "in": "query", "schema": {"type": "string", "enum": list(MAPS), "default": "png"}}
    return {"parameters": [maps], "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


_DOCS = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>mvad server</title>
<style>body{font:15px/1.5 system-ui,sans-serif;max-width:50rem;margin:2rem auto;padding:0 1rem}pre{background:#f3f3f3;padding:1rem;overflow:auto}
h2{font-size:1.1rem;margin-bottom:.2rem}</style></head><body><h1 id="title">mvad server</h1><div id="paths"></div>
<p>The whole description: <a href="openapi.json">openapi.json</a>.</p><script>
fetch("openapi.json").then(answer => answer.json()).then(api => {
  document.getElementById("title").textContent = api.info.title;
  for (const [path, verbs] of Object.entries(api.paths)) for (const [verb, about] of Object.entries(verbs)) {
    const head = document.createElement("h2"), text = document.createElement("p"), form = document.createElement("pre");
    head.textContent = verb.toUpperCase() + " " + path; text.textContent = about.summary || "";
    document.getElementById("paths").append(head, text);
    const content = about.requestBody && about.requestBody.content["multipart/form-data"];
    if (content) {
      form.textContent = "curl " + location.origin + path + Object.keys(content.schema.properties).map(name => name === "part" ? " -F part=NAME" : " -F " + name + "=@" + name + ".png").join("");
      document.getElementById("paths").append(form);
    }
  }
});
</script></body></html>
"""
