"""The stage of the tests that ask every client for every target: one real process before fakes of each dialect.

A target is a provider here; the caller picks it with ``X-Failover-Providers``. All share one asked model, `MODEL`,
which each provider calls by a name of its own, so that what is known of real models applies. Failures of a credential
close a whole account, so every kind of error has an account of its own for every group of callers (`broken`).
"""

from __future__ import annotations

import asyncio
import base64
import json
import struct
import zlib
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

# A stream of openai's that is collected looks into httpx, which must not be half imported by somebody else just then.
import httpx  # noqa: F401

from proxy.demo import shapes
from proxy.demo.provider import FakeProvider
from proxy.demo.script import ERROR_KINDS, Attempt, Fault
from tests.e2e.harness import Sidecar, config

T = TypeVar("T")

MODEL = "assistant"
CALLER_KEY = "sk-caller-0123456789"
CALLERS = ("chat", "responses", "messages")
FAULTS: dict[str, Fault] = {
    **{f"broken-{kind}": Fault(error=kind) for kind in ERROR_KINDS},
    "broken-rate_limit": Fault(error="rate_limit", retry_hint_s=40),
    "cut-error": Fault(error_after_words=20, error="overloaded", pause_s=0.002),
    **{f"first-error-{caller}": Fault(error_after_words=0, error="rate_limit") for caller in CALLERS},
    "cached": Fault(cached_tokens=4),
    "shortened": Fault(answer="length"),
}
"""What every provider does to a request for this model; any other model is answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A kind of provider. `own`: callers whose bodies it takes as they are. `key`: the header that carries its key."""

    dialect: str
    model: str
    key: str
    path: str
    """Part of the path of every call to it."""
    own: frozenset[str] = frozenset()
    base: str = ""
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def family(self) -> shapes.Dialect:
        """Whose errors it gives."""
        return "anthropic" if "anthropic" in self.path else self.dialect  # type: ignore[return-value]


VERTEX = "/v1/projects/p/locations/europe-west1"
TARGETS: dict[str, Target] = {
    "openai-chat": Target(
        dialect="openai",
        model="gpt-4o",
        key="authorization",
        path="/v1/chat/completions",
        own=frozenset({"chat"}),
        base="/v1",
        options=(("apis", ["chat"]),),
    ),
    "openai-responses": Target(
        dialect="openai",
        model="gpt-4o",
        key="authorization",
        path="/v1/responses",
        own=frozenset({"responses"}),
        base="/v1",
        options=(("apis", ["responses"]),),
    ),
    "azure": Target(
        dialect="azure",
        model="my-deployment",
        key="api-key",
        path="/openai/deployments/",
        own=frozenset({"chat"}),
        options=(("api_version", "2024-10-21"), ("apis", ["chat"])),
    ),
    "anthropic": Target(
        dialect="anthropic",
        model="claude-sonnet-4-5",
        key="x-api-key",
        path="/v1/messages",
        own=frozenset({"messages"}),
    ),
    "vertex": Target(
        dialect="anthropic",
        model="claude-sonnet-4-5@20250929",
        key="authorization",
        path="/publishers/anthropic/models/",
        own=frozenset({"messages"}),
        base=VERTEX,
        options=(("vendor", "vertex"),),
    ),
    "invoke": Target(
        dialect="bedrock",
        model="us.anthropic.claude-sonnet-4-5-20250929-v1:0",
        key="authorization",
        path="/invoke",
        options=(("apis", ["invoke"]),),
    ),
    "gemini": Target(
        dialect="gemini", model="gemini-2.5-flash", key="x-goog-api-key", path="/v1beta/models/gemini-2.5-flash:"
    ),
    "bedrock": Target(
        dialect="bedrock",
        model="us.anthropic.claude-sonnet-4-5-20250929-v1:0",
        key="authorization",
        path="/converse",
    ),
}

ELSEWHERE: dict[str, Target] = {
    "azure-v1": Target(
        dialect="azure",
        model="my-deployment",
        key="api-key",
        path="/openai/v1/",
        own=frozenset({"chat", "responses"}),
    ),
    "vertex-gemini": Target(
        dialect="gemini",
        model="gemini-2.5-flash",
        key="authorization",
        path=f"{VERTEX}/publishers/google/models/gemini-2.5-flash:",
        base=VERTEX,
        options=(("vendor", "vertex"),),
    ),
    "bedrock-openai": Target(
        dialect="bedrock",
        model="openai.gpt-oss-120b-1:0",
        key="authorization",
        path="/openai/v1/chat/completions",
        own=frozenset({"chat"}),
        base="/openai/v1",
    ),
    "bedrock-anthropic": Target(
        dialect="bedrock",
        model="anthropic.claude-sonnet-4-5",
        key="authorization",
        path="/anthropic/v1/messages",
        own=frozenset({"messages"}),
        base="/anthropic",
    ),
}
"""The same APIs at other addresses; they differ in nothing that every test would have to repeat."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    sidecar: Sidecar
    fakes: dict[str, FakeProvider]

    @property
    def url(self) -> str:
        return self.sidecar.url

    def last(self, target: str) -> Attempt:
        """The newest request that reached a target."""
        return self.fakes[target].attempts[-1]

    def body(self, target: str) -> dict[str, Any]:
        """What the target was asked last."""
        return dict(json.loads(self.last(target).body))


def broken(target: str, kind: str, group: str) -> str:
    """The account of a target that answers with one kind of error, for one group of callers."""
    return f"{target}-{kind}-{group}".replace("_", "-")


@asynccontextmanager
async def stage(
    folder: Path, groups: Iterable[str] = (), targets: Iterable[str] = (*TARGETS, *ELSEWHERE)
) -> AsyncIterator[Stage]:
    """`groups`: names of the groups of callers that meet errors."""
    known = {**TARGETS, **ELSEWHERE}
    chosen = tuple(targets)
    async with AsyncExitStack() as stack:
        fakes = {
            name: await stack.enter_async_context(
                FakeProvider(name=name, dialect=known[name].family, pause_s=0, hook=lambda a: FAULTS.get(a.model))
            )
            for name in chosen
        }
        accounts = {name: name for name in chosen}
        accounts |= {
            broken(n, kind, group): n for n in chosen if n in TARGETS for kind in ERROR_KINDS for group in groups
        }
        entries = {account: _entry(account, known[name], fakes[name].url) for account, name in accounts.items()}
        tree = config({}, defaults={"retry": {"max_retries": 0}, "stream_recovery": "error"})
        tree["providers"] = entries
        sidecar = await stack.enter_async_context(Sidecar(tree, folder))
        yield Stage(sidecar=sidecar, fakes=fakes)


def _entry(account: str, target: Target, url: str) -> dict[str, Any]:
    return {
        "dialect": target.dialect,
        "base_url": url + target.base,
        "api_key": f"sk-{account}-0123456789",
        "models": {MODEL: target.model, "*": "passthrough"},
        **deepcopy(dict(target.options)),  # one list twice would be written as an alias, which the file may not have
    }


async def threaded(work: Callable[[], T]) -> T:
    """Run a synchronous client beside the loop on which the providers answer."""
    return await asyncio.to_thread(work)


def steer(*chain: str, **more: str) -> dict[str, str]:
    """The headers that choose the targets."""
    return {"X-Failover-Providers": ",".join(chain), **more}


def upstream_error(target: str, kind: str) -> tuple[int, str]:
    """Status and message with which a target refuses."""
    family = TARGETS[target].family
    body = shapes.error(family, kind)
    return shapes.error_status(family, kind), str(body["message"] if family == "bedrock" else body["error"]["message"])


def picture(size: int = 2) -> bytes:
    """A small valid PNG in one colour."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = (b"\x00" + b"\xff\x00\x00" * size) * size
    head = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


PNG = base64.b64encode(picture()).decode()
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
CITY_ARGUMENTS = {"city": "example", "days": 1}
"""What the fake providers call every tool with."""

MEMBERS: dict[str, frozenset[str]] = {
    "gemini": frozenset(
        ["contents", "systemInstruction", "tools", "toolConfig", "safetySettings", "generationConfig", "cachedContent"]
    ),
    "bedrock": frozenset(
        [
            "messages",
            "system",
            "inferenceConfig",
            "toolConfig",
            "outputConfig",
            "additionalModelRequestFields",
            "additionalModelResponseFieldPaths",
        ]
    ),
}


def unknown_members(target: str, body: dict[str, Any]) -> set[str]:
    """Top-level members that the target's API does not have; such a request would be refused."""
    return set(body) - _members(target)


def _members(target: str) -> frozenset[str]:
    if target in MEMBERS:
        return MEMBERS[target]
    if target in ("openai-chat", "azure"):
        from openai.types.chat import completion_create_params as chat

        return _keys(chat.CompletionCreateParamsStreaming)
    if target == "openai-responses":
        from openai.types.responses import response_create_params as responses

        return _keys(responses.ResponseCreateParamsStreaming)
    from anthropic.types import message_create_params as messages

    # The newest client has no sampling parameters; the API takes them from models up to the 4.6 generation.
    known = _keys(messages.MessageCreateParamsStreaming) | {"temperature", "top_p", "top_k"}
    if target == "vertex":
        return known - {"model"} | {"anthropic_version", "anthropic_beta"}
    if target == "invoke":
        return known - {"model", "stream"} | {"anthropic_version", "anthropic_beta"}
    return known


def _keys(typed: Any) -> frozenset[str]:
    return frozenset(typed.__required_keys__ | typed.__optional_keys__)
