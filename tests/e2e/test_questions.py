"""What may be asked of the history and of incidents, what may not, and who may change anything."""

from __future__ import annotations

import asyncio
import csv
import json
import time
from contextlib import AsyncExitStack
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy.config.load import load_text
from proxy.demo.provider import FakeProvider
from proxy.demo.script import Fault
from proxy.engine.cluster import Cluster
from proxy.observe.entry import FIELDS, Entry, iso
from proxy.observe.incident_json import document
from proxy.policy.incident import Family, Incident, Severity, Type
from proxy.server.alarms import Alarms
from proxy.store.sqlite import Store
from tests.e2e.harness import Sidecar, config
from tests.e2e.past import leave
from tests.e2e.test_incidents import get, soon

DAY_S = 86_400.0
FIRST = 1_700_000_000_000_000


def _entries(now: float) -> list[Entry]:
    return [
        Entry(id=FIRST + 1, at=now - 3 * DAY_S, kind="circuit", provider="a", model="m", request_id="r1"),
        Entry(id=FIRST + 2, at=now - 2 * DAY_S, kind="failover", provider="b", request_id="r1"),
        Entry(id=FIRST + 3, at=now - 2 * DAY_S, kind="failover", provider="gone", request_id="r2"),
        Entry(id=FIRST + 4, at=now - 1 * DAY_S, kind="hedge", provider="a", request_id="r2"),
    ]


async def test_every_filter_of_events(tmp_path: Path) -> None:
    now = time.time()
    path = tmp_path / "o.db"
    leave(path, _entries(now))
    moment = iso(now - 2 * DAY_S)
    cases: list[tuple[str, list[int]]] = [
        ("since=0", [1, 2, 3, 4]),
        ("until=" + iso(now - DAY_S - 1), [3, 2, 1]),
        (f"since={moment}", [2, 3, 4]),
        (f"since={now - 2 * DAY_S - 1:.3f}&until={moment}", []),
        (f"since={FIRST + 2}", [3, 4]),
        ("provider=a&until=2100-01-01T00:00:00Z", [4, 1]),
        ("provider=gone", [3]),
        ("kind=failover", [3, 2]),
        ("kind=failover,hedge", [4, 3, 2]),
        ("request_id=r1", [2, 1]),
        ("request_id=nobody", []),
        ("provider=a&kind=hedge&request_id=r2", [4]),
        ("kind=failover&limit=1", [3]),
        (f"kind=failover&limit=1&cursor={FIRST + 3}", [2]),
        (f"since=0&limit=2&cursor={FIRST + 2}", [3, 4]),
        ("provider=gone&kind=hedge", []),
    ]
    async with FakeProvider(name="a") as a, FakeProvider(name="b") as b:
        tree = config({"a": a.url, "b": b.url}, store={"path": str(path)})
        async with Sidecar(tree, tmp_path) as sidecar:
            for query, expected in cases:
                told = await get(sidecar, f"/v1/events?{query}")
                assert [each["id"] - FIRST for each in told["events"]] == expected, query
                async with sidecar.session.get(f"{sidecar.url}/v1/events?format=csv&{query}") as response:
                    rows = list(csv.DictReader(StringIO(await response.text())))
                    assert [int(row["id"]) - FIRST for row in rows] == expected, query
            for query, param, words in (
                ("provider=aa", "provider", ["a, b"]),
                ("provider=gon", "provider", ["is none of a, b"]),
                ("kind=failovr", "kind", ["attempt, retry, failover", 'did you mean "failover"']),
                ("kind=failover&kind=hedge", "kind", ["more than once", "commas"]),
                ("format=xml", "format", ["json, csv"]),
                ("format=cvs", "format", ['did you mean "csv"']),
                ("limit=0", "limit", ["1 to 1000"]),
                ("limit=1001", "limit", ["1 to 1000"]),
                ("limit=many", "limit", ["1 to 1000"]),
                ("cursor=abc", "cursor", ["whole number"]),
                ("cursor=-1", "cursor", ["whole number"]),
                ("since=yesterday", "since", ["2026-03-01T02:00:00Z"]),
                ("since=2026-03-01", "since", ["with its offset"]),
                ("until=2026-13-01T00:00:00Z", "until", ["with its offset"]),
                ("request_id=" + "x" * 201, "request_id", ["at most 200"]),
                ("request_id=a%0Ab", "request_id", ["printable"]),
                ("requestid=r1", "requestid", ['did you mean "request_id"']),
                ("severity=high", "severity", ["allowed: format, limit, since"]),
            ):
                await _refused(sidecar, f"/v1/events?{query}", param, words)


async def _refused(sidecar: Sidecar, path: str, param: str, words: list[str]) -> None:
    async with sidecar.session.get(f"{sidecar.url}{path}") as response:
        told = await response.json()
        assert (response.status, told["code"], told.get("param")) == (400, "invalid_parameter", param), (path, told)
        assert told["detail"].startswith((param, "unknown parameter")), told
        for word in words:
            assert word in told["detail"], (path, told)


def _incident(number: int, provider: str, region: str, type: Type, severity: Severity, at: float) -> Incident:
    family = Family.CREDENTIAL if type is Type.CREDENTIAL else Family.AVAILABILITY
    return Incident(
        id=f"inc_{number}", provider=provider, region=region, family=family, type=type, types=(type,),
        severity=severity, started_at=at, opened_at=at, ended_at=at + 60,
    )  # fmt: skip


async def test_every_filter_of_incidents(tmp_path: Path) -> None:
    now = time.time()
    path = tmp_path / "o.db"
    past = [
        _incident(1, "a", "eu", Type.OUTAGE, Severity.HIGH, now - 20 * DAY_S),
        _incident(2, "b", "us", Type.PARTIAL_OUTAGE, Severity.MEDIUM, now - 3 * DAY_S),
        _incident(3, "gone", "", Type.CREDENTIAL, Severity.CRITICAL, now - 2 * DAY_S),
    ]
    leave(path, documents={("incident", each.id): document(each) for each in past})
    async with FakeProvider(name="a") as a, FakeProvider(name="b") as b:
        tree = config({"a": a.url, "b": b.url}, store={"path": str(path)})
        tree["providers"]["a"]["region"] = "eu"
        async with Sidecar(tree, tmp_path) as sidecar:
            for query, expected in (
                ("", [3, 2, 1]),
                ("days=3", [3, 2]),
                ("days=2", [3]),
                ("days=1", []),
                ("provider=a", [1]),
                ("provider=a,gone", [3, 1]),
                ("severity=low", [3, 2, 1]),
                ("severity=high", [3, 1]),
                ("type=outage,credential", [3, 1]),
                ("region=us", [2]),
                ("status=resolved&region=eu", [1]),
                ("status=open", []),
            ):
                told = await get(sidecar, f"/v1/incidents?{query}")
                assert [int(each["id"][4:]) for each in told["incidents"]] == expected, query
                assert told["next"] is None
            for query, param, words in (
                ("days=0", "days", ["1 to 3650"]),
                ("days=3651", "days", ["1 to 3650"]),
                ("days=x", "days", ["1 to 3650"]),
                ("provider=gonee", "provider", ["a, b, gone", 'did you mean "gone"']),
                ("provider=a&provider=b", "provider", ["more than once"]),
                ("severity=hihg", "severity", ["low, medium, high, critical", 'did you mean "high"']),
                ("type=outages", "type", ["outage, partial_outage", 'did you mean "outage"']),
                ("region=ue", "region", ["must be one of eu, us"]),
                ("status=closed", "status", ["open, resolved"]),
                ("cursor=inc_1", "cursor", ["`next` of an earlier answer"]),
                ("cursor=nan~inc_1", "cursor", ["`next` of an earlier answer"]),
                ("kind=failover", "kind", ["allowed: days, provider, severity, type, region, status, cursor"]),
            ):
                await _refused(sidecar, f"/v1/incidents?{query}", param, words)
            for path_, param in (
                ("/v1/uptime?days=0", "days"),
                ("/v1/analytics?days=367", "days"),
                ("/v1/explain/r1?x=1", "x"),
                ("/v1/incidents/inc_1?x=1", "x"),
                ("/v1/incidents/subscriptions?x=1", "x"),
            ):
                await _refused(sidecar, path_, param, [])
            async with sidecar.session.get(f"{sidecar.url}/v1/incidents/inc_11") as response:
                told = await response.json()
                assert (response.status, told["code"]) == (404, "unknown_incident")
                assert 'did you mean "inc_1"' in told["detail"]


async def test_a_spreadsheet_runs_nothing_of_what_callers_and_providers_say(tmp_path: Path) -> None:
    """Models are the caller's words, messages the provider's, notes the operator's; none becomes a formula."""
    said = '=HYPERLINK("http://x.example/","a ""click""")\n+1,\tx;\r\n=2+3'
    async with FakeProvider(name="p") as p, FakeProvider(name="f") as f:
        p.default = Fault(status=500, message=said)
        tree = config({"p": p.url, "f": f.url}, store={"path": str(tmp_path / "o.db")})
        async with Sidecar(tree, tmp_path) as sidecar:
            models = ["=1+1", "+1", "-2+3", "@SUM(A1)", "\uff1d1", 'a"b,c', "x=1"]
            for model in models:
                await sidecar.chat(model=model)
            note = {"provider": "f", "for_s": 600, "note": "@SUM(1+1)*cmd|' /C calc'!A0"}
            async with sidecar.session.post(f"{sidecar.admin}/maintenance", json=note) as response:
                assert response.status == 200

            async def both() -> Any:
                """The rows and the entries, once all is told and nothing has come between the two readings."""
                async with sidecar.session.get(f"{sidecar.url}/v1/events?format=csv&limit=1000") as response:
                    raw = await response.read()
                    assert response.headers["Content-Type"].startswith("text/csv")
                entries = (await get(sidecar, "/v1/events?limit=1000"))["events"]
                rows = list(csv.DictReader(StringIO(raw.decode(), newline=""), strict=True))
                requests = {each["model"] for each in entries if each["kind"] == "request"}
                is_all = requests >= set(models) and any(each["kind"] == "maintenance_started" for each in entries)
                return (rows, entries) if is_all and rows[0]["id"] == str(entries[0]["id"]) else None

            rows, entries = await soon(both)
            told = {each["id"]: each for each in entries}
            assert tuple(rows[0]) == FIELDS
            assert {int(row["id"]) for row in rows} == set(told), "no text has broken a row in two"
            seen = set()
            for row in rows:
                assert None not in row
                for name, cell in row.items():
                    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d")), (name, cell)
                entry = told[int(row["id"])]
                assert row["model"].removeprefix("'") == entry.get("model", "")
                assert row["message"].removeprefix("'") == entry.get("message", "")
                assert (json.loads(row["detail"]) if row["detail"] else None) == entry.get("detail")
                seen |= {row["model"], row["message"]}
            assert {"'=1+1", "'+1", "'-2+3", "'@SUM(A1)", "'\uff1d1", 'a"b,c', "x=1", f"'{note['note']}"} <= seen


async def test_whatever_was_not_a_plain_success_stands_in_the_audit_log(tmp_path: Path) -> None:
    """Each thing is done once, and told with who, why and how it ended."""
    async with AsyncExitStack() as stack:
        p, f = [await stack.enter_async_context(FakeProvider(name=name)) for name in "pf"]
        tree = config({"p": p.url, "f": f.url}, limits={"max_retries": 3})
        tree["providers"]["f"]["models"] = {"gpt-4o": {"name": "gpt-4o", "price": {"input": 1.0, "output": 2.0}}}
        sidecar = await stack.enter_async_context(Sidecar(tree, tmp_path))
        plain = await sidecar.chat()
        p.default = Fault(silence_s=30)
        hedge = {"X-Hedge-Config": json.dumps({"strategy": "latency", "delay_ms": 100})}
        hedged = await sidecar.chat(headers=hedge)
        p.heal()
        clamped = await sidecar.chat(headers={"X-Max-Retries": "9"})
        p.script([Fault(status=500)])
        retried = await sidecar.chat(headers={"X-Retry-Delay-Ms": "0"})
        p.default = Fault(status=429, retry_hint_s=30)
        failed_over = await sidecar.chat()
        left_out = await sidecar.chat()
        p.default = f.default = Fault(status=503)
        lost = await sidecar.chat(headers={"X-Failover-Providers": "f"})
        answers = (plain, hedged, clamped, retried, failed_over, left_out, lost)
        assert [each.status for each in answers] == [200] * 6 + [503]
        ids = [answer.headers["X-Outrider-Request-Id"] for answer in answers]

        async def of(id: str) -> list[dict[str, Any]]:
            return list((await get(sidecar, f"/v1/events?since=0&request_id={id}"))["events"])

        async def all_told() -> Any:
            return all([any(each["kind"] == "request" for each in await of(id)) for id in ids[1:]])

        await soon(all_told)
        told = {name: await of(id) for name, id in zip(NAMES, ids, strict=True)}
        kinds = {name: sorted(each["kind"] for each in found) for name, found in told.items()}
        assert kinds == {
            "plain": [],
            "hedged": ["attempt", "hedge", "request"],
            "clamped": ["attempt", "clamp", "request"],
            "retried": ["attempt", "request", "retry"],
            "failed_over": ["attempt", "failover", "request"],
            "left_out": ["failover", "request"],
            "lost": ["attempt", "request", *["retry"] * (len(told["lost"]) - 2)],
        }
        request = {
            name: next(each for each in found if each["kind"] == "request") for name, found in told.items() if found
        }
        assert request["clamped"].get("error") is None
        assert request["retried"]["retries"] == 1
        for name in ("failed_over", "left_out"):
            entry = request[name]
            assert (entry["provider"], entry["model"], entry["fallback"]) == ("p", "gpt-4o", "f/gpt-4o")
            assert (entry["error"], entry["completed"]) == ("rate_limit", True)
            assert entry["cost_usd"] == (entry["input_tokens"] + 2 * entry["output_tokens"]) / 1e6
        assert (request["lost"]["completed"], request["lost"]["status"]) == (False, 503)
        for found in told.values():
            for entry in found:
                if entry["kind"] in ("attempt", "retry", "failover", "hedge"):
                    assert entry["latency_ms"] > 0
                    assert entry["provider"] in ("p", "f")
                    assert entry["route"] == request_route(found)
        (cooldown,) = (await get(sidecar, "/v1/events?kind=cooldown&provider=p"))["events"]
        assert (cooldown["error"], 25 < cooldown["detail"]["for_s"] <= 30.1) == ("rate_limit", True)


NAMES = ("plain", "hedged", "clamped", "retried", "failed_over", "left_out", "lost")


def request_route(found: list[dict[str, Any]]) -> str:
    return str(next(each["route"] for each in found if each["kind"] == "request"))


CHANGING = (
    ("POST", "/v1/incidents/subscribe", {"channels": ["webhook"], "webhook_url": "http://127.0.0.1:9/"}, 201),
    ("POST", "/v1/incidents/inc_0/acknowledge", {"by": "ann"}, 404),
    ("DELETE", "/v1/incidents/subscriptions/sub_0", None, 404),
)
"""Every route of the status API that changes something, and what it answers to who may."""


def test_there_is_no_other_route_that_changes_something() -> None:
    """So that a new one cannot be forgotten below."""
    built = load_text(yaml.safe_dump(config({"a": "http://127.0.0.1:9"})), "test", {}).config
    assert built is not None
    alarms = Alarms(
        built,
        Cluster(lambda: 0.5),
        Store(":memory:"),
        clock=time.monotonic,
        wall=time.time,
        publish=lambda entry: None,
        refused=lambda code: None,
        run="run",
    )
    listed = {path.replace("inc_0", "*").replace("sub_0", "") for _, path, _, _ in CHANGING}
    assert listed == set(alarms.write_routes())


@pytest.mark.parametrize("port", ["data", "admin"])
async def test_nothing_is_changed_without_the_token(port: str, tmp_path: Path) -> None:
    listen: dict[str, Any] = {
        "data": {"host": "127.0.0.1", "port": 0},
        "admin": {"host": "127.0.0.1", "port": 0},
        "admin_tokens": ["adm-0123456789"],
        "auth_tokens": ["app-0123456789"],
    }
    listen[port]["host"] = "0.0.0.0"
    async with FakeProvider(name="a") as a:
        tree = config({"a": a.url}, listen=listen, notify={"allow_private": True})
        async with Sidecar(tree, tmp_path) as sidecar:
            base = sidecar.url if port == "data" else sidecar.admin
            caller = {"Authorization": "Bearer app-0123456789"} if port == "data" else {}
            for method, path, body, status in CHANGING:
                for token, expected in (
                    (None, 403), ("", 403), ("wrong", 403), ("app-0123456789", 403), ("adm-012345678", 403),
                    ("adm-01234567899", 403), ("adm-0123456789", status),
                ):  # fmt: skip
                    sent = {**caller, **({} if token is None else {"X-Outrider-Admin-Token": token})}
                    async with sidecar.session.request(method, base + path, json=body, headers=sent) as response:
                        assert response.status == expected, (path, token)
                        assert b"0123456789" not in await response.read()
        assert "0123456789" not in json.dumps(sidecar.lines)


def _open_to_all(provider: FakeProvider) -> dict[str, Any]:
    return config({provider.name: provider.url}, notify={"allow_private": True})


BROWSER = {"User-Agent": "Mozilla/5.0 (X11; Linux x86_64) Chrome/156.0.0.0", "Accept-Language": ""}
"""What is left of a browser's read within its own origin when the page empties all it may."""
READING = (
    "/", "/v1/health", "/v1/events", "/v1/explain/req_1", "/v1/incidents", "/v1/incidents/subscriptions",
    "/v1/analytics", "/v1/uptime", "/v1/capabilities", "/v1/health/stream",
)  # fmt: skip
OF_THE_DATA_PORT = ("/v1/models", "/a/v1/files")
OF_THE_ADMIN_PORT = ("/status", "/config", "/metrics", "/livez")


@pytest.mark.parametrize("admin_host", ["127.0.0.1", "0.0.0.0"])
async def test_a_page_that_has_no_business_here_reads_nothing_and_calls_no_model(
    admin_host: str, tmp_path: Path
) -> None:
    listen = {"data": {"host": "127.0.0.1", "port": 0}, "admin": {"host": admin_host, "port": 0}}
    async with FakeProvider(name="a") as a, Sidecar(config({"a": a.url}, listen=listen), tmp_path) as sidecar:
        for base, port, more in (
            (sidecar.url, sidecar.data_port, OF_THE_DATA_PORT),
            (sidecar.admin, sidecar.admin_port, OF_THE_ADMIN_PORT),
        ):
            name, own = f"evil.example:{port}", f"localhost:{port}"
            foreign = {"Host": own, "Origin": "https://evil.example"}
            for path in (*READING, *more):
                for headers in ({"Host": name, **BROWSER}, foreign, {"Host": name, "Origin": f"http://{name}"}):
                    async with sidecar.session.get(base + path, headers=headers) as response:
                        told = await response.json(content_type=None)
                        assert (response.status, "access-control-allow-origin" in response.headers) == (403, False)
                        problem = told if port == sidecar.admin_port or path in READING else told["error"]
                        assert problem["code"] == "foreign_page", path
            socket = {**foreign, "Connection": "Upgrade", "Upgrade": "websocket"}
            async with sidecar.session.get(f"{base}/v1/health/stream", headers=socket) as response:
                assert response.status == 403
            # Whoever is at home, and programs under a name of their own.
            for headers in ({"Host": own, **BROWSER}, {"Host": name}, {"Host": own, "Origin": "http://localhost:3000"}):
                async with sidecar.session.get(f"{base}/v1/health", headers=headers) as response:
                    assert response.status == 200, headers
        body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]})
        for headers, status in (
            ({"Host": f"localhost:{sidecar.data_port}", "Origin": "https://evil.example"}, 403),
            ({"Host": f"evil.example:{sidecar.data_port}", "Origin": f"http://evil.example:{sidecar.data_port}"}, 403),
            ({"Host": f"localhost:{sidecar.data_port}", "Origin": "http://localhost:3000"}, 200),
            ({"Host": "llm.shop.example"}, 200),
        ):
            sent = {**headers, "Content-Type": "text/plain"}
            path = f"{sidecar.url}/v1/chat/completions"
            async with sidecar.session.post(path, data=body, headers=sent) as response:
                assert response.status == status, headers
        assert a.attempts_total == 2


async def test_a_page_with_a_token_may_come_from_anywhere(tmp_path: Path) -> None:
    listen = {"data": {"port": 0}, "admin": {"port": 0}, "auth_tokens": ["app-0123456789"]}
    async with FakeProvider(name="a") as a, Sidecar(config({"a": a.url}, listen=listen), tmp_path) as sidecar:
        page = {"Origin": "https://app.shop.example", "Authorization": "Bearer app-0123456789"}
        for headers, status in ((page, 200), ({"Origin": "https://app.shop.example"}, 401)):
            async with sidecar.session.get(f"{sidecar.url}/v1/health", headers=headers) as response:
                assert response.status == status


async def test_a_refusal_of_the_door_has_the_shape_of_its_path(tmp_path: Path) -> None:
    async with FakeProvider(name="a") as a, Sidecar(config({"a": a.url}), tmp_path) as sidecar:
        for path, kind in (
            ("/v1/health", "application/problem+json"),
            ("/v1/explain/x", "application/problem+json"),
            ("/", "application/problem+json"),
            ("/v1/models", "application/json"),
        ):
            # By our own check, by the parser, and by the length of the head.
            for line in (b"X-Team: caf\xc3\xa9", b"X Team: a", b"X-Team: " + b"a" * 40_000):
                reader, writer = await asyncio.open_connection("127.0.0.1", sidecar.data_port)
                writer.write(b"GET %b HTTP/1.1\r\nHost: localhost\r\n%b\r\n\r\n" % (path.encode(), line))
                answer = await reader.read()
                writer.close()
                assert b"\r\nContent-Type: %b\r\n" % kind.encode() in answer, (path, line[:20], answer)


async def test_the_largest_page_says_that_there_is_more(tmp_path: Path) -> None:
    path = tmp_path / "o.db"
    leave(path, [Entry(id=FIRST + n, at=time.time(), kind="hedge", provider="a") for n in range(1001)])
    async with (
        FakeProvider(name="a") as a,
        Sidecar(config({"a": a.url}, store={"path": str(path)}), tmp_path) as sidecar,
    ):
        told = await get(sidecar, "/v1/events?kind=hedge&limit=1000")
        assert (len(told["events"]), told["next"]) == (1000, str(FIRST + 1))
        told = await get(sidecar, f"/v1/events?kind=hedge&limit=1000&cursor={told['next']}")
        assert ([each["id"] for each in told["events"]], told["next"]) == ([FIRST], None)


async def test_a_moment_and_a_cursor_of_nought_are_given(tmp_path: Path) -> None:
    async with FakeProvider(name="a") as a, Sidecar(config({"a": a.url}), tmp_path) as sidecar:
        a.default = Fault(status=500)
        await sidecar.chat()
        for query, finds in (("", True), ("until=0", False), ("cursor=0", False), ("until=", True), ("cursor=", True),
                             ("since=0", True), ("since=0&cursor=0", True)):  # fmt: skip
            async with sidecar.session.get(f"{sidecar.url}/v1/events?{query}") as response:
                told = await response.json()
                assert bool(told.get("events")) is finds, (query, told)


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}"])
async def test_a_page_whose_name_leads_here_changes_nothing(host: str, tmp_path: Path) -> None:
    """DNS rebinding: a page of evil.example, whose name now means 127.0.0.1, is at home on our port to its browser."""
    async with FakeProvider(name="a") as a, Sidecar(_open_to_all(a), tmp_path) as sidecar:
        for base, port in ((sidecar.url, sidecar.data_port), (sidecar.admin, sidecar.admin_port)):
            name = host.format(port=port)
            for method, path, body, status in CHANGING:
                for headers, expected in (
                    ({"Host": name, "Origin": f"http://{name}"}, 403),
                    ({"Host": f"localhost:{port}", "Origin": "null"}, 403),
                    ({"Host": f"localhost:{port}", "Origin": "http://["}, 403),
                    ({"Host": f"localhost:{port}", "Origin": f"http://localhost:{port + 1}"}, 403),
                    ({"Host": f"localhost:{port}", "Origin": f"http://localhost:{port}"}, status),
                ):
                    async with sidecar.session.request(method, base + path, json=body, headers=headers) as response:
                        told = await response.text()
                        assert response.status == expected, (headers, told)
