"""Which requests are traced: the caller's word where it counts, else a share of the trace ids.

The share is OpenTelemetry's ``traceidratio``: a trace is taken when the lower 64 bits of its id are below that share of
2^64, so that everybody with the same share takes the same traces.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from proxy.base.trace import Trace

_LOW: Final = (1 << 64) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Of `Sampler`."""

    share: float = 0.05
    """0 to 1, of the traces that begin here."""
    obeys_caller: bool = True
    """False: the share decides about callers' traces too."""


class NeverSampler:
    """Traces nothing; a caller's context is still told and passed on."""

    __slots__ = ()

    def begin(self, caller: Trace | None) -> Trace | None:
        """See `Sampler`."""
        return caller


class Sampler:
    """Decides once per request."""

    __slots__ = ("_bits", "_bound", "_obeys")

    def __init__(self, settings: Settings, bits: Callable[[int], int]) -> None:
        """`bits`: so many random bits as a whole number, as ``random.getrandbits`` gives them."""
        self._bits = bits
        self._bound = round(settings.share * (1 << 64))
        self._obeys = settings.obeys_caller

    def begin(self, caller: Trace | None) -> Trace | None:
        """The context of a request whose caller sent `caller`; with a first span when it is traced.

        None: nobody sent one and the request is not traced.
        """
        if caller is None:
            trace_id = self._bits(128)
            if trace_id & _LOW >= self._bound:
                return None
            caller = Trace(trace_id or 1, 0, True)
        elif not (caller.sampled if self._obeys else caller.trace_id & _LOW < self._bound):
            return caller
        # Below 2^63: the ids of the attempts count up from it and must not run over.
        return replace(caller, first_span=self._bits(62) + 1)
