"""Who is told, when, and in which words; and which addresses a subscriber may make us call."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.policy.addresses import is_public
from proxy.policy.incident import Change, Family, Incident, Severity, Type
from proxy.policy.notice import (
    EMAIL,
    PHONE,
    Letter,
    Noise,
    Subscription,
    address_fault,
    is_urgent,
    recipients,
    subject,
    text,
)


def incident(**over: Any) -> Incident:
    stated: dict[str, Any] = {
        "id": "inc_1",
        "provider": "openai",
        "region": "eu",
        "family": Family.AVAILABILITY,
        "type": Type.OUTAGE,
        "types": (Type.PARTIAL_OUTAGE, Type.OUTAGE),
        "severity": Severity.HIGH,
        "started_at": 1.0,
        "opened_at": 2.0,
    }
    return Incident(**{**stated, **over})


def subscription(**over: Any) -> Subscription:
    return Subscription(**{"id": "s", "channels": ("webhook", "email"), **over})


@pytest.mark.parametrize(
    ("wish", "told"),
    [
        ({}, True),
        ({"threshold": Severity.HIGH}, True),
        ({"threshold": Severity.CRITICAL}, False),
        ({"types": frozenset({Type.OUTAGE})}, True),
        ({"types": frozenset({Type.PARTIAL_OUTAGE})}, True),  # it has been one: its end is not withheld
        ({"types": frozenset({Type.CREDENTIAL})}, False),
        ({"regions": frozenset({"eu", "us"})}, True),
        ({"regions": frozenset({"us"})}, False),
    ],
)
def test_filters(wish: dict[str, Any], told: bool) -> None:
    assert subscription(**wish).wants(incident()) is told


def test_a_reminder_reaches_higher_thresholds() -> None:
    boss = subscription(threshold=Severity.CRITICAL)
    assert not boss.wants(incident())
    assert boss.wants(incident(reminders=1))
    assert incident(reminders=3).told_severity is Severity.CRITICAL


@pytest.mark.parametrize("kind", ["opened", "escalated", "unacknowledged", "resolved", "updated", "acknowledged"])
def test_subscribers_hear_of_what_matters(kind: str) -> None:
    change = Change(kind=kind, at=3.0, incident=incident())
    told = recipients(change, [subscription(), subscription(id="t", threshold=Severity.CRITICAL)])
    expected = [] if kind in ("updated", "acknowledged") else [("s", "webhook"), ("s", "email")]
    assert [(each.id, channel) for each, channel in told] == expected


def test_noise_is_gathered_and_quiet_is_not() -> None:
    noise = Noise()
    assert [noise.due_at(float(at), 3, 60.0) - at for at in range(5)] == [0, 0, 0, 60, 60]
    assert noise.due_at(500.0, 3, 60.0) == 500.0
    assert [Noise().due_at(float(at), 0, 60.0) for at in range(9)] == [float(at) for at in range(9)]


@pytest.mark.parametrize(
    ("kind", "severity", "urgent"),
    [("opened", Severity.CRITICAL, True), ("opened", Severity.HIGH, False), ("resolved", Severity.CRITICAL, False)],
)
def test_a_critical_one_does_not_wait_in_a_digest(kind: str, severity: Severity, urgent: bool) -> None:
    assert is_urgent(Change(kind=kind, at=1.0, incident=incident(severity=severity))) is urgent


def test_words_of_one_and_of_many() -> None:
    notice = {
        "kind": "opened",
        "at": "2026-01-01T00:00:00Z",
        "severity": "high",
        "incident": {
            "id": "inc_1", "provider": "openai", "type": "partial_outage", "timestamp": "2026-01-01T00:00:00Z",
            "cause": "openai fails", "impact": "3 requests affected", "ended_at": None, "resolution": None,
        },
    }  # fmt: skip
    letter = Letter(id="n", subscription="s", channel="email", created_at=1.0, due_at=1.0, notices=(notice,))
    assert subject(letter) == "[HIGH] partial outage of openai opened"
    assert "openai fails\n3 requests affected" in text(letter)
    many = Letter(id="n", subscription="s", channel="email", created_at=1.0, due_at=1.0, notices=(notice, notice))
    assert subject(many).startswith("2 changes of incidents")
    assert text(many).count("inc_1") == 2


PUBLIC = [
    "8.8.8.8", "1.1.1.1", "2001:4860:4860::8888", "2606:4700:4700::1111",
    "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::1",
]  # fmt: skip
NOT_PUBLIC = [
    "127.0.0.1", "127.8.9.1", "0.0.0.0", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1",
    "169.254.169.254", "100.64.0.1", "100.100.100.200", "168.63.129.16", "192.0.0.192", "192.0.2.1",
    "192.88.99.1", "198.18.0.1",
    "203.0.113.9", "224.0.0.1", "240.0.0.1", "255.255.255.255",
    "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "2001:db8::1", "3fff::1",
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:a9fe:a9fe", "::127.0.0.1",
    "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2002:7f00:1::1", "2002:a9fe:a9fe::",
    "2001:0:7f00:1::", "2001:0:4136:e378:8000:63bf:80ff:fffe",
    "", "localhost", "0x7f000001", "2130706433", "127.1", "0177.0.0.1", "1.1.1.1:80", "[::1]",
]  # fmt: skip


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_addresses_that_a_subscriber_may_not_make_us_call(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("https://hooks.example.com/a?b=c", ""),
        ("http://[2001:4860:4860::8888]:8080/", ""),
        ("ftp://example.com/", "must begin with"),
        ("https://", "must begin with"),
        ("https:///path", "must begin with"),
        ("file:///etc/passwd", "must begin with"),
        ("https://example.com:0/", "must begin with"),
        ("https://example.com:99999/", "is no address"),
        ("https://[::1/", "is no address"),
        ("https://user:pw@example.com/", "user name"),
        ("https://example.com\\@127.0.0.1/", "backslashes"),
        ("https://exa mple.com/", "spaces"),
        ("https://exämple.com/", "ASCII"),
        ("https://example.com/\n", "printable"),
        ("https://example.com/" + "a" * 2048, "at most"),
    ],
)
def test_faults_of_an_address(url: str, fault: str) -> None:
    found = address_fault(url)
    assert (fault in found) if fault else not found


@pytest.mark.parametrize(
    ("pattern", "value", "fits"),
    [
        (EMAIL, "on.call+x@example.com", True),
        (EMAIL, "a@localhost", True),
        (EMAIL, "a@b.c\nBcc: d@e.f", False),
        (EMAIL, "a b@c.d", False),
        (EMAIL, "<a@b.c>", False),
        (EMAIL, "a@b.c, d@e.f", False),
        (PHONE, "+4930123456", True),
        (PHONE, "004930123456", False),
        (PHONE, "+49 30 12", False),
    ],
)
def test_addresses_of_people(pattern: Any, value: str, fits: bool) -> None:
    assert bool(pattern.fullmatch(value)) is fits
