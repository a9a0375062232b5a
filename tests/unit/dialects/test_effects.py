"""Which calls may be copied (`providers.md` 7.2)."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.dialects.effects import is_stateful, may_repeat

FUNCTION = {"type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize(
    ("endpoint", "body", "may"),
    [
        ("chat", {}, True),
        ("chat", {"tools": [FUNCTION, {"type": "custom", "custom": {"name": "c"}}]}, True),
        ("chat", {"web_search_options": {}}, True),
        ("chat", {"web_search_options": {"search_context_size": "low"}}, False),
        ("chat", {"tools": [FUNCTION, {"type": "web_search"}]}, False),
        ("chat", {"tools": "nonsense"}, True),
        ("chat", {"tools": [None, 3, {"type": 4}]}, True),
        ("embeddings", {"input": "x"}, True),
        ("responses", {}, False),  # stored unless it says otherwise
        ("responses", {"store": False}, True),
        ("responses", {"store": False, "tools": [{"type": "mcp"}]}, False),
        ("responses", {"store": False, "tools": [{"type": "function", "name": "f"}]}, True),
        ("responses", {"store": False, "previous_response_id": "resp_1"}, False),
        ("responses", {"store": False, "background": True}, False),
        ("messages", {"tools": [{"name": "f", "input_schema": {}}]}, True),
        ("messages", {"tools": [{"type": "bash_20250124", "name": "bash"}]}, True),
        ("messages", {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, False),
    ],
)
def test_what_may_run_twice(endpoint: str, body: dict[str, Any], may: bool) -> None:
    assert may_repeat(endpoint, body) is may


@pytest.mark.parametrize(
    ("endpoint", "body", "stateful"),
    [
        ("responses", {"previous_response_id": "resp_1"}, True),
        ("responses", {"conversation": {"id": "conv_1"}}, True),
        ("responses", {"background": True}, True),
        ("responses", {"store": True}, False),
        ("chat", {"previous_response_id": "x"}, False),
    ],
)
def test_what_stays_with_its_provider(endpoint: str, body: dict[str, Any], stateful: bool) -> None:
    assert is_stateful(endpoint, body) is stateful
