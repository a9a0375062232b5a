"""The front desk: every request of the data port enters here, already checked by the door, and leaves answered."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import orjson

from proxy.base.exchange import Inbound, Sink
from proxy.base.trace import Trace
from proxy.config import explain
from proxy.config.compiled import Config, Secret
from proxy.config.control import fingerprint
from proxy.config.planner import HeaderError, NoRoute, Planned, Planner
from proxy.dialects import effects, errors
from proxy.dispatch.drive import Drive
from proxy.dispatch.intake import Headers, Refusal, Sorter, Where, locate, model_of, parse_body
from proxy.dispatch.models import listing
from proxy.dispatch.room import Room
from proxy.dispatch.told import ascii_only, timing
from proxy.engine.plan import Endpoint


def sticky_key(sticky: str, inbound: Inbound, headers: Headers) -> str | None:
    """What a request sticks to its arm by; None: it does not say."""
    if sticky == "caller":
        return headers.credential or None
    wanted = sticky.encode("ascii")
    value = next((value for name, value in inbound.headers if name.lower() == wanted), b"")
    return value.decode("latin-1") or None


NO_BODY: Final[Mapping[str, Any]] = {}


class Dispatcher:
    """Serves requests by one configuration; a reload replaces `config` and `planner`, running requests keep theirs."""

    def __init__(
        self,
        config: Config,
        planner: Planner,
        room: Room,
        secret: bytes,
        via: str,
        on_refused: Callable[[str], None] = lambda code: None,
    ) -> None:
        self.config = config
        self.planner = planner
        self.room = room
        self._secret = secret
        self._sorter = Sorter(via)
        self._on_refused = on_refused

    async def serve(self, inbound: Inbound, sink: Sink) -> None:
        """Answer one request."""
        trace: Trace | None = None
        try:
            where = locate(inbound.method, inbound.path, self.config.providers)
            headers = self._sorter.sort(inbound.headers)
            trace = headers.trace
            self._authorise(headers)
            if where.models:
                await self._models(inbound, sink, where, headers)
                return
            parsed = self._parsed(inbound, where)
            planned = self._plan(where, headers, parsed)
        except Refusal as refusal:
            await self._refuse(inbound, sink, refusal, trace)
            return
        if planned.plan.dry_run:
            body = orjson.dumps(explain.describe(planned, self.config), option=orjson.OPT_INDENT_2)
            await sink.whole(200, self._plain_headers(inbound), body)
            return
        if planned.plan.failover and effects.is_stateful(where.endpoint, parsed):
            planned = replace(planned, plan=replace(planned.plan, failover=False), canary=None)
        if planned.canary is not None and self._is_for_canary(planned, inbound, headers):
            planned = planned.canary
        headers.trace = self.room.sampler.begin(trace)
        await Drive(self.room, inbound, sink, where, planned, headers, parsed).run()

    def unwelcome(self, inbound: Inbound) -> tuple[int, list[tuple[str, str]], bytes] | None:
        """The answer to a caller of our own pages without a token that is asked for; None: it may read."""
        try:
            self._authorise(self._sorter.sort(inbound.headers))
        except Refusal as refusal:
            self._on_refused(refusal.code)
            return errors.problem(
                "problem",
                refusal.status,
                code=refusal.code,
                message=refusal.message,
                param=refusal.param,
                request_id=inbound.request_id,
            )
        return None

    # Steps ------------------------------------------------------------------------------------------------------------

    def _authorise(self, headers: Headers) -> None:
        """With `listen.auth_tokens` the caller must show one of them; it is then no key for a provider."""
        tokens: Sequence[Secret] = self.config.listen.auth_tokens
        if not tokens:
            return
        shown = headers.credential.encode("utf-8", "surrogateescape")
        # A token in a file may have been rotated within the second for which it is remembered: looked at again before
        # anybody is sent away.
        for read in (Secret.read, Secret.reread):
            for token in tokens:
                known = read(token)
                if known and hmac.compare_digest(shown, known.encode()):
                    headers.credential = ""
                    return
        raise Refusal(status=401, code="invalid_token", message="this listener wants one of its auth tokens")

    def _parsed(self, inbound: Inbound, where: Where) -> Mapping[str, Any]:
        if where.endpoint is not Endpoint.RAW:
            return parse_body(inbound.body)
        return NO_BODY

    def _plan(self, where: Where, headers: Headers, parsed: Mapping[str, Any]) -> Planned:
        raw = where.endpoint is Endpoint.RAW
        model = "" if raw else model_of(parsed)
        key = fingerprint(headers.credential, self._secret) if headers.credential else None
        try:
            return self.planner.plan(
                endpoint=where.endpoint,
                path=where.path,
                model=model,
                control=headers.control,
                stream=not raw and parsed.get("stream") is True,
                caller_key=key,
                provider=where.provider,
            )
        except HeaderError as error:
            raise Refusal(status=error.status, code=error.code, message=error.message, param=error.param) from None
        except NoRoute as error:
            raise Refusal(
                status=error.status, code=error.code, message=error.message, param=error.param or None
            ) from None

    def _is_for_canary(self, planned: Planned, inbound: Inbound, headers: Headers) -> bool:
        """Decide the arm of a request that takes part in a rollout."""
        route = planned.plan.route
        found = self.room.rollout.of_route(route)
        sticky = found.settings.sticky if found is not None else ""
        key = sticky_key(sticky, inbound, headers) if sticky else None
        return self.room.rollout.takes(route, key, self.room.rng)

    async def _models(self, inbound: Inbound, sink: Sink, where: Where, headers: Headers) -> None:
        anthropic = any(name.lower() == b"anthropic-version" for name, _ in inbound.headers)
        body = listing(self.config, where.path, anthropic)
        if body is None:
            name = where.path.rsplit("/", 1)[-1]
            raise Refusal(
                status=404,
                code="model_not_found",
                param="model",
                message=f"the model {ascii_only(name)[:100]!r} is served by no route",
            )
        await sink.whole(200, self._plain_headers(inbound), orjson.dumps(body))

    def _plain_headers(self, inbound: Inbound) -> list[tuple[str, str]]:
        return [
            ("Content-Type", "application/json"),
            ("X-Outrider-Request-Id", inbound.request_id),
            self._timing(inbound),
        ]

    def _timing(self, inbound: Inbound, trace: Trace | None = None) -> tuple[str, str]:
        spent_ms = (self.room.clock() - inbound.accepted_at) * 1000
        return timing(spent_ms, 0.0, spent_ms, trace)

    async def _refuse(self, inbound: Inbound, sink: Sink, refusal: Refusal, trace: Trace | None) -> None:
        self._on_refused(refusal.code)
        headers = [("x-should-retry", "false"), self._timing(inbound, trace)]
        if refusal.status == 405:
            headers.append(("Allow", "POST"))
        status, out, body = errors.problem(
            errors.caller_dialect(inbound.path),
            refusal.status,
            code=refusal.code,
            message=refusal.message,
            param=refusal.param,
            request_id=inbound.request_id,
            headers=headers,
            extra=None if trace is None else {"trace_id": trace.id},
        )
        await sink.whole(status, out, body)
