"""Which calls have effects at the provider beyond their answer (`providers.md` 7.2).

Such a call is never sent twice at the same time, and a call that goes on from state kept by one provider stays there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_CALLERS_OWN: Final = ("function", "custom")
_ANTHROPIC_CALLERS_OWN: Final = ("custom", "bash_", "text_editor_", "computer_", "memory_")
"""Tool types that the caller runs itself; every other type runs at the provider."""


def is_stateful(endpoint: str, body: Mapping[str, Any]) -> bool:
    """Whether the call goes on from, or leaves running, state at its provider: no other target can take it."""
    return endpoint == "responses" and bool(
        body.get("previous_response_id") or body.get("conversation") or body.get("background") is True
    )


def may_repeat(endpoint: str, body: Mapping[str, Any]) -> bool:
    """Whether a second copy may run at the same time: nothing is stored and no tool runs at the provider.

    `endpoint` is the value of the engine's Endpoint. A Responses call is stored unless it says ``store: false``.
    """
    if endpoint == "responses" and (is_stateful(endpoint, body) or body.get("store") is not False):
        return False
    if body.get("web_search_options"):
        return False
    tools = body.get("tools")
    return not isinstance(tools, list) or not any(_runs_there(endpoint, tool) for tool in tools)


def _runs_there(endpoint: str, tool: Any) -> bool:
    kind = tool.get("type") if isinstance(tool, Mapping) else None
    if not isinstance(kind, str):
        return False
    if endpoint == "messages":
        return not kind.startswith(_ANTHROPIC_CALLERS_OWN)
    return kind not in _CALLERS_OWN
