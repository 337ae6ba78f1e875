"""The four shapes of the gateway's answers (gateway reference §0)."""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web

_ESCAPES = (("<", "003c"), (">", "003e"), ("&", "0026"), ("\u2028", "2028"), ("\u2029", "2029"))


def encoded(body: Any) -> str:
    """Compact JSON with Go's escapes; half a surrogate pair, which has no UTF-8, becomes a question mark."""
    text = json.dumps(body, separators=(",", ":"), ensure_ascii=False)
    for char, escape in _ESCAPES:
        text = text.replace(char, f"\\u{escape}")
    return text.encode("utf-8", "replace").decode()


def success(body: Any) -> web.Response:
    return web.Response(body=encoded(body).encode(), headers={"Content-Type": "application/json; charset=UTF-8"})


def message(status: int, words: str) -> web.Response:
    """J: refusals of the authentication."""
    body = json.dumps({"message": words}, separators=(",", ":"), ensure_ascii=False)
    return web.Response(status=status, body=body.encode(), headers={"Content-Type": "application/json"})


def text(status: int, words: str) -> web.Response:
    """T: a sentence and a line end."""
    headers = {"Content-Type": "text/plain; charset=utf-8", "X-Content-Type-Options": "nosniff"}
    return web.Response(status=status, body=f"{words}\n".encode(), headers=headers)


def empty(status: int = 200) -> web.Response:
    """E: the status alone."""
    return web.Response(status=status)


async def plain_headers(_: web.Request, response: web.StreamResponse) -> None:
    """Says neither what serves nor a content type where there is no content."""
    response.headers.popall("Server", None)
    if response.headers.get("Content-Type") == "application/octet-stream":
        response.headers.popall("Content-Type", None)
