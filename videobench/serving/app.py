"""The HTTP face of a `Service`."""

from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from importlib.resources import files
from pathlib import PurePath
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

import videobench
from videobench.serving.limits import Refusal
from videobench.serving.metrics import TEXT_TYPE
from videobench.serving.service import Service
from videobench.serving.uploads import FIELD, Body

# Seconds that clients are asked to wait when all places are taken.
_RETRY_AFTER = 5
_PAGE = {"/": "page.html", "/page.css": "page.css", "/page.js": "page.js"}
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
_PAGE_HEADERS = {
    # The page needs nothing from anywhere else, and belongs into no other page.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


class ClassShare(BaseModel):
    """A class of the network."""

    name: str = Field(alias="class")
    probability: float


class Views(BaseModel):
    """What of the video the network saw."""

    clips: int
    crops: int
    frames: int


class Seconds(BaseModel):
    """Where the time went; waiting is part of decode and score."""

    upload: float
    decode: float
    score: float
    total: float


class Answer(BaseModel):
    """The likeliest classes, best first; by head for networks with several."""

    classes: list[ClassShare] | dict[str, list[ClassShare]]
    views: Views
    seconds: Seconds


class Error(BaseModel):
    """Why there is no answer: a word for programs and a sentence for people."""

    error: str
    message: str


_ERRORS = {
    400: "The form cannot be read or has no file.",
    408: "The upload took too long.",
    413: "The upload is too large.",
    422: "The file is no video that can be decoded, plays for too long, or takes too much time or memory.",
    500: "Something else went wrong; the log of the server says what.",
    503: "All places are taken; Retry-After says when to try again.",
    504: "There was no answer in time.",
}
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {"type": "object", "required": [FIELD], "properties": {FIELD: _BINARY["schema"]}}
        },
        "application/octet-stream": _BINARY,
    },
}


def make_app(service: Service) -> FastAPI:
    """The application that answers for a service."""
    # The documentation pages of FastAPI load their scripts from elsewhere.
    app = FastAPI(title="videobench", version=videobench.__version__, docs_url=None, redoc_url=None)
    _answer_errors(app)

    async def predict(
        request: Request, top: Annotated[int, Query(ge=1, le=1000, description="Classes to list.")] = 5
    ) -> dict[str, Any]:
        """The classes of a video: the body of the request, or the field `file` of a form."""
        body, status, code = Body(request), 500, "internal"
        try:
            answer = await service.answer(body, top)
            status, code = 200, "ok"
            return answer
        except Refusal as refusal:
            status, code = refusal.status, refusal.code
            await body.drop(service.limits)
            raise
        finally:
            service.metrics.requests.labels(status, code).inc()

    described = {
        "response_model": Answer,
        "responses": {status: {"model": Error, "description": text} for status, text in _ERRORS.items()},
        "openapi_extra": {"requestBody": _BODY},
    }
    app.post("/predict", **described)(predict)
    app.put("/predict", include_in_schema=False, **described)(predict)  # curl -T

    @app.head("/health", include_in_schema=False)
    @app.get("/health", responses={500: {"description": "It does not work any more."}})
    async def health() -> JSONResponse:
        """Whether the server works, and what it takes."""
        facts = service.health()
        return JSONResponse(facts, 200 if facts["status"] == "ok" else 500)

    @app.head("/metrics", include_in_schema=False)
    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Counts in Prometheus' text format."""
        return Response(service.metrics.text(), headers={"Content-Type": TEXT_TYPE})

    for path, name in _PAGE.items():
        content = (files("videobench.serving") / "page" / name).read_bytes()
        app.add_route(path, _always(Response(content, 200, _PAGE_HEADERS, _TYPES[PurePath(name).suffix])))
    return app


def _always(response: Response) -> Callable[[Request], Awaitable[Response]]:
    async def respond(_: Request) -> Response:
        return response

    return respond


def _answer_errors(app: FastAPI) -> None:
    """Answer everything that is no answer in the form of `Error`."""

    @app.exception_handler(Refusal)
    async def refuse(_: Request, refusal: Refusal) -> JSONResponse:
        headers = {"Retry-After": str(_RETRY_AFTER)} if refusal.status == 503 else None
        return _error(refusal.status, refusal.code, refusal.message, headers)

    @app.exception_handler(RequestValidationError)
    async def refuse_query(_: Request, error: RequestValidationError) -> JSONResponse:
        what = error.errors()[0]
        return _error(422, "bad_query", f"{'.'.join(map(str, what['loc']))}: {what['msg']}")

    @app.exception_handler(HTTPException)
    async def refuse_path(request: Request, error: HTTPException) -> JSONResponse:
        word = HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
        return _error(error.status_code, word, f"{request.method} {request.url.path}: {error.detail}", error.headers)

    @app.exception_handler(Exception)
    async def apologise(_: Request, __: Exception) -> JSONResponse:
        return _error(500, "internal", "something went wrong; the log of the server says what")


def _error(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": code, "message": message}, status, headers)
