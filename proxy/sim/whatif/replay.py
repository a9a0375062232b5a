"""`outrider replay`: what another configuration would have made of the requests that a sidecar has really had.

A request meets on its first target what its own first attempt met there. Whatever else the other configuration dials
meets what calls to that target met at about that time: one of the recorded attempts within a minute is drawn. Where
nothing was recorded nearby the target was well as far as anybody knows, and answers as its good attempts did.

Attempts that lost to another one were cut short: such a target is given the shortest good answer that took longer, and
is silent where there is none.
"""

from __future__ import annotations

import bisect
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from math import inf
from typing import Final

from proxy.base.outcome import OK, Class, Group
from proxy.base.target import Target
from proxy.config.compiled import Config
from proxy.config.planner import Planner
from proxy.sim.whatif.history import Dialled, History, Past
from proxy.sim.whatif.model import Call, Flow, Play
from proxy.sim.whatif.outages import Profile
from proxy.sim.whatif.scenario import BadScenario, Traffic
from proxy.sim.whatif.simulate import HOUR_S, Progress, Run, chain_of, flow_of, play
from proxy.sim.whatif.tally import MINUTE_S, Tally
from proxy.sim.whatif.traffic import Sizes, merged

PATHS: Final = {
    "chat": "/v1/chat/completions",
    "messages": "/v1/messages",
    "responses": "/v1/responses",
    "embeddings": "/v1/embeddings",
}
"""What was called, by the name that the history has for it; everything else is replayed as chat."""
NEAR_S: Final = 60.0
"""How far away in time a recorded attempt may lie that stands for another one."""
_HEALTHY: Final = Profile()


class Recorded:
    """A world made of recorded attempts."""

    def __init__(self, history: History, begin: float, rng: random.Random) -> None:
        """`begin`: Unix seconds at which the replay begins."""
        self._rng = rng
        self._times: dict[str, list[float]] = {}
        self._plays: dict[str, list[Play]] = {}
        self._good: dict[str, list[Play]] = {}
        self.fates: dict[str, tuple[str, Play]] = {}
        """Request -> (its first target, what it met there)."""
        self.unknown: set[str] = set()
        """Targets that were dialled and of which no good attempt is recorded."""
        dials = sorted((dial for past in history.requests for dial in past.dials), key=lambda dial: dial.at)
        for dial in dials:
            if dial.outcome is OK:
                self._good.setdefault(dial.target, []).append(_play(dial, ()))
        for plays in self._good.values():
            plays.sort(key=lambda each: each.content_s)
        for dial in dials:
            if dial.outcome.cls is not Class.CANCELLED or dial.outcome.sub == "superseded":
                self._times.setdefault(dial.target, []).append(dial.at - begin)
                self._plays.setdefault(dial.target, []).append(_play(dial, self._good.get(dial.target, ())))
        for past in history.requests:
            if past.dials and past.dials[0].outcome.cls is not Class.CANCELLED:
                first = past.dials[0]
                self.fates[past.id] = first.target, _play(first, self._good.get(first.target, ()))

    def play(self, target: Target, call: Call, streams: bool, now: float, is_own_fate: bool) -> Play:
        """See `model.World`."""
        name = target.name
        if is_own_fate:
            if not call.fate:
                return self._well(name, call)  # a plain success
            whose, fate = self.fates.get(call.fate, ("", None))
            if fate is not None and whose == name:
                return fate
        times = self._times.get(name, [])
        low, high = bisect.bisect_left(times, now - NEAR_S), bisect.bisect_right(times, now + NEAR_S)
        luck = call.luck if is_own_fate else self._rng.random()
        return self._plays[name][low + int(luck * (high - low))] if high > low else self._well(name, call)

    def _well(self, name: str, call: Call) -> Play:
        good = self._good.get(name)
        if good:
            return good[int(call.pace * len(good))]
        self.unknown.add(name)
        first = _HEALTHY.first_content_s(call.pace)
        return Play(first, first, first + call.output_tokens / _HEALTHY.tokens_per_s, OK)


def _play(dial: Dialled, good: list[Play] | tuple[Play, ...]) -> Play:
    """What a target did, as something that it may do again."""
    outcome, length = dial.outcome, dial.length_s
    if outcome is OK:
        content = length if dial.content_s is None else min(dial.content_s, length)
        return Play(content, content, length, OK)
    if outcome.group is Group.CANCELLED:
        return next((each for each in good if each.content_s > length), Play(inf, inf, inf, OK))
    if outcome.cls is Class.TIMEOUT:
        return Play(
            inf, inf, inf, OK, outcome.sub != "connect"
        )  # how long it may be silent is for the new limits to say
    if dial.content_s is not None and dial.content_s < length:
        return Play(dial.content_s, dial.content_s, length, outcome)
    return Play(length if outcome.status else inf, inf, length, outcome, outcome.cls is not Class.CONNECT_ERROR)


# Requests -------------------------------------------------------------------------------------------------------------


class _Flows:
    """Plans for recorded requests: by route, by what was called, and by the model that was called first."""

    def __init__(self, config: Config, headers: Mapping[str, str]) -> None:
        self._config = config
        self._headers = dict(headers)
        self._known: dict[tuple[str, str, str, bool], Flow] = {}

    def of(self, past: Past) -> Flow:
        """Raises `BadScenario`."""
        key = (past.route, past.endpoint, past.dials[0].target if past.dials else "", past.stream)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._made(*key)
        return found

    def _made(self, route: str, endpoint: str, target: str, stream: bool) -> Flow:
        config = self._config
        known = next((each for each in config.routes if each.name == route), None)
        if known is not None:  # the route is recorded, what led to it is not
            config = replace(config, routes=(replace(known, paths=(), models=()),))
        path = PATHS.get(endpoint, PATHS["chat"])
        kind = Traffic(model=self._asked(target), stream=stream, headers=self._headers, path=path)
        return flow_of(config, Planner(config, b"outrider replay"), kind)

    def _asked(self, target: str) -> str:
        """The name by which callers reach the model that `target` was called with; empty: unknown."""
        name, _, called = target.partition("/")
        provider = self._config.providers.get(name)
        entries = provider.models if provider is not None else ()
        return next((m.asked for m in entries if m.name == called and "*" not in m.asked), called)

    @property
    def chains(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        return tuple(sorted({(key[0] or "-", chain_of(flow)) for key, flow in self._known.items()}))


def _plain(history: History, begin: float, flow: Flow, rng: random.Random) -> Iterator[Call]:
    """Plain successes, of which the hour is known and no more: spread over its minutes in which nothing failed."""
    troubled = {int(past.at // MINUTE_S) for past in history.requests}
    for hour, count in sorted(history.plain.items()):
        minutes = range(hour * 60, (hour + 1) * 60)
        calm = [minute for minute in minutes if minute not in troubled] or list(minutes)
        times = sorted((rng.choice(calm) + rng.random()) * MINUTE_S for _ in range(count))
        for at in times:
            if at >= begin:
                sizes = Sizes()
                yield Call(at - begin, flow, sizes.prompt_tokens, sizes.output_tokens, rng.random(), rng.random())


def _troubled(history: History, begin: float, flows: _Flows, rng: random.Random) -> Iterator[Call]:
    sizes = Sizes()
    for past in history.requests:
        yield Call(
            past.at - begin,
            flows.of(past),
            past.prompt_tokens or sizes.prompt_tokens,
            past.output_tokens or sizes.output_tokens,
            rng.random(),
            rng.random() or 1e-9,
            past.id,
        )


def replay(
    config: Config,
    history: History,
    seed: int,
    headers: Mapping[str, str],
    progress: Progress = lambda share: None,
) -> Run:
    """Replay a history under `config`. Raises `BadScenario`."""
    requests = history.requests
    if not requests:
        raise BadScenario("the history tells of no request that was retried, failed over, hedged or failed")
    hours = [hour * HOUR_S for hour, count in history.plain.items() if count]
    begin = min([requests[0].at, *hours])
    end = max([max(past.at for past in requests), *(hour + HOUR_S for hour in hours)])
    dice = random.Random(seed)
    of_world, of_engine, of_calls, of_plain = (random.Random(dice.getrandbits(64)) for _ in range(4))
    world = Recorded(history, begin, of_world)
    flows = _Flows(config, headers)
    ordinary = flows.of(next((past for past in requests if past.dials), requests[0]))
    troubled = list(_troubled(history, begin, flows, of_calls))
    calls = merged([iter(troubled), _plain(history, begin, ordinary, of_plain)])
    failing = {int((past.at - begin) / MINUTE_S) for past in requests if _failed_first(past)}
    is_down: Callable[[float], bool] = lambda at: int(at / MINUTE_S) in failing  # noqa: E731
    answered = sum(past.answered for past in requests)
    plain = sum(history.plain.values())
    run = play(
        calls,
        world,
        Tally(end - begin, world, is_down=is_down),
        of_engine,
        end - begin,
        progress,
        title="replay",
        seed=seed,
        chains=flows.chains,
        notes=(
            f"as it was: {answered + plain:,} of {len(requests) + plain:,} requests answered "
            f"({100 * (answered + plain) / (len(requests) + plain):.4f} %); {len(requests):,} of them told one by one",
        ),
    )
    for name in sorted(world.unknown):
        run.notes.append(f"{name}: no good attempt of it is told; where it is well, how fast it is was assumed")
    if history.unreadable:
        run.notes.append(f"{history.unreadable:,} recorded requests could not be read and are left out")
    return run


def _failed_first(past: Past) -> bool:
    """Whether the first attempt brought no answer."""
    return bool(past.dials) and past.dials[0].outcome.group not in (Group.GOOD, Group.CANCELLED)
