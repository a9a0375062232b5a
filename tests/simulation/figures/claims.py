"""What the field claims of its own products, run through our code, and C13."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from math import inf

from proxy.base.outcome import Class, Outcome
from proxy.base.target import Target
from proxy.config.load import load_text
from proxy.config.planner import Planner
from proxy.engine.plan import Endpoint
from proxy.sim.whatif.episodes import Episodes
from proxy.sim.whatif.model import EPOCH_S, Call, Flow, Play, Request
from proxy.sim.whatif.outages import Down, Kind, Scripted, Spell, chain
from proxy.sim.whatif.simulate import made_flow
from proxy.sim.whatif.tally import Tally
from proxy.sim.whatif.traffic import Sizes, calls, exactly
from tests.simulation.figures.stage import Counted, Row, flow, median, model, row

HOUR_S = 3600.0
DAY_S = 24 * HOUR_S
KINDS: tuple[Kind, ...] = ("error", "refuse", "hang")
MODELS = "models: {gpt-4o: gpt-4o}"
CONFIG = f"""
providers:
  a: {{dialect: openai, base_url: "https://a.test/v1", api_key: k, {MODELS}}}
  b: {{dialect: openai, base_url: "https://b.test/v1", api_key: k, {MODELS}}}
"""


def planned_flow(headers: dict[str, str], stream: bool = True) -> Flow:
    """A flow over a and b by the whole way of a configuration, headers included."""
    config = load_text(CONFIG, "figures", {}).config
    assert config is not None
    control = tuple((name.lower(), value) for name, value in headers.items())
    where = {"endpoint": Endpoint.CHAT, "path": "/v1/chat/completions", "model": "gpt-4o"}
    planned = Planner(config, b"x").plan(control=control, stream=stream, **where)  # type: ignore[arg-type]
    return made_flow(planned, stream)


def run(of: Flow, spells: list[Spell], requests: int, duration_s: float, seed: int) -> tuple[Tally, Episodes]:
    """So many requests over the duration, through the engine."""
    world = Scripted({}, spells, random.Random(seed))
    episodes = Episodes(spells)
    tally = Tally(duration_s, world, episodes, Down(spells, of.planned.plan.candidates[0].target))
    rng = random.Random(seed + 1)
    made = calls(exactly(requests, duration_s, rng), of, Sizes(), rng)
    model(world, tally, seed + 2, episodes.moved).run(tally.begins(call) for call in made)
    return tally, episodes


def two_hours(requests: int = 1247) -> Iterator[Row]:
    """The primary is out from the first request to the last."""
    for kind in KINDS:
        spells = [Spell(who="a", start=0.0, end=2 * HOUR_S + 600.0, kind=kind)]
        tally, _ = run(planned_flow({}), spells, requests, 2 * HOUR_S, 21)
        side = tally.sidecar
        got = f"{side.requests - side.failed:,} of {side.requests:,}, {100 * tally.extra_calls:.1f} % extra calls"
        what = f"two hours without the primary ({kind}), {requests:,} requests"
        yield row("claim", what, "all complete, no visible error", got, not side.failed)


def month(requests: int, *availabilities: float) -> Iterator[Row]:
    """Two providers whose outages come in stretches of ten minutes on average, each by itself; 30 days."""
    for availability in availabilities:
        rng = random.Random(int(availability * 1000))
        spells = [*_stretches("a", availability, rng), *_stretches("b", availability, rng)]
        tally, _ = run(planned_flow({}), spells, requests, 30 * DAY_S, 31)
        mine, alone = 100 * tally.sidecar.availability, 100 * tally.alone.availability
        overlap = _both_down(spells) / (30 * DAY_S)
        got = (
            f"{mine:.4f} % (primary alone {alone:.2f} %, both out {100 * overlap:.4f} % of the time), "
            f"{100 * tally.extra_calls:.3f} % extra calls"
        )
        what = f"{requests:,} requests, providers at {100 * availability:g} %, outages of ten minutes"
        yield row("claim", what, "beat 99.98 %", got, mine > 99.98)


def _stretches(who: str, availability: float, rng: random.Random) -> Iterator[Spell]:
    """Outages of a month that add up to exactly the stated share: at 99.9 % they are four, too few for chance."""
    down_s = (1.0 - availability) * 30 * DAY_S
    count = round(down_s / 600.0)
    lengths = [rng.expovariate(1.0) for _ in range(count)]
    for n, length in enumerate(lengths):
        # One in each part of the month, so that outages of one provider never overlap.
        part, lasts = 30 * DAY_S / count, length * down_s / sum(lengths)
        start = n * part + rng.random() * (part - lasts)
        yield Spell(who=who, start=start, end=start + lasts, kind="error" if n % 2 else "hang")


def _both_down(spells: list[Spell]) -> float:
    """Seconds in which a and b are out together."""
    edges = sorted(
        [(s.start, 1, s.who) for s in spells] + [(s.end, -1, s.who) for s in spells],
        key=lambda edge: edge[0],
    )
    down = {"a": 0, "b": 0}
    since, total = 0.0, 0.0
    for at, step, who in edges:
        if all(down.values()):
            total += at - since
        down[who] += step
        since = at
    return total


def detection_and_return(seeds: int) -> Iterator[Row]:
    """At 1 request/s, after 15 minutes of health: when requests stop beginning with the target that is out, and when it
    is used again. An outage of 300 s takes the open time to its ceiling."""
    kinds: tuple[Kind, ...] = (*KINDS, "slow")
    for kind in kinds:
        left, back = [], []
        for seed in range(seeds):
            spell = Spell(who="a", start=900.0, end=1200.0, kind=kind, factor=3.0)
            _, episodes = run(planned_flow({}), [spell], 1500, 1500.0, 100 * seed + 41)
            (episode,) = episodes.all
            left.append(inf if episode.left_at is None else episode.left_at - spell.start)
            back.append(inf if episode.back_at is None else episode.back_at - spell.end)
        name = "3 times slower" if kind == "slow" else kind
        got = f"{median(left):.1f} s, at most {max(left):.1f} s"
        yield row("claim", f"outage ({name}) noticed, 1 request/s", "beat 30 s", got, max(left) < 30.0)
        got = f"{median(back):.1f} s, at most {max(back):.1f} s"
        yield row("claim", f"back on the primary after 300 s ({name})", "within 30 s", got, max(back) <= 30.0)


# The retry timeline ---------------------------------------------------------------------------------------------------


class Failing:
    """Provider a answers 500 at once, b well."""

    def play(self, target: Target, call: Call, streams: bool, now: float, is_own_fate: bool) -> Play:
        if target.provider == "a":
            return Play(0.0, inf, 0.0, Outcome(cls=Class.SERVER_ERROR, status=500))
        return Play(0.1, 0.1, 0.2, Outcome(cls=Class.OK, status=200))


def timeline() -> Iterator[Row]:
    """Three retries on the primary, at once, after 1 s and after 2 s more, then failover: when configured so."""
    rule = {"error_type": "server_error", "attempts": [0, 1000, 2000], "switch_provider_after": 4}
    config = {"strategy": "custom", "rules": [rule]}
    dialled: list[tuple[float, str]] = []

    def tell(request: Request, at: float) -> None:
        dialled.extend((a.started - EPOCH_S - request.call.at, a.candidate.target.provider) for a in request.attempts)

    of = planned_flow({"X-Retry-Config": json.dumps(config)})
    model(Failing(), Counted(tell), 1).run([Call(0.0, of, 10, 10, 0.5, 0.5)])
    got = ", ".join(f"{name} {at:g} s" for at, name in dialled)
    holds = [(round(at, 3), name) for at, name in dialled] == [(0, "a"), (0, "a"), (1, "a"), (3, "a"), (3, "b")]
    yield row("claim", "retry timeline, configured", "a 0 s, a 0 s, a 1 s, a 3 s, then b", got, holds)


def nines(days: float) -> Iterator[Row]:
    """C13: two providers at 99 %, outages of ten minutes on average, independent."""
    rng = random.Random(13)
    spells = [*chain("a", 0.99, 600.0, days * DAY_S, rng), *chain("b", 0.99, 600.0, days * DAY_S, rng)]
    requests = int(days * DAY_S / 10)
    for name, of in (("off", flow("a", retries=0)), ("on", flow("a", "b"))):
        tally, _ = run(of, spells, requests, days * DAY_S, 13)
        bound = 1.0 - _both_down(spells) / (days * DAY_S)
        got = f"{100 * tally.sidecar.availability:.3f} %, {100 * tally.extra_calls:.2f} % extra calls"
        if name == "off":
            yield row("C13", "one provider at 99 %", "99 %", got, 0.97 <= tally.sidecar.availability <= 0.998)
        else:
            said = f"below 99.99 %; both up {100 * bound:.3f} % of the time here"
            yield row("C13", "chain of two", said, got, tally.sidecar.availability >= bound - 0.0005)
