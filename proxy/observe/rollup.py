"""Counts of what happened, hour by hour: what analytics and uptime are made of, so that a success needs no row.

The hour in the making is a few integers, changed on the way of every request. Once a minute its present state goes to
the store as one small row, which replaces the one before it; a process that is killed loses the minute since. Every run
of the process has rows of its own, so that nothing has to be read before it can be written, and a sum over all runs is
the truth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from proxy.observe.entry import Entry
from proxy.observe.record import RequestRecord

HOUR_S: Final = 3600
HOURS_MAX: Final = 48
"""Hours of this run that stay in memory: what is told of the last day while there is no store."""
PROVIDERS_MAX: Final = 1024
STATES: Final = ("healthy", "degraded", "down", "maintenance")
"""What the seconds of a provider are counted as."""
FAILED: Final = frozenset({"error", "timeout", "exhausted", "truncated", "rejected"})
"""Results that the caller felt and did not cause."""

Counts = dict[str, Any]
"""Numbers by name; a mapping inside holds numbers by class, or counts by provider."""


def add(total: Counts, more: Mapping[str, Any]) -> Counts:
    """Add `more` into `total`, number by number, mappings by their keys; `total` again."""
    for name, value in more.items():
        if isinstance(value, Mapping):
            add(total.setdefault(name, {}), value)
        else:
            total[name] = total.get(name, 0) + value
    return total


class _Provider:
    """One provider in one hour."""

    __slots__ = ("attempts", "cost_usd", "errors", "input_tokens", "latency_ms", "ok", "output_tokens", "seconds")

    def __init__(self) -> None:
        self.attempts = 0
        self.ok = 0
        self.latency_ms = 0.0
        """Sum over the good attempts."""
        self.input_tokens = 0
        self.output_tokens = 0
        self.cost_usd = 0.0
        self.errors: dict[str, int] = {}
        self.seconds = dict.fromkeys(STATES, 0.0)

    def counts(self) -> Counts:
        """As it is stored."""
        return {name: getattr(self, name) for name in self.__slots__}


class _Hour:
    """One hour of this run."""

    __slots__ = (
        "announced",
        "cancelled",
        "client_errors",
        "cost_usd",
        "degraded",
        "events",
        "failed",
        "failover_cost_usd",
        "failover_extra_usd",
        "failovers",
        "first_ok",
        "hedges_sent",
        "hedges_won",
        "latency_ms",
        "ok",
        "primary_ok",
        "providers",
        "reasons",
        "requests",
        "retried_ok",
        "retries",
        "retries_before_ok",
        "seconds",
    )

    def __init__(self) -> None:
        self.requests = 0
        self.ok = 0
        self.first_ok = 0
        """Answered by the primary's first attempt."""
        self.primary_ok = 0
        self.failed = 0
        self.announced = 0
        """Of those: refused since all that could have answered was in announced maintenance."""
        self.client_errors = 0
        self.cancelled = 0
        self.failovers = 0
        self.retries = 0
        self.retried_ok = 0
        """Good answers that took more than one attempt."""
        self.retries_before_ok = 0
        """Attempts of those beyond the first."""
        self.hedges_sent = 0
        self.hedges_won = 0
        self.degraded = 0
        self.latency_ms = 0.0
        """Sum over the good answers, from accept to the last byte."""
        self.cost_usd = 0.0
        self.failover_cost_usd = 0.0
        """Of answers by another target than the primary."""
        self.failover_extra_usd = 0.0
        """What those cost beyond the primary's price."""
        self.reasons: dict[str, int] = {}
        """Why the primary did not answer, of the failovers."""
        self.events: dict[str, int] = {}
        """Entries of the journal by kind."""
        self.seconds = dict.fromkeys(STATES, 0.0)
        self.providers: dict[str, _Provider] = {}

    def provider(self, name: str) -> _Provider:
        found = self.providers.get(name)
        if found is None:
            if len(self.providers) >= PROVIDERS_MAX:
                name = "other"
            found = self.providers.setdefault(name, _Provider())
        return found

    def counts(self) -> Counts:
        """As it is stored: nothing that is 0."""
        plain = {name: value for name in self.__slots__ if name != "providers" and (value := getattr(self, name))}
        return {**plain, "providers": {name: provider.counts() for name, provider in self.providers.items()}}


class Rollup:
    """The hours of this run."""

    def __init__(self, price: Callable[[str, str], tuple[float, float] | None]) -> None:
        """`price`: USD per input and output token by provider and model; None: unknown. It must be quick."""
        self._price = price
        self._hours: dict[int, _Hour] = {}
        self._hour = _Hour()
        self._ends = 0.0
        """Unix seconds at which the hour in the making is over."""
        self._over: dict[int, Counts] = {}
        """Hours of this run that nothing changes any more: hundreds of providers in 48 of them are not counted up for
        each who asks."""
        self._past: dict[int, Counts] = {}
        """Hours of earlier runs, as the store had them at the start."""

    def _at(self, now: float) -> _Hour:
        """The hour of `now` (Unix seconds); a clock that goes back counts into the hour it is in."""
        if now < self._ends:
            return self._hour
        number = int(now // HOUR_S)
        self._ends = (number + 1) * HOUR_S
        self._over.update((n, hour.counts()) for n, hour in self._hours.items() if n not in self._over)
        self._hour = self._hours.setdefault(number, _Hour())
        for old in [hour for hour in self._hours if hour <= number - HOURS_MAX]:
            del self._hours[old], self._over[old]
        return self._hour

    # Counting ---------------------------------------------------------------------------------------------------------

    def request(self, record: RequestRecord, now: float) -> None:
        """Count a finished request and its attempts."""
        hour = self._hour if now < self._ends else self._at(now)
        hour.requests += 1
        attempts = record.attempts
        for attempt in attempts:
            provider = hour.provider(attempt.provider)
            provider.attempts += 1
            if attempt.outcome == "ok":
                provider.ok += 1
                provider.latency_ms += attempt.end_ms - attempt.start_ms
            else:
                provider.errors[attempt.outcome] = provider.errors.get(attempt.outcome, 0) + 1
        if record.input_tokens is not None or record.output_tokens is not None:
            self._tokens(hour, record)
        if record.result == "ok":
            hour.ok += 1
            hour.latency_ms += record.total_ms
            if not record.failover_reason:
                hour.primary_ok += 1
                if len(attempts) == 1 and not record.degraded:
                    hour.first_ok += 1
                    return  # the plain success
            if len(attempts) > 1:
                hour.retried_ok += 1
                hour.retries_before_ok += len(attempts) - 1
        self._others(hour, record)

    @staticmethod
    def _others(hour: _Hour, record: RequestRecord) -> None:
        """What a plain success does not have."""
        if record.result in FAILED:
            hour.failed += 1
            hour.announced += record.is_announced
        elif record.result == "client_error":
            hour.client_errors += 1
        elif record.result != "ok":
            hour.cancelled += 1
        if record.failover_reason and record.failover_reason != "hedge":  # a hedge that won is no failover
            hour.failovers += 1
            hour.reasons[record.failover_reason] = hour.reasons.get(record.failover_reason, 0) + 1
        hour.retries += sum(attempt.kind == "retry" for attempt in record.attempts)
        hour.hedges_sent += record.hedges
        hour.hedges_won += any(attempt.won and attempt.kind == "hedge" for attempt in record.attempts)
        hour.degraded += record.degraded

    def _tokens(self, hour: _Hour, record: RequestRecord) -> None:
        sent, got = record.input_tokens or 0, record.output_tokens or 0
        provider = hour.provider(record.served_by)
        provider.input_tokens += sent
        provider.output_tokens += got
        price = self._price(record.served_by, record.served_model)
        if price is None:
            return
        cost = sent * price[0] + got * price[1]
        provider.cost_usd += cost
        hour.cost_usd += cost
        if record.failover_reason:
            hour.failover_cost_usd += cost
            name, _, model = record.primary.partition("/")
            usual = self._price(name, model)
            if usual is not None:
                hour.failover_extra_usd += cost - sent * usual[0] - got * usual[1]

    def entry(self, entry: Entry) -> None:
        """Count an entry of the journal by its kind."""
        events = self._at(entry.at).events
        events[entry.kind] = events.get(entry.kind, 0) + 1

    def seconds(self, now: float, elapsed_s: float, overall: str, states: Mapping[str, str]) -> None:
        """Count `elapsed_s` seconds of the whole and of every provider as one of `STATES`."""
        hour = self._at(now)
        hour.seconds[overall] += elapsed_s
        for name, state in states.items():
            hour.provider(name).seconds[state] += elapsed_s

    # Reading ----------------------------------------------------------------------------------------------------------

    def present(self, now: float) -> list[tuple[int, Counts]]:
        """The hour in the making and the one before it, by number: what the store may not have yet."""
        self._at(now)
        number = int(now // HOUR_S)
        own = self.own_hours()
        return [(hour, own[hour]) for hour in (number - 1, number) if hour in own]

    def own_hours(self) -> dict[int, Counts]:
        """Hours of this run that are in memory, by number since 1970."""
        return {number: self._over.get(number) or hour.counts() for number, hour in self._hours.items()}

    def hours(self) -> list[tuple[int, Counts]]:
        """All that is in memory, of earlier runs too."""
        return [*self._past.items(), *self.own_hours().items()]

    def remember(self, past: Mapping[int, Counts]) -> None:
        """Take hours of earlier runs, read from the store at the start and added up by `by_hour`."""
        self._past = dict(past)

    def uptime_24h(self, provider: str, now: float) -> float | None:
        """Percent of the last day's seconds outside maintenance in which `provider` was not down; None: it was not
        watched. An empty name means the whole. Hours count in full, so up to an hour more is looked at."""
        first = int(now // HOUR_S) - 24
        total: Counts = {}
        for number, counts in self._past.items():
            if number >= first:
                found = counts if not provider else counts.get("providers", {}).get(provider, {})
                add(total, found.get("seconds", {}))
        for number, hour in self._hours.items():
            if number >= first:
                holder = hour if not provider else hour.providers.get(provider)
                add(total, holder.seconds if holder is not None else {})
        return uptime_percent(total)


def by_hour(hours: Iterable[tuple[int, Mapping[str, Any]]]) -> dict[int, Counts]:
    """Counts of many runs, added up by number of the hour."""
    total: dict[int, Counts] = {}
    for number, counts in hours:
        add(total.setdefault(number, {}), counts)
    return total


def uptime_percent(seconds: Mapping[str, float]) -> float | None:
    """Share of the watched seconds that were not down, maintenance left out; None: none were watched."""
    up = seconds.get("healthy", 0.0) + seconds.get("degraded", 0.0)
    watched = up + seconds.get("down", 0.0)
    return round(100.0 * up / watched, 4) if watched > 0 else None
