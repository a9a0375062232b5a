"""What the vendors behind OpenAI's dialect take and refuse, as a table (`providers.md` 1.8, 1.9).

A vendor who is not in the table gets the caller's bytes, and from a translation what nearly everybody takes. The table
holds only what is known to be refused, ignored to the caller's harm, or spelt in another way.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from proxy.dialects.facts import Json, ModelFacts


class _Removed:
    """See `REMOVED`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "REMOVED"


REMOVED: Final = _Removed()
"""Stands in the changes of `adjust` for a member that has to be taken out."""

_OPENAI_ONLY: Final = frozenset(
    {"store", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "prompt_cache_options", "prediction",
     "verbosity", "metadata", "service_tier"}
)  # fmt: skip
_EXTENSIONS: Final = frozenset({"top_k", "min_p", "repetition_penalty"})
"""Sampling that open-weight servers know and OpenAI refuses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quirks:
    """One vendor. The defaults are the generic one's."""

    limits: tuple[str, ...] = ("max_tokens", "max_completion_tokens")
    """Accepted names of the output limit, the best one first."""
    developer: bool = False
    """Knows the role ``developer``; else it becomes ``system``."""
    strip: frozenset[str] = frozenset()
    """Hints among the request's members that are refused."""
    stream_options: bool = True
    required: str = "required"
    """How a tool call is demanded."""
    call_id: Literal["", "40", "9"] = ""
    """What a tool call's id may be: anything, at most 40 characters, or exactly 9 letters and digits."""
    seed: str = "seed"
    """Name of the seed; empty: not taken."""
    many: bool = True
    """Takes ``n`` above 1."""
    logprobs: bool = True
    names: bool = True
    """Takes ``name`` on messages."""
    top_k: bool = False
    parallel: bool = True
    """Takes ``parallel_tool_calls``."""
    stops: int | None = 4
    """Most stop sequences; None: no limit known."""
    cache: bool | None = None
    """Takes Anthropic's ``cache_control`` on content; None: unknown."""
    google: bool | None = None
    """Takes Google's ``extra_content`` on tool calls; None: unknown."""
    thinking: Literal["keep", "refused", "part", "reasoning_content", "reasoning"] = "keep"
    """The member of an assistant message that reasoning is replayed in; part: of the content; keep: unknown, as
    the caller wrote it."""
    reasoning: Literal["effort", "object", "mode"] = "effort"
    """How reasoning is asked for: ``reasoning_effort``, OpenRouter's ``reasoning`` object, ``thinking: {type}``."""
    custom_tools: bool = False
    schema: bool = True
    """Takes ``response_format`` of type ``json_schema``."""
    url_images: bool = True
    documents: Literal["", "file", "document_url"] = ""
    """How a PDF is sent; empty: not at all."""
    prefill: Literal["", "plain", "prefix", "flags"] = ""
    """How an assistant turn at the end is continued: not at all, as it is, by ``prefix: true``, by vLLM's flags."""
    strict: bool = False
    """Refuses members of messages that it does not know."""
    tidy: bool = False
    """Refuses what makes no sense: tool options without tools, ``stream_options`` without a stream."""


GENERIC: Final = Quirks(call_id="40")

VENDORS: Final[Mapping[str, Quirks]] = {
    "openai": Quirks(
        limits=("max_completion_tokens", "max_tokens"),
        developer=True,
        strip=_EXTENSIONS,
        thinking="refused",
        cache=False,
        google=False,
        custom_tools=True,
        documents="file",
        call_id="40",
        strict=True,
        tidy=True,
    ),
    "azure": Quirks(
        limits=("max_completion_tokens", "max_tokens"),
        developer=True,
        strip=_EXTENSIONS,
        thinking="refused",
        cache=False,
        google=False,
        custom_tools=True,
        documents="file",
        call_id="40",
        strict=True,
        tidy=True,
    ),
    "mantle": Quirks(limits=("max_completion_tokens", "max_tokens"), strip=_EXTENSIONS, tidy=True),
    "gemini": Quirks(strip=_OPENAI_ONLY | _EXTENSIONS, google=True, tidy=True),
    "vertex": Quirks(strip=_OPENAI_ONLY | _EXTENSIONS, google=True, tidy=True),
    "deepinfra": Quirks(limits=("max_tokens",), top_k=True),
    "groq": Quirks(
        limits=("max_completion_tokens", "max_tokens"),
        strip=frozenset({"logit_bias", "prediction", "store", "metadata", "verbosity", "prompt_cache_key"})
        | _EXTENSIONS,
        many=False,
        logprobs=False,
        names=False,
        thinking="reasoning",
        cache=False,
        google=False,
        strict=True,
        tidy=True,
    ),
    "mistral": Quirks(
        limits=("max_tokens",),
        strip=(_OPENAI_ONLY - {"prompt_cache_key", "metadata"}) | _EXTENSIONS | {"user", "logit_bias"},
        stream_options=False,
        required="any",
        call_id="9",
        seed="random_seed",
        logprobs=False,
        thinking="part",
        cache=False,
        google=False,
        documents="document_url",
        prefill="prefix",
        stops=None,
        strict=True,
    ),
    "deepseek": Quirks(
        limits=("max_tokens",),
        parallel=False,
        stops=16,
        thinking="reasoning_content",
        reasoning="mode",
        schema=False,
        url_images=False,
        prefill="prefix",
    ),
    "together": Quirks(limits=("max_tokens",), top_k=True, stops=None),
    "openrouter": Quirks(
        developer=True,
        top_k=True,
        cache=True,
        thinking="reasoning",
        reasoning="object",
        documents="file",
        prefill="plain",
        stops=None,
    ),
    "xai": Quirks(limits=("max_completion_tokens", "max_tokens"), strip=_EXTENSIONS | {"logit_bias"}),
    "vllm": Quirks(top_k=True, thinking="reasoning_content", prefill="flags", stops=None),
    "ollama": Quirks(limits=("max_tokens",), thinking="reasoning", url_images=False, stops=None),
    "perplexity": Quirks(
        limits=("max_tokens",), strip=_OPENAI_ONLY | {"logit_bias", "seed"}, many=False, seed="", parallel=False
    ),
    "fireworks": Quirks(top_k=True, thinking="reasoning_content"),
    "cerebras": Quirks(
        limits=("max_completion_tokens", "max_tokens"),
        strip=frozenset({"frequency_penalty", "presence_penalty", "logit_bias"}) | _EXTENSIONS,
        many=False,
        thinking="reasoning",
        cache=False,
        google=False,
        strict=True,
        tidy=True,
    ),
    "sambanova": Quirks(
        limits=("max_tokens",), strip=frozenset({"logit_bias", "seed"}), seed="", many=False, top_k=True
    ),
}
"""By `ModelFacts.vendor`; whoever is missing is generic."""

_HOSTS: Final[Mapping[str, str]] = {
    "api.openai.com": "openai",
    "openai.azure.com": "azure",
    "openai.azure.us": "azure",
    "openai.azure.cn": "azure",
    "services.ai.azure.com": "azure",
    "cognitiveservices.azure.com": "azure",
    "api.deepinfra.com": "deepinfra",
    "api.groq.com": "groq",
    "mistral.ai": "mistral",
    "api.deepseek.com": "deepseek",
    "api.together.xyz": "together",
    "api.together.ai": "together",
    "openrouter.ai": "openrouter",
    "api.x.ai": "xai",
    "api.perplexity.ai": "perplexity",
    "api.fireworks.ai": "fireworks",
    "api.cerebras.ai": "cerebras",
    "api.sambanova.ai": "sambanova",
    "ollama.com": "ollama",
    "aiplatform.googleapis.com": "vertex",
    "generativelanguage.googleapis.com": "gemini",
    "api.anthropic.com": "anthropic",
}
"""A host, or the end of one behind a dot, of each vendor."""
_AWS: Final = re.compile(r"(?:^|\.)bedrock-mantle\.[a-z0-9-]+\.api\.aws$")
_VERTEX: Final = re.compile(r"^[a-z0-9-]+-aiplatform\.googleapis\.com$")
_REASONING: Final = re.compile(r"(?:^|[/.])(?:o[134]|gpt-5(?:\.\d+)?)(?:$|-(?!chat))")
_FIXED: Final = re.compile(r"(?:^|[/.])(?:o[134]|gpt-5)(?:$|-(?!chat))")
_STOPLESS: Final = re.compile(r"(?:^|[/.])(?:o3|o4-mini|gpt-5(?:\.\d+)?)(?:$|-(?!chat))")
_THOUGHTS: Final = ("reasoning_content", "reasoning")
"""Members of an assistant message that hold its reasoning as plain text."""
_ID: Final = re.compile(r"[a-zA-Z0-9]{9}")
_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def vendor_of(base_url: str) -> str:
    """The vendor who lives at an address, by its host; empty: unknown."""
    host = (urlsplit(base_url if "://" in base_url else f"//{base_url}").hostname or "").rstrip(".")
    if _AWS.search(host):
        return "mantle"
    if _VERTEX.search(host):
        return "vertex"
    at = 0
    while at >= 0:
        found = _HOSTS.get(host[at:])
        if found is not None:
            return found
        dot = host.find(".", at)
        at = dot + 1 if dot >= 0 else -1
    return ""


def vendor(facts: ModelFacts) -> str:
    """Who is behind a target; Azure is told by its dialect too."""
    return facts.vendor or ("azure" if facts.dialect == "azure" else "")


def quirks_of(facts: ModelFacts) -> Quirks:
    """What is known of a target's vendor."""
    return VENDORS.get(vendor(facts), GENERIC)


def is_reasoning(model: str) -> bool:
    """Whether a name is one of OpenAI's reasoning models (o1, o3, o4, gpt-5 and later)."""
    return _REASONING.search(model.lower()) is not None


def refuses_defaults(facts: ModelFacts) -> bool:
    """Whether even a temperature of 1 is refused: OpenAI's reasoning models take it, others have no such field."""
    return facts.sampling is False and not is_reasoning(facts.model)


def refuses_sampling(facts: ModelFacts, effort: str | None) -> bool:
    """Whether temperature and top_p are refused. The models from gpt-5.1 on take them while they do not reason, which
    is their default, so nothing is certain of them and nothing is taken away."""
    if facts.sampling is not None:
        return not facts.sampling
    model = facts.model.lower()
    if _FIXED.search(model) is not None:
        return True
    return _REASONING.search(model) is not None and effort not in (None, "none")


def refuses_stop(facts: ModelFacts) -> bool:
    """Whether stop sequences are refused."""
    return facts.stop is False or (facts.stop is None and _STOPLESS.search(facts.model.lower()) is not None)


def limit_name(facts: ModelFacts) -> str:
    """The member that the output limit goes into."""
    if facts.completion_limit_name is not None:
        return facts.completion_limit_name
    if is_reasoning(facts.model) and vendor(facts) in ("", "openai", "azure"):
        return "max_completion_tokens"
    return quirks_of(facts).limits[0]


def call_id(written: str, rule: str) -> str:
    """An id of a tool call as the vendor takes it: the same one for the same id, always."""
    if rule == "9":
        return written if _ID.fullmatch(written) else _hashed(written, 9)
    if rule == "40" and len(written) > 40:
        return "call_" + _hashed(written, 24)
    return written


def _hashed(text: str, length: int) -> str:
    number = int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest(), "big")
    out = []
    for _ in range(length):
        number, digit = divmod(number, 62)
        out.append(_ALPHABET[digit])
    return "".join(out)


def obstacle(body: Json, facts: ModelFacts) -> str:
    """Why a vendor cannot take a body of its own dialect without changing what it means, as `NotPortable.reason` says
    it; empty: nothing known."""
    quirks = quirks_of(facts)
    n = body.get("n")
    if not quirks.many and isinstance(n, int) and n > 1:
        return "n"
    if not quirks.logprobs and (body.get("logprobs") or body.get("top_logprobs")):
        return "logprobs"
    stop = body.get("stop")
    if quirks.stops is not None and isinstance(stop, list) and len(stop) > quirks.stops and vendor(facts):
        return "stop"
    return ""


# Bodies of the same dialect -------------------------------------------------------------------------------------------


def adjust(body: Json, facts: ModelFacts) -> tuple[dict[str, Any] | None, tuple[str, ...]]:
    """What of a chat body has to be changed for its vendor: (top-level members to set, warnings).

    None: nothing, the caller's bytes are sent. A member to be taken out is set to `REMOVED`. What cannot be left out
    without changing the meaning stays, and the vendor will say so (see `obstacle`).
    """
    changes: dict[str, Any] = {}
    dropped: dict[str, None] = {}
    _limit(body, facts, changes)
    _sampling(body, facts, changes, dropped)
    if who := vendor(facts):
        quirks = VENDORS.get(who, GENERIC)
        _members(body, quirks, changes, dropped)
        _tools(body, quirks, changes, dropped)
        if who in VENDORS:
            _messages(body, quirks, changes, dropped)
    return changes or None, tuple(f"{name}=dropped" for name in dropped)


def _limit(body: Json, facts: ModelFacts, changes: dict[str, Any]) -> None:
    best = limit_name(facts)
    accepted: tuple[str, ...] = quirks_of(facts).limits
    if facts.completion_limit_name is not None or (is_reasoning(facts.model) and vendor(facts) in ("openai", "azure")):
        accepted = (best,)
    for name in ("max_tokens", "max_completion_tokens"):
        if name in accepted or body.get(name) is None:
            continue
        changes[name] = REMOVED
        if body.get(best) is None:
            changes[best] = body[name]


def _sampling(body: Json, facts: ModelFacts, changes: dict[str, Any], dropped: dict[str, None]) -> None:
    if facts.sampling is False or (
        vendor(facts) in ("openai", "azure") and refuses_sampling(facts, body.get("reasoning_effort"))
    ):
        for name in ("temperature", "top_p", "top_k"):
            if body.get(name) is not None and (name == "top_k" or body[name] != 1 or refuses_defaults(facts)):
                changes[name] = REMOVED
                dropped[name] = None


def _members(body: Json, quirks: Quirks, changes: dict[str, Any], dropped: dict[str, None]) -> None:
    for name in sorted(quirks.strip):
        if body.get(name) is not None:
            changes[name] = REMOVED
            dropped[name] = None
    if quirks.seed != "seed" and body.get("seed") is not None:
        changes["seed"] = REMOVED
        if quirks.seed:
            changes.setdefault(quirks.seed, body["seed"])
        else:
            dropped["seed"] = None
    if body.get("stream_options") is not None and (
        not quirks.stream_options or (quirks.tidy and body.get("stream") is not True)
    ):
        changes["stream_options"] = REMOVED


def _tools(body: Json, quirks: Quirks, changes: dict[str, Any], dropped: dict[str, None]) -> None:
    tools = body.get("tools")
    if not tools:
        if quirks.tidy:
            for name in ("tool_choice", "parallel_tool_calls"):
                if body.get(name) is not None and not body.get("functions"):
                    changes[name] = REMOVED
        return
    if not quirks.parallel and body.get("parallel_tool_calls") is not None:
        changes["parallel_tool_calls"] = REMOVED
        dropped["parallel_tool_calls"] = None
    marked = quirks.cache is False and isinstance(tools, list)
    if marked and any(isinstance(tool, Mapping) and "cache_control" in tool for tool in tools):
        changes["tools"] = [_without(tool, ("cache_control",)) for tool in tools]
        dropped["cache_control"] = None


def _messages(body: Json, quirks: Quirks, changes: dict[str, Any], dropped: dict[str, None]) -> None:
    messages = body.get("messages")
    if not isinstance(messages, list):
        return
    written = [_message(message, quirks, dropped) if isinstance(message, Mapping) else message for message in messages]
    last = messages[-1] if messages else None
    # Mistral takes an answer at the end only as the beginning of its own.
    begun = isinstance(last, Mapping) and last.get("role") == "assistant" and not last.get("tool_calls")
    if begun and quirks.call_id == "9" and "prefix" not in written[-1]:
        written[-1] = {**written[-1], "prefix": True}
    if any(new is not old for new, old in zip(written, messages, strict=True)):
        changes["messages"] = written


def _message(message: Json, quirks: Quirks, dropped: dict[str, None]) -> Json:
    """The message as the vendor takes it; the same object when nothing changes."""
    out: dict[str, Any] = _renamed(message, quirks)
    removed = [name for name in foreign(quirks, str(message.get("role"))) if name in message]
    for name in removed:
        if message[name] and not (name in _THOUGHTS and quirks.thinking in out):
            dropped[name] = None
    calls = message.get("tool_calls")
    if isinstance(calls, list):
        written = [_call(call, quirks) if isinstance(call, Mapping) else call for call in calls]
        if any(new is not old for new, old in zip(written, calls, strict=True)):
            out["tool_calls"] = written
    content = message.get("content")
    marked = quirks.cache is False and isinstance(content, list)
    if marked and any(isinstance(part, Mapping) and "cache_control" in part for part in content or ()):
        out["content"] = [_without(part, ("cache_control",)) for part in content or ()]
        dropped["cache_control"] = None
    if not out and not removed:
        return message
    return {**{key: value for key, value in message.items() if key not in removed}, **out}


def _renamed(message: Json, quirks: Quirks) -> dict[str, Any]:
    """Members that the vendor knows by another name or value."""
    out: dict[str, Any] = {}
    role = message.get("role")
    if role == "developer" and not quirks.developer:
        out["role"] = "system"
    at = message.get("tool_call_id")
    if isinstance(at, str) and (short := call_id(at, quirks.call_id)) != at:
        out["tool_call_id"] = short
    if role == "assistant" and quirks.strict and quirks.thinking in _THOUGHTS and not message.get(quirks.thinking):
        found = next((message[name] for name in _THOUGHTS if isinstance(message.get(name), str)), "")
        if found:
            out[quirks.thinking] = found
    return out


def foreign(quirks: Quirks, role: str) -> Iterator[str]:
    """Members of a message of a role that the vendor does not take."""
    if not quirks.names and role != "tool":
        yield "name"
    if quirks.google is False:
        yield "extra_content"
    if quirks.thinking == "keep":
        return
    yield "thinking_blocks"
    if quirks.reasoning != "object":
        yield "reasoning_details"
    if quirks.strict:
        yield from (name for name in _THOUGHTS if name != quirks.thinking)


def _call(call: Json, quirks: Quirks) -> Json:
    written = call.get("id")
    if isinstance(written, str) and (short := call_id(written, quirks.call_id)) != written:
        call = {**call, "id": short}
    return _without(call, ("extra_content",)) if quirks.google is False and "extra_content" in call else call


def _without(value: Any, names: tuple[str, ...]) -> Any:
    return {key: each for key, each in value.items() if key not in names} if isinstance(value, Mapping) else value
