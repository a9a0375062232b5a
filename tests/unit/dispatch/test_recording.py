"""What spans are told of a request beside its record."""

from __future__ import annotations

from proxy.base.exchange import Inbound
from proxy.dispatch import recording


def test_only_settings_that_are_numbers_are_kept() -> None:
    parsed = {
        "max_tokens": 5, "temperature": "hot", "top_p": True, "top_k": [1] * 1000, "seed": None, "n": 3.0,
        "messages": [{"role": "user", "content": "hello"}], "other": 1,
    }  # fmt: skip
    inbound = Inbound("req_1", "POST", "/v1/chat/completions", "a=1", (), b"", 0.0)
    made = recording.traced(inbound, "m", parsed, ())
    assert (made.path, made.model, made.asked, made.circuits) == (inbound.path, "m", {"max_tokens": 5, "n": 3.0}, ())
