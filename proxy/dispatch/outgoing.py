"""One request as each of its targets gets it: address, headers, credential, body.

Same dialect means the caller's bytes: only a value that the model map, a condition or the vendor's quirks ask for is
changed in them. Another dialect means a request of our own making, of which nothing but the meaning is the caller's.
Everything is made once per candidate, when it is first dialled.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import orjson

from proxy.base.exchange import Inbound
from proxy.config.planner import Planned
from proxy.dialects import registry, splice
from proxy.dialects.joining import Joiner
from proxy.dialects.reading import Reader
from proxy.dialects.translation import Converter, Translator
from proxy.dispatch.intake import Headers, Where
from proxy.dispatch.translate import Translations
from proxy.engine.plan import Candidate, Endpoint
from proxy.upstream import address
from proxy.upstream import request as wire
from proxy.upstream.session import Upstream, Upstreams

IDENTITY: Final = b"Accept-Encoding: identity\r\n"
JSON: Final = b"Content-Type: application/json\r\n"
STREAM_ACCEPT: Final = b"Accept: text/event-stream\r\n"
VENDOR_KEYS: Final = frozenset({"n", "logprobs", "top_logprobs", "stop"})
"""Members of a chat body that some vendors refuse and without which the answer would be another one."""
OF_THE_CALLER: Final = (b"user-agent:", b"x-request-id:")
"""Headers of the caller that a target of another dialect is sent as well. Others belong to a vendor it is not."""


class Outgoing:
    """See the module. `bodies` of megabytes are held: `release` lets them go."""

    __slots__ = (
        "_assembles",
        "_bodies",
        "_headers",
        "_inbound",
        "_is_stream",
        "_parsed",
        "_planned",
        "_translations",
        "_upstreams",
        "_via",
        "_warnings",
        "_where",
    )

    def __init__(
        self,
        upstreams: Upstreams,
        via: bytes,
        inbound: Inbound,
        where: Where,
        planned: Planned,
        headers: Headers,
        parsed: Mapping[str, Any],
        translations: Translations | None,
    ) -> None:
        """`translations` None: every candidate speaks the caller's dialect."""
        self._upstreams = upstreams
        self._via = via
        self._inbound = inbound
        self._where = where
        self._planned = planned
        self._headers = headers
        self._parsed = parsed
        self._translations = translations
        self._assembles = translations is not None and translations.assemble
        self._is_stream = where.endpoint is not Endpoint.RAW and (parsed.get("stream") is True or self._assembles)
        self._bodies: dict[int, bytes] = {}
        self._warnings: dict[int, tuple[str, ...]] = {}

    @property
    def parsed(self) -> Mapping[str, Any]:
        """The caller's body."""
        return self._parsed

    def of(self, planned: Planned) -> tuple[Upstreams, bytes, Inbound, Where, Planned, Headers, Mapping[str, Any]]:
        """What another way out of the same request needs to know, with a plan of its own."""
        return self._upstreams, self._via, self._inbound, self._where, planned, self._headers, self._parsed

    def release(self) -> None:
        self._bodies.clear()

    def upstream(self, index: int) -> Upstream:
        return self._upstreams[self._planned.plan.candidates[index].target.provider]

    def refused_by_vendors(self) -> dict[int, str]:
        """Candidates of the caller's dialect whose vendor is known not to take the request: index -> why."""
        if VENDOR_KEYS.isdisjoint(self._parsed):
            return {}
        out = {}
        for index, candidate in enumerate(self._planned.plan.candidates):
            facts = self._planned.facts[index]
            if facts is not None and facts.vendor and candidate.api == "chat" and not candidate.foreign:
                reason = registry.obstacle(self._parsed, facts)
                if reason:
                    out[index] = reason
        return out

    def without_credential(self) -> dict[int, str]:
        """Candidates whose credential has still to be fetched: index -> the word for ``X-Failover-Skipped``."""
        fetched = self._upstreams.fetched
        if not fetched:
            return {}
        return {
            index: "no_key"
            for index, candidate in enumerate(self._planned.plan.candidates)
            if candidate.target.provider in fetched
            and self._planned.keys[index] == "sidecar"
            and not self.upstream(index).is_ready
        }

    # Bodies -----------------------------------------------------------------------------------------------------------

    def body(self, index: int) -> bytes:
        """The body for a candidate."""
        if self._where.endpoint is Endpoint.RAW:
            return self._inbound.body
        body = self._bodies.get(index)
        if body is None:
            candidate = self._planned.plan.candidates[index]
            body = self._bodies[index] = self._written(index) if candidate.foreign else self._own(index, candidate)
        return body

    def _written(self, index: int) -> bytes:
        assert self._translations is not None
        encoded = self._translations.encoded(index)
        if encoded.warnings:
            self._warnings[index] = encoded.warnings
        return orjson.dumps(encoded.body)

    def _own(self, index: int, candidate: Candidate) -> bytes:
        """The caller's own bytes, with the values changed that this very target needs changed."""
        changes: dict[str, Any] = {}
        called = candidate.deployment or candidate.target.model
        if called and called != self._parsed.get("model"):
            changes["model"] = called
        if self._assembles:
            changes["stream"] = True
            if candidate.api == "chat":
                changes["stream_options"] = {"include_usage": True}
        if candidate.output_share is not None:
            changes |= self._reduced(candidate.output_share, candidate.max_output_tokens)
        facts = self._planned.facts[index]
        if self._is_placed(candidate, index) and self._where.endpoint is not Endpoint.COUNT:
            return orjson.dumps(registry.placed({**orjson.loads(self._inbound.body), **changes}))
        if facts is not None and candidate.api == "chat" and registry.has_quirks(facts):
            more, warnings = registry.adjusted(candidate.api, {**self._parsed, **changes}, facts)
            if warnings:
                self._warnings[index] = warnings
            if more is not None:
                return registry.spliced(self._inbound.body, changes | more)
        return splice.replace(self._inbound.body, changes) if changes else self._inbound.body

    def _is_placed(self, candidate: Candidate, index: int) -> bool:
        """Anthropic's API on a platform that has the model in the path."""
        return candidate.api == "messages" and self.upstream(index).place.is_vertex

    def _reduced(self, share: float, limit: int | None) -> dict[str, int]:
        """The output limit cut to `share` of the request's own, else of the target's; none known: unchanged."""
        for key in ("max_completion_tokens", "max_tokens", "max_output_tokens"):
            own = self._parsed.get(key)
            if isinstance(own, int) and not isinstance(own, bool):
                return {key: max(1, int(own * share))}
        if limit is None:
            return {}
        key = "max_output_tokens" if self._where.endpoint is Endpoint.RESPONSES else "max_tokens"
        return {key: max(1, int(limit * share))}

    def warnings(self, index: int) -> tuple[str, ...]:
        """What the candidate's body approximates or leaves out, for ``X-Translation-Warnings``."""
        return self._warnings.get(index, ())

    # The way back -----------------------------------------------------------------------------------------------------

    def reader(self, index: int) -> Reader | None:
        """Who judges the candidate's answer where it is in the caller's dialect."""
        if self._planned.plan.candidates[index].foreign or self._assembles:
            return None
        return registry.reader(self._where.endpoint, self._parsed)

    def translator(self, index: int) -> Translator | Converter | Joiner | None:
        """Who turns the candidate's answer into the caller's dialect, or a stream into one body; None: neither."""
        if not self._planned.plan.candidates[index].foreign and not self._assembles:
            return None
        assert self._translations is not None
        return self._translations.translator(index, self._is_stream and not self._assembles)

    # Heads ------------------------------------------------------------------------------------------------------------

    def head(self, index: int, body: bytes, number: int) -> bytes:
        """Request line and headers for a candidate, ready to be sent. `number`: of the attempt, over all machines."""
        candidate = self._planned.plan.candidates[index]
        upstream = self.upstream(index)
        inbound = self._inbound
        if candidate.foreign:
            method = "POST"
            path, query = self._foreign_address(candidate, upstream)
            lines = self._foreign_lines(index, candidate)
        else:
            method = inbound.method
            path, query = self._own_address(candidate, upstream, index)
            lines = self._headers.passed
            if upstream.account.betas is not None:
                lines, dropped = upstream.allowed(lines)
                if dropped:
                    self._warnings[index] = (
                        *self.warnings(index),
                        *(f"anthropic-beta {beta}=dropped" for beta in dropped),
                    )
            if self._headers.account and (index == 0 or self._planned.keys[index] == "caller"):
                lines = [*lines, *self._headers.account]
        raw = self._where.endpoint is Endpoint.RAW
        extra = self._via + (self._headers.accept_encoding if raw else IDENTITY)
        if upstream.account.traceparent and self._headers.trace is not None:
            extra += f"traceparent: {self._headers.trace.parent_of_call(number)}\r\n".encode("ascii")
        if upstream.signs and self._planned.keys[index] == "sidecar":
            credential = upstream.signature(method, path, query, lines, body)
        elif self._planned.keys[index] == "sidecar":
            credential = upstream.own_line()
        else:
            credential = upstream.line(self.key(index))
        return wire.head(method, upstream.origin, path, query, lines, credential, len(body), extra)

    def _own_address(self, candidate: Candidate, upstream: Upstream, index: int) -> address.Address:
        if self._is_placed(candidate, index):
            return self._foreign_address(candidate, upstream)
        path, query, is_own = self._where.path, self._inbound.query, self._where.provider is not None
        place = upstream.place
        if candidate.dialect == "azure" and not is_own and path.startswith("/v1/"):
            return address.azure(place, path[3:], candidate.deployment or candidate.target.model, query)
        return wire.join_path(candidate.dialect, place.base_path, path, is_own), query

    def _foreign_address(self, candidate: Candidate, upstream: Upstream) -> address.Address:
        return address.translated(
            upstream.place,
            candidate.api,
            candidate.deployment or candidate.target.model,
            self._is_stream,
            count=self._where.endpoint is Endpoint.COUNT,
            embed=self._where.endpoint is Endpoint.EMBEDDINGS,
        )

    def _foreign_lines(self, index: int, candidate: Candidate) -> list[bytes]:
        lines = [line for line in self._headers.passed if line.lower().startswith(OF_THE_CALLER)]
        lines.append(JSON)
        if self._is_stream and candidate.api not in ("converse", "invoke"):
            lines.append(STREAM_ACCEPT)
        if candidate.api == "messages":
            facts = self._planned.facts[index]
            version = (facts.api_version if facts is not None else "") or "2023-06-01"
            lines.append(f"anthropic-version: {version}\r\n".encode("ascii"))
            if betas := self.betas(index):
                lines.append(f"anthropic-beta: {','.join(betas)}\r\n".encode("ascii"))
        return lines

    def betas(self, index: int) -> tuple[str, ...]:
        """``anthropic-beta`` values that the candidate's translated body needs."""
        return self._translations.encoded(index).betas if self._translations is not None else ()

    # Credentials ------------------------------------------------------------------------------------------------------

    def key(self, index: int) -> str:
        """The credential that a candidate is called with; empty for none."""
        source = self._planned.keys[index]
        upstream = self.upstream(index)
        if source == "sidecar":
            return upstream.own_key()
        if source == "caller":
            return self._headers.credential
        name = f"x-provider-key-{upstream.account.name.lower()}" if source == "header" else ""
        return next((value for key, value in self._headers.control if key == name), "")

    def without_keys(self, body: bytes, indexes: Iterable[int]) -> bytes:
        """An error without the credentials that its attempts were sent with: some providers repeat them."""
        for index in indexes:
            key = self.key(index).encode("utf-8", "surrogateescape")
            if key and key in body:
                body = body.replace(key, b"(key)")
        return body
