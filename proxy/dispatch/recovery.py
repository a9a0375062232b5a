"""A stream that broke after its caller had seen words, finished by another target.

Stream recovery is a new machine with its own plan (`house.md`, the engine's law): the targets that are left, one
attempt on each, no hedging, the same deadline. What the caller has been sent is kept as bytes while the stream runs,
bounded, and only for requests whose answers could be continued; it is read when the stream has broken and not before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import orjson

from proxy.base.outcome import Class, Group, Outcome
from proxy.config.planner import Planned
from proxy.dialects import continuation, effects, registry
from proxy.dialects.chat import Asked, Event, Malformed, NotPortable
from proxy.dialects.continuation import Partial
from proxy.dialects.hearing import STUMBLES
from proxy.dialects.joining import Joiner, resumed
from proxy.dialects.reading import Reader
from proxy.dispatch.outgoing import Outgoing
from proxy.dispatch.translate import CONVERSATIONS, asked_of
from proxy.engine.attempts import Attempts
from proxy.engine.plan import Endpoint, Plan

CONTINUATIONS_MAX: Final = 2
FINAL: Final = frozenset(
    {Class.CONTENT_POLICY, Class.CONTEXT_LENGTH, Class.INVALID_REQUEST, Class.CANCELLED, Class.AUTH, Class.OK}
)
"""Ends of a stream after which nobody is asked to go on."""


class Kept:
    """What a caller has been sent of one stream, up to `most` bytes; beyond that the stream cannot be continued."""

    __slots__ = ("_most", "_pieces", "_size")

    def __init__(self, most: int) -> None:
        self._pieces: list[bytes] = []
        self._size = 0
        self._most = most

    def add(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size <= self._most:
            self._pieces.append(piece)
        elif self._pieces:
            self._pieces.clear()

    def sent(self) -> bytes | None:
        """Everything in order; None: too much to be continued."""
        return b"".join(self._pieces) if self._size <= self._most else None


def keeper(plan: Plan, endpoint: Endpoint, body: Mapping[str, Any]) -> Kept | None:
    """Where to keep what is sent; None: an answer to this request cannot or may not be continued."""
    if (
        plan.stream.recovery != "continue"
        or not plan.failover
        or len(plan.candidates) < 2
        or endpoint not in CONVERSATIONS
        or ("messages" not in body and "input" not in body)
        or effects.is_stateful(endpoint, body)
        or not continuation.may_continue(body)
    ):
        return None
    return Kept(plan.stream.continue_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What the caller of a broken stream has been sent, read back."""

    events: list[Event]
    partial: Partial
    asked: Asked
    raw: bytes


class Continuation(Outgoing):
    """The demand to go on, as each of the targets that are left gets it."""

    __slots__ = ("_betas", "_caller", "_extended", "_partial", "_sent")

    def __init__(self, before: Outgoing, planned: Planned, sent: Sent) -> None:
        """`before`: how the request went out whose answer broke; `sent`: what its caller has got of it."""
        super().__init__(*before.of(planned), None)
        self._caller = self._where.endpoint.value
        self._sent = sent
        self._partial = sent.partial
        self._extended: dict[int, bytes] = {}
        self._betas: dict[int, tuple[str, ...]] = {}

    def betas(self, index: int) -> tuple[str, ...]:
        """See `Outgoing`."""
        return self._betas.get(index, ())

    def barred(self) -> dict[int, str]:
        """Targets that cannot be asked: index -> why."""
        out: dict[int, str] = {}
        for index in range(len(self._planned.plan.candidates)):
            try:
                self.body(index)
            except NotPortable as obstacle:
                out[index] = obstacle.reason
            except (Malformed, *STUMBLES):
                out[index] = "malformed"
        return out

    def body(self, index: int) -> bytes:
        """See `Outgoing`. Raises `NotPortable`."""
        found = self._extended.get(index)
        if found is None:
            found = self._extended[index] = orjson.dumps(self._made(index))
        return found

    def _exact(self, index: int) -> bool:
        return continuation.is_exact(self._planned.facts[index])

    def _made(self, index: int) -> dict[str, Any]:
        candidate, facts = self._planned.plan.candidates[index], self._planned.facts[index]
        assert facts is not None
        extended = continuation.extended(self._caller, self._parsed, self._partial, self._exact(index))
        if extended is None:
            raise NotPortable("limit", "the output limit is used up")
        if candidate.foreign:
            request = registry.speaker(self._caller).read_request(extended)
            encoded = registry.written(candidate.api, request, facts)
            self._betas[index] = encoded.betas
            written = encoded.body
        else:
            written = {**extended, "model": candidate.deployment or candidate.target.model or extended.get("model")}
            more, _ = registry.adjusted(candidate.api, written, facts)
            if more is not None:
                written = registry.with_changes(written, more)
        return continuation.completing(written, facts.vendor) if self._exact(index) else written

    def reader(self, index: int) -> Reader | None:
        """See `Outgoing`: a continuation is always read closely."""
        return None

    def translator(self, index: int) -> Joiner:
        """See `Outgoing`."""
        writer = resumed(registry.speaker(self._caller), self._sent.asked, self._sent.events, self._sent.raw)
        target = registry.speaker(self._planned.plan.candidates[index].api)
        return Joiner(target, writer, self._partial, self._exact(index))


def remaining(planned: Planned, machine: Attempts, outcome: Outcome, used: int) -> Planned | None:
    """The plan of a continuation: targets other than the one that broke and those that failed before it, open to this
    kind of failure. None: nobody is left, or nobody may be asked."""
    plan = planned.plan
    most = plan.max_attempts - used
    if outcome.cls in FINAL or most <= 0:
        return None
    failed = {
        attempt.candidate.target
        for attempt in machine.attempts
        if attempt is machine.committed
        or (attempt.outcome is not None and attempt.outcome.group not in (Group.GOOD, Group.CANCELLED))
    }
    kept = [
        index
        for index, candidate in enumerate(plan.candidates)
        if candidate.target not in failed and outcome.cls in candidate.trigger
    ]
    if not kept:
        return None
    candidates = tuple(
        replace(plan.candidates[i], retries=0, trigger=plan.candidates[i].trigger | {Class.LOCAL_REJECT}) for i in kept
    )
    return replace(
        planned,
        plan=replace(
            plan,
            candidates=candidates,
            lead=0,
            skipped=(),
            max_attempts=most,
            hedge=replace(plan.hedge, enabled=False, rescue=False),
            hedge_order=(),
            stream=replace(plan.stream, recovery="error"),
        ),
        keys=tuple(planned.keys[i] for i in kept),
        facts=tuple(planned.facts[i] for i in kept),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A continuation, ready to be run."""

    planned: Planned
    outgoing: Continuation
    barred: dict[int, str]


def read_back(kept: Kept, past: Sequence[Attempts], plan: Plan, outgoing: Outgoing, request_id: str) -> Sent | None:
    """None: it cannot be continued, by whomever."""
    sent = kept.sent()
    if len(past) >= CONTINUATIONS_MAX or not sent:
        return None
    try:
        events = registry.speaker(plan.endpoint.value).stream_reader().feed(sent)
    except STUMBLES:
        return None
    partial = continuation.partial_of(events)
    if partial.obstacle:
        return None
    asked = asked_of(outgoing.parsed, partial.begin.created or 0, request_id, partial.begin.model)
    return Sent(events=events, partial=partial, asked=asked, raw=sent)


def spare_joiner(sent: Sent, endpoint: Endpoint) -> Joiner:
    """How a spare goes on: its bytes are in the caller's dialect already, and begin at the beginning."""
    speaker = registry.speaker(endpoint.value)
    return Joiner(speaker, resumed(speaker, sent.asked, sent.events, sent.raw), sent.partial, exact=False)


def prepare(
    sent: Sent, planned: Planned, past: Sequence[Attempts], machine: Attempts, outcome: Outcome, outgoing: Outgoing
) -> Step | None:
    """What it takes to go on with a stream that ended in `outcome`; None: nobody is left who could."""
    used = sum(len(each.attempts) for each in (*past, machine))
    rest = remaining(planned, machine, outcome, used)
    if rest is None:
        return None
    following = Continuation(outgoing, rest, sent)
    barred = following.barred()
    if len(barred) == len(rest.plan.candidates):
        return None
    return Step(planned=rest, outgoing=following, barred=barred)
