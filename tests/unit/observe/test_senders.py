"""What goes over the wire: signatures as the contract has them, and the shapes of the gateways."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Any

import orjson
import pytest

from proxy.observe.senders import SMS_CHARS, Gateway, Senders, Ways, body_of, signature
from proxy.policy.notice import Letter, Sent, Subscription

INCIDENT: Mapping[str, Any] = {
    "id": "inc_1", "provider": "openai", "type": "outage", "timestamp": "t", "cause": "c" * 500, "impact": "i",
    "ended_at": "e", "resolution": "healthy again",
}  # fmt: skip
NOTICE = {"kind": "opened", "at": "2026-01-01T00:00:00Z", "severity": "high", "incident": INCIDENT}


def letter(count: int = 1) -> Letter:
    notices = (NOTICE,) * count
    return Letter(id="ntf_1", subscription="s", channel="webhook", created_at=0.0, due_at=0.0, notices=notices)


class Wire:
    def __init__(self) -> None:
        self.posts: list[tuple[str, bytes, Mapping[str, str], bool]] = []

    async def post(self, url: str, body: bytes, headers: Mapping[str, str], *, is_guarded: bool) -> Sent:
        self.posts.append((url, body, headers, is_guarded))
        return Sent(result="delivered")


def test_the_signature_is_that_of_the_contract() -> None:
    made = hmac.new(b"key", b'1700000000.{"a":1}', hashlib.sha256).hexdigest()
    assert signature("key", 1_700_000_000, b'{"a":1}') == f"t=1700000000,v1={made}"


def test_one_notice_and_many() -> None:
    one = orjson.loads(body_of(letter()))
    assert (one["id"], one["type"], one["severity"]) == ("ntf_1", "incident.opened", "high")
    assert one["incident"]["id"] == "inc_1"
    assert body_of(letter()) == body_of(letter()), "the same letter is the same bytes, whenever it is sent"
    many = orjson.loads(body_of(letter(3)))
    assert (many["type"], len(many["notices"])) == ("digest", 3)


@pytest.mark.parametrize(
    ("own", "key", "used"), [("own", "operator", "own"), ("", "operator", "operator"), ("own", None, "own")]
)
async def test_who_signs(own: str, key: str | None, used: str) -> None:
    wire = Wire()
    senders = Senders(wire.post, lambda: Ways(signing_key=lambda: key))
    to = Subscription(id="s", channels=("webhook",), webhook_url="https://x/", secret=own)
    assert (await senders.webhook(letter(), to, 17.9)).result == "delivered"
    ((url, body, headers, is_guarded),) = wire.posts
    assert (url, is_guarded) == ("https://x/", True)
    assert headers["X-Outrider-Signature"] == signature(used, 17, body)
    assert headers["X-Outrider-Delivery"] == "ntf_1"


async def test_nothing_goes_out_unsigned() -> None:
    wire = Wire()
    senders = Senders(wire.post, Ways)
    to = Subscription(id="s", channels=("webhook",), webhook_url="https://x/")
    assert (await senders.webhook(letter(), to, 1.0)).result == "failed"
    assert wire.posts == []


async def test_private_addresses_only_where_the_file_allows_them() -> None:
    wire = Wire()
    to = Subscription(id="s", channels=("webhook",), webhook_url="http://10.0.0.1/", secret="x")
    await Senders(wire.post, lambda: Ways(allow_private=True)).webhook(letter(), to, 1.0)
    assert wire.posts[0][3] is False


async def test_gateways() -> None:
    wire = Wire()
    sms = Gateway(url=lambda: "https://sms/", token=lambda: "tok")
    slack = Gateway(url=lambda: "https://slack/")
    senders = Senders(wire.post, lambda: Ways(gateways={"sms": sms, "slack": slack}))
    to = Subscription(id="s", channels=("sms", "slack"), phone="+4930123456")
    await senders.sms(letter(), to, 1.0)
    await senders.slack(letter(), to, 1.0)
    (_, text, headers, _), (_, words, plain, _) = wire.posts
    assert headers["Authorization"] == "Bearer tok"
    assert orjson.loads(text)["to"] == "+4930123456"
    assert len(orjson.loads(text)["text"]) <= SMS_CHARS
    assert "Authorization" not in plain
    assert "healthy again" in orjson.loads(words)["text"]


async def test_a_gateway_that_is_not_there() -> None:
    wire = Wire()
    senders = Senders(wire.post, lambda: Ways(gateways={"sms": Gateway(url=lambda: None)}))
    to = Subscription(id="s", channels=("sms",), phone="+4930123456")
    assert (await senders.sms(letter(), to, 1.0)).reason == "notify.sms is not configured"
    assert (await senders.slack(letter(), to, 1.0)).reason == "notify.slack is not configured"
    assert wire.posts == []
