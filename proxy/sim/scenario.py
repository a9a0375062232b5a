"""What a seed means: a configuration, forty requests, and a flat list of faults.

A scenario is a value. Everything in it is drawn here, before anything runs, each concern with dice of its own, so that
leaving out a fault moves nothing else; that is what lets a failing list of faults shrink (`shrink`). Each seed switches
on a random subset of the kinds of faults (swarm testing): a world in which everything fails at once rarely gets deep.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, Final, Literal

from proxy.sim.network import Kind, Spell

PROVIDERS: Final = ("alpha", "beta", "gamma")
"""The chain of every scenario. The last one speaks Anthropic's language, so that failover translates."""
REQUESTS: Final = 40
SPAN_S: Final = 60.0
"""Over so long the requests begin; late ones meet what the early ones left behind."""
TIMEOUT_S: Final = 20.0
"""Deadline of a request that states none."""
WRITE_TIMEOUT_S: Final = 5.0

Endpoint = Literal["chat", "responses", "messages"]
Farewell = Literal["close", "reset", "half_close"]
Keys = tuple[tuple[str, Any], ...]
"""Fields of a `proxy.demo.script.Fault`, hashable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request of one caller."""

    n: int
    at: float
    """Seconds since the start."""
    caller: int
    endpoint: Endpoint
    stream: bool
    headers: tuple[tuple[str, str], ...] = ()
    """Control headers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """The `k`-th attempt (from 0) made for request `n`, at whichever provider, goes like this."""

    n: int
    k: int
    keys: Keys


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """Attempts at `provider` between `begin` and `end` that have no act of their own go like these, in turn."""

    provider: str
    begin: float
    end: float
    turns: tuple[Keys, ...]
    flap_s: float = 0.0
    """On for so long, off for so long; 0: on throughout."""

    def is_on(self, age_s: float) -> bool:
        """Whether it acts `age_s` seconds after the start."""
        if not self.begin <= age_s < self.end:
            return False
        return not self.flap_s or int((age_s - self.begin) / self.flap_s) % 2 == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave:
    """The caller of request `n` leaves after so many seconds, if it is still waiting then."""

    n: int
    after_s: float
    how: Farewell


@dataclass(frozen=True, slots=True, kw_only=True)
class Slow:
    """The caller of request `n` pauses for so long after each read."""

    n: int
    pause_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """The proxy is told to leave so many seconds after the start, in the middle of everything."""

    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reload:
    """Another configuration comes into force so many seconds after the start: other limits, breakers and policies."""

    at: float
    config: str


Trouble = Act | Outage | Leave | Slow | Stop | Reload | Spell


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A world before it runs."""

    seed: int
    config: str
    """YAML."""
    asks: tuple[Ask, ...]
    faults: tuple[Trouble, ...]
    speed: Mapping[str, float]
    """Median seconds to the first word, by provider."""


def dice(seed: int, concern: str) -> Random:
    """The dice of one concern. Seeded with text, which Python hashes the same everywhere and always."""
    return Random(f"{seed}/{concern}")


def draw(seed: int, requests: int = REQUESTS) -> Scenario:
    """The scenario of a seed."""
    asks = tuple(_asks(dice(seed, "asks"), requests))
    speeds = dice(seed, "speed")
    return Scenario(
        seed=seed,
        config=_config(dice(seed, "config")),
        asks=asks,
        faults=tuple(_faults(seed, asks)),
        speed={name: round(speeds.uniform(0.05, 0.6), 3) for name in PROVIDERS},
    )


# Requests -------------------------------------------------------------------------------------------------------------


def _asks(rng: Random, count: int) -> list[Ask]:
    # Half of the seeds crowd their requests into bursts, where they meet each other's probes and permits.
    bursts = [rng.uniform(0.0, SPAN_S) for _ in range(4)] if rng.random() < 0.5 else []
    asks = []
    for n in range(count):
        at = rng.choice(bursts) + rng.uniform(0.0, 0.5) if bursts else rng.uniform(0.0, SPAN_S)
        endpoint: Endpoint = rng.choices(("chat", "responses", "messages"), (3, 1, 1))[0]
        headers = _headers(rng) if rng.random() < 0.4 else ()
        asks.append(
            Ask(
                n=n,
                at=round(at, 3),
                caller=rng.randrange(8),
                endpoint=endpoint,
                stream=rng.random() < 0.65,
                headers=headers,
            )
        )
    return asks


def _headers(rng: Random) -> tuple[tuple[str, str], ...]:
    """Control headers of one request: one to three families."""
    found: dict[str, str] = {}
    for make in rng.sample(_HEADERS, rng.randint(1, 3)):
        name, value = make(rng)
        found[name] = value
    return tuple(found.items())


def _breaker(rng: Random) -> tuple[str, str]:
    rule = {
        "error_threshold": rng.randint(1, 5),
        "error_threshold_window": rng.choice((5, 30, 60)),
        "timeout": rng.choice((1, 5, 30)),
        "half_open_requests": rng.randint(1, 3),
        "success_threshold": rng.randint(1, 2),
    }
    if rng.random() < 0.3:
        rule |= {"monitor_latency": True, "latency_threshold_ms": rng.choice((500, 2000))}
    return "X-Circuit-Breaker", json.dumps(rule)


def _chain(rng: Random) -> tuple[str, str]:
    names = rng.sample(PROVIDERS, rng.randint(1, 3))
    return "X-Failover-Providers", ",".join(names)


def _hedge(rng: Random) -> tuple[str, str]:
    value: dict[str, Any] = {
        "strategy": rng.choice(("latency", "first-success")),
        "delay_ms": rng.choice((0, 50, 400, "auto")),
    }
    if rng.random() < 0.3:
        value["cancel_slower"] = False
    return "X-Hedge-Config", json.dumps(value)


def _retry(rng: Random) -> tuple[str, str]:
    value: dict[str, Any] = {
        "initial_delay_ms": rng.choice((0, 50, 400)),
        "max_retries": rng.randint(0, 4),
        "jitter": rng.choice((True, False)),
    }
    return "X-Retry-Config", json.dumps(value)


_HEADERS: Final[tuple[Callable[[Random], tuple[str, str]], ...]] = (
    _breaker,
    _chain,
    _hedge,
    _retry,
    lambda rng: ("X-Request-Timeout-Ms", str(rng.choice((300, 1500, 4000, 9000)))),
    lambda rng: ("X-First-Token-Timeout-Ms", str(rng.choice((200, 1000, 3000)))),
    lambda rng: ("X-Stream-Idle-Timeout-Ms", str(rng.choice((300, 1500)))),
    lambda rng: ("X-Stream-Recovery", rng.choice(("continue", "error", "buffer"))),
    lambda rng: ("X-Max-Retries", str(rng.randint(0, 3))),
    lambda rng: ("X-Request-Hedging", rng.choice(("true", "false"))),
    lambda rng: ("X-Failover-Enabled", "false"),
    lambda rng: ("X-Explain", "true"),
)

# Faults ---------------------------------------------------------------------------------------------------------------


def _keys(**keys: Any) -> Keys:
    return tuple(keys.items())


def _stated(keys: Keys) -> Keys:
    """Without what the dice left out."""
    return tuple((key, value) for key, value in keys if value is not None)


_ACTS: Final[dict[str, Callable[[Random], Keys]]] = {
    "server_error": lambda r: _keys(status=r.choice((500, 502, 503, 504)), body_after_s=r.choice((None, 0.3))),
    "rate_limit": lambda r: _keys(error="rate_limit", retry_hint_s=r.choice((1, 2, 8, 40))),
    "rate_limit_untold": lambda r: _keys(error="rate_limit"),
    "overloaded": lambda r: _keys(error="overloaded", retry_hint_s=r.choice((None, 1, 5))),
    "quota": lambda r: _keys(error=r.choice(("quota", "auth", "permission", "model_not_found"))),
    "callers_fault": lambda r: _keys(error=r.choice(("invalid_request", "context_length", "content_policy"))),
    "reset": lambda r: _keys(reset=True, silence_s=r.choice((None, 0.2))),
    "close": lambda r: _keys(close=True),
    "hang": lambda r: _keys(silence_s=float("inf")),
    "silence": lambda r: _keys(silence_s=round(r.uniform(0.5, 6.0), 3)),
    "slow_content": lambda r: _keys(first_word_s=round(r.uniform(0.5, 8.0), 3)),
    "pings": lambda r: _keys(
        first_word_s=round(r.uniform(1.0, 7.0), 3), preamble=("ping", "comment"), preamble_every_s=0.4
    ),
    "stall": lambda r: _keys(stall_after_words=r.randint(1, 6), stall_s=r.choice((1.0, 4.0, float("inf")))),
    "stall_pings": lambda r: _keys(stall_after_words=r.randint(1, 6), stall_ping_s=0.7),
    "cut": lambda r: _keys(cut_after_words=r.randint(0, 6), cut=r.choice(("close", "reset", "mid_char", "end"))),
    "cut_bytes": lambda r: _keys(cut_after_bytes=r.randint(0, 2500), cut=r.choice(("close", "reset"))),
    "in_band": lambda r: _keys(
        error_after_words=r.randint(0, 6), error=r.choice(("overloaded", "internal", "rate_limit"))
    ),
    "html": lambda r: _keys(html_bytes=r.randint(10, 3000)),
    "empty": lambda r: _keys(empty=r.choice(("no_choices", "null_content", "done", "zero_bytes", "whitespace"))),
    "malformed": lambda r: _keys(malformed_at_word=r.randint(1, 6)),
    "no_usage": lambda r: _keys(no_usage=True),
    "no_done": lambda r: _keys(no_done=True),
    "no_last_chunk": lambda r: _keys(no_last_chunk=True),
    "two_lengths": lambda r: _keys(framing="length", two_lengths=True),
    "both_framings": lambda r: _keys(framing="both"),
    "length_off": lambda r: _keys(framing="length", length_off=r.choice((-3, 20))),
    "until_close": lambda r: _keys(framing="close"),
    "connection_close": lambda r: _keys(connection_close=True),
    "idle_close": lambda r: _keys(close_idle_s=r.choice((0.0, 0.05, 2.0))),
    "split": lambda r: _keys(split_bytes=r.choice((1, 5, 40)), split_pause_s=0.001),
    "hints": lambda r: _keys(early_hints=r.randint(1, 3), spoof=True),
    "gzip": lambda r: _keys(encoding="gzip"),
    "damage": lambda r: _keys(encoding="gzip", damage_after_words=r.randint(0, 4)),
    "not_gzip": lambda r: _keys(encoding=r.choice(("br", "lie"))),
    "hold_open": lambda r: _keys(hold_open_s=r.choice((1.0, 30.0))),
    "after_end": lambda r: _keys(after_end="HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nextra"),
    "big": lambda r: _keys(big_event_bytes=r.choice((50_000, 700_000))),
    "crlf": lambda r: _keys(line_end="crlf"),
    "half_close": lambda r: _keys(early_answer=True, status=r.choice((200, 413, 503))),
}
"""What may happen to one attempt, in the fake provider's own vocabulary (`proxy.demo.script`)."""

_OUTAGES: Final[dict[str, Callable[[Random], Keys]]] = {
    "server_error": _ACTS["server_error"],
    "overloaded": _ACTS["overloaded"],
    "hang": _ACTS["hang"],
    "rate_limit": _ACTS["rate_limit"],
    "brown_out": lambda r: _keys(first_word_s=round(r.uniform(1.5, 5.0), 3)),
    "reset": _ACTS["reset"],
    "cut": _ACTS["cut"],
}
_SPELLS: Final[dict[Kind, tuple[float, float]]] = {
    "slow": (0.05, 0.8),
    "loss": (0.05, 0.5),
    "partition": (0.0, 0.0),
    "refuse": (0.0, 0.0),
    "blackhole": (0.0, 0.0),
    "dns_fail": (0.0, 0.0),
    "dns_hang": (0.0, 0.0),
    "reset": (0.0, 0.0),
    "slice": (0.0, 0.0),
}
"""Kinds of weather with the range of their amount."""


def _faults(seed: int, asks: tuple[Ask, ...]) -> list[Trouble]:
    """At least one fault for every request, and what befalls all of them."""
    rng = dice(seed, "swarm")
    kinds = [name for name in _ACTS if rng.random() < 0.35] or ["server_error"]
    found: list[Trouble] = []
    rng = dice(seed, "acts")
    for ask in asks:
        count = rng.choices((1, 2, 3), (6, 3, 1))[0]
        found += [Act(n=ask.n, k=k, keys=_stated(_ACTS[rng.choice(kinds)](rng))) for k in range(count)]
    rng = dice(seed, "outages")
    for _ in range(rng.choice((0, 1, 1, 2, 4))):
        begin, (name, make) = rng.uniform(0.0, SPAN_S), rng.choice(list(_OUTAGES.items()))
        found.append(
            Outage(
                provider=rng.choice(PROVIDERS),
                begin=round(begin, 3),
                end=round(begin + rng.uniform(2.0, 25.0), 3),
                turns=(_stated(make(rng)), _stated(make(rng))),
                flap_s=rng.choice((0.0, 0.0, 1.5)) if name != "hang" else 0.0,
            )
        )
    rng = dice(seed, "weather")
    for _ in range(rng.choice((0, 0, 1, 2, 3))):
        kind = rng.choice(list(_SPELLS))
        begin = rng.uniform(0.0, SPAN_S)
        host = rng.choice((*PROVIDERS, "callers")) if kind not in ("dns_fail", "dns_hang") else rng.choice(PROVIDERS)
        length = rng.uniform(0.2, 3.0) if kind in ("partition", "blackhole", "dns_hang") else rng.uniform(0.5, 15.0)
        amount = round(rng.uniform(*_SPELLS[kind]), 3)
        found.append(Spell(kind=kind, host=host, begin=round(begin, 3), end=round(begin + length, 3), amount=amount))
    rng = dice(seed, "callers")
    leaving, slow = rng.choice((0.0, 0.1, 0.3)), rng.choice((0.0, 0.1))
    for ask in asks:
        if rng.random() < leaving:
            how: Farewell = rng.choice(("close", "reset", "half_close"))
            found.append(Leave(n=ask.n, after_s=round(rng.expovariate(1.0), 3), how=how))
        if rng.random() < slow:
            found.append(Slow(n=ask.n, pause_s=rng.choice((0.01, 0.3, 2.0))))
    if rng.random() < 0.1:
        middle = sorted(ask.at for ask in asks)[len(asks) // 2]  # a world without requests would prove nothing
        found.append(Stop(at=max(middle, round(rng.uniform(0.5, 1.0) * SPAN_S, 3))))
    if rng.random() < 0.15:
        found.append(Reload(at=round(rng.uniform(0.1, 0.9) * SPAN_S, 3), config=_config(dice(seed, "reload"))))
    return found


# The configuration ----------------------------------------------------------------------------------------------------

_BREAKERS: Final[tuple[dict[str, Any], ...]] = (
    {},
    {"error_threshold": 3, "error_threshold_window": 30, "timeout": 5, "half_open_requests": 1, "success_threshold": 2},
    {"error_threshold": 2, "error_threshold_window": 10, "timeout": 2, "half_open_requests": 3, "success_threshold": 1},
    {"error_threshold": 1000, "error_threshold_window": 60},
    {"error_threshold": 4, "timeout": 3, "monitor_latency": True, "latency_threshold_ms": 1500},
)


def _config(rng: Random) -> str:
    """YAML is a superset of JSON, which is easier to write. No key carries a meaning that the seed does not choose."""
    policy: dict[str, Any] = {
        "timeout_s": TIMEOUT_S,
        "connect_timeout_s": 1,
        "first_byte_timeout_s": rng.choice((1, 3)),
        "first_content_timeout_s": rng.choice((2, 6)),
        "stream_idle_timeout_s": rng.choice((1, 3)),
        "stream_recovery": rng.choice(("continue", "continue", "error", "buffer")),
        "failover": {"enabled": True, "max_attempts": rng.choice((2, 4, 8))},
        "retry": {
            "max_retries": rng.choice((0, 1, 2, 4)),
            "initial_delay_ms": rng.choice((0, 100, 250)),
            "jitter": rng.choice(("full", "equal", "decorrelated", "none")),
            "max_told_wait_ms": rng.choice((0, 3000)),
        },
        "circuit_breaker": rng.choice(_BREAKERS),
        "hedging": {
            "enabled": rng.random() < 0.3,
            "delay_ms": rng.choice((100, 500, "auto")),
            "budget_percent": rng.choice((5, 50)),
            "rescue_after_s": rng.choice((0, 1, 3)),
        },
        "stream": {
            "write_timeout_s": WRITE_TIMEOUT_S,
            "buffer_kb": rng.choice((64, 256)),
            "keepalive_s": rng.choice((0, 0, 1)),
        },
    }
    limit = rng.choice((1, 3, 256, 256))
    providers = {
        name: {
            "dialect": "anthropic" if name == "gamma" else "openai",
            "base_url": f"http://{name}.sim" + ("" if name == "gamma" else "/v1"),
            "api_key": f"sk-{name}",
            "max_concurrency": limit,
            "models": {"*": "claude-sonnet-5"} if name == "gamma" else {"*": "passthrough"},
        }
        for name in PROVIDERS
    }
    chain: list[dict[str, Any]] = [{"provider": name} for name in PROVIDERS]
    route = {"name": "all", "targets": chain, "balance": rng.choice(("priority", "priority", "weighted", "adaptive"))}
    drain = {"drain_timeout_s": rng.choice((0.1, 2))}
    return json.dumps({"version": 1, "providers": providers, "defaults": policy, "routes": [route], "shutdown": drain})
