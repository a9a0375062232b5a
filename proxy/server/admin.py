"""The admin port: what kubelets, Prometheus and operators call.

It is a second instance of the door, with smaller limits and RFC 9457 errors, so that it is as hard to upset as the data
port. It shares nothing with the data port but the event loop: connections, bodies and their limits are its own, which
is why ``/livez`` answers while the data port is full. No answer here depends on a provider.

Anybody in the pod's network reaches this port, so the routes that change something answer loopback peers only. The
peer's address alone proves nothing: a mesh delivers inbound traffic from 127.0.0.6. The connection's own address must
be loopback as well (`ecosystem.md` 3.9). A request with an `Origin` comes from a web page and is refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import orjson

from proxy.base.exchange import Inbound
from proxy.dialects.errors import problem
from proxy.observe.turns import Turns
from proxy.server.door import HeldBytes, build_data_server
from proxy.server.pages import is_loopback_peer
from proxy.server.protocol import DataServer
from proxy.server.reload import Report, answer
from proxy.server.reply import Headers, Reply
from proxy.server.status import Serve, is_ours

if TYPE_CHECKING:
    from proxy.config.compiled import Listen

OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PROMETHEUS: Final = "text/plain; version=0.0.4; charset=utf-8"
MAX_CONNECTIONS: Final = 1024
HELD_BYTES: Final = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminState:
    """What the admin port asks. Every callable is quick, or lets others have their turn, and does no I/O."""

    started: Callable[[], bool]
    """Config loaded and both ports bound."""
    unready: Callable[[], str]
    """Why no new traffic should come (no valid config, draining, stalled loop); empty: ready. Never a provider."""
    unlive: Callable[[], str]
    """Why the process should be restarted; empty: alive."""
    metrics: Callable[[bool], Awaitable[bytes]] | None
    """The exposition, in OpenMetrics when the argument is true; one call at a time. None: there is no ``/metrics``."""
    config: Callable[[], Mapping[str, Any]]
    """The effective configuration, secrets already replaced."""
    status: Callable[[], Awaitable[Mapping[str, Any]]]
    """Version, uptime, last reload and its error, queue depths."""
    quit: Callable[[], None]
    """Leave, as SIGTERM would."""
    drain: Callable[[], None]
    """Turn readiness off and go on serving, for whoever moves traffic away by hand."""
    reload: Callable[[], Awaitable[Report]] | None = None
    """Read the file again, now. None: the configuration came from no file."""


Route = Callable[[Inbound], Awaitable[tuple[int, Headers, bytes]]]
"""One more GET or POST route of the admin port: status, headers, body."""


class Admin:
    """The `serve` of the admin port."""

    def __init__(
        self,
        state: AdminState,
        *,
        read: Mapping[str, Route] | None = None,
        dangerous: Mapping[str, Route] | None = None,
        shown: Serve | None = None,
    ) -> None:
        """`read` adds GET routes by path, `dangerous` adds POST routes that answer loopback peers only; `shown` serves
        the paths that both ports have.

        A path that ends in a slash (``/targets/``) stands for everything below it.
        """
        self._state = state
        self._shown = shown
        self._metrics_lock = asyncio.Lock()
        self._read: dict[str, Route] = {
            "/startupz": self._startupz,
            "/livez": self._livez,
            "/readyz": self._readyz,
            "/config": self._config,
            "/status": self._status,
            **({} if state.metrics is None else {"/metrics": partial(self._metrics, state.metrics)}),
            **(read or {}),
        }
        self._dangerous: dict[str, Route] = {
            "/quitquitquit": self._quit,
            "/drain": self._drain,
            "/reload": self._reload,
            **(dangerous or {}),
        }

    async def __call__(self, inbound: Inbound, reply: Reply) -> None:
        if self._shown is not None and is_ours(inbound.path):
            await self._shown(inbound, reply)
            return
        await reply.whole(*await self._answer(inbound, reply))

    async def _answer(self, inbound: Inbound, reply: Reply) -> tuple[int, Headers, bytes]:
        path = inbound.path
        if (route := _find(self._read, path)) is not None:
            allowed: tuple[str, ...] = ("GET", "HEAD")
        elif (route := _find(self._dangerous, path)) is not None:
            allowed = ("POST",)
        else:
            return problem("problem", 404, code="not_found", message=f"there is no {path} here")
        if inbound.method not in allowed:
            message = f"{path} takes {' and '.join(allowed)} only"
            allow = [("Allow", ", ".join(allowed))]
            return problem("problem", 405, code="method_not_allowed", message=message, headers=allow)
        if allowed == ("POST",) and (reason := _guard(inbound, reply)):
            return problem("problem", 403, code="loopback_only", message=reason)
        return await route(inbound)

    async def _startupz(self, _: Inbound) -> tuple[int, Headers, bytes]:
        return _probe("" if self._state.started() else "starting")

    async def _livez(self, _: Inbound) -> tuple[int, Headers, bytes]:
        return _probe(self._state.unlive())

    async def _readyz(self, _: Inbound) -> tuple[int, Headers, bytes]:
        return _probe(self._state.unready())

    async def _config(self, _: Inbound) -> tuple[int, Headers, bytes]:
        return _json(self._state.config())

    async def _status(self, _: Inbound) -> tuple[int, Headers, bytes]:
        told, turns = dict(await self._state.status()), Turns()
        told["targets"] = list(told.get("targets", ()))
        for place, target in enumerate(told["targets"]):
            told["targets"][place] = orjson.Fragment(orjson.dumps(target, default=str))
            await turns.pause()
        return _json(told)

    async def _metrics(
        self, render: Callable[[bool], Awaitable[bytes]], inbound: Inbound
    ) -> tuple[int, Headers, bytes]:
        accept = b",".join(value for name, value in inbound.headers if name.lower() == b"accept")
        wants_open = b"application/openmetrics-text" in accept.lower()
        async with self._metrics_lock:
            text = await render(wants_open)
        return 200, [("Content-Type", OPENMETRICS if wants_open else PROMETHEUS), _NO_STORE], text

    async def _quit(self, _: Inbound) -> tuple[int, Headers, bytes]:
        self._state.quit()
        return _json({"status": "leaving"})

    async def _drain(self, _: Inbound) -> tuple[int, Headers, bytes]:
        self._state.drain()
        return _json({"status": "draining"})

    async def _reload(self, _: Inbound) -> tuple[int, Headers, bytes]:
        if self._state.reload is None:
            return problem("problem", 400, code="no_file", message="the configuration came from no file")
        report = await self._state.reload()
        if report.errors:
            return problem(
                "problem",
                400,
                code=f"configuration_{report.result}",
                message="the configuration in force stays in force",
                extra={"errors": report.errors},
            )
        return _json(answer(report))


_NO_STORE: Final = ("Cache-Control", "no-store")
_TEXT: Final[Headers] = [("Content-Type", "text/plain; charset=utf-8"), _NO_STORE]


def _find(routes: Mapping[str, Route], path: str) -> Route | None:
    route = routes.get(path)
    if route is None and path.count("/") > 1:
        route = routes.get(path[: path.index("/", 1) + 1])
    return route


def _guard(inbound: Inbound, reply: Reply) -> str:
    """Why a dangerous request is refused; empty when it is not."""
    if not is_loopback_peer(reply.connection.transport):
        return "this route answers callers on the same host only"
    if any(name.lower() == b"origin" for name, _ in inbound.headers):
        return "this route does not answer web pages"
    return ""


def _probe(reason: str) -> tuple[int, Headers, bytes]:
    return (503, _TEXT, reason.encode() + b"\n") if reason else (200, _TEXT, b"ok\n")


def _json(value: Mapping[str, Any]) -> tuple[int, Headers, bytes]:
    # Keys of a configuration tree may be numbers, and a status may hold what only str() can show.
    body = orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS)
    return 200, [("Content-Type", "application/json"), _NO_STORE], body


def build_admin_server(
    state: AdminState,
    listen: Listen,
    clock: Callable[[], float],
    ids: Callable[[], str],
    on_refused: Callable[[str], None],
    *,
    read: Mapping[str, Route] | None = None,
    dangerous: Mapping[str, Route] | None = None,
    shown: Serve | None = None,
) -> DataServer:
    """The admin port's server; see `Admin` for `read`, `dangerous` and `shown`, `build_data_server` for the rest."""
    small = replace(listen, max_connections=MAX_CONNECTIONS, max_body_mb=1, head_timeout_s=5.0, body_timeout_s=5.0)
    return build_data_server(
        Admin(state, read=read, dangerous=dangerous, shown=shown),
        small,
        clock,
        ids,
        on_refused,
        held=HeldBytes(HELD_BYTES),
        dialect_of=lambda _: "problem",
        write_timeout_s=10.0,
    )
