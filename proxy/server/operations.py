"""What an operator does to a running sidecar: circuits, targets, maintenance, canaries, drills, the log level.

Every act is a POST on the admin port for callers on the same host (see `admin`), leaves a log line and stands in
``/status`` while it holds. Parameters come in the query or as a JSON object in the body; an unknown one is an error,
for a misspelt time would be none.

Nothing of it is asked on the way of a request: what holds now is handed to `Cluster`, `Rollout` and `Drills`, which the
requests read. `tick`, once a second, lets announced windows begin and what is over end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, unquote

import orjson

from proxy.base.exchange import Inbound
from proxy.config.checks import nearest
from proxy.config.compiled import Config
from proxy.config.overrides import explicit_model
from proxy.dialects.errors import problem
from proxy.engine.cluster import Cluster
from proxy.engine.rollout import CanaryMoved, Rollout
from proxy.observe.entry import Entry
from proxy.observe.logs import LEVELS, Log
from proxy.observe.metrics import Metrics
from proxy.observe.redact import redact
from proxy.policy import chaos
from proxy.policy.absence import Absence, Window, Windows
from proxy.policy.canary import State
from proxy.policy.chaos import Drill, Drills
from proxy.policy.verdict import Forced
from proxy.server.admin import Route
from proxy.server.reply import Headers

if TYPE_CHECKING:
    from prometheus_client.core import Metric

FORCED_S: Final = 300.0
"""How long a forced circuit stays so when nobody says."""
DRILL_S: Final = 30.0
ACT_S_MAX: Final = 86_400.0
WINDOW_S_MAX: Final = 366 * 86_400.0
MOMENT_MAX: Final = datetime(9999, 12, 31, tzinfo=UTC).timestamp()
"""With an offset a date may lie beyond the last year that can be shown."""
DRAINS_MAX: Final = 256
_STATES: Final = {"open": Forced.OPEN, "close": Forced.CLOSED, "auto": Forced.NONE}

Answer = tuple[int, Headers, bytes]


class _Wrong(Exception):
    """A request that cannot be obeyed."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.answer = problem("problem", status, code=code, message=message)


def _bad(message: str) -> _Wrong:
    return _Wrong(400, "invalid_parameter", message)


class Operations:
    """The operator's side of one process. Times inside are monotonic seconds, those of windows Unix seconds."""

    def __init__(
        self,
        config: Config,
        cluster: Cluster,
        *,
        clock: Callable[[], float],
        wall: Callable[[], float],
        log: Log,
        metrics: Metrics,
        publish: Callable[[object], None],
    ) -> None:
        """`publish`: tells events to observers."""
        self.log = log
        self.rollout = Rollout(self._canary_moved)
        self.drills = Drills(self._drill_ended)
        self._cluster = cluster
        self._clock = clock
        self._wall = wall
        self._metrics = metrics
        self._publish = publish
        self._windows = Windows()
        self._begun: dict[str, Window] = {}
        """Windows that hold, by id."""
        self._drained: dict[str, Absence] = {}
        self._level_until = math.inf
        self._made = 0
        self.adopt(config)

    def adopt(self, config: Config) -> None:
        """Follow a configuration, the first or another one."""
        self._config = config
        self.rollout.adopt(config.canaries, self._clock())
        self._windows.adopt(config.maintenance)
        if not config.chaos:
            self.drills.stop()
        self._refresh()

    def tick(self) -> None:
        """Once a second: what is due by time alone."""
        now = self._clock()
        if self.drills:
            self.drills.expire(now)
        if self._windows.listed or self._drained:
            self._refresh()
        if now >= self._level_until:
            self._level_until = math.inf
            self.log.set_level(self._config.log_level)
            self.log.write("info", "log level", to=self._config.log_level, for_s=None)

    def routes(self) -> dict[str, Route]:
        """The POST routes by path, for `build_admin_server`."""
        return {
            "/targets/": self._guarded(self._target),
            "/canary/": self._guarded(self._canary),
            "/maintenance": self._guarded(self._maintenance),
            "/chaos": self._guarded(self._chaos),
            "/loglevel": self._guarded(self._log_level),
        }

    @staticmethod
    def _guarded(act: Callable[[Inbound, Parameters], dict[str, Any]]) -> Route:
        async def route(inbound: Inbound) -> Answer:
            try:
                parameters = Parameters(inbound)
                told = act(inbound, parameters)
            except _Wrong as wrong:
                return wrong.answer
            return 200, [("Content-Type", "application/json"), ("Cache-Control", "no-store")], orjson.dumps(told)

        return route

    # Targets ----------------------------------------------------------------------------------------------------------

    def _target(self, inbound: Inbound, given: Parameters) -> dict[str, Any]:
        """``/targets/{provider}[/{model}]/open`` and its siblings. A model's name may hold slashes."""
        name, _, verb = unquote(inbound.path.removeprefix("/targets/")).rpartition("/")
        if verb not in (*_STATES, "drain"):
            raise _Wrong(404, "not_found", "a target is told open, close, auto or drain")
        name = self._known_target(name)
        now = self._clock()
        default = math.inf if verb in ("drain", "auto") else FORCED_S
        for_s = given.seconds("for_s", default, ACT_S_MAX)
        given.finish()
        until = now + for_s
        if verb == "drain":
            self._drain(name, until)
        elif not self._cluster.force(name, _STATES[verb], until, now):
            raise _Wrong(409, "too_many", "too many circuits are forced at the same time")
        else:
            self.log.write("warning", "circuit forced", target=name, state=verb, for_s=_finite(for_s))
        if verb == "auto" and self._drained.pop(name, None) is not None:
            self._refresh()
        return {"target": name, "state": verb, "for_s": _finite(for_s)}

    def _drain(self, name: str, until: float) -> None:
        if len(self._drained) >= DRAINS_MAX:
            raise _Wrong(409, "too_many", "too many targets are drained at the same time")
        provider, _, model = name.partition("/")
        self._drained[name] = Absence(reason="drained", until=until, provider=provider, model=model)
        self.log.write("warning", "target drained", target=name, for_s=_finite(until - self._clock()))
        self._refresh()

    def _known_target(self, name: str) -> str:
        provider, _, model = name.partition("/")
        found = self._config.providers.get(provider)
        if found is None:
            raise _Wrong(
                404, "unknown_target", f"there is no provider {provider!r}{nearest(provider, self._config.providers)}"
            )
        if model and explicit_model(found, model) is None:
            called = [each.name for each in found.models if each.name]
            raise _Wrong(404, "unknown_target", f"{provider} has no model {model!r}{nearest(model, called)}")
        return name

    # Canaries ---------------------------------------------------------------------------------------------------------

    def _canary(self, inbound: Inbound, given: Parameters) -> dict[str, Any]:
        """``/canary/{route}/resume`` and ``/withdraw``."""
        route, _, verb = unquote(inbound.path.removeprefix("/canary/")).rpartition("/")
        why = given.text("why", "by an operator")
        given.finish()
        now = self._clock()
        if verb == "resume":
            done = self.rollout.resume(route, now)
        elif verb == "withdraw":
            done = self.rollout.withdraw(route, why, now)
        else:
            raise _Wrong(404, "not_found", "a canary is told resume or withdraw")
        if not done:
            hint = nearest(route, self._config.canaries)
            raise _Wrong(404, "unknown_canary", f"there is no canary of a route {route!r}{hint}")
        return next(view for view in self.rollout.view(now) if view["route"] == route)

    def _canary_moved(self, event: CanaryMoved) -> None:
        verdict = event.verdict
        if verdict is not None:
            self._metrics.canary_withdrawn.add((event.route, verdict.reason))
            self.log.write(
                "warning",
                "canary withdrawn",
                route=event.route,
                reason=verdict.reason,
                why=verdict.why,
                canary_requests=verdict.canary_requests,
                canary_errors=verdict.canary_errors,
                baseline_requests=verdict.baseline_requests,
                baseline_errors=verdict.baseline_errors,
            )
        else:
            self.log.write("info", "canary resumed", route=event.route)
        self._publish(event)

    # Maintenance ------------------------------------------------------------------------------------------------------

    def _maintenance(self, _: Inbound, given: Parameters) -> dict[str, Any]:
        """Announce a window, or cancel one by its id."""
        cancelled = given.text("cancel", "")
        if cancelled:
            given.finish()
            window = self._windows.cancel(cancelled)
            if window is None:
                known = [window.id for window in self._windows.listed]
                raise _Wrong(404, "unknown_window", f"there is no window {cancelled!r}{nearest(cancelled, known)}")
            self.log.write("info", "maintenance cancelled", id=window.id)
            self._refresh()
            return {"cancelled": window.id}
        window = self._window(given)
        if not self._windows.announce(window):
            raise _Wrong(409, "too_many", "too many windows are announced")
        self.log.write(
            "info",
            "maintenance announced",
            id=window.id,
            provider=window.provider or None,
            model=window.model or None,
            route=window.route or None,
            begins=_iso(window.begins),
            ends=_iso(window.ends),
            note=window.note or None,
        )
        self._refresh()
        return _shown(window, self._wall())

    def _window(self, given: Parameters) -> Window:
        provider, model, route = given.text("provider", ""), given.text("model", ""), given.text("route", "")
        begins = given.moment("from", self._wall())
        for_s = given.seconds("for_s", math.inf, WINDOW_S_MAX)
        ends = given.moment("until", begins + for_s)
        note = given.text("note", "")
        given.finish()
        if not provider and (model or not route):
            raise _bad("provider, or route without a model, says what is in maintenance")
        if provider:
            self._known_target(f"{provider}/{model}" if model else provider)
        if route:
            self._known_route(route)
        if not begins < ends < math.inf:
            raise _bad("until (or for_s) must say an end later than from")
        if ends <= self._wall():
            raise _bad("the window is over already")
        return Window(
            id=self._id("m"), begins=begins, ends=ends, provider=provider, model=model, route=route, note=note
        )

    def _known_route(self, route: str) -> None:
        names = [each.name for each in self._config.routes]
        if route not in names:
            raise _Wrong(404, "unknown_route", f"there is no route {route!r}{nearest(route, names)}")

    def _refresh(self) -> None:
        """Hand what is out at present to those who are asked for it, and tell of windows that begin and end."""
        now, wall = self._clock(), self._wall()
        self._drained = {name: absence for name, absence in self._drained.items() if absence.until > now}
        self._cluster.absences = (*self._windows.active(wall, now), *self._drained.values())
        begun = {window.id: window for window in self._windows.listed if window.covers(wall)}
        for id in sorted(begun.keys() - self._begun.keys()):
            self.log.write("warning", "maintenance begins", id=id)
            self._publish(_told("maintenance_started", begun[id], wall))
        for id in sorted(self._begun.keys() - begun.keys()):
            self.log.write("info", "maintenance ends", id=id)
            self._publish(_told("maintenance_ended", self._begun[id], wall))
        self._begun = begun

    def windows(self) -> list[dict[str, Any]]:
        """Announced windows, those that hold among them."""
        wall = self._wall()
        return [_shown(window, wall) for window in self._windows.listed]

    # Drills -----------------------------------------------------------------------------------------------------------

    def _chaos(self, _: Inbound, given: Parameters) -> dict[str, Any]:
        """Start a drill, or stop one by its id, or all of them."""
        if not self._config.chaos:
            raise _Wrong(403, "chaos_disabled", "the file does not say chaos: {enabled: true}")
        if (stop := given.text("stop", "")) != "":
            given.finish()
            return {"stopped": [drill.id for drill in self.drills.stop("" if stop == "all" else stop)]}
        routes = given.words("routes")
        fault = given.text("fault", "")
        for_s = given.seconds("for_s", DRILL_S, chaos.DRILL_S_MAX)
        given.finish()
        for route in routes:
            self._known_route(route)
        try:
            parsed = chaos.parse(fault)
        except chaos.Unclear as unclear:
            raise _bad(f"fault: {unclear}") from None
        if parsed.who != chaos.PRIMARY:
            self._known_target(parsed.who)
        now = self._clock()
        drill = Drill(id=self._id("d"), routes=frozenset(routes), fault=parsed, until=now + for_s)
        self.drills.expire(now)
        if not self.drills.start(drill):
            raise _Wrong(409, "too_many", "too many drills are running")
        self.log.write(
            "warning", "drill started", id=drill.id, routes=sorted(routes) or None, fault=str(parsed), for_s=for_s
        )
        return _drill_shown(drill, now)

    def _drill_ended(self, drill: Drill) -> None:
        self.log.write("info", "drill ended", id=drill.id, routes=sorted(drill.routes) or None, fault=str(drill.fault))

    def injected(self, route: str, provider: str) -> None:
        """An attempt meets a fault on purpose."""
        self._metrics.faults_injected.add((route, provider))

    # The log ----------------------------------------------------------------------------------------------------------

    def _log_level(self, _: Inbound, given: Parameters) -> dict[str, Any]:
        level = given.text("level", "")
        for_s = given.seconds("for_s", math.inf, ACT_S_MAX)
        given.finish()
        if level not in LEVELS:
            raise _bad(f"level must be one of {', '.join(LEVELS)}{nearest(level, LEVELS)}")
        self.log.set_level(level)
        self._level_until = self._clock() + for_s
        self.log.write("info", "log level", to=level, for_s=_finite(for_s))
        return {"level": level, "for_s": _finite(for_s)}

    # Reports ----------------------------------------------------------------------------------------------------------

    def _id(self, kind: str) -> str:
        self._made += 1
        return f"{kind}{self._made}"

    def status(self, now: float) -> dict[str, Any]:
        """What an operator has decided and what holds of it, for ``/status``."""
        return {
            "canaries": self.rollout.view(now),
            "maintenance": self.windows(),
            "drained": [
                {"target": name, "for_s": _finite(absence.until - now)} for name, absence in self._drained.items()
            ],
            "drills": [_drill_shown(drill, now) for drill in self.drills.running if drill.until > now],
        }

    def gauges(self) -> Iterable[Metric]:
        """Numbers that are read at a scrape."""
        from prometheus_client.core import GaugeMetricFamily

        canaries = GaugeMetricFamily("outrider_canary_state", "1 runs, 0 is withdrawn.", labels=["route"])
        for route, state in self.rollout.states():
            canaries.add_metric([route], float(state is State.RUNNING))
        yield canaries
        out = float(len(self._cluster.absences))
        yield GaugeMetricFamily("outrider_absences", "Maintenance windows and drains in force.", value=out)
        yield GaugeMetricFamily("outrider_drills", "Drills running.", value=float(len(self.drills.running)))


class Parameters:
    """What a POST says, from its query and its JSON body. Every value is asked for once; `finish` finds the others."""

    def __init__(self, inbound: Inbound) -> None:
        self._given: dict[str, Any] = dict(parse_qsl(inbound.query, keep_blank_values=True))
        self._asked: set[str] = set()
        if inbound.body:
            try:
                body = orjson.loads(inbound.body)
            except orjson.JSONDecodeError:
                raise _bad("the body must be a JSON object") from None
            if not isinstance(body, dict):
                raise _bad("the body must be a JSON object")
            self._given |= body

    def text(self, name: str, default: str) -> str:
        """A text of at most 1000 printable characters. A truth value in JSON is a word too: ``{"stop": true}``."""
        self._asked.add(name)
        value = self._given.get(name, default)
        value = "all" if value is True else value
        if not isinstance(value, str) or len(value) > 1000 or not (value.isprintable() or not value):
            raise _bad(f"{name} must be a text in one line")
        return value

    def words(self, name: str) -> list[str]:
        """A JSON list of texts, or one text with commas; empty when it is not given."""
        self._asked.add(name)
        value = self._given.get(name, [])
        found = [word.strip() for word in value.split(",")] if isinstance(value, str) else value
        if not isinstance(found, list) or not all(isinstance(word, str) and word for word in found):
            raise _bad(f"{name} must be a list of names")
        return found

    def seconds(self, name: str, default: float, most: float) -> float:
        """Seconds above 0."""
        self._asked.add(name)
        value = self._given.get(name)
        if value is None:
            return default
        try:
            seconds = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            seconds = math.nan
        if not 0.0 < seconds <= most:
            raise _bad(f"{name} must be a number of seconds above 0, at most {most:g}")
        return seconds

    def moment(self, name: str, default: float) -> float:
        """Unix seconds of a date and time with its offset."""
        self._asked.add(name)
        value = self._given.get(name)
        if value is None:
            return default
        try:
            found = datetime.fromisoformat(value) if isinstance(value, str) else None
        except ValueError:
            found = None
        if found is None or found.tzinfo is None or not 0.0 <= found.timestamp() < MOMENT_MAX:
            raise _bad(f"{name} must be a date and time with its offset, such as 2026-03-01T02:00:00Z")
        return found.timestamp()

    def finish(self) -> None:
        """Raises for a parameter that nobody has asked for."""
        for name in self._given:
            if name not in self._asked:
                raise _bad(f"unknown parameter {name[:50]!r}{nearest(name[:50], self._asked)}")


def _finite(seconds: float) -> float | None:
    """None: until further notice."""
    return round(seconds, 3) if seconds < math.inf else None


def _iso(wall: float) -> str:
    return (
        datetime.fromtimestamp(min(max(wall, 0.0), MOMENT_MAX), UTC)
        .isoformat(timespec="seconds")
        .replace("+00:00", "Z")
    )


def _shown(window: Window, wall: float) -> dict[str, Any]:
    return {
        "id": window.id,
        "provider": window.provider or None,
        "model": window.model or None,
        "route": window.route or None,
        "from": _iso(window.begins),
        "until": _iso(window.ends),
        "active": window.covers(wall),
        "note": window.note,
    }


def _told(kind: str, window: Window, wall: float) -> Entry:
    """A window that begins or ends, for the history."""
    return Entry(
        at=wall,
        kind=kind,
        route=window.route,
        provider=window.provider,
        model=window.model,
        message=redact(window.note),
        detail={"id": window.id, "from": _iso(window.begins), "until": _iso(window.ends)},
    )


def _drill_shown(drill: Drill, now: float) -> dict[str, Any]:
    return {
        "id": drill.id,
        "routes": sorted(drill.routes),
        "fault": str(drill.fault),
        "for_s": round(max(0.0, drill.until - now), 3),
    }
