"""What a request is: endpoint, control headers, credential, model, size. Read once, before the plan."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from proxy.base import trace
from proxy.base.exchange import Inbound
from proxy.base.http import Fate, fate
from proxy.base.trace import Trace
from proxy.dialects import splice
from proxy.engine.plan import Endpoint

_PATHS: Final = {
    "/chat/completions": Endpoint.CHAT,
    "/embeddings": Endpoint.EMBEDDINGS,
    "/responses": Endpoint.RESPONSES,
    "/messages": Endpoint.MESSAGES,
    "/messages/count_tokens": Endpoint.COUNT,
}
_FATES_MAX: Final = 4096

LARGE_BYTES: Final = 512 * 1024
SAMPLE: Final = 8192
SPARSE: Final = 256
"""Bytes per quote or comma from which looking up members is cheaper than parsing."""
READ_KEYS: Final = frozenset(
    {
        "model",
        "stream",
        "n",
        "max_tokens",
        "max_completion_tokens",
        "max_output_tokens",
        "tools",
        "store",
        "background",
        "conversation",
        "previous_response_id",
        "web_search_options",
    }
)
"""Every member of a request body that anything of ours reads."""

_OURS: Final = frozenset({"health", "capabilities", "incidents", "uptime", "analytics", "events", "explain"})
"""First parts of paths below ``/v1`` that are the sidecar's own; no provider is ever asked for them, be it with a
doubled ``/v1``. By their own paths they are answered before they come here (`server.status`)."""


class Refusal(Exception):
    """The request itself is wrong; answered without an upstream call."""

    def __init__(
        self, *, status: int, code: str, message: str, param: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class Where:
    """What the caller called."""

    endpoint: Endpoint
    path: str
    """Canonical path for routing and for the upstream: ``/v1/…``, or the provider's own path."""
    provider: str | None = None
    """Passthrough to this provider; None: by route."""
    models: bool = False
    """``GET /v1/models`` and below: answered by ourselves."""


def locate(method: str, path: str, providers: Mapping[str, object]) -> Where:
    """Find out what was called. Tolerates a base URL without ``/v1``, and ``/v1/v1`` (`providers.md` 5.3)."""
    while path.startswith("/v1/v1/"):
        path = path[3:]
    bare = path[3:] if path.startswith("/v1/") else path
    endpoint = _PATHS.get(bare)
    if endpoint is not None:
        if method != "POST":
            raise Refusal(status=405, code="method_not_allowed", message=f"{path} takes POST, not {method}")
        return Where(endpoint, "/v1" + bare)
    if bare == "/models" or bare.startswith("/models/"):
        if method in ("GET", "HEAD"):
            return Where(Endpoint.RAW, "/v1" + bare, models=True)
    elif not path.startswith("/v1/"):
        name, _, rest = path[1:].partition("/")
        if name in providers:
            return Where(Endpoint.RAW, "/" + rest, provider=name)
    if path.startswith("/v1/"):
        if bare[1:].partition("/")[0] in _OURS:
            raise Refusal(
                status=404,
                code="unknown_path",
                message=f"{path[:100]} is the sidecar's own and has one address; ask for it by that path",
            )
        return Where(Endpoint.RAW, path)
    raise Refusal(
        status=404,
        code="unknown_path",
        message=f"nothing is served at {path[:100]}; try /v1/chat/completions, /v1/embeddings, /v1/models, "
        "or /{provider}/… with a configured provider's name",
    )


@dataclass(slots=True)
class Headers:
    """A request's headers, sorted."""

    passed: list[bytes]
    """Whole lines that may reach a provider."""
    account: list[bytes]
    """Lines that name the caller's account at the primary's provider."""
    control: tuple[tuple[str, str], ...]
    """(lower-case name, value) of our own headers and of those that bound the deadline."""
    credential: str
    """The caller's own key or token; empty when it sent none."""
    accept_encoding: bytes
    trace: Trace | None = None
    """The caller's trace context; once the request is served, ours. None: it belongs to no trace that we know."""


class Sorter:
    """Sorts headers by one dictionary look-up each; the dictionary is bounded."""

    def __init__(self, via: str) -> None:
        self._fates: dict[bytes, Fate] = {}
        self._via = via.encode("ascii")

    def sort(self, raw: tuple[tuple[bytes, bytes], ...]) -> Headers:
        """Raises `Refusal` 508 for a request that has been here before, 400 for a Connection header that lies."""
        fates = self._fates
        passed: list[bytes] = []
        account: list[bytes] = []
        control: list[tuple[str, str]] = []
        credentials: dict[bytes, bytes] = {}
        named: set[bytes] = set()
        encoding = b""
        context: list[tuple[bytes, bytes]] = []
        for name, value in raw:
            found = fates.get(name)
            if found is None:
                found = self._learn(name)
            if found is Fate.PASS:
                passed.append(b"%b: %b\r\n" % (name, value))
            elif found is Fate.DROP:
                if len(name) == 3 and self._via in value:
                    raise Refusal(status=508, code="proxy_loop_detected", message="the request has been here before")
            elif found is Fate.CONTROL:
                control.append((name.decode("latin-1").lower(), value.decode("latin-1")))
            elif found is Fate.CREDENTIAL:
                credentials.setdefault(name.lower(), value)
            elif found is Fate.READ:
                control.append((name.decode("latin-1").lower(), value.decode("latin-1")))
                passed.append(b"%b: %b\r\n" % (name, value))
            elif found is Fate.ACCEPT_ENCODING:
                encoding = b"%b: %b\r\n" % (name, value)
            elif found is Fate.ACCOUNT:
                account.append(b"%b: %b\r\n" % (name, value))
            elif found is Fate.TRACE:
                context.append((name.lower(), value))
            else:
                named |= {token.strip().lower() for token in value.split(b",")} - {b"close", b"keep-alive", b""}
        if named:
            passed = [line for line in passed if line.split(b":", 1)[0].lower() not in named]
            account = [line for line in account if line.split(b":", 1)[0].lower() not in named]
        return Headers(
            passed,
            account,
            tuple(control),
            _credential(credentials) if credentials else "",
            encoding,
            _trace(context) if context else None,
        )

    def _learn(self, name: bytes) -> Fate:
        found = fate(name.decode("latin-1").lower())
        if len(self._fates) < _FATES_MAX:
            self._fates[name] = found
        return found


def _trace(context: Sequence[tuple[bytes, bytes]]) -> Trace | None:
    """The caller's trace context. Two parents are none: nobody knows which is meant."""
    parents = [value for name, value in context if name == b"traceparent"]
    if len(parents) != 1:
        return None
    states = b",".join(value for name, value in context if name == b"tracestate")
    return trace.read(parents[0].strip().decode("latin-1"), states.decode("latin-1"))


def _credential(found: Mapping[bytes, bytes]) -> str:
    """The caller's key: ``x-api-key`` beats ``Authorization``, as Anthropic's own API has it."""
    for name in (b"x-api-key", b"api-key", b"x-goog-api-key"):
        if found.get(name):
            return found[name].decode("latin-1")
    value = found.get(b"authorization", b"").decode("latin-1")
    scheme, _, token = value.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def parse_body(body: bytes) -> Mapping[str, Any]:
    """The JSON object of a request body; `Refusal` 400 when it is none.

    A large body of few long strings (images) is not parsed at all: parsing holds the event loop for 3 ms per MiB, and
    small requests would wait for large ones (S36). Only the members that we act on are looked up.

    orjson is stricter than some providers (NaN, lone surrogates, a byte order mark); what only it refuses is read by
    the standard library, because the bytes are forwarded as they came and the provider may well take them.
    """
    if len(body) > LARGE_BYTES and _is_sparse(body):
        sparse = splice.members(body, READ_KEYS)
        if sparse is not None:
            return sparse
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError as first:
        try:
            parsed = json.loads(body.decode("utf-8-sig", "surrogatepass"))
        except (ValueError, RecursionError):
            raise Refusal(
                status=400, code="invalid_json", message=f"the body is not valid JSON: {str(first)[:120]}"
            ) from None
    if not isinstance(parsed, dict):
        raise Refusal(status=400, code="invalid_json", message="the body must be a JSON object")
    return parsed


def _is_sparse(body: bytes) -> bool:
    """Whether quotes and commas are rare, judged by every so many-th byte."""
    sample = body[:: len(body) // SAMPLE]
    return (sample.count(b'"') + sample.count(b",")) * SPARSE < len(sample)


def model_of(body: Mapping[str, Any]) -> str:
    """The asked model; `Refusal` 400 when it is missing or no usable name."""
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise Refusal(
            status=400,
            code="missing_model",
            param="model",
            message="model: must be a non-empty string" if "model" in body else "model: is required",
        )
    if len(model) > 256 or not model.isprintable():
        raise Refusal(
            status=400, code="invalid_model", param="model", message="model: at most 256 printable characters"
        )
    return model


__all__ = ["Headers", "Inbound", "Refusal", "Sorter", "Where", "locate", "model_of", "parse_body"]
