"""Mail against a small server on a real socket, and what becomes of what it refuses."""

from __future__ import annotations

import base64
import socket
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from proxy.observe import mail as module
from proxy.observe.mail import Mailer, Smtp, compose
from proxy.policy.notice import Letter, Subscription
from tests.e2e.harness import free_port
from tests.e2e.receivers import MailServer

NOTICE: Mapping[str, Any] = {
    "kind": "opened",
    "at": "2026-01-01T00:00:00Z",
    "severity": "high",
    "incident": {
        "id": "inc_1", "provider": "äopenai", "type": "outage", "timestamp": "2026-01-01T00:00:00Z",
        "cause": "it does not answer", "impact": "3 requests affected", "ended_at": None, "resolution": None,
    },
}  # fmt: skip
LETTER = Letter(id="ntf_1", subscription="s", channel="email", created_at=1.0, due_at=1.0, notices=(NOTICE,))
TO = Subscription(id="s", channels=("email",), email="oncall@example.com")


def mailer(port: int, **over: Any) -> Mailer:
    stated: dict[str, Any] = {"host": "127.0.0.1", "port": port, "tls": "none", "sender": "o@example.com", **over}
    return Mailer(lambda: Smtp(**stated))


async def test_a_letter_becomes_a_message() -> None:
    async with MailServer() as server:
        assert (await mailer(server.port).send(LETTER, TO, 1_800_000_000.0)).result == "delivered"
        (mail,) = server.mails
        message = mail.message
        assert (message["From"], message["To"], message["Message-ID"]) == (
            "o@example.com",
            "oncall@example.com",
            "<ntf_1@outrider>",
        )
        body = message.get_payload(decode=True)
        assert isinstance(body, bytes)
        assert "outage of äopenai opened" in body.decode()
        assert mail.login == ""


async def test_the_password_is_read_for_every_message() -> None:
    passwords = iter(["one", "two"])
    async with MailServer() as server:
        sender = mailer(server.port, username="me", password=lambda: next(passwords))
        for _ in range(2):
            assert (await sender.send(LETTER, TO, 1.0)).result == "delivered"
        logins = [base64.b64decode(mail.login.rpartition(" ")[2]) for mail in server.mails]
        assert logins == [b"\0me\0one", b"\0me\0two"]


@pytest.mark.parametrize("verb", ["MAIL", "DATA"])
async def test_a_server_that_cannot_now_is_tried_again(verb: str) -> None:
    async with MailServer(refuse=verb) as server:
        sent = await mailer(server.port).send(LETTER, TO, 1.0)
        assert (sent.result, server.mails) == ("failed", [])
        assert "451" in sent.reason


async def test_a_recipient_that_nobody_knows_is_refused() -> None:
    async with MailServer(unknown="oncall") as server:
        sent = await mailer(server.port).send(LETTER, TO, 1.0)
        assert (sent.result, sent.reason) == ("refused", "recipient refused: [550]")


async def test_nobody_there() -> None:
    assert (await mailer(free_port()).send(LETTER, TO, 1.0)).result == "failed"
    assert (await Mailer(lambda: None).send(LETTER, TO, 1.0)).result == "failed"


async def test_a_server_without_encryption_gets_nothing_where_it_is_wanted() -> None:
    async with MailServer(refuse="STARTTLS") as server:
        sent = await mailer(server.port, tls="starttls", username="me", password=lambda: "secret").send(LETTER, TO, 1.0)
        assert (sent.result, server.mails) == ("failed", [])


async def test_a_server_that_says_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT_S", 0.05)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        assert (await mailer(silent.getsockname()[1]).send(LETTER, TO, 1.0)).result == "failed"


def test_no_header_can_be_smuggled_in() -> None:
    with pytest.raises(ValueError, match=r"[Hh]eader"):
        compose(LETTER, "a@b.c\nBcc: d@e.f", "o@example.com", 1.0)


@pytest.mark.parametrize(
    "name", ["a\r\nBcc: d@e.f", "a\nSubject: x", "a\r\n\r\nbody", "a\u2028Bcc: d@e.f", "a\x0bBcc: d"]
)
async def test_no_subject_can_hold_another_header(name: str) -> None:
    notice = {**NOTICE, "incident": {**NOTICE["incident"], "provider": name}}
    async with MailServer() as server:
        letter = replace(LETTER, notices=(notice,))
        assert (await mailer(server.port).send(letter, TO, 1.0)).result == "delivered"
        (sent,) = server.mails
        assert sent.recipients == ["TO:<oncall@example.com>"]
        assert sent.message["Bcc"] is None
        assert len(sent.message.get_all("Subject", [])) == 1
        assert set(sent.message.keys()) >= {"Subject", "From", "To", "Date", "Message-ID"}
