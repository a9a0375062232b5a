"""The section `notify` as the program runs on it, and what it may not say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final, Literal

from proxy.config.names import Loc
from proxy.config.validate import Finding
from proxy.policy.incident import Severity, Type
from proxy.policy.notice import ADDRESS_OF, Subscription, address_fault

if TYPE_CHECKING:
    from proxy.config import schema_notify
    from proxy.config.compiled import Secret

SECRETS: Final[tuple[Loc, ...]] = (
    ("notify", "signing_key"),
    ("notify", "smtp", "password"),
    ("notify", "sms", "url"),
    ("notify", "sms", "token"),
    ("notify", "slack", "url"),
    ("notify", "slack", "token"),
)
"""Where secrets stand; the address of a gateway is one too, for Slack's carry their key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Notify:
    """Ways out, and who is told."""

    signing_key: Secret | None = None
    allow_private: bool = False
    escalate_after_s: float = 900.0
    digest_after: int = 5
    digest_s: float = 600.0
    smtp_host: str = ""
    """Empty: there is no mail."""
    smtp_port: int = 587
    smtp_tls: Literal["starttls", "tls", "none"] = "starttls"
    smtp_sender: str = "outrider@localhost"
    smtp_username: str = ""
    smtp_password: Secret | None = None
    sms_url: Secret | None = None
    sms_token: Secret | None = None
    slack_url: Secret | None = None
    slack_token: Secret | None = None
    subscriptions: tuple[Subscription, ...] = ()

    @property
    def missing(self) -> dict[str, str]:
        """Channels that cannot be used, with the key of the file that they need."""
        needed = {"email": (self.smtp_host, "smtp"), "sms": (self.sms_url, "sms"), "slack": (self.slack_url, "slack")}
        return {channel: f"notify.{key}" for channel, (value, key) in needed.items() if not value}


def notify_of(given: schema_notify.Notify, secret: Callable[[Loc, Any], Secret]) -> Notify:
    """A checked section; `secret` makes one of what stands at a place of the file."""
    found = {loc: value for loc in SECRETS if (value := _at(given, loc)) is not None}
    secrets = {"_".join(map(str, loc[1:])): secret(loc, value) for loc, value in found.items()}
    smtp = given.smtp
    return Notify(
        **secrets,
        allow_private=given.allow_private,
        escalate_after_s=given.escalate_after_s,
        digest_after=given.digest_after,
        digest_s=given.digest_s,
        smtp_host=smtp.host,
        smtp_port=smtp.port,
        smtp_tls=smtp.tls,  # type: ignore[arg-type]  # the schema's words are those of the type
        smtp_sender=smtp.sender,
        smtp_username=smtp.username,
        subscriptions=tuple({each.id: each for each in map(_subscription, given.subscriptions)}.values()),
    )


def _at(given: Any, loc: Loc) -> Any:
    for key in loc[1:]:
        given = getattr(given, str(key))
    return given


def _subscription(given: schema_notify.Subscription) -> Subscription:
    """With an id made of its content, so that what waits for it finds it after a reload."""
    content = repr([getattr(given, key) for key in type(given).model_fields]).encode()
    return Subscription(
        id=f"file-{blake2b(content, digest_size=6).hexdigest()}",
        channels=tuple(dict.fromkeys(given.channels)),  # type: ignore[arg-type]
        threshold=Severity[given.severity_threshold.upper()],
        types=frozenset(map(Type, given.include_types)) or frozenset(Type),
        regions=frozenset(given.regions),
        webhook_url=given.webhook_url or "",
        email=given.email or "",
        phone=given.phone or "",
        from_file=True,
    )


def errors(given: schema_notify.Notify) -> Iterator[Finding]:
    """Subscriptions that could never be told anything."""
    needs = {"email": given.smtp.host, "sms": given.sms.url, "slack": given.slack.url, "webhook": given.signing_key}
    keys = {"email": "smtp.host", "sms": "sms.url", "slack": "slack.url", "webhook": "signing_key"}
    for index, subscription in enumerate(given.subscriptions):
        at: Loc = ("notify", "subscriptions", index)
        for channel in subscription.channels:
            if not needs[channel]:
                yield Finding(loc=(*at, "channels"), message=f"{channel} needs notify.{keys[channel]}")
            field = ADDRESS_OF.get(channel)
            if field is not None and getattr(subscription, field) is None:
                yield Finding(loc=at, message=f"{channel} needs {field}")
        fault = address_fault(subscription.webhook_url) if subscription.webhook_url else ""
        if fault:
            yield Finding(loc=(*at, "webhook_url"), message=fault)
    for channel in ("sms", "slack"):
        url = getattr(given, channel).url
        if isinstance(url, str) and (fault := address_fault(url)):
            yield Finding(loc=("notify", channel, "url"), message=fault)
    if given.smtp.username and given.smtp.password is None:
        yield Finding(loc=("notify", "smtp", "username"), message="needs password")


def warnings(given: schema_notify.Notify) -> Iterator[Finding]:
    """What works, but not as its author may think."""
    if given.smtp.host and given.smtp.tls == "none" and given.smtp.username:
        yield Finding(loc=("notify", "smtp", "tls"), message="the password is sent without encryption")
