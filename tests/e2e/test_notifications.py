"""Notifications of the real process to receivers that do not do as they should, and to people who do not answer."""

from __future__ import annotations

import asyncio
import hmac
import json
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from proxy.demo.provider import FakeProvider
from proxy.demo.script import Fault
from tests.e2e.harness import ROOT, Sidecar, config
from tests.e2e.receivers import Hook, MailServer, Receiver, verified
from tests.e2e.test_incidents import get, incidents, post, soon, subscribe

REFUSED = Fault(status=401)
KEY = "whsec-0123456789"


async def refuse_key(sidecar: Sidecar, *providers: FakeProvider) -> None:
    """Let a call find each provider's key refused: an incident each, at once."""
    for provider in providers:
        provider.default = REFUSED
        assert (await sidecar.chat(headers={"X-Failover-Providers": f"{provider.name},well"})).status == 200


@asynccontextmanager
async def stage(folder: Path, *names: str, **notify: Any) -> AsyncIterator[tuple[Sidecar, list[FakeProvider]]]:
    """A process over these providers, and one more that is well."""
    async with AsyncExitStack() as stack:
        providers = [await stack.enter_async_context(FakeProvider(name=name)) for name in (*names, "well")]
        urls = {each.name: each.url for each in providers}
        tree = config(urls, notify={"allow_private": True, "signing_key": KEY, **notify})
        yield await stack.enter_async_context(Sidecar(tree, folder)), providers[:-1]


async def counts(sidecar: Sidecar, channel: str = "webhook") -> dict[str, int]:
    samples = await sidecar.metrics()
    found = re.compile(rf'outrider_notifications_total{{channel="{channel}",result="(\w+)"}}')
    return {match[1]: int(value) for name, value in samples.items() if (match := found.fullmatch(name)) and value}


async def test_what_a_receiver_answers_decides_about_its_letter_only(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        gone, missing, moved, busy, good = [
            await stack.enter_async_context(Receiver(answer))
            for answer in (
                lambda hook: 410,
                lambda hook: 404,
                lambda hook: 302,
                lambda hook: 503,
                lambda hook: 200,
            )
        ]
        sidecar, (a, b) = await stack.enter_async_context(stage(tmp_path, "a", "b"))
        receivers = (gone, missing, moved, busy, good)
        for receiver in receivers:
            await subscribe(sidecar, receiver)
        await refuse_key(sidecar, a)
        await asyncio.gather(*(each.wait(lambda hooks: len(hooks) >= 1) for each in receivers))
        await refuse_key(sidecar, b)
        # 410 ends the letter and not the subscription; 404 and a redirect hold up no other letter.
        for receiver in (gone, missing, moved, good):
            await receiver.wait(lambda hooks: {hook.json["incident"]["provider"] for hook in hooks} == {"a", "b"})
        await missing.wait(lambda hooks: len({hook.json["id"] for hook in hooks}) < len(hooks))
        assert all(hook.headers["X-Outrider-Delivery"] == hook.json["id"] for hook in missing.hooks)
        missing.answer = busy.answer = moved.answer = lambda hook: 204
        for receiver in (missing, moved, busy):
            await receiver.wait(
                lambda hooks: {h.json["incident"]["provider"] for h in hooks if h.status == 204} == {"a", "b"}, 40.0
            )

        async def nothing_waits() -> Any:
            return (await sidecar.status())["notifications_waiting"] == 0

        await soon(nothing_waits)
        found = await counts(sidecar)
        assert (found["never"], found["delivered"]) == (2, 8)
        assert (len(gone.hooks), len(good.hooks)) == (2, 2)
        for receiver in receivers:
            bodies = {(hook.json["id"], hook.body) for hook in receiver.hooks}
            assert len(bodies) == len({id for id, _ in bodies}) == 2, "what comes again is the same, under the same id"
            assert all(verified(hook, KEY) for hook in receiver.hooks)
            assert all(abs(_signed_at(hook) - time.time()) < 120 for hook in receiver.hooks)


def _signed_at(hook: Hook) -> int:
    return int(hook.headers["X-Outrider-Signature"].partition(",")[0].removeprefix("t="))


async def test_a_receiver_that_follows_the_documentation_takes_no_forgery_and_no_replay(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "incidents.md").read_text()
    namespace: dict[str, Any] = {"hmac": hmac}
    exec(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1], namespace)  # type: ignore[index]
    is_genuine: Callable[..., bool] = namespace["is_genuine"]
    async with Receiver() as receiver, stage(tmp_path, "a") as (sidecar, (a,)):
        await subscribe(sidecar, receiver)
        await refuse_key(sidecar, a)
        (hook,) = await receiver.wait(lambda hooks: bool(hooks))
        header, now = hook.headers["X-Outrider-Signature"], time.time()
        assert is_genuine(KEY, header, hook.body, now)
        assert not is_genuine(KEY, header, hook.body, now + 400), "a replay"
        assert not is_genuine(KEY, header, hook.body.replace(b'"a"', b'"z"'), now)
        assert not is_genuine("another", header, hook.body, now)
        at = _signed_at(hook)
        assert not is_genuine(KEY, header.replace(f"t={at}", f"t={at + 60}"), hook.body, now), "the time is signed too"


async def test_a_refused_key_raises_exactly_one_at_once(tmp_path: Path) -> None:
    """However many calls find it refused at the same time and after."""
    async with Receiver() as receiver, stage(tmp_path, "a") as (sidecar, (a,)):
        await subscribe(sidecar, receiver)
        a.default = REFUSED
        started = time.monotonic()
        answers = await asyncio.gather(*(sidecar.chat() for _ in range(20)))
        await receiver.wait(lambda hooks: bool(hooks), 5.0)
        assert time.monotonic() - started < 5.0
        for _ in range(20):
            answers.append(await sidecar.chat())
        assert {answer.status for answer in answers} == {200}

        async def all_counted() -> Any:
            found = await incidents(sidecar)
            return found if found[0]["affected_requests"] >= 40 else None

        (found,) = await soon(all_counted)
        assert (found["type"], found["severity"], found["provider"]) == ("credential", "high", "a")
        assert (found["affected_requests"], found["failed_over"], found["user_visible_errors"]) == (40, 40, 0)
        assert a.attempts_total <= 20, "those that were under way, and none after"
        assert [hook.json["type"] for hook in receiver.hooks] == ["incident.opened"]


async def test_what_comes_thick_is_told_in_a_digest(tmp_path: Path) -> None:
    names = [f"k{n}" for n in range(6)]
    async with Receiver() as receiver, stage(tmp_path, *names, digest_after=2, digest_s=3) as (sidecar, providers):
        await subscribe(sidecar, receiver)
        await refuse_key(sidecar, *providers)
        hooks = await receiver.wait(lambda hooks: len(hooks) == 3)
        assert [hook.json["type"] for hook in hooks] == ["incident.opened", "incident.opened", "digest"]
        assert all(verified(hook, KEY) for hook in hooks)
        told = [notice["incident"]["provider"] for notice in hooks[-1].json["notices"]]
        assert [*(hook.json["incident"]["provider"] for hook in hooks[:2]), *told] == names


async def test_what_nobody_acknowledges_reaches_higher_up(tmp_path: Path) -> None:
    async with Receiver() as near, Receiver() as above, stage(tmp_path, "a", escalate_after_s=1) as (sidecar, (a,)):
        await subscribe(sidecar, near, severity_threshold="high")
        await subscribe(sidecar, above, severity_threshold="critical")
        await refuse_key(sidecar, a)
        (hook,) = await above.wait(lambda hooks: bool(hooks))
        assert (hook.json["type"], hook.json["severity"]) == ("incident.unacknowledged", "critical")
        assert near.hooks[0].json["type"] == "incident.opened"
        id = hook.json["incident"]["id"]
        assert (await post(sidecar, f"/v1/incidents/{id}/acknowledge", {"by": "ann"}))[0] == 200
        told = len(above.hooks)

        async def seconds_pass() -> Any:
            found = await get(sidecar, f"/v1/incidents/{id}")
            return found["duration_minutes"] > 4 / 60

        await soon(seconds_pass)
        assert len(above.hooks) <= told + 1, "one may have been under way"
        found = await get(sidecar, f"/v1/incidents/{id}")
        assert found["timeline"][-1]["what"] == "acknowledged"
        assert found["severity"] == "high", "only who is told has changed"


async def test_addresses_that_are_keys_are_told_nowhere(tmp_path: Path) -> None:
    """The path of a webhook may be all that protects it; a gateway's answer that is no HTTP must not spill it."""
    async with AsyncExitStack() as stack:
        server = await asyncio.start_server(_no_http, "127.0.0.1", 0)
        stack.push_async_callback(_stop, server)
        port = server.sockets[0].getsockname()[1]
        secret = "T0P/5ecret-path"
        slack = {"url": f"http://127.0.0.1:{port}/services/{secret}"}
        sms = {"url": f"http://127.0.0.1:{port}/{secret}?key=5ecret", "token": "tok-5ecret-9876"}
        mail = await stack.enter_async_context(MailServer(refuse="AUTH"))
        smtp = {
            "host": "127.0.0.1", "port": mail.port, "tls": "none", "sender": "o@example.com",
            "username": "me", "password": "pass-5ecret-1",
        }  # fmt: skip
        sidecar, (a,) = await stack.enter_async_context(
            stage(tmp_path, "a", slack=slack, sms=sms, smtp=smtp, signing_key="whsec-5ecret-1")
        )
        wish = {
            "channels": ["webhook", "slack", "sms", "email"],
            "webhook_url": f"http://127.0.0.1:{port}/hook/{secret}",
            "email": "5ecret.name@example.com",
            "phone": "+49305550123",
            "severity_threshold": "low",
        }
        status, _ = await post(sidecar, "/v1/incidents/subscribe", wish)
        assert status == 201
        await refuse_key(sidecar, a)

        async def all_failed() -> Any:
            found = (await get(sidecar, "/v1/events?kind=notification_failed"))["events"]
            return found if {each["detail"]["channel"] for each in found} == set(wish["channels"]) else None

        failed = await soon(all_failed)
        texts = [json.dumps(failed)]
        for path in ("/v1/events?limit=1000", "/v1/events?format=csv", "/v1/incidents", "/v1/incidents/subscriptions"):
            async with sidecar.session.get(f"{sidecar.url}{path}") as response:
                texts.append(await response.text())
        for path in ("/config", "/status", "/metrics"):
            async with sidecar.session.get(f"{sidecar.admin}{path}") as response:
                texts.append(await response.text())
        texts.append(json.dumps(sidecar.lines))
        for text in texts:
            for word in ("5ecret", "550123"):
                assert word not in text, text[max(0, text.find(word) - 200) :][:400]


async def _no_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers with what it was sent, which is no answer."""
    head = await reader.readuntil(b"\r\n")
    writer.write(head + b"\r\n")
    writer.close()


async def _stop(server: asyncio.Server) -> None:
    server.close()
    await server.wait_closed()
