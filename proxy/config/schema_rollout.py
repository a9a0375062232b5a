"""What the file may say of rollouts and of announced maintenance."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema, create_model

from proxy.config.section import Section
from proxy.config.section import key as _key
from proxy.config.validate import CALLED, DAY_S, LINE, NAME, PICK, Rule, number, text, whole


def _moment(v: object) -> str | None:
    """An ISO 8601 date and time that says its offset; a local time would move with the machine."""
    if not isinstance(v, str) or len(v) < 16:
        return None
    try:
        return v if datetime.fromisoformat(v).tzinfo is not None else None
    except ValueError:
        return None


MOMENT = Rule(
    "must be a date and time with its offset, such as 2026-03-01T02:00:00Z",
    _moment,
    {"type": "string", "format": "date-time"},
)
STICKY = text("none, caller, or a header's name", r"[A-Za-z][A-Za-z0-9-]{0,63}")

Picks = Annotated[
    list[Annotated[str, PICK]],
    BeforeValidator(lambda v: [v] if isinstance(v, str) else v),
    WithJsonSchema({"anyOf": [PICK.json, {"type": "array", "items": PICK.json, "maxItems": 16}]}),
]


class Canary(Section):
    targets: Annotated[Picks, Field(min_length=1, max_length=8)] = Field(
        description="What is rolled out, each a provider or provider/model; out of the route's chain for all others."
    )
    percent: Annotated[float | None, number(0, 100)] = _key(
        None, "Share of the route's requests; none: by the weights that its targets have in a weighted route."
    )
    sticky: Annotated[str, STICKY] = _key(
        "none", "Who stays with what they got: none, caller (by key), or by a header."
    )
    window_s: Annotated[float, number(1, DAY_S, " seconds")] = _key(
        300.0, "Time over which both are compared; longer while the canary has fewer than min_requests."
    )
    min_requests: Annotated[int, whole(5, 100_000)] = _key(20, "Requests of the canary before the first comparison.")
    max_error_increase: Annotated[float, number(0, 1)] = _key(
        0.02, "Share of errors that it may have beyond the baseline's; 0.02 is two points."
    )
    max_latency_increase: Annotated[float, number(0, 100)] = _key(
        0.5, "How much later its first content may come, as a share of the baseline's time."
    )
    confidence: Annotated[float, number(0.5, 0.9999)] = _key(
        0.99, "How sure a withdrawal has to be, over all comparisons of a window together."
    )
    compare_with: Annotated[Picks, Field(max_length=16)] = _key(
        [], "Targets of the baseline that it is compared with; empty: all of them."
    )


_WINDOW: Any = {
    "provider": (Annotated[str | None, NAME], _key(None, "Whom it concerns; none: every target of the route.")),
    "model": (Annotated[str | None, CALLED], _key(None, "Called model; none: all of the provider's.")),
    "route": (Annotated[str | None, NAME], _key(None, "The only route in which they are left out; none: everywhere.")),
    "from": (Annotated[str, MOMENT], Field(description="When it begins, with its offset.")),
    "until": (Annotated[str, MOMENT], Field(description="When it ends, with its offset.")),
    "note": (Annotated[str, LINE], _key("", "Why, in a line.")),
}
# `from` is a word of Python, so this class cannot be written as the others are.
Maintenance: Any = create_model("Maintenance", __base__=Section, __module__=__name__, **_WINDOW)
