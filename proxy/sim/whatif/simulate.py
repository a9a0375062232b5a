"""One run of `outrider simulate`: the user's configuration, their traffic, what goes wrong, and what came of it."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from proxy.config.compiled import Config, Secret
from proxy.config.load import load_file
from proxy.config.names import Problem, did_you_mean
from proxy.config.planner import HeaderError, NoRoute, Planned, Planner
from proxy.dispatch.intake import Refusal, Sorter, locate
from proxy.dispatch.translate import streams_upstream
from proxy.engine.plan import Endpoint
from proxy.sim.whatif import incidents, outages, traffic
from proxy.sim.whatif.episodes import Episodes
from proxy.sim.whatif.model import Call, Flow, Model, World
from proxy.sim.whatif.outages import Down, Profile, Scripted, Spell
from proxy.sim.whatif.scenario import BadScenario, Scenario, TargetProfile, Traffic
from proxy.sim.whatif.tally import Tally

HOUR_S: Final = 3600.0
P95_RATIO: Final = 1.82 / 0.8
"""p95 over median of the first-content time where only the median is stated (`resilience.md` C6)."""
_BODY: Final[Mapping[str, Any]] = {"messages": [], "input": ""}
"""What the question "is the upstream asked for a stream" needs of a body: an ordinary conversation."""
_TELL_EVERY: Final = 2000
"""Requests between two reports of progress."""

Progress = Callable[[float], None]
"""Told the share of the run that is done, 0 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a run was and what came of it."""

    title: str
    duration_s: float
    seed: int
    chains: tuple[tuple[str, tuple[str, ...]], ...]
    """(what was asked, the targets in order), one per kind of request."""
    tally: Tally
    notes: list[str]
    """What a reader has to know besides, a sentence each."""
    cpu_s: float


# Preparing ------------------------------------------------------------------------------------------------------------


def configured(path: str) -> tuple[Config | None, tuple[Problem, ...]]:
    """The configuration with every provider in use, whether or not its key is in the environment."""
    loaded = load_file(path, os.environ)
    if loaded.config is None:
        return None, loaded.errors
    key = Secret("(simulated)", lambda: "simulated")
    providers = {
        name: replace(provider, disabled="", credentials="sidecar", api_key=provider.api_key and key)
        for name, provider in loaded.config.providers.items()
    }
    return replace(loaded.config, providers=providers), ()


def flow_of(config: Config, planner: Planner, kind: Traffic) -> Flow:
    """The plan of a kind of requests, by the code that plans them in the proxy. Raises `BadScenario`."""
    model = kind.model or first_model(config)
    try:
        where = locate("POST", kind.path, config.providers)
        listed = tuple((name.encode("latin-1"), value.encode("latin-1")) for name, value in kind.headers.items())
        planned = planner.plan(
            endpoint=where.endpoint,
            path=where.path,
            model="" if where.endpoint is Endpoint.RAW else model,
            control=Sorter("outrider-simulate").sort(listed).control,
            stream=kind.stream,
            provider=where.provider,
        )
    except (Refusal, HeaderError, NoRoute) as refused:
        raise BadScenario(f"{model or kind.path}: {refused.message}") from None
    except UnicodeEncodeError as error:
        raise BadScenario(f"traffic.headers: {error.object!r} cannot stand in a header") from None
    return made_flow(planned, kind.stream)


def made_flow(planned: Planned, stream: bool) -> Flow:
    """A flow of requests with this plan."""
    upstream = not stream and streams_upstream(planned.plan, planned.plan.endpoint, _BODY)
    return Flow(planned, stream=stream, streams_upstream=upstream)


def first_model(config: Config) -> str:
    """A model that the configuration spells out, routes first; ``gpt-4o`` when it spells out none."""
    routed = (pattern for route in config.routes for pattern in route.models)
    named = (model.asked for provider in config.providers.values() for model in provider.models)
    return next((name for name in (*routed, *named) if not any(c in name for c in "*?[")), "gpt-4o")


def profile_of(stated: TargetProfile) -> Profile:
    """A target's profile from the file."""
    p50 = stated.first_content_ms / 1000
    p95 = p50 * P95_RATIO if stated.first_content_p95_ms is None else stated.first_content_p95_ms / 1000
    return Profile(
        first_content_p50_s=p50,
        first_content_p95_s=max(p95, p50),
        tokens_per_s=stated.tokens_per_s,
        error_share=stated.error_share,
    )


def _spells(scenario: Scenario, listed: list[Spell], duration_s: float, rng: random.Random) -> list[Spell]:
    """Everything that goes wrong."""
    found = list(listed)
    for stated in scenario.outages:
        spell = Spell(
            who=stated.target,
            start=stated.start,
            end=stated.start + stated.length,
            kind=stated.what,  # type: ignore[arg-type]
            share=stated.share,
            status=stated.status,
            retry_after_s=stated.retry_after,
            factor=stated.factor,
        )
        found += outages.flapping(spell, stated.every, duration_s) if stated.every else [spell]
    for name, target in scenario.targets.items():
        if target.availability is not None:
            found += outages.chain(name, target.availability, target.outage_mean, duration_s, rng)
    return found


def _check_names(scenario: Scenario, config: Config) -> None:
    """A name that means no target would silently do nothing."""
    names = [name for name in scenario.targets if name != "*"]
    names += [stated.target for stated in scenario.outages]
    names += [] if scenario.incidents is None else scenario.incidents.providers.values()
    for name in names:
        provider = name.partition("/")[0]
        if provider not in config.providers:
            hint = did_you_mean(provider, config.providers)
            raise BadScenario(f'there is no provider "{provider}" in the configuration{hint}')
    if (scenario.targets.get("*") or TargetProfile()).availability is not None:
        raise BadScenario("targets.*.availability: outages by chance need a provider's name, each has its own")


def _incident_spells(scenario: Scenario, config: Config) -> tuple[list[Spell], float]:
    """(spells of the list, seconds from the beginning to its last end)."""
    wanted = scenario.incidents
    if wanted is None:
        return [], 0.0
    try:
        found = incidents.read(wanted.file)
        begin = datetime.fromisoformat(wanted.start).replace(tzinfo=UTC).timestamp() if wanted.start else None
    except incidents.BadList as error:
        raise BadScenario(str(error)) from None
    except ValueError:
        raise BadScenario(f"incidents.start: must be a date such as 2023-09-01, got {wanted.start!r}") from None
    names = {name: name for name in config.providers} | dict(wanted.providers)
    known = [incident for incident in found if incident.provider in names]
    if not known:
        theirs = ", ".join(sorted({incident.provider for incident in found}))
        raise BadScenario(f"{wanted.file}: none of its providers ({theirs}) is one of the configuration's; map them")
    begin = known[0].start if begin is None else begin
    length = max(incident.end for incident in known) - begin
    return list(incidents.spells(known, names, begin, scenario.duration or max(length, 0.0))), length


# Running --------------------------------------------------------------------------------------------------------------


def _arrivals(
    kind: Traffic, traces: Mapping[str, traffic.Trace], duration_s: float, rng: random.Random
) -> traffic.Arrivals:
    """When requests of a kind come."""
    if kind.trace:
        return traffic.repeated(traces[kind.trace], duration_s, kind.keep, rng)
    if kind.requests is not None:
        return traffic.exactly(kind.requests, duration_s, rng)
    return traffic.at_rate(kind.rate or 1.0, kind.burst, duration_s, rng)


def _length_s(scenario: Scenario, incidents_s: float, traces: Mapping[str, traffic.Trace]) -> float:
    """How long the run lasts."""
    if scenario.duration is not None:
        return scenario.duration
    if incidents_s > 0.0:
        return incidents_s
    return max((recorded.length_s for recorded in traces.values()), default=HOUR_S)


def simulate(config: Config, scenario: Scenario, progress: Progress = lambda share: None) -> Run:
    """Run a scenario. Raises `BadScenario`."""
    _check_names(scenario, config)
    kinds = scenario.traffic or [Traffic()]
    planner = Planner(config, b"outrider simulate")
    flows = [flow_of(config, planner, kind) for kind in kinds]
    dice = random.Random(scenario.seed)
    # One stream of dice for each purpose: another seed for the traffic must not move the outages.
    of_outages, of_world, of_engine = (random.Random(dice.getrandbits(64)) for _ in range(3))
    listed, incidents_s = _incident_spells(scenario, config)
    try:
        traces = {kind.trace: traffic.trace(kind.trace) for kind in kinds if kind.trace}
    except traffic.BadTrace as error:
        raise BadScenario(str(error)) from None
    duration_s = _length_s(scenario, incidents_s, traces)
    spells = _spells(scenario, listed, duration_s, of_outages)
    profiles = {name: profile_of(stated) for name, stated in scenario.targets.items()}
    streams: list[Iterator[Call]] = []
    for kind, flow in zip(kinds, flows, strict=True):
        rng = random.Random(dice.getrandbits(64))
        sizes = traffic.Sizes(prompt_tokens=kind.prompt_tokens, output_tokens=kind.output_tokens)
        streams.append(traffic.calls(_arrivals(kind, traces, duration_s, rng), flow, sizes, rng))
    world = Scripted(profiles, spells, of_world)
    chains = tuple((kind.model or first_model(config), chain_of(flow)) for kind, flow in zip(kinds, flows, strict=True))
    down = Down(spells, flows[0].planned.plan.candidates[0].target)
    return play(
        traffic.merged(streams),
        world,
        Tally(duration_s, world, Episodes(spells), down),
        of_engine,
        duration_s,
        progress,
        title="simulation",
        seed=scenario.seed,
        chains=chains,
    )


def chain_of(flow: Flow) -> tuple[str, ...]:
    """The names of a flow's targets in order."""
    return tuple(candidate.name for candidate in flow.planned.plan.candidates)


def play(
    calls: Iterable[Call],
    world: World,
    tally: Tally,
    dice: random.Random,
    duration_s: float,
    progress: Progress,
    *,
    title: str,
    seed: int,
    chains: tuple[tuple[str, tuple[str, ...]], ...],
    notes: Iterable[str] = (),
) -> Run:
    """Play calls through the engine and count."""
    model = Model(world, dice.random, tally, tally.episodes.moved)
    begun = time.process_time()

    def told() -> Iterator[Call]:
        for n, call in enumerate(calls):
            if n % _TELL_EVERY == 0:
                progress(min(1.0, call.at / duration_s) if duration_s else 1.0)
            yield tally.begins(call)

    model.run(told())
    progress(1.0)
    return Run(
        title=title,
        duration_s=duration_s,
        seed=seed,
        chains=chains,
        tally=tally,
        notes=list(notes),
        cpu_s=time.process_time() - begun,
    )
