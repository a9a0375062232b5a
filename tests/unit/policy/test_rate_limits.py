"""Rate-limit headers in the spellings of the vendors (`providers.md`, part 8)."""

from __future__ import annotations

import pytest

from proxy.policy.rate_limits import Allowance, read

WALL = 1_800_000_000.0


def headers(**values: str) -> list[tuple[bytes, bytes]]:
    return [(name.replace("_", "-").encode(), value.encode()) for name, value in values.items()]


def test_openai_tells_both_units_with_durations() -> None:
    found = read(
        headers(
            x_ratelimit_limit_requests="10000", x_ratelimit_remaining_requests="9000",
            x_ratelimit_reset_requests="6m0s", x_ratelimit_limit_tokens="2000000",
            x_ratelimit_remaining_tokens="500000", x_ratelimit_reset_tokens="120ms",
        ),
        WALL,
    )  # fmt: skip
    assert found == {
        "requests": Allowance(limit=10_000, remaining=9_000, reset_s=360.0),
        "tokens": Allowance(limit=2_000_000, remaining=500_000, reset_s=0.12),
    }
    assert found["tokens"].used == 0.75


def test_anthropic_tells_dates_and_the_tightest_of_its_token_limits() -> None:
    found = read(
        headers(
            anthropic_ratelimit_input_tokens_limit="1000", anthropic_ratelimit_input_tokens_remaining="900",
            anthropic_ratelimit_output_tokens_limit="1000", anthropic_ratelimit_output_tokens_remaining="100",
            anthropic_ratelimit_output_tokens_reset="2027-01-15T08:01:00Z", date="Fri, 15 Jan 2027 08:00:00 GMT",
        ),
        WALL,
    )  # fmt: skip
    assert found == {"tokens": Allowance(limit=1000, remaining=100, reset_s=60.0)}


@pytest.mark.parametrize(
    ("given", "unit", "used"),
    [
        (headers(x_ratelimit_limit="60", x_ratelimit_remaining="15"), "requests", 0.75),
        (headers(ratelimit_limit="60", ratelimit_remaining="60"), "requests", 0.0),
        (headers(x_tokenlimit_limit="100", x_tokenlimit_remaining="50"), "tokens", 0.5),
        (headers(x_ratelimit_limit_tokens_minute="100", x_ratelimit_remaining_tokens_minute="0"), "tokens", 1.0),
        (headers(x_ratelimit_remaining_requests="9999"), "requests", None),
        (headers(x_ratelimit_limit_requests="0", x_ratelimit_remaining_requests="0"), "requests", None),
        (headers(X_RateLimit_Limit_Requests="100", X_RateLimit_Remaining_Requests="90"), "requests", 0.1),
        (headers(x_ratelimit_limit_requests="100", x_ratelimit_remaining_requests="200"), "requests", 0.0),
    ],
)
def test_other_spellings(given: list[tuple[bytes, bytes]], unit: str, used: float | None) -> None:
    found = read(given, WALL)
    assert [str(name) for name in found] == [unit]
    (one,) = found.values()
    assert one.used == pytest.approx(used)


@pytest.mark.parametrize(
    "given",
    [
        [],
        headers(content_type="application/json", server="x"),
        headers(x_ratelimit_flavour_requests="1"),
        headers(my_limits="5"),
    ],
)
def test_what_is_none_is_none(given: list[tuple[bytes, bytes]]) -> None:
    assert read(given, WALL) == {}


@pytest.mark.parametrize("value", ["", "many", "-1", "1e9", "1" * 40, "\xff"])
def test_garbage_is_unknown_and_never_an_error(value: str) -> None:
    given = [(b"x-ratelimit-limit-requests", value.encode("latin-1")), (b"x-ratelimit-reset-requests", b"soon")]
    assert read(given, WALL) == {"requests": Allowance(limit=None, remaining=None, reset_s=None)}
