"""W3C trace context: whose trace a request belongs to, and the names that its calls have in it.

Spans are made when the request is over, but the ids of its calls go out with them. So the ids of one request are
counted up from one random number: the request itself, what was asked of models, then one for each attempt in order.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_CONTEXT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
STATE_MAX: Final = 512
"""Characters of a ``tracestate`` that is kept; a longer one is dropped whole, as the recommendation allows."""
SAMPLED: Final = 1


@dataclass(frozen=True, slots=True)
class Trace:
    """One request's place in a trace."""

    trace_id: int
    caller_span: int
    """The caller's span, under which ours hang; 0: the trace begins here."""
    sampled: bool
    """As the caller decided; without a caller, as we did."""
    state: str = ""
    """The caller's ``tracestate``; never sent to a provider."""
    first_span: int = 0
    """Id of our first span, the others follow it; 0: we make none."""

    @property
    def id(self) -> str:
        """The trace's id as everybody writes it: 32 hexadecimal digits."""
        return f"{self.trace_id:032x}"

    def attempt_span(self, number: int) -> int:
        """Id of the span of an attempt, counted from 0 over all attempts of the request."""
        return self.first_span + 2 + number

    def parent_of_call(self, number: int) -> str:
        """``traceparent`` for the call of an attempt: its own span, or the caller's where we make none."""
        return self._context(self.attempt_span(number) if self.first_span else self.caller_span)

    def told(self) -> str:
        """``traceparent`` as the caller is told it: our span of its request, or its own where we make none."""
        return self._context(self.first_span or self.caller_span)

    def _context(self, span: int) -> str:
        return f"00-{self.trace_id:032x}-{span:016x}-{'01' if self.first_span or self.sampled else '00'}"


def read(parent: str, state: str) -> Trace | None:
    """The context that a caller sent; None: none, or one that must be ignored by the recommendation.

    A later version is read as far as version 00 goes. `state` without a valid `parent` means nothing.
    """
    found = _CONTEXT.fullmatch(parent)
    if found is None:
        return None
    version, trace_id, span, flags, more = found.groups()
    if version == "ff" or (version == "00" and more) or not int(trace_id, 16) or not int(span, 16):
        return None
    kept = state if len(state) <= STATE_MAX else ""
    return Trace(int(trace_id, 16), int(span, 16), bool(int(flags, 16) & SAMPLED), kept)
