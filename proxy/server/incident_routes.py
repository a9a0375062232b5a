"""`/v1/incidents`: what happened, who looks after it, who wants to be told.

Whoever subscribes makes this process call addresses of their choosing. So the routes that change something want an
admin token on every port that is not loopback, never answer another site's pages, and an address that is not public is
refused at once where that can be told, and at every delivery again.
"""

from __future__ import annotations

import hmac
import math
import secrets
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast
from urllib.parse import unquote, urlsplit

import orjson

from proxy.base.exchange import Inbound
from proxy.config.checks import nearest
from proxy.config.compiled import Config, Secret
from proxy.config.validate import is_loopback
from proxy.observe.incident_json import shown
from proxy.observe.incidents import Incidents
from proxy.observe.notify import SUBSCRIPTIONS_MAX, Notifier
from proxy.observe.subscriptions import subscription_shown
from proxy.observe.turns import Turns
from proxy.policy.incident import SEVERITIES, Incident, Severity, Type
from proxy.policy.notice import ADDRESS_OF, CHANNELS, EMAIL, PHONE, Channel, Subscription, address_fault
from proxy.server.pages import authority_of, name_of
from proxy.server.reply import Reply
from proxy.server.status import Answer, Query, Route, Wrong, told

PAGE: Final = 50
"""Incidents in one answer."""
DAYS_MAX: Final = 3650
BODY_BYTES_MAX: Final = 16_384
REGIONS_MAX: Final = 64
TOKEN_HEADER: Final = b"x-outrider-admin-token"
_FIELDS: Final = (*("channels", "severity_threshold", "webhook_url", "email", "phone", "include_types", "regions"),)


def guard(config: Callable[[], Config], host: str) -> Callable[[Inbound, Reply], str]:
    """Why a caller of the port that is bound to `host` may change nothing; the empty text: it may."""
    needs_token = not is_loopback(host)

    def refusal(inbound: Inbound, reply: Reply) -> str:
        given = {name.lower(): value for name, value in inbound.headers}
        is_page = b"origin" in given
        authority = authority_of(given.get(b"origin", b"").decode("ascii", "replace"))
        if is_page and authority != given.get(b"host", b"").decode("ascii", "replace").lower():
            return "this route does not answer the pages of other sites"
        if not needs_token:
            # To its browser a page is at home here when its name has come to mean this host (DNS rebinding).
            if is_page and not is_loopback(name_of(authority)):
                return "on a port that is loopback this route answers pages of this host only"
            return ""
        tokens = config().listen.admin_tokens
        if not tokens:
            return "on a port that is not loopback this needs one of listen.admin_tokens, and the file states none"
        scheme, _, bearer = given.get(b"authorization", b"").partition(b" ")
        sent = given.get(TOKEN_HEADER) or (bearer.strip() if scheme.lower() == b"bearer" else b"")
        if _is_one_of(sent, tokens):
            return ""
        return "on a port that is not loopback this needs one of listen.admin_tokens, as X-Outrider-Admin-Token"

    return refusal


def _is_one_of(sent: bytes, tokens: Collection[Secret]) -> bool:
    """Compared with all of them in constant time; one in a file may have been rotated a moment ago: looked at again."""
    known = [value for token in tokens for value in (token.read(), token.reread()) if value]
    return sum(hmac.compare_digest(sent, value.encode()) for value in known) > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class IncidentRoutes:
    """The routes of one process."""

    incidents: Incidents
    notifier: Notifier
    config: Callable[[], Config]
    wall: Callable[[], float]
    ids: Callable[[], str]
    """Makes the id of a subscription."""
    is_private: Callable[[str], Awaitable[bool]]
    """Whether the host of an address is known to lead to an address that is not public."""
    refused: Callable[[str], None]
    """Counts what met a limit, by code."""
    recalled: Callable[[], Awaitable[None]]
    """Waits a moment for what earlier runs have left, where it is not read yet."""
    saved: Callable[[], Awaitable[bool]]
    """Waits until all changes are on disk; False: they are in memory, and written when the store works again."""

    def read(self) -> dict[str, Route]:
        """GET routes."""
        return {
            "/v1/incidents": self._list,
            "/v1/incidents/": self._one,
            "/v1/incidents/subscriptions": self._subscriptions,
        }

    def write(self) -> dict[str, Route]:
        """POST routes, and DELETE of what stands below a path."""
        return {
            "/v1/incidents/subscribe": self._subscribe,
            "/v1/incidents/subscriptions/": self._unsubscribe,
            "/v1/incidents/*/acknowledge": self._acknowledge,
        }

    # Incidents --------------------------------------------------------------------------------------------------------

    async def _list(self, inbound: Inbound) -> Answer:
        await self.recalled()
        query = Query(inbound)
        days = query.whole("days", 30, 1, DAYS_MAX)
        providers = query.words("provider", self._providers())
        least = query.text("severity", among=SEVERITIES)
        types = query.words("type", [each.value for each in Type])
        region, status = self._region(query), query.text("status", among=("open", "resolved"))
        cursor = query.text("cursor")
        query.finish()
        now = self.wall()
        found = [
            incident
            for incident in self.incidents.listed()
            if (incident.ended_at is None or incident.ended_at >= now - days * 86_400.0)
            and (not providers or incident.provider in providers)
            and (not least or incident.severity >= Severity[least.upper()])
            and (not types or incident.type in types)
            and (not region or incident.region == region)
            and (not status or (status == "open") is (incident.ended_at is None))
        ]
        page = _after(found, cursor)
        following = _cursor(page[PAGE - 1]) if len(page) > PAGE else None
        turns, listed = Turns(), []
        for each in page[:PAGE]:
            listed.append(shown(self.incidents.present(each), now))
            await turns.pause()
        return told({"incidents": listed, "next": following})

    def _providers(self) -> list[str]:
        """Names that may be asked for: configured ones, and those of incidents."""
        return list(dict.fromkeys([*self.config().providers, *(each.provider for each in self.incidents.known)]))

    def _region(self, query: Query) -> str:
        """A region of a configured provider, or of an incident."""
        given = query.text("region")
        stated = (each.region for each in self.config().providers.values())
        known = sorted({*stated, *(each.region for each in self.incidents.known)} - {""})
        if given and given not in known:
            among = f"must be one of {', '.join(known)}" if known else "can be none: no provider states one"
            raise _bad("region", f"region {among}{nearest(given[:50], known)}")
        return given

    async def _one(self, inbound: Inbound) -> Answer:
        await self.recalled()
        Query(inbound).finish()
        return told(shown(self._found(inbound.path.rpartition("/")[2]), self.wall()))

    def _found(self, part: str) -> Incident:
        id = unquote(part)
        incident = self.incidents.get(id)
        if incident is None:
            known = [each.id for each in self.incidents.known]
            raise Wrong(404, "unknown_incident", f"there is no incident {id[:50]!r}{nearest(id[:50], known)}")
        return incident

    async def _acknowledge(self, inbound: Inbound) -> Answer:
        await self.recalled()
        given = self._body(inbound, ("by",))
        by = _text(given, "by", 100) or "somebody"
        incident = self._found(inbound.path.rpartition("/")[0].rpartition("/")[2])
        acknowledged = self.incidents.acknowledge(incident.id, by)
        if acknowledged is None:
            raise Wrong(409, "resolved", f"incident {incident.id} is over")
        return told({**shown(acknowledged, self.wall()), "saved": await self.saved()})

    # Subscriptions ----------------------------------------------------------------------------------------------------

    async def _subscriptions(self, inbound: Inbound) -> Answer:
        await self.recalled()
        Query(inbound).finish()
        listed = [_masked(subscription_shown(each)) for each in self.notifier.subscriptions()]
        return told({"subscriptions": listed})

    async def _subscribe(self, inbound: Inbound) -> Answer:
        subscription = self._parsed(self._body(inbound, _FIELDS))
        if subscription.webhook_url and not self.config().notify.allow_private:
            await self._refuse_private(subscription.webhook_url)
        if not self.notifier.subscribe(subscription):
            self.refused("too_many")
            raise Wrong(409, "too_many", f"there are {SUBSCRIPTIONS_MAX} subscriptions already")
        secret = {"secret": subscription.secret} if subscription.secret else {}
        _, headers, body = told({**subscription_shown(subscription), **secret, "saved": await self.saved()})
        return 201, [*headers, ("Location", f"/v1/incidents/subscriptions/{subscription.id}")], body

    async def _refuse_private(self, url: str) -> None:
        if await self.is_private(url):
            message = "webhook_url leads to an address that is not public; notify.allow_private would allow it"
            raise Wrong(400, "private_address", message, param="webhook_url")

    async def _unsubscribe(self, inbound: Inbound) -> Answer:
        await self.recalled()
        id = unquote(inbound.path.rpartition("/")[2])
        known = {each.id: each.from_file for each in self.notifier.subscriptions()}
        if known.get(id):
            raise Wrong(409, "from_file", "this subscription stands in the file, and goes when it goes there")
        if self.notifier.unsubscribe(id) is None:
            hint = nearest(id[:50], known)
            raise Wrong(404, "unknown_subscription", f"there is no subscription {id[:50]!r}{hint}")
        return told({"deleted": id, "saved": await self.saved()})

    def _body(self, inbound: Inbound, fields: Collection[str]) -> Mapping[str, Any]:
        """What a request without a query says."""
        Query(inbound).finish()
        if len(inbound.body) > BODY_BYTES_MAX:
            self.refused("body_too_large")
            raise Wrong(413, "body_too_large", f"the body of this route has at most {BODY_BYTES_MAX} bytes")
        return _object(inbound, fields)

    def _parsed(self, given: Mapping[str, Any]) -> Subscription:
        """A subscription, or `Wrong` that names the field."""
        config = self.config()
        channels = cast("tuple[Channel, ...]", _words(given, "channels", CHANNELS))
        if not channels:
            raise _bad("channels", f"channels must name at least one of {', '.join(CHANNELS)}")
        for channel in channels:
            field = ADDRESS_OF.get(channel)
            if field is not None and not given.get(field):
                raise _bad(field, f"{field} is needed for the channel {channel}")
            if (key := config.notify.missing.get(channel)) is not None:
                raise _bad("channels", f"the channel {channel} is not there: the file does not state {key}")
        url, email, phone = _text(given, "webhook_url", 2048), _text(given, "email", 254), _text(given, "phone", 16)
        if url and (fault := address_fault(url)):
            raise _bad("webhook_url", f"webhook_url {fault}")
        if email and not EMAIL.fullmatch(email):
            raise _bad("email", "email must be one address, such as oncall@example.com")
        if phone and not PHONE.fullmatch(phone):
            raise _bad("phone", "phone must be a number with its country, such as +4930123456")
        threshold = _text(given, "severity_threshold", 20) or "medium"
        if threshold not in SEVERITIES:
            hint = nearest(threshold, SEVERITIES)
            raise _bad("severity_threshold", f"severity_threshold must be one of {', '.join(SEVERITIES)}{hint}")
        types = _words(given, "include_types", [each.value for each in Type])
        own_key = "webhook" in channels and config.notify.signing_key is None
        return Subscription(
            id=self.ids(),
            channels=channels,
            threshold=Severity[threshold.upper()],
            types=frozenset(map(Type, types)) or frozenset(Type),
            regions=frozenset(_words(given, "regions", ())),
            webhook_url=url,
            email=email,
            phone=phone,
            secret=secrets.token_urlsafe(32) if own_key else "",
            created_at=self.wall(),
        )


def _cursor(incident: Incident) -> str:
    """Where a page ends. It says all that is needed: the incident itself may be forgotten before the next page."""
    return f"{incident.started_at!r}~{incident.id}"


def _after(found: list[Incident], cursor: str) -> list[Incident]:
    """What comes behind a page."""
    if not cursor:
        return found
    at, _, id = cursor.partition("~")
    try:
        last = float(at), id
    except ValueError:
        last = math.nan, id
    if not math.isfinite(last[0]):
        raise _bad("cursor", "cursor must be the `next` of an earlier answer")
    return [each for each in found if (each.started_at, each.id) < last]


def _object(inbound: Inbound, fields: Collection[str]) -> Mapping[str, Any]:
    """The JSON object of a request with no other fields than these; an empty body is an empty object."""
    try:
        given = orjson.loads(inbound.body or b"{}")
    except orjson.JSONDecodeError:
        given = None
    if not isinstance(given, dict):
        raise Wrong(400, "invalid_parameter", "the body must be a JSON object")
    for name in given:
        if name not in fields:
            hint = nearest(name[:50], fields) or f"; allowed: {', '.join(fields)}"
            raise _bad(name[:50], f"unknown field {name[:50]!r}{hint}")
    return given


def _text(given: Mapping[str, Any], name: str, most: int) -> str:
    """A printable text; empty: it is not given."""
    value = given.get(name)
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > most or not value.isprintable():
        raise _bad(name, f"{name} must be a text of at most {most} printable characters")
    return value


def _words(given: Mapping[str, Any], name: str, among: Collection[str]) -> tuple[str, ...]:
    """A list of texts without repetitions; `among`: those that are allowed, empty for any."""
    value = given.get(name)
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) > REGIONS_MAX or not all(isinstance(word, str) for word in value):
        raise _bad(name, f"{name} must be a list of at most {REGIONS_MAX} texts")
    for word in value:
        if among and word not in among:
            raise _bad(name, f"{name}: {word[:50]!r} is none of {', '.join(among)}{nearest(word[:50], among)}")
        if not word or len(word) > 63 or not word.isprintable():
            raise _bad(name, f"{name} must hold printable texts of 1 to 63 characters")
    return tuple(dict.fromkeys(value))


def _bad(param: str, message: str) -> Wrong:
    return Wrong(400, "invalid_parameter", message, param=param)


def _masked(subscription: dict[str, Any]) -> dict[str, Any]:
    """Without what others must not learn: a webhook's path may be its key, and addresses are people's."""
    url, email, phone = subscription["webhook_url"], subscription["email"], subscription["phone"]
    if url:
        parts = urlsplit(url)
        subscription["webhook_url"] = f"{parts.scheme}://{parts.netloc}/…"
    if email:
        subscription["email"] = f"{email[0]}…@{email.rpartition('@')[2]}"
    if phone:
        subscription["phone"] = f"{phone[:3]}…{phone[-2:]}"
    return subscription
