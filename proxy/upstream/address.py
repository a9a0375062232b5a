"""Where at a provider a call goes: raw path and query, as they stand in the request line.

A call in the caller's own dialect keeps its path below the provider's base URL (`request.join_path`), but for platforms
that put the model into the path. A translated call has only an API, a model and whether it streams. Paths are built
here as they are sent: SigV4 signs the same string, and no URL library gets to normalise ``%3A`` or ``/`` in a model's
name (`providers.md` 1.7, P65).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

_AZURE_DEPLOYED: Final = frozenset(
    {
        "/chat/completions",
        "/completions",
        "/embeddings",
        "/audio/transcriptions",
        "/audio/speech",
        "/images/generations",
    }
)
"""Routes that a dated Azure API puts below the deployment; the rest is below ``/openai``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What decides the address at one provider."""

    dialect: str
    base_path: str
    """Path of the base URL without a trailing slash; empty for none."""
    api_version: str = ""
    """Azure: ``v1``, ``preview`` or a date; elsewhere unused."""

    @property
    def is_vertex(self) -> bool:
        return "/locations/" in self.base_path

    @property
    def is_dated(self) -> bool:
        """An Azure API with deployments in the path."""
        return self.dialect == "azure" and self.api_version not in ("", "v1", "preview", "latest")


Address = tuple[str, str]
"""(raw path, query without ``?``)."""

_CHAT: Final = {"chat": "/chat/completions", "responses": "/responses", "embeddings": "/embeddings"}


def translated(
    place: Place, api: str, model: str, stream: bool, *, count: bool = False, embed: bool = False
) -> Address:
    """The address of a call that was written for `api`; `model` as the target is called (Azure: the deployment)."""
    base = place.base_path
    if api in _CHAT:
        return azure(place, _CHAT[api], model, "") if place.dialect == "azure" else (base + _CHAT[api], "")
    name = quote(model, safe="")
    if api == "messages":
        if place.is_vertex and count:
            return f"{base}/publishers/anthropic/models/count-tokens:rawPredict", ""
        if place.is_vertex:
            return f"{base}/publishers/anthropic/models/{name}:{'streamRawPredict' if stream else 'rawPredict'}", ""
        return base + ("" if base.endswith("/v1") else "/v1") + "/messages" + ("/count_tokens" if count else ""), ""
    if api == "generate":
        return _gemini(place, quote(model, safe="/:"), stream, count, embed)
    method = "converse" if api == "converse" else "invoke"
    if count:
        return f"{base}/model/{name}/count-tokens", ""
    if stream:
        method = "converse-stream" if api == "converse" else "invoke-with-response-stream"
    return f"{base}/model/{name}/{method}", ""


def _gemini(place: Place, model: str, stream: bool, count: bool, embed: bool) -> Address:
    base = place.base_path
    method = "streamGenerateContent" if stream else "generateContent"
    if count:
        method, stream = "countTokens", False
    elif embed:
        method, stream = "batchEmbedContents", False
    query = "alt=sse" if stream else ""
    if model.startswith("models/"):
        model = model[7:]
    if place.is_vertex:
        return f"{base}/publishers/google/models/{model}:{method}", query
    version = "" if base.rsplit("/", 1)[-1].startswith("v1") else "/v1beta"
    return f"{base}{version}/models/{model}:{method}", query


def azure(place: Place, rest: str, deployment: str, query: str) -> Address:
    """The address at Azure of what is ``/v1`` + `rest` at OpenAI."""
    base = place.base_path
    if place.is_dated:
        root = base if base.endswith("/openai") else base + "/openai"
        if rest in _AZURE_DEPLOYED and deployment:
            root += "/deployments/" + quote(deployment, safe="")
        version = f"api-version={place.api_version}"
        return root + rest, f"{query}&{version}" if query else version
    if not base.endswith("/v1"):
        base += "/v1" if base.endswith("/openai") else "/openai/v1"
    if place.api_version in ("preview", "latest"):
        query = f"{query}&api-version={place.api_version}" if query else f"api-version={place.api_version}"
    return base + rest, query
