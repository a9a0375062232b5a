"""The probes of one target that are out, over all policies.

A half-open circuit admits only with a lease. The base and the circuits of requests' policies share one pool of them, so
that a target which is on its way back is never met by a crowd, whoever asks. Should leases that mean nothing to the
base fill the pool when the base needs one, the oldest of them is taken back: a header never takes a probe from those
who sent none.

A lease is used up by the first of: first content, the outcome, its age passing a slow line that may open, its end. The
first two come from the breaker (`vote`); the last two fall due by time alone (`moments`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from proxy.base.outcome import GROUP, Group
from proxy.policy.overlay import Circuit, Lease
from proxy.policy.window import INF, Key, Permit, State, matches

LEASE_MIN_S: Final = 5.0
LEASE_MAX_S: Final = 600.0
"""No lease lasts longer, whatever the p99: the longest request by default (chosen)."""
LEASES_MAX: Final = 10
"""Probes of one target at the same time, over all policies."""
BUSY_WAIT_S: Final = 1.0
"""What callers are told to wait while all probes are out: an answer is near (chosen)."""


class Leases:
    """The pool. Times are monotonic seconds; the base is the target's own circuit."""

    __slots__ = ("_base", "_leases")

    def __init__(self, base: Circuit) -> None:
        self._base = base
        self._leases: dict[int, Lease] = {}
        """By the serial number of the permit, in the order in which they were given."""

    def __len__(self) -> int:
        """Leases that still count for a circuit."""
        return sum(bool(lease.live()) for lease in self._leases.values())

    def has_room(self, circuit: Circuit) -> bool:
        """Whether a circuit has a lease left. Leases of an older generation do not count."""
        if circuit.state is not State.HALF_OPEN:
            return True
        return sum(circuit in lease.live() for lease in self._leases.values()) < circuit.policy.permits

    def make_room(self, for_base: bool) -> bool:
        """Whether the pool has a lease left, if need be by taking back one that means nothing to the base."""
        leases = self._leases
        for serial in [serial for serial, lease in leases.items() if not lease.live()]:
            del leases[serial]
        if len(leases) < LEASES_MAX:
            return True
        foreign = [serial for serial, lease in leases.items() if self._base not in lease.live()]
        if not for_base or not foreign:
            return False
        del leases[foreign[0]]
        return True

    def busy_s(self, circuit: Circuit, now: float) -> float:
        """Seconds until a circuit whose probes are all out may have one again, at most 1; 0 when it has one now."""
        if self.has_room(circuit):
            return 0.0
        soonest = min(lease.expires for lease in self._leases.values() if circuit in lease.live())
        return min(BUSY_WAIT_S, soonest - now)

    def give(self, permit: Permit, expires: float, circuits: list[Circuit]) -> None:
        """Give a lease for circuits that have room for it, in a pool that has room."""
        self._leases[permit.serial] = Lease(permit, expires, circuits)

    def take_back(self, permit: Permit) -> None:
        """Take the lease of a permit back, unused; nothing when it has none, or none any more."""
        self._leases.pop(permit.serial, None)

    def clear(self) -> None:
        """Take all of them back."""
        self._leases.clear()

    def vote(self, permit: Permit, key: Key | None, now: float) -> None:
        """Use up a probe's lease. `key`: the outcome, None: first content. Each circuit applies its own filter."""
        lease = self._leases.pop(permit.serial, None)
        if lease is None:
            return
        group = Group.GOOD if key is None else GROUP[key[0]]
        if group not in (Group.GOOD, Group.BAD, Group.LIMITED):
            return
        good = group is Group.GOOD
        for circuit in lease.live():
            if good or key is None or not matches(circuit.policy.excluded, key):
                circuit.vote(good, now, "probe_failed")

    # What falls due by time alone

    def due_of(self, permit: Permit) -> float:
        """When the lease of a permit next wants attention without any event; infinite when it has none."""
        lease = self._leases.get(permit.serial)
        return INF if lease is None else lease.due()

    def due(self) -> float:
        """When any lease next wants attention without any event; infinite when none does."""
        leases = self._leases
        return min([lease.due() for lease in leases.values()]) if leases else INF

    def moments(self) -> list[tuple[float, bool, Callable[[float], None]]]:
        """(time, whether a lease ends then, what is to be done then) of every lease, whatever the time is now."""
        found: list[tuple[float, bool, Callable[[float], None]]] = []
        for serial, lease in self._leases.items():
            found += [(lease.slow_at(c), False, partial(self._late, serial, c)) for c in lease.live()]
            found.append((lease.expires, True, partial(self._expired, serial)))
        return found

    def _late(self, serial: int, circuit: Circuit, at: float) -> None:
        lease = self._leases.get(serial)
        if lease is not None and circuit in lease.live():
            lease.drop(circuit)
            circuit.vote(False, at, "probe_slow")

    def _expired(self, serial: int, at: float) -> None:
        lease = self._leases.pop(serial, None)
        for circuit in () if lease is None else lease.live():
            circuit.vote(False, at, "probe_expired")
