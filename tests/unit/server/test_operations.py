"""What an operator asks for that cannot be done, what a reload keeps, and what is over by time; no socket is opened."""

from __future__ import annotations

import math
from typing import Any

import orjson
import pytest

from proxy.base.exchange import Inbound
from proxy.base.target import Target
from proxy.config.compiled import Config
from proxy.config.load import load_text
from proxy.engine.cluster import Cluster
from proxy.engine.plan import Candidate
from proxy.observe.logs import Log
from proxy.observe.metrics import Metrics
from proxy.server.operations import Operations

FILE = """
providers:
  p: {dialect: openai, base_url: "http://127.0.0.1:1/v1", models: {gpt-4o: gpt-4o, "llama": meta/llama-3}}
  v2: {dialect: openai, base_url: "http://127.0.0.1:2/v1"}
routes: [{name: r, targets: [{provider: p}]}, {name: s, targets: [{provider: p}]}]
chaos: {enabled: true}
canary: {r: {targets: v2, percent: 100}}
"""


class Bench:
    """Operations over a clock that stands still until it is told."""

    def __init__(self) -> None:
        self.now, self.wall = 100.0, 1_700_000_000.0
        self.cluster = Cluster(lambda: 0.5)
        self.events: list[Any] = []
        self.log = Log("json", "error")
        self.operations = Operations(
            configuration(),
            self.cluster,
            clock=lambda: self.now,
            wall=lambda: self.wall,
            log=self.log,
            metrics=Metrics(["r", "s"], []),
            publish=self.events.append,
        )

    async def post(self, path: str, body: Any = None, query: str = "") -> tuple[int, dict[str, Any]]:
        raw = b"" if body is None else body if isinstance(body, bytes) else orjson.dumps(body)
        inbound = Inbound("req_1", "POST", path, query, (), raw, self.now)
        routes = self.operations.routes()
        act = routes.get(path) or routes[path[: path.index("/", 1) + 1]]
        status, _, answer = await act(inbound)
        return status, orjson.loads(answer)

    def go(self, seconds: float) -> None:
        """Time passes, tick by tick at its end."""
        self.now += seconds
        self.wall += seconds
        self.operations.tick()


def configuration(text: str = FILE) -> Config:
    loaded = load_text(text, "f", {})
    assert loaded.config is not None, loaded.errors
    return loaded.config


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.mark.parametrize(
    ("path", "body", "status", "part"),
    [
        ("/targets/pp/open", {}, 404, "there is no provider 'pp'; did you mean \"p\"?"),
        ("/targets/p/gpt-5o/open", {}, 404, "p has no model 'gpt-5o'; did you mean \"gpt-4o\"?"),
        ("/targets/p/opne", {}, 404, "open, close, auto or drain"),
        ("/targets/p/open", {"for_s": 0}, 400, "for_s must be a number of seconds above 0"),
        ("/targets/p/open", {"for_s": "nan"}, 400, "for_s must be a number of seconds above 0"),
        ("/targets/p/open", {"for_s": True}, 400, "for_s must be a number of seconds above 0"),
        ("/targets/p/open", {"for_ss": 5}, 400, "unknown parameter 'for_ss'; did you mean \"for_s\"?"),
        ("/targets/p/open", b"[1]", 400, "must be a JSON object"),
        ("/targets/p/open", b"{", 400, "must be a JSON object"),
        ("/canary/s/resume", {}, 404, "there is no canary of a route 's'"),
        ("/canary/r/rename", {}, 404, "resume or withdraw"),
        ("/maintenance", {"provider": "p"}, 400, "until (or for_s)"),
        ("/maintenance", {"model": "m", "for_s": 5}, 400, "provider, or route without a model"),
        ("/maintenance", {"provider": "p", "until": "2030-01-01T00:00:00"}, 400, "with its offset"),
        ("/maintenance", {"provider": "p", "until": "2020-01-01T00:00:00Z"}, 400, "later than from"),
        (
            "/maintenance",
            {"provider": "p", "from": "2019-01-01T00:00:00Z", "until": "2020-01-01T00:00:00Z"},
            400,
            "is over already",
        ),
        ("/maintenance", {"provider": "p", "until": "9999-12-31T23:59:59-23:59"}, 400, "with its offset"),
        ("/maintenance", {"provider": "p", "from": "0001-01-01T00:00:00+23:59", "for_s": 5}, 400, "with its offset"),
        ("/maintenance", {"route": "q", "for_s": 5}, 404, "there is no route 'q'"),
        ("/maintenance", {"cancel": "m9"}, 404, "no window 'm9'"),
        ("/maintenance", {"provider": "p", "for_s": 5, "note": "a\nb"}, 400, "note must be a text in one line"),
        ("/loglevel", {"level": "eror"}, 400, 'one of debug, info, warning, error; did you mean "error"?'),
        ("/chaos", {"fault": "primary"}, 400, "must look like primary:error=503"),
        ("/chaos", {"fault": "primary:error=99"}, 400, "error: must be a whole number from 400 to 599"),
        ("/chaos", {"fault": "primary:error=503", "routes": ["x"]}, 404, "there is no route 'x'"),
        ("/chaos", {"fault": "primary:error=503", "routes": [1]}, 400, "routes must be a list of names"),
        ("/chaos", {"fault": "q:error=503"}, 404, "there is no provider 'q'"),
        ("/chaos", {"fault": "primary:error=503", "for_s": 999999}, 400, "at most 3600"),
    ],
)
async def test_what_cannot_be_obeyed_says_why(bench: Bench, path: str, body: Any, status: int, part: str) -> None:
    found, told = await bench.post(path, body)
    assert found == status
    assert part in told["detail"]
    assert bench.cluster.absences == ()
    assert bench.operations.drills.running == ()


async def test_names_with_slashes_and_parameters_in_the_query(bench: Bench) -> None:
    assert await bench.post("/targets/p/meta/llama-3/open", query="for_s=5") == (
        200,
        {"target": "p/meta/llama-3", "state": "open", "for_s": 5.0},
    )
    assert await bench.post("/targets/p/meta%2Fllama-3/auto") == (
        200,
        {"target": "p/meta/llama-3", "state": "auto", "for_s": None},
    )


async def test_everything_is_bounded(bench: Bench) -> None:
    for _ in range(16):
        assert (await bench.post("/chaos", {"fault": "primary:error=503"}))[0] == 200
    assert (await bench.post("/chaos", {"fault": "primary:error=503"}))[0] == 409
    bench.go(30.0)  # the default time of a drill
    assert bench.operations.drills.running == ()
    assert (await bench.post("/chaos", {"fault": "primary:error=503"}))[0] == 200
    assert len((await bench.post("/chaos", {"stop": True}))[1]["stopped"]) == 1
    for _ in range(256):
        assert (await bench.post("/maintenance", {"provider": "p", "for_s": 9}))[0] == 200
    assert (await bench.post("/maintenance", {"provider": "p", "for_s": 9}))[0] == 409
    bench.go(9.0)
    assert bench.cluster.absences == ()
    assert (await bench.post("/maintenance", {"provider": "p", "for_s": 9}))[0] == 200


async def test_a_drain_ends_with_its_time(bench: Bench) -> None:
    target = Target("p", "gpt-4o")
    assert (await bench.post("/targets/p/gpt-4o/drain", {"for_s": 10}))[0] == 200
    assert (await bench.post("/targets/v2/drain"))[0] == 200
    found = bench.cluster.absence(target, "r", bench.now)
    assert found is not None
    assert (found.reason, found.until) == ("drained", 110.0)
    assert bench.cluster.absence(Target("p", "other"), "r", bench.now) is None
    endless = bench.cluster.absence(Target("v2", "any"), "r", bench.now)
    assert endless is not None
    assert endless.until == math.inf
    bench.now += 10.0  # over at once, and not only at the next tick
    assert bench.cluster.absence(target, "r", bench.now) is None
    bench.go(0.0)
    assert [each["target"] for each in bench.operations.status(bench.now)["drained"]] == ["v2"]


async def test_a_canary_is_withdrawn_and_resumed_by_hand(bench: Bench) -> None:
    rollout = bench.operations.rollout
    assert rollout.takes("r", None, lambda: 0.9)
    status, told = await bench.post("/canary/r/withdraw", {"why": "a doubt"})
    assert (status, told["state"], told["reason"], told["why"]) == (200, "withdrawn", "operator", "a doubt")
    assert not rollout.takes("r", None, lambda: 0.0)
    assert (await bench.post("/canary/r/resume"))[1]["state"] == "running"
    assert [event.state.value for event in bench.events] == ["withdrawn", "running"]


async def test_a_window_of_the_file_that_ends_after_the_last_year_can_be_shown(bench: Bench) -> None:
    stated = "from: '2023-11-14T00:00:00Z', until: '9999-12-31T23:59:59-23:59'"
    bench.operations.adopt(configuration(FILE + f"maintenance: [{{provider: v2, {stated}}}]\n"))
    (window,) = bench.operations.status(bench.now)["maintenance"]
    assert (window["active"], window["until"]) == (True, "9999-12-31T00:00:00Z")


async def test_a_reload_keeps_what_it_does_not_change(bench: Bench) -> None:
    operations = bench.operations
    await bench.post("/canary/r/withdraw")
    await bench.post("/maintenance", {"provider": "p", "for_s": 100})
    await bench.post("/chaos", {"fault": "primary:error=503"})
    window = "maintenance: [{provider: v2, from: 2023-11-14T00:00:00Z, until: 2023-11-16T00:00:00Z}]\n"
    operations.adopt(configuration(FILE + window))
    status = operations.status(bench.now)
    assert status["canaries"][0]["state"] == "withdrawn"
    assert [(each["provider"], each["active"]) for each in status["maintenance"]] == [("v2", True), ("p", True)]
    assert len(bench.cluster.absences) == 2
    assert len(status["drills"]) == 1
    operations.adopt(
        configuration(FILE.replace("percent: 100", "percent: 50").replace("enabled: true", "enabled: false"))
    )
    status = operations.status(bench.now)
    assert status["canaries"][0]["state"] == "running"
    assert [each["provider"] for each in status["maintenance"]] == ["p"]
    assert status["drills"] == []
    operations.adopt(configuration(FILE.partition("canary")[0]))
    assert operations.status(bench.now)["canaries"] == []


async def test_a_forced_target_is_forced_when_it_comes_to_be(bench: Bench) -> None:
    await bench.post("/targets/p/open", {"for_s": 50})
    state = bench.cluster.state(Candidate(target=Target("p", "gpt-4o", "their-key")), bench.now)
    assert state.breaker.view(bench.now)["forced"] == "open"
    await bench.post("/targets/p/gpt-4o/close")
    assert state.breaker.view(bench.now)["forced"] == "closed"
    await bench.post("/targets/p/auto")
    assert state.breaker.view(bench.now)["forced"] == "none"
    later = bench.cluster.state(Candidate(target=Target("p", "gpt-4o")), bench.now)
    assert later.breaker.view(bench.now)["forced"] == "none"
