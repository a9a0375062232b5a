"""The target's own circuit: the one that is fed at every event and tells of its moves.

It weighs outcomes by the rule of the base policy: a stated rule has its tally, the default one the detectors. What was
admitted before the last close speaks no more, neither for the target nor against it.
"""

from __future__ import annotations

from collections.abc import Callable

from proxy.base.outcome import GROUP, Group
from proxy.policy.overlay import Circuit, Detectors, Policy, line_at, rule_name
from proxy.policy.window import Dice, Evidence, Key, Permit, State, Tally, is_slow, matches, tally


class TargetCircuit(Circuit):
    """The base. `detectors` run whatever the rule is: marks and requests' policies live on them too."""

    __slots__ = ("_moved", "detectors", "judging", "tally")

    def __init__(
        self, policy: Policy, evidence: Evidence, dice: Dice, moved: Callable[[State, State, str, float], None]
    ) -> None:
        """`moved`: called with (before, after, reason, time) when a move is complete."""
        super().__init__(policy, evidence, dice)
        self._moved = moved
        self.detectors = Detectors()
        self.judging = True
        """False while an operator has decided instead."""
        self.tally: Tally | None = None
        """Of the stated rule; None: the default rule."""

    def counts(self, permit: Permit) -> bool:
        """Whether an attempt speaks for or against the target now: closed, and admitted since the last close."""
        return self.judging and self.state is State.CLOSED and permit.generation == self.generation

    def weigh(self, permit: Permit, key: Key, bad: bool, at: float) -> None:
        """Weigh a good or bad outcome of an attempt that counts; it may open the circuit."""
        policy, rule_tally = self.policy, self.tally
        if bad and policy.excluded and matches(policy.excluded, key):
            return
        self.detectors.ended(key, bad)
        if rule_tally is None:
            reason = self.detectors.reached(False) if bad else ""
        elif permit.counted:
            reason = ""
        else:
            slow = is_slow(policy.rule, permit, at)
            reason = rule_name(policy.rule) if rule_tally.weigh(at, bad, slow) else ""
        if reason:
            self.trip(at, reason)

    def weigh_late(self, permit: Permit, at: float) -> None:
        """Weigh an attempt that passed the count rule's line: a failure now, and none when it ends."""
        permit.counted = True
        if self.tally is not None and self.counts(permit) and self.tally.weigh(at, True, True):
            self.trip(at, rule_name(self.policy.rule))

    def renew_tally(self) -> None:
        """An empty tally, then what belongs to this generation: nothing after a close, all of it after a reload."""
        rule = self.policy.rule
        self.tally = None if rule is None else tally(rule)
        if self.tally is None or self.state is not State.CLOSED:
            return
        events: list[tuple[float, bool, bool]] = []
        for permit in (*self.evidence.history, *self.evidence.running):
            if permit.generation != self.generation:
                continue
            group = GROUP[permit.key[0]]
            bad = group is Group.BAD and not matches(self.policy.excluded, permit.key)
            if permit.counted:
                events.append((line_at(self.policy, permit), True, True))
            elif bad or group is Group.GOOD:
                events.append((permit.ended_at, bad, is_slow(rule, permit, permit.ended_at)))
        for at, bad, slow in sorted(events):
            self.tally.weigh(at, bad, slow)

    def _move(self, to: State, reason: str, at: float) -> None:
        before = self.state
        super()._move(to, reason, at)
        if to is State.CLOSED:
            self.detectors.clear()
            self.renew_tally()
        self._moved(before, to, reason, at)
