"""``outrider drill``: inject faults into chosen routes of a running sidecar and find out whether callers noticed (F14).

The sidecar does the injecting (``POST /chaos``), for a bounded time that ends by itself even if this process is killed.
Here requests are sent meanwhile, one small stream per route and half second, and the sidecar's own counters are read
before and after. A drill looks at all requests of a route, those of the app included; with `watch` at those alone.

A route passes when at least one attempt met a fault and no request failed for its caller. A route that is not drilled
and had failures is told too, for routes share targets, and a target whose breaker opens is missing everywhere.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from http.client import HTTPConnection, HTTPException
from typing import Any, Final
from urllib.parse import urlsplit

PROBE_EVERY_S: Final = 0.5
PROBE_TIMEOUT_S: Final = 60.0
SETTLE_S: Final = 5.0
"""How long requests may go on after the faults are over until they are counted as they stand."""
ADMIN_TIMEOUT_S: Final = 10.0
NOTICED: Final = frozenset({"error", "timeout", "exhausted", "truncated"})
"""Values of ``outcome`` in ``outrider_requests_total`` that a caller has suffered from."""
PROMPT: Final = "Answer with the word ok."


class DrillError(Exception):
    """The drill could not be held; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is to be drilled."""

    admin: str
    """URL of the admin port."""
    routes: Sequence[str]
    """Empty: every route."""
    faults: Sequence[str]
    for_s: float
    watch: bool = False
    """Send nothing; look at the app's own requests."""
    model: str = ""
    """For the requests that are sent; empty: one that the route's targets know."""
    headers: Sequence[tuple[str, str]] = ()
    """Sent with them, for a data port that demands a token."""


@dataclass(slots=True, kw_only=True)
class Report:
    """What became of one route."""

    route: str
    drilled: bool = True
    passed: bool = False
    why: str = ""
    """Why it did not pass; empty: it did."""
    requests: int = 0
    failed: int = 0
    failed_over: int = 0
    faults: int = 0
    """Attempts that met one."""
    probes: int = 0
    probes_failed: int = 0
    slowest_ms: float = 0.0
    """Longest of the probes, start to end."""
    outcomes: dict[str, int] = field(default_factory=dict)


def hold(wanted: Wanted) -> dict[str, Any]:
    """Hold a drill; the report as a JSON-able tree. Raises `DrillError`."""
    admin = _Admin(wanted.admin)
    status, config = admin.json("GET", "/status"), admin.json("GET", "/config")
    known = [str(route.get("name") or f"route{n + 1}") for n, route in enumerate(config["routes"])] or ["default"]
    routes = list(wanted.routes) or known
    for route in routes:
        if route not in known:
            raise DrillError(f"there is no route {route!r}; there are {', '.join(known)}")
    reports = {route: Report(route=route) for route in routes}
    probe = None if wanted.watch else _Prober(wanted, admin.host, int(status["listen"]["data_port"]), config)
    before = admin.counters()
    began: list[str] = []
    try:
        for fault in wanted.faults:
            body = {"routes": routes, "fault": fault, "for_s": wanted.for_s}
            began.append(admin.json("POST", "/chaos", body)["id"])
        _meanwhile(wanted.for_s, reports, probe)
    finally:
        for id in began:
            admin.json("POST", "/chaos", {"stop": id})
    admin.settle()
    _judge(reports, before, admin.counters())
    return {
        "passed": all(report.passed for report in reports.values()),
        "faults": list(wanted.faults),
        "for_s": wanted.for_s,
        "watched_only": wanted.watch,
        "routes": [asdict(report) for report in reports.values()],
    }


def _meanwhile(for_s: float, reports: Mapping[str, Report], probe: _Prober | None) -> None:
    """The time of the drill: a request per route and half second, or nothing but waiting."""
    end = time.monotonic() + for_s
    while (began := time.monotonic()) < end:
        if probe is not None:
            for report in reports.values():
                probe.send(report)
        left = end - time.monotonic()
        time.sleep(max(0.0, left if probe is None else min(left, began + PROBE_EVERY_S - time.monotonic())))


def _judge(reports: dict[str, Report], before: _Counters, after: _Counters) -> None:
    for family, route, outcome, count in after.since(before):
        report = reports.get(route)
        if report is None:
            if family != "requests" or outcome not in NOTICED:
                continue
            report = reports[route] = Report(route=route, drilled=False)
        if family == "requests":
            report.requests += count
            report.outcomes[outcome] = report.outcomes.get(outcome, 0) + count
            report.failed += count if outcome in NOTICED else 0
        elif family == "failovers":
            report.failed_over += count
        else:
            report.faults += count
    for report in reports.values():
        if not report.why:
            report.why = _fault_of(report)
        report.passed = not report.why


def _fault_of(report: Report) -> str:
    if report.failed:
        return f"{report.failed} of {report.requests} requests failed for their callers"
    if report.probes_failed:
        return f"{report.probes_failed} of {report.probes} probes failed"
    if report.drilled and not report.faults:
        return "no attempt met a fault, so nothing is proven"
    return ""


class _Counters:
    """The sidecar's counters by (family, route, outcome)."""

    def __init__(self, text: str) -> None:
        self._values: dict[tuple[str, str, str], float] = {}
        for line in text.splitlines():
            name, brace, rest = line.partition("{")
            family = name.removeprefix("outrider_").removesuffix("_total")
            if not brace or family not in ("requests", "failovers", "faults_injected"):
                continue
            labels, _, value = rest.rpartition("}")
            told = dict(part.split("=", 1) for part in labels.replace('"', "").split(","))
            key = family, told["route"], told.get("outcome", "")
            self._values[key] = self._values.get(key, 0.0) + float(value)

    def since(self, before: _Counters) -> Iterator[tuple[str, str, str, int]]:
        """(family, route, outcome, increase) of what has grown."""
        for key, value in self._values.items():
            grown = int(value - before._values.get(key, 0.0))
            if grown > 0:
                yield (*key, grown)


class _Admin:
    """The admin port."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.host = parts.hostname or "127.0.0.1"
        self._port = parts.port or 8712

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> tuple[int, bytes]:
        connection = HTTPConnection(self.host, self._port, timeout=ADMIN_TIMEOUT_S)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, HTTPException) as error:
            raise DrillError(f"the admin port {self.host}:{self._port} does not answer: {error}") from None
        finally:
            connection.close()

    def json(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """The answer to one request; a refusal is a `DrillError`."""
        status, raw = self._ask(method, path, body)
        try:
            told = json.loads(raw)
        except ValueError:
            raise DrillError(f"{path} answered {status} without JSON") from None
        if status != 200:
            raise DrillError(f"{path} answered {status}: {told.get('detail') or told.get('title') or told}")
        return told

    def counters(self) -> _Counters:
        """What has been counted so far."""
        status, raw = self._ask("GET", "/metrics")
        if status != 200:
            raise DrillError(f"/metrics answered {status}: a drill needs telemetry.metrics: true")
        return _Counters(raw.decode())

    def settle(self) -> None:
        """Wait for the requests that were begun during the drill, but not for ever."""
        end = time.monotonic() + SETTLE_S
        while self.json("GET", "/status")["requests_active"] and time.monotonic() < end:
            time.sleep(0.05)


class _Prober:
    """Sends small requests as an app would."""

    def __init__(self, wanted: Wanted, host: str, port: int, config: Mapping[str, Any]) -> None:
        self._wanted = wanted
        self._host = host
        self._port = port
        self._config = config

    def send(self, report: Report) -> None:
        """One request to one route; what became of it goes into the report."""
        model = self._wanted.model or self._model(report.route)
        if not model:
            report.why = "no model is known by name for this route; say one with --model"
            return
        report.probes += 1
        began = time.monotonic()
        if not self._is_answered(report.route, model):
            report.probes_failed += 1
        report.slowest_ms = max(report.slowest_ms, round((time.monotonic() - began) * 1000, 1))

    def _is_answered(self, route: str, model: str) -> bool:
        body = {
            "model": model,
            "messages": [{"role": "user", "content": PROMPT}],
            "max_tokens": 16,
            "stream": True,
        }
        headers = {"Content-Type": "application/json", "X-Route": route, **dict(self._wanted.headers)}
        connection = HTTPConnection(self._host, self._port, timeout=PROBE_TIMEOUT_S)
        try:
            connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
            response = connection.getresponse()
            return response.status == 200 and b"data: [DONE]" in response.read()
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()

    def _model(self, route: str) -> str:
        """A model that the route takes: of its own match, else of its first target's map; empty: none by name."""
        found: Mapping[str, Any] = next((r for r in self._config["routes"] if r.get("name") == route), {})
        asked = list((found.get("match") or {}).get("models") or ())
        providers = self._config["providers"]
        for target in found.get("targets") or [{"provider": name} for name in providers]:
            asked += list(providers[target["provider"]].get("models") or ())
        return next((name for name in asked if "*" not in name), "")
