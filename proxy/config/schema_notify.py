"""What the file may say of notifications."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from proxy.config.section import Section
from proxy.config.section import key as _key
from proxy.config.section import section as _section
from proxy.config.validate import DAY_S, FLAG, HOST, LINE, PORT, REGION, SECRET, URL, Rule, number, text, whole, word
from proxy.policy.incident import SEVERITIES, Type
from proxy.policy.notice import CHANNELS, EMAIL, PHONE

_ADDRESS = text("an email address", EMAIL.pattern)
_PHONE = text("a phone number such as +4930123456", PHONE.pattern)
_TYPES = tuple(each.value for each in Type)


def _host(v: object) -> Any:
    return v if v == "" else HOST.check(v)


_HOST_OR_NONE = Rule(f"{HOST.must}, or empty", _host, {"type": "string"})


class Smtp(Section):
    host: Annotated[str, _HOST_OR_NONE] = _key("", "Mail server; empty: no mail is sent.")
    port: Annotated[int, PORT] = _key(587, "Its port.")
    tls: Annotated[str, word("starttls", "tls", "none")] = _key(
        "starttls", "Encryption: begun in the dialogue, from the first byte (port 465), or none."
    )
    sender: Annotated[str, _ADDRESS] = _key("outrider@localhost", "Address that mail comes from.")
    username: Annotated[str, LINE] = _key("", "Login; empty: none.")
    password: Annotated[Any, SECRET] = _key(None, "Its password.")


class Gateway(Section):
    url: Annotated[Any, SECRET] = _key(None, "Where messages are posted to; none: the channel is not there.")
    token: Annotated[Any, SECRET] = _key(None, "Sent as a bearer token.")


class Subscription(Section):
    channels: Annotated[
        list[Annotated[str, word(*CHANNELS)]],
        Field(min_length=1, max_length=4),
        BeforeValidator(lambda v: [v] if isinstance(v, str) else v),
    ] = Field(description="How it is told.")
    severity_threshold: Annotated[str, word(*SEVERITIES)] = _key("medium", "Least severity that is told.")
    include_types: Annotated[list[Annotated[str, word(*_TYPES)]], Field(max_length=8)] = _key(
        [], "Types of incidents that are told; empty: all."
    )
    regions: Annotated[list[Annotated[str, REGION]], Field(max_length=64)] = _key(
        [], "Regions that are told; empty: all, and incidents without one."
    )
    webhook_url: Annotated[str | None, URL] = _key(None, "For webhook.")
    email: Annotated[str | None, _ADDRESS] = _key(None, "For email.")
    phone: Annotated[str | None, _PHONE] = _key(None, "For sms.")


class Notify(Section):
    signing_key: Annotated[Any, SECRET] = _key(
        None, "Signs webhooks; none: each subscription gets a key of its own, told once."
    )
    allow_private: Annotated[bool, FLAG] = _key(False, "Allow webhooks to addresses that are not public.")
    escalate_after_s: Annotated[float, number(0, DAY_S, " seconds")] = _key(
        900.0, "An incident that nobody acknowledges is told again, one severity higher; 0: never."
    )
    digest_after: Annotated[int, whole(0, 1000)] = _key(
        5, "So many notifications of one subscription within digest_s, and the next are gathered; 0: never."
    )
    digest_s: Annotated[float, number(1, DAY_S, " seconds")] = _key(600.0, "How long a digest gathers.")
    smtp: Smtp = _section(Smtp, "Mail server for email.")
    sms: Gateway = _section(Gateway, "Gateway for sms: gets to and text as JSON.")
    slack: Gateway = _section(Gateway, "Gateway for slack: gets text as JSON, as Slack's incoming webhooks do.")
    subscriptions: Annotated[
        list[Subscription], Field(max_length=64), BeforeValidator(lambda v: [] if v is None else v)
    ] = _key([], "Who is told, beside those who subscribe at run time.")
