"""What the caller is told: our headers, the trace, the error when nobody answered, the end of a broken stream."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from proxy.base.outcome import OK, Class, Outcome
from proxy.base.target import Target
from proxy.dispatch import told
from proxy.engine.attempts import Attempts, Facts
from proxy.engine.cluster import Cluster
from proxy.engine.messages import Commit, Dial, Finished, Fired, FirstContent, GiveUp, SetTimer, Timer
from proxy.engine.plan import Candidate, Endpoint, Plan
from proxy.policy import retry_after

NOW = 1_000.0


class Run:
    """One request on the real engine: each outcome ends the attempt that runs, backoffs are waited out at once."""

    def __init__(self, *names: str, cluster: Cluster | None = None, **settings: Any) -> None:
        candidates = settings.pop("candidates", None) or tuple(
            Candidate(target=Target(*name.split("/")), retries=0) for name in names
        )
        self.plan = Plan(route="chat", endpoint=Endpoint.CHAT, candidates=candidates, **settings)
        self.cluster = cluster or Cluster(lambda: 0.5)
        self.machine = Attempts(self.plan, self.cluster, lambda: 0.5, Facts())
        self.now = NOW
        self.gave_up: GiveUp | None = None
        self.running = -1
        self._take(self.machine.start(self.now, self.now))

    def _take(self, commands: list[Any]) -> None:
        for command in commands:
            if isinstance(command, Dial):
                self.running = command.attempt
            elif isinstance(command, GiveUp):
                self.gave_up = command
            elif isinstance(command, SetTimer) and command.timer is Timer.BACKOFF and command.at is not None:
                self.now = command.at
                self._take(self.machine.step(Fired(Timer.BACKOFF), self.now))
            else:
                assert isinstance(command, Commit | SetTimer)

    def ends(self, *outcomes: Outcome) -> Run:
        for outcome in outcomes:
            self.now += 0.1
            self._take(self.machine.step(Finished(self.running, outcome), self.now))
        return self

    def answers(self) -> Run:
        self.now += 0.2
        self._take(self.machine.step(FirstContent(self.running), self.now))
        return self.ends(OK)

    def policy(self) -> dict[str, str]:
        return dict(told.policy_headers(self.plan, self.machine, "req_1", self.now))

    def served(self) -> dict[str, str]:
        winner = self.machine.committed
        assert winner is not None
        return dict(told.served_headers(self.machine, winner, self.now))

    def failure(
        self, upstream: tuple[int, bytes, Any] | None = None, dialect: str = "openai", untouched: bool = False
    ) -> tuple[int, dict[str, str], Any]:
        assert self.gave_up is not None
        status, headers, body = told.failure(
            self.plan, self.machine, self.gave_up, dialect, "req_1", upstream, self.now, untouched=untouched
        )
        names = [name.lower() for name, _ in headers]
        assert len(names) == len(set(names)), f"repeated: {names}"
        assert all(value.isascii() and value.isprintable() for _, value in headers)
        return status, dict(headers), json.loads(body)


def failed(cls: Class, **more: Any) -> Outcome:
    return Outcome(cls=cls, **more)


E500 = failed(Class.SERVER_ERROR, status=500, message="boom")

# Headers of the upstream ----------------------------------------------------------------------------------------------


def test_L24_only_the_upstreams_own_headers_pass() -> None:
    raw = (
        (b"Content-Type", b"application/json"),
        (b"X-Request-Id", b"up_1"),
        (b"X-Served-By", b"spoof"),
        (b"Set-Cookie", b"a=b"),
        (b"CF-Ray", b"1"),
        (b"x-ratelimit-remaining-requests", b"9"),
        (b"x-ratelimit-remaining-requests", b"8"),
    )
    assert told.passed(raw) == [
        ("Content-Type", "application/json"),
        ("X-Request-Id", "up_1"),
        ("x-ratelimit-remaining-requests", "9"),
        ("x-ratelimit-remaining-requests", "8"),
    ]


@pytest.mark.parametrize("value", [b"X-Secret", b"close, X-SECRET", b"x-secret,keep-alive", b" x-secret , connection"])
@pytest.mark.parametrize("first", [False, True])
def test_what_the_upstreams_connection_names_is_dropped(value: bytes, first: bool) -> None:
    pairs = [(b"X-Secret", b"1"), (b"Connection", value)]
    raw = (*(pairs[::-1] if first else pairs), (b"X-Kept", b"2"))
    assert told.passed(raw) == [("X-Kept", "2")]


def test_the_memory_of_header_names_is_bounded() -> None:
    for n in range(6_000):
        told.passed(((b"x-made-up-%d" % n, b"1"),))
    assert len(told._PASSES) <= told._PASSES_MAX
    assert told.passed(((b"x-made-up-5999", b"1"), (b"x-served-by-nobody-5999", b"1"), (b"X-Cache", b"hit"))) == [
        ("x-made-up-5999", "1"),
        ("x-served-by-nobody-5999", "1"),
    ]


# Our own headers ------------------------------------------------------------------------------------------------------


def test_a_plain_answer_says_little() -> None:
    run = Run("a/m", "b/m").answers()
    assert run.policy() == {
        "X-Outrider-Request-Id": "req_1",
        "X-Circuit-Status": "closed",
        "X-Attempts": "1",
        "X-Retry-Count": "0",
    }
    assert run.served() == {"X-Served-By": "a", "X-Served-Model": "m"}


def test_L71_success_tells_its_failed_attempts() -> None:
    run = Run("a/m", "b/n", explain=True).ends(E500).answers()
    assert run.policy()["X-Attempts"] == "2"
    assert run.served() == {
        "X-Served-By": "b",
        "X-Served-Model": "n",
        "X-Failover": "true",
        "X-Failover-Reason": "server_error",
        "Proxy-Status": 'outrider; next-hop="a"; received-status=500',
    }
    trace = json.loads(run.policy()["X-Failover-Trace"])
    assert trace == [
        {
            "target": "a/m",
            "kind": "first",
            "cause": "first",
            "class": "server_error",
            "start_ms": 0.0,
            "end_ms": 100.0,
            "status": 500,
        },
        {
            "target": "b/n",
            "kind": "failover",
            "cause": "server_error",
            "class": "ok",
            "start_ms": 100.0,
            "end_ms": 400.0,
            "status": 200,
        },
    ]


def test_degraded_answers_are_marked() -> None:
    run = Run(
        candidates=(
            Candidate(target=Target("a", "m")),
            Candidate(target=Target("b", "m"), degraded=True, output_share=0.5, quality=7.0, region="eu"),
        )
    )
    served = run.ends(E500).answers().served()
    assert served["X-Degraded-Mode"] == "active"
    assert served["X-Degradation-Reason"] == "server_error"
    assert served["X-Quality-Score"] == "6.3"
    assert served["X-Served-Region"] == "eu"


def test_clamped_and_skipped_are_told_in_ascii() -> None:
    policy = Run("a/m", skipped=(("b/ü", "no_key"),), clamped=("X-Max-Retries=5",)).answers().policy()
    assert policy["X-Failover-Skipped"] == "b/?=no_key"
    assert policy["X-Policy-Clamped"] == "X-Max-Retries=5"


def test_model_names_cannot_inject_headers() -> None:
    served = Run("a/m\r\nX-Evil: 1\x7f\u2028").answers().served()
    assert served["X-Served-Model"] == "m??X-Evil: 1??"


def test_trace_is_ascii_json_of_4_kib_at_most_and_says_when_it_is_cut() -> None:
    names = tuple(f"provider-{n}/{'模型-' * 60}{n}" for n in range(16))
    run = Run(*names, explain=True, max_attempts=16).ends(*[E500] * 16)
    text = run.policy()["X-Failover-Trace"]
    assert len(text) <= 4_096
    assert text.isascii()
    assert text.isprintable()
    trace = json.loads(text)
    assert trace[0]["target"].startswith("provider-0/")
    assert trace[-1] == {"truncated": True}


def test_trace_of_one_entry_that_is_too_large_still_fits() -> None:
    text = Run("a/" + "x" * 5_000, explain=True).answers().policy()["X-Failover-Trace"]
    assert json.loads(text) == [{"truncated": True}]


def test_L72_server_timing_tells_our_own_share() -> None:
    name, value = told.timing(0.123, 10.0, 12.5)
    assert (name, value) == ("Server-Timing", "plan;dur=0.12, queue;dur=0, upstream;dur=10.00, total;dur=12.50")


# The retry trio -------------------------------------------------------------------------------------------------------


def trio(wait_s: float | None, final: bool, outcome: Outcome = E500) -> dict[str, str]:
    return dict(told._retry_trio(outcome, GiveUp(outcome, wait_s, final)))


@pytest.mark.parametrize(
    ("wait_s", "final", "expected"),
    [
        (None, True, {"x-should-retry": "false"}),
        (None, False, {"x-should-retry": "false"}),
        (2.0, True, {"Retry-After": "2", "retry-after-ms": "2000", "x-should-retry": "false"}),
        (2.0004, False, {"Retry-After": "3", "retry-after-ms": "2001", "x-should-retry": "true"}),
        (20.0, False, {"Retry-After": "20", "retry-after-ms": "20000", "x-should-retry": "true"}),
        (20.1, False, {"Retry-After": "21", "retry-after-ms": "20100", "x-should-retry": "false"}),
        (0.0, False, {"Retry-After": "1", "retry-after-ms": "1", "x-should-retry": "true"}),
        (86_400.0, False, {"Retry-After": "60", "retry-after-ms": "60000", "x-should-retry": "false"}),
        (math.inf, False, {"Retry-After": "60", "retry-after-ms": "60000", "x-should-retry": "false"}),
        (math.nan, False, {"x-should-retry": "false"}),
    ],
)
def test_retry_trio(wait_s: float | None, final: bool, expected: dict[str, str]) -> None:
    assert trio(wait_s, final) == expected


def test_a_told_wait_of_a_limit_is_passed_on_within_bounds() -> None:
    limited = failed(Class.RATE_LIMIT, status=429, told_wait_s=7.0)
    assert trio(None, True, limited)["Retry-After"] == "7"
    assert trio(None, True, failed(Class.SERVER_ERROR, status=500, told_wait_s=7.0)) == {"x-should-retry": "false"}
    assert retry_after.DOWNSTREAM_MAX_S == 60.0


# Errors ---------------------------------------------------------------------------------------------------------------


def test_the_most_telling_error_keeps_status_and_gains_the_attempts() -> None:
    body = json.dumps({"error": {"message": "boom", "type": "server_error", "param": None, "code": "x"}}).encode()
    status, headers, said = Run("a/m", "b/m").ends(E500, E500).failure((500, body, ((b"x-request-id", b"up_1"),)))
    assert status == 500
    assert {k: said["error"][k] for k in ("message", "type", "param", "code")} == json.loads(body)["error"]
    assert [a["target"] for a in said["error"]["attempts"]] == ["a/m", "b/m"]
    assert headers["x-request-id"] == "up_1"
    assert headers["X-Outrider-Request-Id"] == "req_1"
    assert headers["x-should-retry"] == "false"
    assert headers["Proxy-Status"].endswith("received-status=500")


@pytest.mark.parametrize("told_status", [600, 700, 999])
@pytest.mark.parametrize("untouched", [False, True])
@pytest.mark.parametrize("body", [b'{"error": {"message": "odd"}}', b"odd"])
def test_a_status_that_http_does_not_know_is_a_bad_gateway(told_status: int, untouched: bool, body: bytes) -> None:
    run = Run("a/m").ends(failed(Class.SERVER_ERROR, status=told_status))
    assert run.failure((told_status, body, ()), untouched=untouched)[0] == 502


def test_the_callers_own_fault_is_passed_on_byte_for_byte() -> None:
    body = b'{ "error" : {"message":"no", "x":1.0} }'
    run = Run("a/m", "b/m").ends(failed(Class.INVALID_REQUEST, status=400, message="no"))
    assert run.gave_up is not None
    status, headers, raw = told.failure(run.plan, run.machine, run.gave_up, "openai", "req_1", (400, body, ()), run.now)
    assert (status, raw) == (400, body)
    assert ("x-request-id", "req_1") in headers, "an upstream that names no id leaves ours"


@pytest.mark.parametrize("body", [b"<html>busy</html>", b"", b"[]", b'{"detail":"no"}', b'{"error":"text"}', b"\xff{"])
def test_an_error_that_is_not_the_dialects_becomes_one(body: bytes) -> None:
    status, headers, said = Run("a/m").ends(failed(Class.MODEL_OVERLOADED, status=503)).failure((503, body, ()))
    assert status == 503
    assert said["error"]["code"] == "server_is_overloaded"
    assert said["error"]["message"]
    assert headers["Content-Type"] == "application/json"


@pytest.mark.parametrize(
    ("outcome", "status", "kind", "code", "proxy_error"),
    [
        (failed(Class.TIMEOUT, sub="first_byte"), 504, "server_error", "timeout", "http_response_timeout"),
        (failed(Class.TIMEOUT, sub="connect"), 504, "server_error", "timeout", "connection_timeout"),
        (failed(Class.CONNECT_ERROR, sub="refused"), 502, "server_error", "upstream_error", "connection_refused"),
        (failed(Class.CONNECT_ERROR, sub="dns"), 502, "server_error", "upstream_error", "dns_error"),
        (failed(Class.CONNECT_ERROR, sub="tls"), 502, "server_error", "upstream_error", "tls_certificate_error"),
        (failed(Class.CONNECT_ERROR, sub="reset"), 502, "server_error", "upstream_error", "connection_terminated"),
        (failed(Class.STREAM_INTERRUPTED), 502, "server_error", "stream_interrupted", "http_response_incomplete"),
    ],
)
def test_failures_without_an_answer(outcome: Outcome, status: int, kind: str, code: str, proxy_error: str) -> None:
    got, headers, said = Run("a/m").ends(outcome).failure()
    assert (got, said["error"]["type"], said["error"]["code"]) == (status, kind, code)
    assert headers["Proxy-Status"] == f'outrider; next-hop="a"; error={proxy_error}'
    assert headers["x-request-id"] == "req_1"


def test_a_remembered_bad_credential_is_not_the_next_callers_fault() -> None:
    cluster = Cluster(lambda: 0.5)
    bad = failed(Class.AUTH, status=401, code="invalid_api_key", per_credential=True)
    status, _, said = Run("a/m", cluster=cluster).ends(bad).failure()
    assert (status, said["error"]["type"]) == (401, "invalid_request_error")
    status, headers, said = Run("a/m", cluster=cluster).failure()
    assert (status, said["error"]["type"]) == (502, "server_error")
    assert headers["X-Attempts"] == "0"
    assert "attempts" not in said["error"]


def test_anthropics_callers_get_anthropics_errors_with_the_id_in_both_places() -> None:
    status, headers, said = Run("a/m").ends(failed(Class.MODEL_OVERLOADED)).failure(dialect="anthropic")
    assert status == 529
    assert said["type"] == "error"
    assert said["error"]["type"] == "overloaded_error"
    assert said["request_id"] == headers["request-id"] == "req_1"
    html = (529, b"<html>", ((b"Request-Id", b"up_1"),))
    _, headers, said = Run("a/m").ends(failed(Class.MODEL_OVERLOADED, status=529)).failure(html, "anthropic")
    assert said["request_id"] == headers["Request-Id"] == "up_1"


def test_an_error_inside_a_200_gets_an_error_status() -> None:
    body = b'{"error":{"message":"overloaded"}}'
    status, _, said = Run("a/m").ends(failed(Class.SERVER_ERROR, status=200)).failure((200, body, ()))
    assert status == 502
    assert said["error"]["message"] == "overloaded"


# Broken streams -------------------------------------------------------------------------------------------------------


def test_L39_the_last_event_of_a_broken_stream_is_an_error_and_no_success_marker() -> None:
    event = told.broken("openai", failed(Class.STREAM_INTERRUPTED, message="cut"), None, "req_1")
    assert event.startswith(b"data: ")
    assert event.endswith(b"\n\n")
    assert json.loads(event[6:]) == {
        "error": {"message": "cut", "type": "server_error", "param": None, "code": "stream_interrupted"}
    }
    assert b"[DONE]" not in event


def test_L39_anthropics_last_event_is_named() -> None:
    event = told.broken("anthropic", failed(Class.MODEL_OVERLOADED), {"type": "overloaded_error", "message": "x"}, "r")
    name, data = event.rstrip(b"\n").split(b"\n")
    assert name == b"event: error"
    assert json.loads(data[6:]) == {
        "type": "error",
        "error": {"type": "overloaded_error", "message": "x"},
        "request_id": "r",
    }


def test_the_upstreams_own_error_ends_the_stream_in_its_words() -> None:
    event = told.broken("openai", failed(Class.SERVER_ERROR), {"message": "theirs", "code": 7}, "req_1")
    assert json.loads(event[6:]) == {"error": {"message": "theirs", "code": 7}}


@pytest.mark.parametrize("cls", [cls for cls in Class if cls is not Class.OK])
@pytest.mark.parametrize("dialect", ["openai", "anthropic"])
def test_every_class_can_end_a_stream(dialect: str, cls: Class) -> None:
    assert b'"error"' in told.broken(dialect, failed(cls), None, "req_1")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("plain", "plain"), ("caf\xe9", "caf?"), ("a\r\nb\x00", "a??b?"), ("", ""), ("\ud800", "?"), ("a\tb", "a?b")],
)
def test_ascii_only(text: str, expected: str) -> None:
    assert told.ascii_only(text) == expected
