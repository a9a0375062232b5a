"""Letters as HTTP calls: signed webhooks to subscribers, plain calls to the operator's gateways for SMS and Slack."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

import orjson

from proxy.observe.entry import iso
from proxy.policy import notice
from proxy.policy.notice import Letter, Sent, Subscription

SIGNATURE: Final = "X-Outrider-Signature"
DELIVERY: Final = "X-Outrider-Delivery"
SMS_CHARS: Final = 320
"""Two short messages put together."""

Send = Callable[[Letter, Subscription, float], Awaitable[Sent]]
"""Deliver a letter at a time in Unix seconds; never raises."""


class Post(Protocol):
    """`Courier.post`."""

    def __call__(self, url: str, body: bytes, headers: Mapping[str, str], *, is_guarded: bool) -> Awaitable[Sent]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """A webhook of the operator's that passes messages on."""

    url: Callable[[], str | None]
    token: Callable[[], str | None] = lambda: None
    """Sent as a bearer token; None: none is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ways:
    """What the file in force says about the ways out."""

    signing_key: Callable[[], str | None] = lambda: None
    allow_private: bool = False
    gateways: Mapping[str, Gateway] = field(default_factory=dict)
    """By channel, ``sms`` and ``slack``."""


def signature(secret: str, at: int, body: bytes) -> str:
    """``t=<unix>,v1=<hex>``: HMAC-SHA256 with `secret` over the time, a dot and the body."""
    return f"t={at},v1={hmac.new(secret.encode(), b'%d.' % at + body, 'sha256').hexdigest()}"


def body_of(letter: Letter) -> bytes:
    """The body of a webhook: one notice, or a digest of several."""
    head = {"id": letter.id, "created_at": iso(letter.created_at), "subscription": letter.subscription}
    if len(letter.notices) == 1:
        kind, notice_ = f"incident.{letter.notices[0]['kind']}", letter.notices[0]
        return orjson.dumps({**head, "type": kind, **{key: notice_[key] for key in notice_ if key != "kind"}})
    return orjson.dumps({**head, "type": "digest", "notices": letter.notices})


class Senders:
    """The three ways over HTTP."""

    def __init__(self, post: Post, ways: Callable[[], Ways]) -> None:
        self._post = post
        self._ways = ways

    async def webhook(self, letter: Letter, to: Subscription, now: float) -> Sent:
        """To the subscriber's own address."""
        ways = self._ways()
        secret = to.secret or ways.signing_key()
        if not secret:
            return Sent(result="failed", reason="there is no notify.signing_key to sign with")
        body = body_of(letter)
        headers = {**_HEADERS, DELIVERY: letter.id, SIGNATURE: signature(secret, int(now), body)}
        return await self._post(to.webhook_url, body, headers, is_guarded=not ways.allow_private)

    async def sms(self, letter: Letter, to: Subscription, now: float) -> Sent:
        """To the gateway, for the subscriber's phone."""
        return await self._through("sms", letter, {"to": to.phone, "text": notice.subject(letter)[:SMS_CHARS]})

    async def slack(self, letter: Letter, to: Subscription, now: float) -> Sent:
        """To the gateway, in the shape of Slack's incoming webhooks."""
        return await self._through("slack", letter, {"text": f"*{notice.subject(letter)}*\n{notice.text(letter)}"})

    async def _through(self, channel: str, letter: Letter, body: Mapping[str, str]) -> Sent:
        gateway = self._ways().gateways.get(channel)
        url = gateway.url() if gateway is not None else None
        if gateway is None or not url:
            return Sent(result="failed", reason=f"notify.{channel} is not configured")
        token = gateway.token()
        headers = {**_HEADERS, DELIVERY: letter.id, **({"Authorization": f"Bearer {token}"} if token else {})}
        return await self._post(url, orjson.dumps(body), headers, is_guarded=False)


_HEADERS: Final = {"Content-Type": "application/json", "User-Agent": "outrider"}
