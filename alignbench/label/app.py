"""The labelling page: a few addresses below a secret link, in Starlette.

Each rater has a link of their own; whoever has the link is the rater. There are no cookies, so that two
raters in one browser do not mix and another site cannot speak for anybody. What models wrote reaches the
page as JSON and is set as text, never as markup.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from alignbench.errors import StorageError
from alignbench.label import thresholds
from alignbench.label.design import FLAGS, Design
from alignbench.label.journal import Annotation, Journal, TakenError, now
from alignbench.label.progress import Progress, Turn

MAX_BODY = 64 * 1024
"""Bytes of one annotation, at most."""

NAME = re.compile(r"[^\W_](?:[\w .@-]{0,38}\w)?")
"""What a rater may be called."""

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
STATIC = {
    "label.js": "text/javascript",
    "label.css": "text/css",
    "overview.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}


def token(secret: str, what: str) -> str:
    """Return the secret part of a link: of a rater, `rater/NAME`, or of the overview, `overview`."""
    return hmac.new(secret.encode(), what.encode(), hashlib.sha256).hexdigest()[:32]


def create_app(
    design: Design,
    journal: Journal,
    raters: Sequence[str],
    secret: str,
    *,
    hosts: Sequence[str] | None = None,
    show: Callable[[str], str] = str,
) -> Starlette:
    """Return the page for these raters.

    `hosts` are the names under which it may be asked for, without the port (None: any), so that no other
    site's name can be made to lead here. `show` makes characters visible that could hide something.
    """
    page = _Page(design, journal, raters, secret, show)
    return Starlette(
        middleware=[Middleware(BaseHTTPMiddleware, dispatch=_guard(hosts))],
        routes=[
            Route("/l/{token}/", page.open),
            Route("/l/{token}/next", page.next),
            Route("/l/{token}/before", page.before),
            Route("/l/{token}/annotation", page.save, methods=["POST"]),
            Route("/o/{token}/", page.overview),
            Route("/o/{token}/numbers", page.numbers),
            Route("/static/{name}", _static),
        ],
    )


def _name_of(host: str) -> str:
    """The name in a Host header; empty where it holds none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _guard(hosts: Sequence[str] | None) -> Callable[[Request, Any], Awaitable[Response]]:
    """Answer own pages only, and add the headers that keep everything else out."""

    async def guard(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        host = request.headers.get("host", "")
        origin = request.headers.get("origin")
        foreign = request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin")
        name = _name_of(host)
        if hosts is not None and name not in hosts:
            answer: Response = _refuse(421, "this page is not served under that name")
        elif request.method == "POST" and (foreign or (origin and urlsplit(origin).netloc != host)):
            answer = _refuse(403, "another site may not answer here")
        else:
            answer = await call_next(request)
        answer.headers.update(HEADERS)
        return answer

    return guard


class _Page:
    def __init__(
        self,
        design: Design,
        journal: Journal,
        raters: Sequence[str],
        secret: str,
        show: Callable[[str], str],
    ):
        self.design, self.journal, self.show = design, journal, show
        self.progress = Progress(design, journal)
        self.raters = {token(secret, f"rater/{name}"): name for name in raters}
        self.overviews = {token(secret, "overview")}

    def rater(self, request: Request) -> str | None:
        return self.raters.get(request.path_params["token"])

    async def open(self, request: Request) -> Response:
        if (rater := self.rater(request)) is None:
            return _unknown()
        return HTMLResponse(_render("label.html", rater=rater, design=self.design, flags=FLAGS))

    async def next(self, request: Request) -> Response:
        if (rater := self.rater(request)) is None:
            return _unknown()
        return await run_in_threadpool(self._next, rater)

    def _next(self, rater: str) -> Response:
        try:
            turn = self.progress.next(rater)
        except StorageError as error:
            return _refuse(507, str(error))
        return JSONResponse({"progress": self.progress.count(rater), "item": turn and self._sent(turn)})

    async def before(self, request: Request) -> Response:
        if (rater := self.rater(request)) is None:
            return _unknown()
        round = 1 if request.query_params.get("round") == "1" else 0
        given = self.progress.before(rater, request.query_params.get("item"), round)
        if given is None:
            return _refuse(404, "this is the first one")
        turn = self.progress.turn(rater, self.progress.items[given.item], given.round)
        shown = {
            "ranks": [given.ranks[place] for place in turn.shown],
            "scores": [given.scores[place] for place in turn.shown] if given.scores else [],
            "flags": [list(given.flags[place]) for place in turn.shown] if given.flags else [],
            "note": given.note,
            "seconds": given.seconds,
        }
        return JSONResponse(
            {"progress": self.progress.count(rater), "item": self._sent(turn), "given": shown}
        )

    def _sent(self, turn: Turn) -> dict[str, Any]:
        """What the page is given: no label, no answer's place in the design, nothing about checks."""
        return {
            "id": turn.item.id,
            "round": turn.round,
            "ticket": secrets.token_hex(16),
            "prompt": [
                {
                    "role": self.show(str(turn_.get("role", ""))),
                    "content": self.show(str(turn_.get("content", ""))),
                }
                for turn_ in turn.item.prompt
            ],
            "answers": [self.show(turn.item.answers[place].text) for place in turn.shown],
        }

    async def save(self, request: Request) -> Response:
        if (rater := self.rater(request)) is None:
            return _unknown()
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            return _refuse(415, "an annotation is JSON")
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY:
                return _refuse(413, "this is more than an annotation can hold")
        try:
            fields = json.loads(body)
        except (ValueError, RecursionError):
            return _refuse(400, "this is not JSON")
        if not isinstance(fields, dict):
            return _refuse(400, "an annotation is a JSON object")
        return await run_in_threadpool(self._save, rater, fields)

    def _save(self, rater: str, fields: Mapping[str, Any]) -> Response:
        item, round = self.progress.items.get(str(fields.get("item"))), fields.get("round", 0)
        if item is None or type(round) is not int or round not in (0, 1):
            return _refuse(400, "there is no such item")
        shown = self.design.shown(rater, item, round)
        try:
            annotation = Annotation(
                ticket=fields.get("ticket", ""),
                rater=rater,
                item=item.id,
                round=round,
                shown=tuple(shown),
                ranks=_placed(fields.get("ranks"), shown),
                scores=_placed(fields["scores"], shown) if fields.get("scores") else (),
                flags=_placed(fields["flags"], shown) if fields.get("flags") else (),
                note=fields.get("note", ""),
                seconds=fields.get("seconds", 0),
                at=now(),
            )
            if any(flag not in FLAGS for flags in annotation.flags for flag in flags):
                raise ValueError("there is no such flag")
            self.journal.append(annotation, replace=bool(fields.get("replace")))
        except TakenError as error:
            return _refuse(409, str(error))
        except StorageError as error:
            return _refuse(507, str(error))
        except ValidationError as error:
            return _refuse(400, error.errors(include_url=False)[0]["msg"])
        except (ValueError, TypeError) as error:
            return _refuse(400, str(error))
        return JSONResponse({"saved": annotation.item, "progress": self.progress.count(rater)})

    async def overview(self, request: Request) -> Response:
        if request.path_params["token"] not in self.overviews:
            return _unknown()
        return HTMLResponse(_render("overview.html", design=self.design))

    async def numbers(self, request: Request) -> Response:
        if request.path_params["token"] not in self.overviews:
            return _unknown()
        return await run_in_threadpool(self._numbers)

    def _numbers(self) -> Response:
        limits = thresholds.read(self.journal.file.parent)
        found, _ = thresholds.applied(self.design, list(self.journal.annotations.values()), limits)
        raters = {
            name: {**self.progress.count(name), **found["raters"].get(name, {})}
            for name in dict.fromkeys([*self.raters.values(), *found["raters"]])
        }
        return JSONResponse({**found, "raters": raters})


def _placed(given: Any, shown: Sequence[int]) -> tuple[Any, ...]:
    """Return values that came in the order of the page in the order of the design."""
    if not isinstance(given, list) or len(given) != len(shown):
        raise ValueError("one value for each answer")
    placed: list[Any] = [None] * len(shown)
    for value, place in zip(given, shown, strict=True):
        placed[place] = tuple(value) if isinstance(value, list) else value
    return tuple(placed)


async def _static(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in STATIC:
        return _refuse(404, "there is no such file")
    text = (files("alignbench.label") / "static" / name).read_text(encoding="utf-8")
    return Response(text, media_type=STATIC[name])


def _render(template: str, **values: Any) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("alignbench.label"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)


def _refuse(status: int, reason: str) -> Response:
    return JSONResponse({"error": reason}, status_code=status)


def _unknown() -> Response:
    return Response(
        "This link is not known. Open the link that alignbench printed.\n", 404, media_type="text/plain"
    )
