"""How much of its rate limits a provider says is used, read off the headers of an answer (`providers.md`, part 8).

Every vendor spells them in its own way; what is told here is always limit, remaining and reset of requests and of
tokens. A vendor that counts a unit in several ways (per minute and per day, input and output) is told by the way that
leaves least. Nothing is decided by it: what holds requests back is the answer that refuses one (`retry_after`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from proxy.policy.retry_after import parse_wait, server_now_s

Unit = Literal["requests", "tokens"]

_NAME: Final = re.compile(
    r"(?:x-ratelimit|ratelimit|x-tokenlimit|anthropic-ratelimit|anthropic-priority)-"
    r"(?:(?P<first>limit|remaining|reset)(?:-(?P<after>[a-z-]+))?|(?P<before>[a-z-]+)-(?P<last>limit|remaining|reset))"
)
_NUMBER: Final = re.compile(r"[0-9]{1,15}(?:\.[0-9]{1,6})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """One limit as it stood when the answer came."""

    limit: float | None
    """None: not told, as the two below."""
    remaining: float | None
    reset_s: float | None
    """Seconds from the answer until all of it is there again."""

    @property
    def used(self) -> float | None:
        """Share from 0 to 1; None: unknown."""
        if not self.limit or self.remaining is None:
            return None
        return min(1.0, max(0.0, 1.0 - self.remaining / self.limit))


def read(headers: Iterable[tuple[bytes, bytes]], wall_s: float) -> dict[Unit, Allowance]:
    """The allowances in the headers of an answer that came at `wall_s` (epoch seconds); empty: it tells of none."""
    found: dict[str, dict[str, str]] = {}
    known: dict[str, str] = {}
    for raw, value in headers:
        name = raw.decode("latin-1").lower()
        if name == "date":
            known["date"] = value.decode("latin-1")
        elif "limit" in name or "anthropic-priority" in name:
            matched = _NAME.fullmatch(name)
            if matched is not None:
                what = matched["after"] or matched["before"] or ("tokens" if "tokenlimit" in name else "requests")
                found.setdefault(what, {})[matched["first"] or matched["last"]] = value.decode("latin-1").strip()
    if not found:
        return {}
    now = server_now_s(known.get, wall_s)
    out: dict[Unit, Allowance] = {}
    for what, values in found.items():
        unit: Unit = "tokens" if "token" in what else "requests"
        one = Allowance(
            limit=_number(values.get("limit")),
            remaining=_number(values.get("remaining")),
            reset_s=parse_wait(values["reset"], now) if "reset" in values else None,
        )
        if unit not in out or (one.used or 0.0) > (out[unit].used or 0.0):
            out[unit] = one
    return out


def _number(text: str | None) -> float | None:
    return float(text) if text is not None and _NUMBER.fullmatch(text) else None
