"""Subscriptions and letters as JSON: what is shown, and what is kept for the next run of the process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from proxy.observe.entry import iso
from proxy.policy.incident import Severity, Type
from proxy.policy.notice import Letter, Subscription

SUBSCRIPTION: Final = "subscription"
"""Kind of the documents."""
_LETTER: Final = ("id", "subscription", "channel", "created_at", "due_at", "attempts", "error")


def subscription_shown(subscription: Subscription) -> dict[str, Any]:
    """What callers are told of it. The secret is not."""
    return {
        "id": subscription.id,
        "channels": list(subscription.channels),
        "severity_threshold": subscription.threshold.word,
        "include_types": sorted(subscription.types),
        "regions": sorted(subscription.regions),
        "webhook_url": subscription.webhook_url or None,
        "email": subscription.email or None,
        "phone": subscription.phone or None,
        "created_at": iso(subscription.created_at) if subscription.created_at else None,
        "from_file": subscription.from_file,
    }


def subscription_document(subscription: Subscription) -> dict[str, Any]:
    """What is kept, the secret with it."""
    shown = subscription_shown(subscription)
    return {**shown, "created_at": subscription.created_at, "secret": subscription.secret}


def subscribed(kept: Mapping[str, Any]) -> Subscription | None:
    """The subscription of a document; None: it was not written by this version or a compatible one."""
    try:
        return Subscription(
            id=kept["id"],
            channels=tuple(kept["channels"]),
            threshold=Severity[kept["severity_threshold"].upper()],
            types=frozenset(map(Type, kept["include_types"])),
            regions=frozenset(kept["regions"]),
            webhook_url=kept["webhook_url"] or "",
            email=kept["email"] or "",
            phone=kept["phone"] or "",
            secret=kept["secret"],
            created_at=kept["created_at"],
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def letter_document(letter: Letter) -> dict[str, Any]:
    """What is kept of a letter: everything."""
    return {**{name: getattr(letter, name) for name in _LETTER}, "notices": list(letter.notices)}


def letter_restored(kept: Mapping[str, Any]) -> Letter | None:
    """The letter of a document; None: it was not written by this version or a compatible one."""
    try:
        return Letter(**{name: kept[name] for name in _LETTER}, notices=tuple(kept["notices"]))
    except (KeyError, TypeError):
        return None
