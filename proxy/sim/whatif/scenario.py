"""What the user says about a run of `outrider simulate`: the file, checked like the configuration, with every error and
its place at once.

Flags of the command line say the same words and are laid over the file (`with_flags`), so both are checked by the same
rules.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Final

import orjson
from pydantic import Field

from proxy.config.load import load_section
from proxy.config.names import Problem
from proxy.config.section import Section, key
from proxy.config.validate import CALLED, FLAG, LINE, PICK, Rule, number, text, whole, word

REQUESTS_MAX: Final = 50_000_000
YEARS_S: Final = 5 * 366 * 86_400.0
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_DURATION: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")


def seconds(v: object) -> float | None:
    """Seconds from a number or from ``90s``, ``10m``, ``2h``, ``7d``; None: neither."""
    if isinstance(v, str) and (found := _DURATION.fullmatch(v)):
        v = float(found[1]) * _UNITS[found[2]]
    if not isinstance(v, int | float) or isinstance(v, bool) or not 0.0 <= v <= YEARS_S:
        return None
    return float(v)


DURATION = Rule(
    "must be seconds, or a time such as 90s, 10m, 2h or 7d, at most five years",
    seconds,
    {"anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": _DURATION.pattern}]},
)
SHARE = number(0, 1)
API_PATH = text("a path that begins with /", r"/[^\x00-\x20\x7f?#]{0,1023}")
FILE = text("the path of a file", r"[^\x00-\x1f\x7f]{1,4096}")


class Traffic(Section):
    model: Annotated[str, CALLED] = key(
        "", "The model that callers ask for; empty: the first that the file spells out."
    )
    path: Annotated[str, API_PATH] = key("/v1/chat/completions", "What they call.")
    stream: Annotated[bool, FLAG] = key(True, "Whether they ask for a stream.")
    headers: dict[str, Annotated[str, LINE]] = key({}, "Control headers, as the proxy takes them.")
    rate: Annotated[float | None, number(0.000001, 100_000, " requests per second")] = key(
        None, "Requests per second; without `requests` and `trace` 1."
    )
    requests: Annotated[int | None, whole(1, REQUESTS_MAX)] = key(
        None, "So many requests, spread over the duration by chance."
    )
    trace: Annotated[str, FILE] = key("", "A recorded trace; repeated where it is shorter than the duration.")
    keep: Annotated[float, number(0.000001, 1)] = key(1.0, "Share of the trace's requests that are played.")
    burst: Annotated[float, number(0, 20)] = key(
        1.0, "Variation of the gaps between requests: 1 is Poisson, more comes in bursts, 0 is a metronome."
    )
    prompt_tokens: Annotated[int, whole(1, 10_000_000)] = key(500, "Of a request whose trace does not say.")
    output_tokens: Annotated[int, whole(1, 1_000_000)] = key(150, "Of a request whose trace does not say.")


class TargetProfile(Section):
    first_content_ms: Annotated[float, number(1, 600_000, " milliseconds")] = key(800.0, "Median.")
    first_content_p95_ms: Annotated[float | None, number(1, 600_000, " milliseconds")] = key(
        None, "None: 2.28 times the median."
    )
    tokens_per_s: Annotated[float, number(0.1, 100_000)] = key(60.0, "Output after the first content.")
    error_share: Annotated[float, SHARE] = key(0.0, "Calls that fail with 500 without any outage.")
    availability: Annotated[float | None, number(0.01, 0.9999999)] = key(
        None, "Share of the time up, with outages by chance; none: only those that are stated."
    )
    outage_mean: Annotated[float, DURATION] = key(600.0, "Mean length of the outages by chance.")


class Outage(Section):
    target: Annotated[str, PICK] = Field(description="A provider, or provider/model.")
    start: Annotated[float, DURATION] = Field(alias="from", description="When it begins.")
    length: Annotated[float, DURATION] = Field(alias="for", description="How long it lasts.")
    what: Annotated[str, word("error", "refuse", "hang", "slow", "cut")] = key(
        "error",
        "error: an error answer; refuse: no connection; hang: silence; slow: everything later; cut: streams break.",
    )
    status: Annotated[int, whole(400, 599)] = key(503, "Of `error`.")
    retry_after: Annotated[float | None, DURATION] = key(None, "Told with `error`.")
    factor: Annotated[float, number(1, 1000)] = key(3.0, "Of `slow`: how many times later.")
    share: Annotated[float, SHARE] = key(1.0, "Of the calls.")
    every: Annotated[float | None, DURATION] = key(None, "Again and again, one so often; none: once.")


class Incidents(Section):
    file: Annotated[str, FILE] = Field(
        description="CSV with provider, start_timestamp, close_timestamp, incident_impact_level, as status pages tell."
    )
    providers: dict[str, Annotated[str, PICK]] = key(
        {}, "Provider in the list: provider (or target) in the configuration; those of equal name need no entry."
    )
    start: Annotated[str, LINE] = key("", "Begin at this date, such as 2023-09-01; empty: with the first incident.")


class Scenario(Section):
    seed: Annotated[int, whole(0, 2**63 - 1)] = key(1, "The dice; the same seed gives the same report.")
    duration: Annotated[float | None, DURATION] = key(None, "None: an hour, or as long as trace or incidents last.")
    traffic: Annotated[list[Traffic], Field(min_length=1, max_length=64)] = key([], "Kinds of requests.")
    targets: dict[Annotated[str, LINE], TargetProfile] = key(
        {}, "How targets answer, by provider, provider/model, or * for all others."
    )
    outages: Annotated[list[Outage], Field(max_length=10_000)] = key([], "What goes wrong, and when.")
    incidents: Incidents | None = key(None, "Outages from a list of incidents.")


class BadScenario(ValueError):
    """Something that the user said cannot be used; one line per problem."""

    def __init__(self, problems: tuple[Problem, ...] | str) -> None:
        super().__init__(problems if isinstance(problems, str) else "\n".join(map(str, problems)))


def read(path: str, flags: Mapping[str, Any]) -> Scenario:
    """The file at `path` (empty: none) with the flags laid over it. Raises `BadScenario`."""
    if not path:
        return with_flags(Scenario(), flags)
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise BadScenario(f"{path}: cannot be read: {error.strerror}") from None
    scenario, problems = load_section(content, path, Scenario)
    if scenario is None:
        raise BadScenario(problems)
    return with_flags(scenario, flags)


def with_flags(scenario: Scenario, flags: Mapping[str, Any]) -> Scenario:
    """`flags` in the words of the file: `traffic` speaks of every kind of request, `outages` come in addition."""
    stated = scenario.model_dump(by_alias=True, exclude_unset=True)
    for name in ("seed", "duration", "incidents"):
        if flags.get(name) is not None:
            stated[name] = flags[name]
    stated["outages"] = [*stated.get("outages", ()), *flags.get("outages", ())]
    spoken = {name: value for name, value in flags.get("traffic", {}).items() if value is not None}
    stated["traffic"] = [{**kind, **spoken} for kind in stated.get("traffic") or [{}]]
    made, problems = load_section(orjson.dumps(stated), "the command line", Scenario)
    if made is None:
        raise BadScenario(tuple(replace(problem, line=0) for problem in problems))
    return made


def outage(said: str) -> dict[str, Any]:
    """``openai:hang,from=10m,for=2h,share=0.3`` as an entry of `outages`. Raises `BadScenario`.

    The first word after the colon is what happens: ``error`` or ``error=500``, ``slow`` or ``slow=10``, ``refuse``,
    ``hang``, ``cut``.
    """
    who, colon, rest = said.partition(":")
    first, *others = [part.strip() for part in rest.split(",")]
    what, _, amount = first.partition("=")
    if not colon or not what:
        raise BadScenario(f"--outage {said}: must look like openai:error=503,from=10m,for=2h")
    made: dict[str, Any] = {"target": who.strip(), "what": what}
    if amount:
        made["factor" if what == "slow" else "status"] = _typed(amount)
    for part in others:
        name, equals, value = part.partition("=")
        if not equals:
            raise BadScenario(f"--outage {said}: {part!r} must look like name=value")
        made[name.strip()] = _typed(value.strip())
    return made


def _typed(said: str) -> Any:
    """A number where it is one."""
    for kind in (int, float):
        try:
            return kind(said)
        except ValueError:
            continue
    return said
