"""The header contract through the process: what is refused, what is obeyed, whose key goes where, whose bytes stay."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from multidict import CIMultiDict

from proxy.base.http import CONTROL
from proxy.demo.provider import FakeProvider
from proxy.demo.script import SPOOFED, Attempt, Fault, headers
from tests.e2e.harness import Answer, Stage

pytestmark = pytest.mark.asyncio(loop_scope="module")

MODES = ("sidecar", "caller", "caller_or_sidecar")


def _entries(providers: list[FakeProvider]) -> dict[str, dict[str, Any]]:
    """p0 to p2: the three credential modes; p3: a model map; p4: Anthropic's dialect; p5, p6: embeddings."""
    entries: dict[str, dict[str, Any]] = {
        provider.name: {"credentials": mode} for provider, mode in zip(providers, MODES, strict=False)
    }
    entries["p3"] = {"models": {"gpt-4o": "big-model", "other": {"name": "other"}}, "region": "here"}
    entries["p4"] = {"dialect": "anthropic", "base_url": providers[4].url, "models": {"claude-*": "passthrough"}}
    entries["p5"] = {"models": {"embed": "embed-3"}}
    entries["p6"] = {"models": {"embed": "embed-4"}}
    return entries


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    made = Stage(
        tmp_path_factory.mktemp("headers"),
        36,
        entries=_entries,
        routes=[
            {"name": "claude", "match": {"paths": ["/v1/messages*"]}, "targets": [{"provider": "p4"}]},
            {
                "name": "chat",
                "match": {"models": ["gpt-*"]},
                "targets": [{"provider": "p7"}, {"provider": "p8"}],
                "policy": {"retry": {"max_retries": 1}},
            },
            {"name": "spare", "targets": [{"provider": "p9"}, {"provider": "p10"}], "balance": "priority"},
        ],
        policies={"hasty": {"retry": {"max_retries": 0}, "timeout_s": 5}},
        limits={
            "max_retries": 3,
            "max_timeout_s": 60,
            "allow_overrides": ["failover", "retry", "circuit_breaker", "hedging", "timeout", "explain"],
        },
    )
    async with made:
        made.take(11)
        yield made


def _attempts(stage: Stage) -> int:
    return sum(provider.attempts_total for provider in stage.providers)


async def _raw(stage: Stage, line: bytes) -> tuple[int, bytes]:
    """Send a chat request with a header line exactly as given: status and body."""
    body = b'{"model": "gpt-4o", "messages": []}'
    reader, writer = await asyncio.open_connection("127.0.0.1", stage.sidecar.data_port)
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + line)
    writer.write(b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    async with asyncio.timeout(5):
        head, _, rest = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    return int(head.split(b" ")[1]), rest


# Refused: nothing upstream, the caller's dialect, the name of what is wrong -------------------------------------------

BAD: list[tuple[str, str, str, str]] = [
    # header, value, `param`, what the message must say
    ("X-Max-Retries", "two", "X-Max-Retries", "from 0 to 10"),
    ("X-Max-Retries", "-1", "X-Max-Retries", "from 0 to 10"),
    ("X-Max-Retries", "9" * 400, "X-Max-Retries", "from 0 to 10"),
    ("X-Max-Retries", "NaN", "X-Max-Retries", "from 0 to 10"),
    ("X-Max-Retry", "2", "X-Max-Retry", "X-Max-Retries"),
    ("X-Retries", "2", "X-Retries", "unknown header"),
    ("X-Hedging-Config", "{}", "X-Hedging-Config", "X-Hedge-Config"),
    ("X-Failover-Provider", "p7", "X-Failover-Provider", "X-Failover-Providers"),
    ("X-Circuit-Breakers", "{}", "X-Circuit-Breakers", "X-Circuit-Breaker"),
    ("X-Explane", "true", "X-Explane", "X-Explain"),
    ("X-Retry-Delay-Ms", "1.5", "X-Retry-Delay-Ms", "from 0 to 60000"),
    ("X-Retry-Strategy", "exponentiel", "X-Retry-Strategy", "exponential"),
    ("X-Request-Timeout-Ms", "0", "X-Request-Timeout-Ms", "1"),
    ("X-Request-Timeout-Ms", "Infinity", "X-Request-Timeout-Ms", "1"),
    ("X-Request-Hedging", "maybe", "X-Request-Hedging", "true or false"),
    ("X-Stream-Recovery", "hope", "X-Stream-Recovery", "continue"),
    ("X-Explain", "why", "X-Explain", "plan"),
    ("X-Route", "chad", "X-Route", "chat"),
    ("X-Policy", "haste", "X-Policy", "hasty"),
    ("X-Failover-Providers", "p7,p77x", "X-Failover-Providers", "p77x"),
    ("X-Failover-Providers", "http://elsewhere.test", "X-Failover-Providers", "configured"),
    ("X-Failover-Providers", ",".join(["p7"] * 17), "X-Failover-Providers", "16"),
    ("X-Provider-Key-nobody", "sk-12345678", "X-Provider-Key-nobody", "configured provider"),
    ("X-Retry-Config", '{"multiplier": "two"}', "X-Retry-Config.multiplier", "a number from 1 to 10"),
    ("X-Retry-Config", '{"multiplier": NaN}', "X-Retry-Config.multiplier", "a number from 1 to 10"),
    ("X-Retry-Config", '{"multiplier": 1e999}', "X-Retry-Config.multiplier", "a number from 1 to 10"),
    ("X-Retry-Config", '{"max_retries": ' + "9" * 5000 + "}", "X-Retry-Config.max_retries", "10"),
    ("X-Retry-Config", '{"max_retries": true}', "X-Retry-Config.max_retries", "10"),
    ("X-Retry-Config", '{"max_retrys": 2}', "X-Retry-Config.max_retrys", "max_retries"),
    ("X-Retry-Config", '{"max_retries": 1, "max_retries": 2}', "X-Retry-Config", "twice"),
    ("X-Retry-Config", "[1]", "X-Retry-Config", "object"),
    ("X-Retry-Config", "{max_retries: 1}", "X-Retry-Config", "JSON"),
    ("X-Retry-Config", '{"x": ' + '"' + "a" * 9300 + '"}', "X-Retry-Config", "8192"),
    ("X-Retry-Config", "[" * 4000, "X-Retry-Config", ""),
    ("X-Retry-Config", '{"rules": [{"error_type": "timeuot"}]}', "X-Retry-Config.rules[0].error_type", "timeout"),
    ("X-Circuit-Breaker", '{"timeout": -1}', "X-Circuit-Breaker.timeout", "0.1"),
    ("X-Circuit-Breaker", '{"timeout": null}', "X-Circuit-Breaker.timeout", "0.1"),
    ("X-Hedge-Config", '{"delay_ms": "soon"}', "X-Hedge-Config.delay_ms", "auto"),
    ("X-Hedge-Config", '{"providers": ["p7", "nobody"]}', "X-Hedge-Config.providers[1]", "nobody"),
    (
        "X-Failover-Config",
        '{"fallbacks": [{"provider": "p8", "trigger": ["rate_limits"]}]}',
        "X-Failover-Config.fallbacks[0].trigger",
        "rate_limit",
    ),
]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
async def test_bad_headers_are_refused_before_any_upstream_call(stage: Stage, path: str) -> None:
    before = _attempts(stage)
    model = "claude-x" if path == "/v1/messages" else "gpt-4o"
    for name, value, param, says in BAD:
        body = {"model": model, "messages": [], "max_tokens": 5}
        async with stage.sidecar.session.post(stage.sidecar.url + path, json=body, headers={name: value}) as response:
            told = await response.json()
        assert response.status == 400, (name, value[:40], told)
        error = told["error"]
        assert says.lower() in error["message"].lower(), (name, value[:40], error)
        assert param.lower() in error["message"].lower(), (name, value[:40], error)
        assert error["message"].isascii()
        assert len(error["message"]) <= 1000
        if path == "/v1/messages":
            assert (told["type"], error["type"]) == ("error", "invalid_request_error")
        else:
            assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_header")
            assert error["param"].lower().startswith(param.lower())
        assert response.headers["x-should-retry"] == "false"
    assert _attempts(stage) == before


@pytest.mark.parametrize(
    "line",
    [
        b"X-Policy: has\x01ty",
        b"X-Policy: has\x7fty",
        b"X-Policy: has\x00ty",
        b"X-Policy: h\xc3\xa4sty",
        b"X-Failover-Providers: p7\x1b[31m",
        b"X-Max-Retries: 1\r\nX-Max-Retries: 2",
        b'X-Retry-Config: {"max_retries": 1}\r\nx-retry-config: {"max_retries": 2}',
        b"X-Retry-Config: " + b'{"max_retries": 1, "x": "' + b"a" * 9216 + b'"}',
    ],
)
async def test_control_characters_and_contradictions(stage: Stage, line: bytes) -> None:
    before = _attempts(stage)
    status, body = await _raw(stage, line)
    assert status in (400, 431)
    assert all(32 <= byte < 127 or byte in b"\r\n" for byte in body)
    assert _attempts(stage) == before


async def test_a_repetition_that_says_the_same_is_fine(stage: Stage) -> None:
    assert (await _raw(stage, b"X-Max-Retries: 1\r\nX-MAX-RETRIES: 1"))[0] == 200


# Obeyed ---------------------------------------------------------------------------------------------------------------


async def _plan(stage: Stage, **asked: str) -> dict[str, Any]:
    answer = await stage.sidecar.chat(
        headers={"X-Explain": "plan", **{k.replace("_", "-"): v for k, v in asked.items()}}
    )
    assert answer.status == 200
    return dict(answer.json)


async def test_explain_plan_is_a_dry_run_and_route_and_policy_are_obeyed(stage: Stage) -> None:
    before = _attempts(stage)
    plain = await _plan(stage)
    assert (plain["route"], [t["provider"] for t in plain["targets"]]) == ("chat", ["p7", "p8"])
    assert plain["settings"]["retry.max_retries"] == {"value": 1, "origin": "route chat"}
    routed = await _plan(stage, X_Route="spare")
    assert (routed["route"], [t["provider"] for t in routed["targets"]]) == ("spare", ["p9", "p10"])
    named = await _plan(stage, X_Policy="hasty")
    assert named["settings"]["retry.max_retries"] == {"value": 0, "origin": "policy hasty"}
    assert named["settings"]["timeout_s"] == {"value": 5, "origin": "policy hasty"}
    simple = await _plan(stage, X_Policy="hasty", X_Max_Retries="2")
    assert simple["settings"]["retry.max_retries"] == {"value": 2, "origin": "X-Max-Retries"}
    both = await _plan(stage, X_Max_Retries="2", X_Retry_Config='{"max_retries": 3}')
    assert both["settings"]["retry.max_retries"] == {"value": 3, "origin": "X-Retry-Config"}
    chain = await _plan(stage, X_Failover_Providers="p9/gpt-x, p7 ,p9/gpt-x")
    assert [t["name"] for t in chain["targets"]] == ["p9/gpt-x", "p7/gpt-4o"]
    alone = await _plan(stage, X_Failover_Enabled="no")
    assert [t["provider"] for t in alone["targets"]] == ["p7"]
    assert _attempts(stage) == before


async def test_explain_true_tells_the_attempts_and_a_caller_without_headers_is_not_told(stage: Stage) -> None:
    p, f = stage.take(2)
    p.default = Fault(error="model_not_found")
    told = await stage.chat(p, f)
    assert [(e["target"], e["kind"], e["class"]) for e in told.trace] == [
        (f"{p.name}/gpt-4o", "first", "model_not_found"),
        (f"{f.name}/gpt-4o", "failover", "ok"),
    ]
    assert len(told.headers["X-Failover-Trace"]) <= 4096
    plain = await stage.sidecar.chat()
    assert "X-Failover-Trace" not in plain.headers
    for name in ("X-Circuit-Status", "X-Served-By", "X-Served-Model", "X-Attempts", "X-Retry-Count", "Server-Timing"):
        assert name in plain.headers
    assert re.fullmatch(r"req_[0-9a-f]{16}", plain.headers["X-Outrider-Request-Id"])


async def test_what_is_beyond_the_limits_is_clamped_and_told(stage: Stage) -> None:
    answer = await stage.sidecar.chat(headers={"X-Max-Retries": "9", "X-Request-Timeout-Ms": "90000"})
    assert answer.status == 200
    clamped = {entry.strip() for entry in answer.headers["X-Policy-Clamped"].split(",")}
    assert clamped == {"X-Max-Retries=3", "X-Request-Timeout-Ms=60000"}
    assert "X-Policy-Clamped" not in (await stage.sidecar.chat(headers={"X-Max-Retries": "3"})).headers


async def test_a_forbidden_family_is_403(stage: Stage) -> None:
    before = _attempts(stage)
    for name, value in (("X-User-Priority", "high"), ("X-Cache", "off"), ("X-Chaos", "primary:error=503")):
        answer = await stage.sidecar.chat(headers={name: value})
        assert (answer.status, answer.error["code"], answer.error["param"]) == (403, "override_forbidden", name)
    assert _attempts(stage) == before


# Whose key, whose headers ---------------------------------------------------------------------------------------------

CALLERS = {"Authorization": "Bearer sk-callers-own-key"}


async def test_the_three_credential_modes(stage: Stage) -> None:
    sidecar, caller, either = stage.providers[:3]
    for provider, with_key, without in (
        (sidecar, f"Bearer sk-{sidecar.name}-0123456789", f"Bearer sk-{sidecar.name}-0123456789"),
        (caller, CALLERS["Authorization"], None),
        (either, CALLERS["Authorization"], f"Bearer sk-{either.name}-0123456789"),
    ):
        assert (await stage.chat(provider, headers=CALLERS)).status == 200
        assert provider.attempts[-1].header("Authorization") == with_key
        seen = provider.attempts_total
        answer = await stage.chat(provider)
        if without is None:
            assert (answer.status, provider.attempts_total) == (503, seen)
            assert f"{provider.name}=no_key" in answer.error["message"].replace("/gpt-4o", "")
        else:
            assert (answer.status, provider.attempts[-1].header("Authorization")) == (200, without)


@pytest.mark.parametrize("mode", range(3))
async def test_a_brought_key_is_used_for_its_provider_and_this_request_only(stage: Stage, mode: int) -> None:
    provider = stage.providers[mode]
    (f,) = stage.take(1)
    provider.script([Fault(error="model_not_found", only_model="absent")])
    asked = {f"X-Provider-Key-{provider.name.upper()}": "sk-brought-along"}
    answer = await stage.chat(provider, f, model="absent", headers=asked)
    assert answer.headers["X-Served-By"] == f.name
    assert provider.attempts[-1].header("Authorization") == "Bearer sk-brought-along"
    assert f.attempts[0].header("Authorization") == f"Bearer sk-{f.name}-0123456789"
    await stage.chat(provider, headers=CALLERS)
    assert "brought" not in (provider.attempts[-1].header("Authorization") or "")


async def test_L23_the_next_target_gets_nothing_of_the_previous_one(stage: Stage) -> None:
    p, f = stage.take(2)
    mapped = stage.providers[3]
    p.default = f.default = Fault(error="model_not_found")
    every = {
        "X-Failover-Enabled": "true",
        "X-Request-Timeout-Ms": "9000",
        "X-First-Token-Timeout-Ms": "9000",
        "X-Stream-Idle-Timeout-Ms": "9000",
        "X-Max-Retries": "0",
        "X-Retry-Delay-Ms": "1",
        "X-Retry-Strategy": "constant",
        "X-Retry-Config": "{}",
        "X-Circuit-Breaker-Fallback": "error",
        "X-Hedge-Config": '{"delay_ms": 9000}',
        "X-Request-Hedging": "true",
        "X-Policy": "hasty",
        f"X-Provider-Key-{p.name}": "sk-brought-along",
        "X-Attempts": "77",
        "X-Served-By": "me",
        "Connection": "X-Private",
        "X-Private": "1",
        "Keep-Alive": "1",
        "X-Mine": "kept",
        **CALLERS,
    }
    answer = await stage.chat(p, f, mapped, headers=every)
    assert answer.headers["X-Served-By"] == mapped.name
    keys = [f"sk-{each.name}-0123456789" for each in (f, mapped)]
    for provider, key in zip((p, f, mapped), ("sk-brought-along", *keys), strict=True):
        attempt: Attempt = provider.attempts[-1]
        names = [name.lower() for name, _ in attempt.headers]
        assert not CONTROL & set(names)
        assert not [n for n in names if n.startswith(("x-provider-key", "x-failover", "x-retry", "x-hedge"))]
        assert not {"x-attempts", "x-served-by", "connection", "x-private", "keep-alive"} & set(names)
        assert len(names) == len(set(names))
        assert attempt.header("X-Mine") == "kept"
        assert attempt.header("Host") == f"127.0.0.1:{provider.port}"
        assert attempt.header("Authorization") == f"Bearer {key}"
        for other in {"sk-brought-along", "sk-callers-own-key", *keys} - {key}:
            assert other not in str(attempt.headers)
            assert other.encode() not in attempt.body
    assert (p.attempts[-1].model, mapped.attempts[-1].model) == ("gpt-4o", "big-model")
    assert answer.headers["X-Served-Model"] == "big-model"
    assert answer.headers["X-Served-Region"] == "here"


@pytest.mark.parametrize("stream", [False, True])
async def test_L24_no_upstream_can_speak_for_us(stage: Stage, stream: bool) -> None:
    p, f = stage.take(2)
    p.script([Fault(spoof=True), Fault(spoof=True, error="model_not_found")])
    honest = await stage.chat(p, f, stream=stream)
    assert (honest.status, honest.headers["X-Served-By"]) == (200, p.name)
    failed_over = await stage.chat(p, f, stream=stream)
    assert failed_over.headers["X-Served-By"] == f.name
    for answer in (honest, failed_over):
        for name, value in SPOOFED:
            assert value not in answer.headers.getall(name, []), name
            assert len(answer.headers.getall(name, [])) <= 1
    assert failed_over.headers["x-provider"] == f.name
    assert failed_over.headers["x-request-id"].startswith(f"req_{f.name}_")
    assert p.name not in str([v for k, v in failed_over.headers.items() if k.lower() in ("x-provider", "x-request-id")])
    lone = stage.take(1)[0]
    lone.default = Fault(spoof=True, status=503)
    error = await stage.chat(lone, headers={"X-Max-Retries": "0"})
    assert error.status == 503
    assert not [name for name, value in SPOOFED if value in error.headers.getall(name, [])]


# Whose bytes ----------------------------------------------------------------------------------------------------------

ODD = (
    b'{ "model" :\t"gpt-4o",\n "messages":[{"role":"user","content":"caf\\u00e9 \xc3\xa9 \\"gpt-4o\\" 1e2"}],'
    b' "temperature": 1.0e0, "seed": 12345678901234567890, "x":{"model":"gpt-4o"} , "unknown": [ ] }\r\n'
)


async def _post(stage: Stage, path: str, body: bytes, *chain: FakeProvider, **more: str) -> tuple[Answer, bytes]:
    asked = CIMultiDict({"Content-Type": "application/json", **more})
    if chain:
        asked["X-Failover-Providers"] = ",".join(provider.name for provider in chain)
    async with stage.sidecar.session.post(stage.sidecar.url + path, data=body, headers=asked) as response:
        text = await response.read()
    return Answer(response, [(0.0, text)], "", 0.0), text


async def test_the_same_dialect_is_not_touched(stage: Stage) -> None:
    (p,) = stage.take(1)
    odd_answer = '{ "choices":[ {"message":{"content":"caf\\u00e9"},"finish_reason":"stop"}],"n":1.0e0, "zzz" :null }\n'
    p.script([Fault(body=odd_answer)])
    answer, text = await _post(stage, "/v1/chat/completions?beta=1&x=%26", ODD, p)
    assert answer.status == 200
    assert text == odd_answer.encode()
    attempt = p.attempts[0]
    assert attempt.path == "/v1/chat/completions?beta=1&x=%26"
    assert attempt.sha256 == hashlib.sha256(ODD).hexdigest()


async def test_the_model_map_changes_the_value_and_nothing_else(stage: Stage) -> None:
    mapped = stage.providers[3]
    answer, _ = await _post(stage, "/v1/chat/completions", ODD, mapped)
    assert answer.status == 200
    assert mapped.attempts[-1].body == ODD.replace(b'"model" :\t"gpt-4o"', b'"model" :\t"big-model"')


async def test_a_stream_is_the_providers_stream(stage: Stage) -> None:
    """Apart from the running number in its ids, what comes through us is what comes without us, byte for byte."""
    (p,) = stage.take(1)
    p.default = Fault(u2028=True, line_end="crlf")
    sent = b'{"model":"gpt-4o","stream":true,"stream_options":{"include_usage":true},"messages":[]}'
    _, through = await _post(stage, "/v1/chat/completions", sent, p)
    async with stage.sidecar.session.post(f"{p.url}/v1/chat/completions", data=sent) as response:
        direct = await response.read()
    digests = {hashlib.sha256(re.sub(rb"-[0-9]{10}", b"-", text)).hexdigest() for text in (through, direct)}
    assert len(digests) == 1
    assert through.endswith(b"data: [DONE]\r\n\r\n")
    assert [attempt.sha256 for attempt in p.attempts] == [hashlib.sha256(sent).hexdigest()] * 2


async def test_anthropic_messages_keep_their_names_and_path(stage: Stage) -> None:
    claude = stage.providers[4]
    body = b'{"model":"claude-x","max_tokens":5, "messages":[]}'
    answer, _ = await _post(stage, "/v1/messages", body, **{"anthropic-version": "2023-06-01", "x-api-key": "sk-mine"})
    assert answer.status == 200
    attempt = claude.attempts[-1]
    assert (attempt.path, attempt.body) == ("/v1/messages", body)
    assert (attempt.header("x-api-key"), attempt.header("Authorization")) == ("sk-p4-0123456789", None)
    assert attempt.header("anthropic-version") == "2023-06-01"


# Other routes ---------------------------------------------------------------------------------------------------------


async def test_passthrough_to_a_named_provider_and_to_the_primary(stage: Stage) -> None:
    p, primary = stage.take(1)[0], stage.providers[7]
    body = b"\x00\xffnot json\r\n"
    async with stage.sidecar.session.post(
        f"{stage.sidecar.url}/{p.name}/files/a%2Fb?c=d", data=body, headers={"X-Max-Retries": "0", "X-Mine": "1"}
    ) as response:
        await response.read()
    attempt = p.attempts[0]
    assert (attempt.path, attempt.method, attempt.body) == ("/v1/files/a%2Fb?c=d", "POST", body)
    assert attempt.header("Authorization") == f"Bearer sk-{p.name}-0123456789"
    assert response.headers["X-Served-By"] == p.name
    async with stage.sidecar.session.post(
        f"{stage.sidecar.url}/v1/audio/speech", data=b'{"model":"tts"}', headers={"X-Route": "chat"}
    ) as response:
        await response.read()
    assert (primary.attempts[-1].path, response.headers["X-Served-By"]) == ("/v1/audio/speech", primary.name)
    async with stage.sidecar.session.get(f"{stage.sidecar.url}/nobody/v1/files") as response:
        assert response.status == 404
        assert (await response.json())["error"]["code"] == "unknown_path"


async def test_models(stage: Stage) -> None:
    url, before = f"{stage.sidecar.url}/v1/models", _attempts(stage)
    async with stage.sidecar.session.get(url) as response:
        listed = await response.json()
    assert listed["object"] == "list"
    assert all(entry["object"] == "model" for entry in listed["data"])
    async with stage.sidecar.session.get(f"{url}/gpt-4o") as response:
        assert (await response.json())["id"] == "gpt-4o"
    async with stage.sidecar.session.get(url, headers={"anthropic-version": "2023-06-01"}) as response:
        assert "has_more" in await response.json()
    assert _attempts(stage) == before


async def test_embeddings_stay_with_their_model(stage: Stage) -> None:
    three, four = stage.providers[5:7]
    three.default = Fault(status=503)
    body = b'{"model":"embed","input":["a","b"]}'
    asked = {"X-Max-Retries": "0"}
    answer, _ = await _post(stage, "/v1/embeddings", body, three, four, **asked)
    assert (answer.status, four.attempts) == (503, [])  # another model's vectors would look right and be wrong
    assert f"{four.name}/embed-4=other_model" in answer.headers["X-Failover-Skipped"]
    f = stage.take(1)[0]
    chain = {"X-Failover-Providers": f"{three.name},{f.name}/embed-3"}
    answer, _ = await _post(stage, "/v1/embeddings", body, **asked, **chain)
    assert (answer.status, answer.headers["X-Served-By"], answer.headers["X-Served-Model"]) == (200, f.name, "embed-3")
    assert [entry["index"] for entry in answer.json["data"]] == [0, 1]
    assert f.attempts[0].body == body.replace(b'"embed"', b'"embed-3"')


async def test_a_cookie_and_a_date_of_the_upstream_stay_there(stage: Stage) -> None:
    (p,) = stage.take(1)
    p.default = Fault(headers=headers({"Set-Cookie": "a=b", "Alt-Svc": "h3", "openai-processing-ms": "7"}))
    answer = await stage.chat(p)
    assert not {"Set-Cookie", "Alt-Svc"} & set(answer.headers)
    assert answer.headers["openai-processing-ms"] == "7"
