"""Messages of the history: nothing that looks like a secret, everything that explains."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.observe.entry import MESSAGE_MAX
from proxy.observe.redact import MASK, redact


@pytest.mark.parametrize(
    "text",
    [
        "Incorrect API key provided: sk-proj-abcDEF123456789",
        "key sk-ant-api03-AbC_dEf-123 is unknown",
        "Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
        "AIzaSyA1234567890abcdefghijklmnopqrstuv was revoked",
        "AKIAIOSFODNN7EXAMPLE may not invoke",
        "user jane.doe+ai@mail.example.co.uk has no quota",
        "POST https://user:pa55word@proxy.internal/v1 failed",
        "url https://x/y?api_key=abc123def&x=1",
        "token: 'a1b2c3d4e5f6'",
        "password=hunter2hunter2",
        "authorization: Basic1dXNlcjpwYXNz",
        "session 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08 expired",
    ],
)
def test_what_looks_like_a_secret_goes(text: str) -> None:
    shown = redact(text)
    assert MASK in shown
    for word in ("abcDEF123456789", "AbC_dEf", "eyJ", "AIza", "AKIA", "jane", "pa55word", "abc123def", "a1b2c3"):
        assert word not in shown
    for word in ("hunter2", "dXNlcjpw", "9f86d081"):
        assert word not in shown


@pytest.mark.parametrize(
    "text",
    [
        "Rate limit reached for gpt-4o-mini-2024-07-18 on tokens per min (TPM): Limit 30000, Used 29000",
        "The model claude-sonnet-4-5-20250929 is overloaded",
        "no content within 15 s",
        "arn:aws:bedrock model meta-llama/Meta-Llama-3.1-70B-Instruct is not ready",
        "invalid key: must be a string",
        "connection refused: 10.0.0.1:443",
    ],
)
def test_what_explains_stays(text: str) -> None:
    assert redact(text) == text


def test_it_is_one_line_of_bounded_length() -> None:
    assert redact("a\nb\t c") == "a b c"
    assert len(redact("word " * 1000)) == MESSAGE_MAX
    assert redact("") == ""


@given(st.text(alphabet=string.ascii_letters + string.digits, min_size=24, max_size=80), st.text(max_size=20))
def test_no_long_run_of_letters_and_digits_survives(run: str, around: str) -> None:
    if any(c.isdigit() for c in run) and any(c.isalpha() for c in run):
        assert run not in redact(f"{around} {run} {around}")
