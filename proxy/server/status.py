"""The status routes, which both ports serve: health, incidents, history, the page.

On the data port they are tried before anything else, so that no provider is ever asked for a path of ours; one look at
the beginning of a path is all that other requests pay for it. Nothing here reaches a provider: everything is told from
memory or from the history. With `listen.auth_tokens` a caller of the data port has to show one, as for everything else;
only the page itself asks for none: it holds no data, and says in words where it can be seen with its data.

Three kinds of routes: what is read (GET), what is written (POST, and DELETE below a path that ends in a slash), and
what stays open and writes its answer itself (a stream of events).
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Collection, Mapping
from datetime import datetime
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl

import orjson

from proxy.base.exchange import Inbound
from proxy.config.checks import nearest
from proxy.dialects.errors import Dialect, caller_dialect, problem
from proxy.server.reply import Headers, Reply

Answer = tuple[int, Headers, bytes]
Default = TypeVar("Default", int, float, None)
"""What a parameter is that is not given."""
Route = Callable[[Inbound], Awaitable[Answer]]
"""Status, headers and body for a request; raises `Wrong` for one that cannot be answered."""
Live = Callable[[Inbound, Reply], Awaitable[None]]
"""Writes its answer itself, for as long as it takes; raises `Wrong` before it has begun."""
Serve = Callable[[Inbound, Reply], Awaitable[None]]

OURS: Final = tuple(
    f"/v1/{name}" for name in ("health", "capabilities", "incidents", "uptime", "analytics", "events", "explain")
)
"""Our paths, and what is below them."""
PAGES: Final = ("/", "/dashboard")
"""They hold nothing but program text, so everybody may have them: a browser cannot send a token for a page."""
QUERY_MAX: Final = 64
"""Parameters of one request that are read."""
WORDS_MAX: Final = 1000
"""Characters of a list of words: all kinds of events are 330."""


class Wrong(Exception):
    """A request that cannot be answered as it is; `answer` says why."""

    def __init__(
        self, status: int, code: str, message: str, headers: tuple[tuple[str, str], ...] = (), param: str = ""
    ) -> None:
        super().__init__(message)
        self.answer: Answer = problem(
            "problem", status, code=code, message=message, param=param or None, headers=headers
        )


class Status:
    """The routes of one process. A path that ends in a slash stands for everything below it."""

    def __init__(
        self,
        *,
        read: Mapping[str, Route],
        write: Mapping[str, Route] | None = None,
        live: Mapping[str, Live] | None = None,
        may_write: Callable[[Inbound, Reply], str] = lambda inbound, reply: "",
    ) -> None:
        """`may_write`: why this caller may change nothing, empty when it may."""
        self._read = dict(read)
        self._write = dict(write or {})
        self._live = dict(live or {})
        self._may_write = may_write

    @property
    def paths(self) -> list[str]:
        """``GET /v1/health`` and all the others."""
        found = [f"GET {path}" for path in (*self._read, *self._live)]
        return sorted(found + [f"{_verb(path)} {path}" for path in self._write])

    async def serve(self, inbound: Inbound, reply: Reply) -> None:
        """Answer a request whose path is one of ours."""
        try:
            path, method = inbound.path, inbound.method
            live = self._live.get(path)
            if live is not None and method == "GET":
                await live(inbound, reply)
                return
            answer = await self._routed(path, method, inbound, reply)
        except Wrong as wrong:
            answer = wrong.answer
        await reply.whole(*answer)

    async def _routed(self, path: str, method: str, inbound: Inbound, reply: Reply) -> Answer:
        read, write = find(self._read, path), find(self._write, path)
        if read is not None and method in ("GET", "HEAD"):
            return await read(inbound)
        if write is not None and method == _verb(self._named(path)):
            if reason := self._may_write(inbound, reply):
                raise Wrong(403, "not_allowed", reason)
            return await write(inbound)
        allowed = ["GET", "HEAD"] * (read is not None) + ["GET"] * (path in self._live)
        allowed += [_verb(self._named(path))] * (write is not None)
        if not allowed:
            known = (*self._read, *self._write, *self._live)
            raise Wrong(404, "not_found", f"there is no {path[:100]} here{nearest(path[:100], known)}")
        told = " and ".join(allowed)
        raise Wrong(405, "method_not_allowed", f"{path[:100]} takes {told} only", (("Allow", ", ".join(allowed)),))

    def _named(self, path: str) -> str:
        """The path by which a writing route is known."""
        return next((name for name in _names(path) if name in self._write), path)


def _verb(path: str) -> str:
    return "DELETE" if path.endswith("/") else "POST"


def find(routes: Mapping[str, Route], path: str) -> Route | None:
    """The route of a path: by the whole of it, by what is above its last part, or with a star for the part before."""
    return next((routes[name] for name in _names(path) if name in routes), None)


def _names(path: str) -> tuple[str, ...]:
    """``/v1/a/b/c``, ``/v1/a/b/``, ``/v1/a/*/c``."""
    above, _, last = path.rpartition("/")
    return (path, f"{above}/", f"{above.rpartition('/')[0]}/*/{last}") if above else (path,)


def is_ours(path: str) -> bool:
    """Whether a path of the data port is ours, be it with 404: no provider is asked for it."""
    if path.startswith(OURS):
        return any(path == one or path.startswith(one + "/") for one in OURS)
    return path in PAGES


def dialect_of(path: str) -> Dialect:
    """The shape of the errors that the door of the data port makes for a path, be it malformed."""
    return "problem" if is_ours(path) else caller_dialect(path)


class Front:
    """The `serve` of the data port: our own paths here, all others to the dispatcher."""

    def __init__(self, status: Status, serve: Serve, refused: Callable[[Inbound], Answer | None]) -> None:
        """`refused`: the answer to a caller without a token that is asked for; None: it may read."""
        self._status = status
        self._serve = serve
        self._refused = refused

    async def __call__(self, inbound: Inbound, reply: Reply) -> None:
        if not is_ours(inbound.path):
            await self._serve(inbound, reply)
        elif inbound.path not in PAGES and (answer := self._refused(inbound)) is not None:
            await reply.whole(*answer)
        else:
            await self._status.serve(inbound, reply)


def told(value: Mapping[str, Any] | list[Any]) -> Answer:
    """A JSON answer that nobody may store."""
    return sent(orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS))


def sent(body: bytes) -> Answer:
    """The same for what is JSON already."""
    return 200, [("Content-Type", "application/json"), ("Cache-Control", "no-store")], body


class Query:
    """What a GET asks for. Every name is asked for once, then `finish` refuses the names that nobody has asked for: a
    misspelt filter would be none."""

    def __init__(self, inbound: Inbound) -> None:
        try:
            pairs = parse_qsl(inbound.query, keep_blank_values=True, max_num_fields=QUERY_MAX)
        except ValueError:
            raise _bad("", f"a query has at most {QUERY_MAX} parameters") from None
        self._given = dict(pairs)
        if len(pairs) > len(self._given):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)[:50]
            raise _bad(twice, f"{twice} is given more than once; a list of values has commas between them")
        self._asked: list[str] = []

    def text(self, name: str, default: str = "", among: Collection[str] = (), most: int = 200) -> str:
        """A printable text of at most `most` characters; `among`: the words it may be."""
        self._asked.append(name)
        value = self._given.get(name, "")
        if not value:
            return default
        if among and value not in among:
            raise _bad(name, f"{name} must be one of {', '.join(among)}{nearest(value[:50], among)}")
        if len(value) > most or not value.isprintable():
            raise _bad(name, f"{name} must be a text of at most {most} printable characters")
        return value

    def words(self, name: str, among: Collection[str]) -> tuple[str, ...]:
        """Words with commas between them; empty: none are given."""
        value = self.text(name, most=WORDS_MAX)
        found = tuple(word.strip() for word in value.split(",") if word.strip())
        for word in found:
            if word not in among:
                raise _bad(name, f"{name}: {word[:50]!r} is none of {', '.join(among)}{nearest(word[:50], among)}")
        return found

    def whole(self, name: str, default: Default, least: int, most: int) -> int | Default:
        """A whole number."""
        self._asked.append(name)
        value = self._given.get(name, "")
        if not value:
            return default
        number = int(value) if value.isascii() and value.isdigit() and len(value) < 20 else -1
        if not least <= number <= most:
            raise _bad(name, f"{name} must be a whole number from {least} to {most}")
        return number

    def moment(self, name: str, default: Default) -> float | Default:
        """Unix seconds: a date and time with its offset, or the seconds themselves."""
        self._asked.append(name)
        value = self._given.get(name, "")
        if not value:
            return default
        try:
            # A plus sign that nobody has escaped reads as a space.
            seconds = float(value) if value[:1].isdigit() and "-" not in value else _stamp(value.replace(" ", "+"))
        except ValueError:
            seconds = math.nan
        if not 0.0 <= seconds < 1e11:
            raise _bad(name, f"{name} must be a date and time with its offset, such as 2026-03-01T02:00:00Z")
        return seconds

    def finish(self) -> None:
        """Raises for a parameter that nobody has asked for."""
        for name in self._given:
            if name not in self._asked:
                allowed = f"; allowed: {', '.join(self._asked)}" if self._asked else "; none is taken here"
                hint = nearest(name[:50], self._asked)
                raise _bad(name[:50], f"unknown parameter {name[:50]!r}{hint or allowed}")


def _stamp(value: str) -> float:
    found = datetime.fromisoformat(value)
    if found.tzinfo is None:
        raise ValueError("no offset")
    return found.timestamp()


def _bad(param: str, message: str) -> Wrong:
    return Wrong(400, "invalid_parameter", message, param=param)
