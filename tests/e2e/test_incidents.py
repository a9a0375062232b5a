"""Incidents and notifications of the real process: what happened, who is told, and nothing lost over a kill."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from proxy.demo.provider import FakeProvider
from proxy.demo.script import Fault
from tests.e2e.harness import POLICY_T, Sidecar, config
from tests.e2e.receivers import MailServer, Receiver, verified


async def soon(read: Callable[[], Awaitable[Any]], timeout_s: float = 30.0) -> Any:
    """What `read` gives as soon as it gives something; looks ten times a second."""
    async with asyncio.timeout(timeout_s):
        while not (found := await read()):
            await asyncio.sleep(0.1)
    return found


async def get(sidecar: Sidecar, path: str) -> Any:
    async with sidecar.session.get(f"{sidecar.url}{path}") as response:
        assert response.status == 200, await response.text()
        return await response.json()


async def incidents(sidecar: Sidecar, query: str = "") -> list[dict[str, Any]]:
    return list((await get(sidecar, f"/v1/incidents{query}"))["incidents"])


async def post(sidecar: Sidecar, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    async with sidecar.session.post(f"{sidecar.url}{path}", json=body, headers=headers) as response:
        return response.status, await response.json()


async def subscribe(sidecar: Sidecar, receiver: Receiver, **over: Any) -> dict[str, Any]:
    wish = {"channels": ["webhook"], "webhook_url": receiver.url, "severity_threshold": "low", **over}
    status, told = await post(sidecar, "/v1/incidents/subscribe", wish)
    assert status == 201, told
    assert told["saved"] is True
    return dict(told)


async def resolved(sidecar: Sidecar, provider: FakeProvider) -> list[dict[str, Any]]:
    """Heal `provider`; the incidents that are over, once none is open.

    Out of "down" it is well at once; out of "degraded", as which it is seen before it is down and while its circuit is
    half open, lead ten calm seconds. So it is called often: both trials are between two looks at it, a second apart.
    """

    async def is_down() -> Any:
        (found,) = (each for each in (await get(sidecar, "/v1/health"))["providers"] if each["name"] == provider.name)
        return found["status"] == "down"

    await soon(is_down)
    provider.heal()

    async def is_over() -> Any:
        for _ in range(8):
            await sidecar.chat()
        return not await incidents(sidecar, "?status=open")

    await soon(is_over, 60.0)
    return await incidents(sidecar, "?status=resolved")


QUICK = {"circuit_breaker": {"error_threshold": 5, "error_threshold_window": 30, "timeout": 1, "success_threshold": 2}}
"""Policy T's circuit breaker as a file's defaults, with a shorter wait until somebody is let through again."""


async def outage(sidecar: Sidecar, provider: FakeProvider, requests: int = 8) -> None:
    """Break `provider`, and let so many requests meet it."""
    provider.default = Fault(status=503)
    for _ in range(requests):
        assert (await sidecar.chat()).status == 200


async def test_an_outage_is_told_from_its_beginning_to_its_end(tmp_path: Path) -> None:
    async with FakeProvider(name="a") as a, FakeProvider(name="b") as b, Receiver() as receiver:
        tree = config({"a": a.url, "b": b.url}, notify={"allow_private": True}, defaults=QUICK)
        tree["providers"]["a"]["region"] = "eu"
        async with Sidecar(tree, tmp_path) as sidecar:
            made = await subscribe(sidecar, receiver)
            await subscribe(sidecar, receiver, severity_threshold="critical")
            await subscribe(sidecar, receiver, include_types=["credential"])
            await subscribe(sidecar, receiver, regions=["us"])
            await outage(sidecar, a)
            (found,) = await soon(lambda: incidents(sidecar, "?status=open&provider=a&region=eu"))
            assert found["type"] in ("outage", "partial_outage")
            assert found["affected_services"] == ["a/gpt-4o"]
            assert sum(found["evidence"]["errors"].values()) >= 5
            assert found["timeline"][0]["what"] == "opened"
            assert await incidents(sidecar, "?severity=critical") == []

            (over,) = await resolved(sidecar, a)
            assert over["id"] == found["id"]
            assert over["resolution"]
            assert (over["failed_over"], over["user_visible_errors"]) == (over["affected_requests"], 0)
            assert over["affected_requests"] >= 8, "requests that the open circuit sent elsewhere count too"
            assert await get(sidecar, f"/v1/incidents/{over['id']}") == {**over}
            hooks = await receiver.wait(lambda hooks: hooks[-1].json["type"] == "incident.resolved")
            assert all(verified(hook, made["secret"]) for hook in hooks)
            assert {hook.json["subscription"] for hook in hooks} == {made["id"]}
            assert {hook.json["incident"]["id"] for hook in hooks} == {found["id"]}
            assert hooks[0].json["type"] == "incident.opened"
            ids = [hook.json["id"] for hook in hooks]
            assert len(ids) == len(set(ids))
            assert [hook.headers["X-Outrider-Delivery"] for hook in hooks] == ids

            async def counted() -> Any:  # the last one is counted when its answer has come
                samples = await sidecar.metrics()
                delivered = samples['outrider_notifications_total{channel="webhook",result="delivered"}']
                return samples if delivered >= len(hooks) else None

            samples = await soon(counted)
            assert samples['outrider_notifications_total{channel="webhook",result="delivered"}'] == len(hooks)
            assert samples["outrider_incidents_total"] == 1
            assert samples["outrider_incidents_open"] == 0


async def test_a_receiver_that_was_away_gets_everything_and_nothing_twice_under_two_ids(tmp_path: Path) -> None:
    async with FakeProvider(name="a") as a, FakeProvider(name="b") as b, Receiver() as receiver:
        tree = config({"a": a.url, "b": b.url}, notify={"allow_private": True})
        async with Sidecar(tree, tmp_path) as sidecar:
            made = await subscribe(sidecar, receiver)
            await receiver.stop()
            a.default = Fault(status=401)
            assert (await sidecar.chat()).status == 200
            (found,) = await soon(lambda: incidents(sidecar, "?type=credential"))
            assert found["severity"] == "high"
            assert a.attempts_total == 1, "one call on the bad key"

            async def has_failed() -> Any:
                samples = await sidecar.metrics()
                return samples.get('outrider_notifications_total{channel="webhook",result="failed"}')

            await soon(has_failed)
            receiver.answer = lambda hook: 500 if len(receiver.hooks) < 2 else 204
            await receiver.start()
            await receiver.wait(lambda hooks: any(hook.status == 204 for hook in hooks))
            assert [hook.status for hook in receiver.hooks] == [500, 500, 204]
            assert len({hook.json["id"] for hook in receiver.hooks}) == 1
            assert all(verified(hook, made["secret"]) for hook in receiver.hooks)
            assert receiver.taken[0].json["incident"]["id"] == found["id"]
            (found,) = await incidents(sidecar)
            assert (found["affected_requests"], found["failed_over"]) == (1, 1)
            status = await soon(lambda: _nothing_waits(sidecar))
            assert status


async def _nothing_waits(sidecar: Sidecar) -> bool:
    status = await sidecar.status()
    return bool(status["notifications_waiting"] == 0 and status["documents_unsaved"] == 0)


async def test_nothing_is_missing_after_a_kill(tmp_path: Path) -> None:
    async with FakeProvider(name="a") as a, FakeProvider(name="b") as b, Receiver() as receiver:
        notify = {"allow_private": True, "signing_key": "whsec-0123456789"}
        tree = config({"a": a.url, "b": b.url}, notify=notify, store={"path": str(tmp_path / "o.db")})
        async with Sidecar(tree, tmp_path) as sidecar:
            made = await subscribe(sidecar, receiver)
            assert "secret" not in made, "the operator's key signs"
            await receiver.stop()
            a.default = Fault(status=401)
            assert (await sidecar.chat()).status == 200
            b.default = Fault(status=403)
            await sidecar.chat()

            async def on_disk() -> Any:
                status = await sidecar.status()
                return status["notifications_waiting"] == 2 and status["documents_unsaved"] == 0

            await soon(on_disk)
            before = {each["id"]: each for each in await incidents(sidecar)}
            status, acknowledged = await post(sidecar, f"/v1/incidents/{next(iter(before))}/acknowledge", {"by": "ann"})
            assert (status, acknowledged["saved"], acknowledged["acknowledged_by"]) == (200, True, "ann")
            sidecar.process.send_signal(signal.SIGKILL)
            await sidecar.process.wait()
        async with Sidecar(tree, tmp_path) as sidecar:
            await receiver.start()
            after = {each["id"]: each for each in await soon(lambda: incidents(sidecar))}
            assert after.keys() == before.keys()
            assert {each["provider"] for each in after.values()} == {"a", "b"}
            assert after[acknowledged["id"]]["acknowledged_by"] == "ann"
            listed = (await get(sidecar, "/v1/incidents/subscriptions"))["subscriptions"]
            assert [each["id"] for each in listed] == [made["id"]]
            assert listed[0]["webhook_url"] == f"http://127.0.0.1:{receiver.port}/…"
            hooks = await receiver.wait(lambda hooks: len({hook.json["incident"]["id"] for hook in hooks}) == 2)
            assert {hook.json["incident"]["id"] for hook in hooks} == set(before)
            assert all(verified(hook, "whsec-0123456789") for hook in hooks)
            bodies: dict[str, set[bytes]] = {}
            for hook in hooks:
                bodies.setdefault(hook.json["id"], set()).add(hook.body)
            assert all(len(each) == 1 for each in bodies.values()), "what comes twice is the same"


async def test_mail_sms_and_slack_go_through_what_the_file_names(tmp_path: Path) -> None:
    async with FakeProvider(name="a") as a, FakeProvider(name="b") as b, Receiver() as gateway, MailServer() as mail:
        notify = {
            "smtp": {
                "host": "127.0.0.1", "port": mail.port, "tls": "none", "sender": "outrider@example.com",
                "username": "me", "password": "hunter2",
            },
            "sms": {"url": f"http://127.0.0.1:{gateway.port}/sms", "token": "sms-token"},
            "slack": {"url": f"http://127.0.0.1:{gateway.port}/slack"},
            "subscriptions": [
                {"channels": ["email", "sms", "slack"], "email": "oncall@example.com", "phone": "+4930123456"}
            ],
        }  # fmt: skip
        async with Sidecar(config({"a": a.url, "b": b.url}, notify=notify), tmp_path) as sidecar:
            a.default = Fault(status=401)
            await sidecar.chat()
            (sent,) = await mail.wait(1)
            assert sent.message["Subject"] == "[outrider] [HIGH] credential of a opened"
            assert (sent.message["From"], sent.message["To"]) == ("outrider@example.com", "oncall@example.com")
            assert sent.recipients == ["TO:<oncall@example.com>"]
            assert sent.login
            hooks = await gateway.wait(lambda hooks: len(hooks) == 2)
            by_key = {("to" in hook.json): hook for hook in hooks}
            assert by_key[True].json == {"to": "+4930123456", "text": "[HIGH] credential of a opened"}
            assert by_key[True].headers["Authorization"] == "Bearer sms-token"
            assert "refuses the sidecar's credential" in by_key[False].json["text"]
            async with sidecar.session.get(f"{sidecar.admin}/config") as response:
                shown = await response.text()
            assert "hunter2" not in shown
            assert "sms-token" not in shown
            assert "/slack" not in shown
            (listed,) = (await get(sidecar, "/v1/incidents/subscriptions"))["subscriptions"]
            assert (listed["from_file"], listed["email"], listed["phone"]) == (True, "o…@example.com", "+49…56")
            async with sidecar.session.delete(f"{sidecar.url}/v1/incidents/subscriptions/{listed['id']}") as response:
                assert response.status == 409


async def test_an_address_of_the_file_that_is_not_public_is_refused_at_delivery(tmp_path: Path) -> None:
    async with FakeProvider(name="a") as a, Receiver() as receiver:
        notify = {
            "signing_key": "whsec-0123456789",
            "subscriptions": [{"channels": ["webhook"], "webhook_url": receiver.url}],
        }
        async with Sidecar(config({"a": a.url}, notify=notify), tmp_path) as sidecar:
            a.default = Fault(status=401)
            await sidecar.chat()

            async def is_refused() -> Any:
                samples = await sidecar.metrics()
                return samples['outrider_notifications_total{channel="webhook",result="never"}']

            assert await soon(is_refused) == 1

            async def told() -> Any:
                return (await get(sidecar, "/v1/events?kind=notification_failed"))["events"]

            assert "public" in json.dumps(await soon(told))
            assert receiver.hooks == []


async def test_what_subscribing_refuses_names_the_field(tmp_path: Path) -> None:
    async with FakeProvider(name="a") as a, Sidecar(config({"a": a.url}), tmp_path) as sidecar:
        good = {"channels": ["webhook"], "webhook_url": "https://hooks.example.com/x"}
        for change, named in (
            ({"channels": []}, "channels"),
            ({"channels": ["webhok"]}, "channels: 'webhok' is none of webhook, email, sms, slack; did you mean"),
            ({"channels": ["email"], "email": "a@b.c"}, "notify.smtp"),
            ({"channels": ["sms"], "phone": "+4930123456"}, "notify.sms"),
            ({"channels": ["slack"]}, "notify.slack"),
            ({"webhook_url": ""}, "webhook_url is needed"),
            ({"webhook_url": "ftp://example.com/"}, "webhook_url must begin with"),
            ({"severity_threshold": "hihg"}, 'did you mean "high"'),
            ({"include_types": ["outages"]}, 'did you mean "outage"'),
            ({"regions": "eu"}, "regions must be a list"),
            ({"webook_url": "x"}, 'unknown field \'webook_url\'; did you mean "webhook_url"?'),
        ):  # fmt: skip
            status, told = await post(sidecar, "/v1/incidents/subscribe", {**good, **change})
            assert status == 400, change
            assert named in told["detail"], told
        for query, named in (
            ("?dayz=3", 'did you mean "days"'),
            ("?days=0", "days must be a whole number from 1"),
            ("?severity=huge", "severity must be one of low, medium, high, critical"),
            ("?provider=aa", "is none of a"),
            ("?cursor=inc_x", "cursor must be"),
        ):
            async with sidecar.session.get(f"{sidecar.url}/v1/incidents{query}") as response:
                assert response.status == 400
                assert named in (await response.json())["detail"]
        for host in (
            "127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0x7f000001", "2130706433", "127.1",
            "0177.0.0.1", "169.254.169.254", "10.0.0.1", "0.0.0.0", "[fd00:ec2::254]", "[fe80::1]",
        ):  # fmt: skip
            wish = {"channels": ["webhook"], "webhook_url": f"http://{host}:{a.port}/"}
            status, told = await post(sidecar, "/v1/incidents/subscribe", wish)
            assert (status, told["code"]) == (400, "private_address"), host
        assert (await get(sidecar, "/v1/incidents/subscriptions"))["subscriptions"] == []
        status, _ = await post(sidecar, "/v1/incidents/inc_0/acknowledge")
        assert status == 404
        status, told = await post(sidecar, "/v1/incidents/subscribe", {**good, "email": "a" * 20_000})
        assert (status, told["code"]) == (413, "body_too_large")
        assert (await sidecar.metrics())['outrider_refused_total{code="body_too_large"}'] == 1
        for origin in ("https://evil.example", "http://localhost:1"):
            status, told = await post(sidecar, "/v1/incidents/subscribe", good, Origin=origin)
            assert (status, told["code"]) == (403, "not_allowed")


async def test_a_port_beyond_loopback_wants_an_admin_token(tmp_path: Path) -> None:
    async with FakeProvider(name="a") as a:
        listen = {
            "data": {"host": "127.0.0.1", "port": 0},
            "admin": {"host": "0.0.0.0", "port": 0},
            "admin_tokens": ["adm-0123456789"],
        }
        async with Sidecar(config({"a": a.url}, listen=listen, notify={"allow_private": True}), tmp_path) as sidecar:
            wish = {"channels": ["webhook"], "webhook_url": "http://127.0.0.1:9/"}
            url = f"{sidecar.admin}/v1/incidents/subscribe"
            for headers, expected in (
                ({}, 403),
                ({"Authorization": "Bearer wrong"}, 403),
                ({"Authorization": "Bearer adm-0123456789"}, 201),
                ({"X-Outrider-Admin-Token": "adm-0123456789"}, 201),
            ):
                async with sidecar.session.post(url, json=wish, headers=headers) as response:
                    assert response.status == expected, headers
            assert (await post(sidecar, "/v1/incidents/subscribe", wish))[0] == 201, "the data port is loopback"
            async with sidecar.session.delete(f"{sidecar.admin}/v1/incidents/subscriptions/x") as response:
                assert response.status == 403


@pytest.mark.parametrize("name", ["X-Outrider-Admin-Token", "Authorization"])
async def test_a_token_that_is_no_ascii_is_refused_at_the_door(name: str, tmp_path: Path) -> None:
    """With 400, as every header with such a byte is before anybody asks what it means (`http.md`); the file cannot
    state one either. Nothing is compared with it, nothing is written, and the next caller is served."""
    prefix = b"Bearer " if name == "Authorization" else b""
    tokens = {"admin_tokens": ["adm-0123456789"], "data": {"host": "0.0.0.0", "port": 0}, "insecure": True}
    listen = {**tokens, "admin": {"host": "0.0.0.0", "port": 0}}
    async with FakeProvider(name="a") as a:
        async with Sidecar(config({"a": a.url}, listen=listen, notify={"allow_private": True}), tmp_path) as sidecar:
            body = b'{"channels":["webhook"],"webhook_url":"http://127.0.0.1:9/"}'
            for port in (sidecar.data_port, sidecar.admin_port):
                for token, status in (
                    (b"adm-0123456789\xe9", 400),
                    ("adm-0123456789\u00e9".encode(), 400),
                    (b"\xff\xfe", 400),
                    (b"adm-0123456789\x00", 400),
                    (b"adm-012345678", 403),
                    (b"adm-0123456789", 201),
                ):
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.write(
                        b"POST /v1/incidents/subscribe HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                        b"Content-Length: %d\r\n%b: %b%b\r\n\r\n%b" % (len(body), name.encode(), prefix, token, body)
                    )
                    answer = await reader.read()
                    writer.close()
                    assert answer.split(b" ", 2)[1] == b"%d" % status, (port, token, answer)
                    assert b"adm-0123456789" not in answer
            listed = (await get(sidecar, "/v1/incidents/subscriptions"))["subscriptions"]
            assert len(listed) == 2
        assert {line["level"] for line in sidecar.lines} <= {"info", "warning"}


READ = ("/v1/health", "/v1/capabilities", "/v1/incidents", "/v1/incidents/subscriptions", "/v1/uptime", "/v1/analytics")
READ += ("/v1/events", "/v1/events?format=csv", "/v1/models")


async def test_a_data_port_beyond_loopback_wants_its_token_to_read_and_an_admin_token_to_change(tmp_path: Path) -> None:
    """Two tokens for two things: the one that lets a caller in changes nothing, the other lets nobody in."""
    async with FakeProvider(name="a") as a:
        listen = {
            "data": {"host": "0.0.0.0", "port": 0},
            "admin": {"host": "127.0.0.1", "port": 0},
            "auth_tokens": ["app-0123456789"],
            "admin_tokens": ["adm-0123456789"],
        }
        app = {"Authorization": "Bearer app-0123456789"}
        wish = {"channels": ["webhook"], "webhook_url": "http://127.0.0.1:9/"}
        async with Sidecar(config({"a": a.url}, listen=listen, notify={"allow_private": True}), tmp_path) as sidecar:
            for path in READ:
                for headers, expected in (
                    ({}, 401),
                    ({"Authorization": "Bearer app-012345678"}, 401),
                    ({"Authorization": "Bearer adm-0123456789"}, 401),
                    ({"X-Outrider-Admin-Token": "adm-0123456789"}, 401),
                    (app, 200),
                ):
                    async with sidecar.session.get(f"{sidecar.url}{path}", headers=headers) as response:
                        assert response.status == expected, (path, headers)
            for headers, expected in (
                ({}, 401),
                ({"X-Outrider-Admin-Token": "adm-0123456789"}, 401),
                (app, 403),
                ({**app, "X-Outrider-Admin-Token": "app-0123456789"}, 403),
                ({**app, "X-Outrider-Admin-Token": ""}, 403),
                ({**app, "X-Outrider-Admin-Token": "adm-0123456789"}, 201),
            ):
                async with sidecar.session.post(
                    f"{sidecar.url}/v1/incidents/subscribe", json=wish, headers=headers
                ) as response:
                    assert response.status == expected, headers
                    assert b"0123456789" not in await response.read()
            answer = await sidecar.chat(headers={**app, "X-Outrider-Admin-Token": "adm-0123456789"})
            assert (answer.status, answer.error["param"]) == (400, "X-Outrider-Admin-Token"), (
                "it is none of a model call"
            )
            assert b"0123456789" not in answer.body
            assert a.attempts == [], "no token reaches a provider"
        assert "0123456789" not in json.dumps(sidecar.lines)


async def test_announced_maintenance_is_no_incident(tmp_path: Path) -> None:
    async with FakeProvider(name="a") as a, FakeProvider(name="b") as b:
        tree = config({"a": a.url, "b": b.url})
        async with Sidecar(tree, tmp_path) as sidecar:
            async with sidecar.session.post(
                f"{sidecar.admin}/maintenance", json={"provider": "a", "for_s": 600}
            ) as response:
                assert response.status == 200
            a.default = Fault(status=503)
            for _ in range(10):
                assert (await sidecar.chat(headers=POLICY_T)).status == 200
            assert a.attempts_total == 0

            async def begun() -> Any:
                return (await get(sidecar, "/v1/events?kind=maintenance_started"))["events"]

            await soon(begun)
            assert await incidents(sidecar) == []
