"""Claude on other clouds: what each platform wants changed in the body (`providers.md` 1.5).

Mantle and Foundry take it as Anthropic does. Vertex and Bedrock's InvokeModel have the model in the path and the
version in the body.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal

Platform = Literal["", "vertex", "bedrock-invoke", "mantle", "foundry"]

VERSIONS: Final[Mapping[str, str]] = {"vertex": "vertex-2023-10-16", "bedrock-invoke": "bedrock-2023-05-31"}
"""Platform -> the version that its bodies state; platforms that are missing take the version as a header."""
_IN_THE_PATH: Final = {"vertex": frozenset({"model"}), "bedrock-invoke": frozenset({"model", "stream"})}
_IN_HEADERS: Final = frozenset({"anthropic_version", "anthropic_beta"})
"""Members that Anthropic's own API refuses: there they are headers."""


def adapt(body: Mapping[str, Any], platform: str, betas: Iterable[str] = (), version: str = "") -> dict[str, Any]:
    """The body as the platform takes it. `betas`: what would be ``anthropic-beta`` values; only InvokeModel has them in
    the body, everywhere else they stay headers. `version`: what the body states instead of the classic version."""
    stated = VERSIONS.get(platform)
    if stated is None:
        return {key: value for key, value in body.items() if key not in _IN_HEADERS}
    out = {key: value for key, value in body.items() if key not in _IN_THE_PATH[platform] and key not in _IN_HEADERS}
    own = body.get("anthropic_version")
    out["anthropic_version"] = version or (own if isinstance(own, str) and own.startswith(_prefix(stated)) else stated)
    if platform == "bedrock-invoke":
        given = body.get("anthropic_beta")
        merged = dict.fromkeys([*(given if isinstance(given, list) else ()), *betas])
        if merged:
            out["anthropic_beta"] = list(merged)
    return out


def _prefix(version: str) -> str:
    """``bedrock-`` of ``bedrock-2023-05-31``: the version of one platform says nothing on another."""
    return version.split("-", 1)[0] + "-"
