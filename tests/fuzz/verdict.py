"""What must become of the bytes of one connection, and what did: the judge of the corpora.

What must become of them is told by `strict`, which knows the RFCs, and by the house rules of docs/http.md. What did is
the statuses that the caller got and the bytes that arrived upstream, read by everybody in `readers`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from proxy.server.status import PAGES
from tests.fuzz import readers, strict
from tests.fuzz.rules import BAD, HOUSE, RULES, TOLERATED
from tests.fuzz.stage import Heard, Lane, Stage
from tests.fuzz.strict import Message

METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
TARGET_MAX: Final = 16 * 1024
FIELDS_MAX: Final = 128
FIELD_BYTES_MAX: Final = 32 * 1024
BODY_MAX: Final = 32 * 1024 * 1024
KEYS: Final = ("authorization", "x-api-key", "api-key", "x-goog-api-key", "content-encoding")
_ONCE: Final = "content-location content-range content-type etag max-forwards server user-agent"
SINGLE: Final = (*KEYS, *_ONCE.split(" "))
END_TO_END: Final = frozenset({*KEYS, "host", "content-length", "content-type", "transfer-encoding"})
LOOKALIKES: Final = frozenset({"content-length", "transfer-encoding", "host", "connection"})
OF_WHOLE_HEADS: Final = frozenset(
    {"connect", "fragment", "http09", "other_version", "target", "target_form", "unknown_method"}
)
"""Breaches of a request line that a server may see only when the whole head has come, which until then is late."""
DOTS: Final = re.compile(r"(?i)/(?:\.|%2e){1,2}(?:/|\\|%2f|%5c|$)")
HOP_BY_HOP: Final = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-connection",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "upgrade",
        "http2-settings",
        "expect",
        "transfer-encoding",
    }
)


def house_rules(message: Message) -> tuple[str, ...]:
    """The `HOUSE` rules that a message meets, any of which may be told."""
    odd = sorted(message.oddities - TOLERATED.keys())
    return tuple(dict.fromkeys([*_of_the_start(message), *_of_the_fields(message), *odd]))


def _of_the_start(message: Message) -> Iterable[str]:
    target = message.target
    if message.version not in ("1.0", "1.1"):
        yield "minor_version"
    if message.method not in METHODS:
        yield "methods"
    if len(target) > TARGET_MAX:
        yield "target_long"
    absolute = strict.ABSOLUTE.fullmatch(target.encode())
    if absolute is not None and [absolute[1].lower()] != [host.lower() for host in message.values("host")]:
        yield "authority"
    if "\\" in target:
        yield "backslash"
    if DOTS.search(path_of(target)):
        yield "dot_segment"


def _of_the_fields(message: Message) -> Iterable[str]:
    size = sum(len(name) + len(value) + 4 for name, value in message.fields)
    if len(message.fields) > FIELDS_MAX or size > FIELD_BYTES_MAX:
        yield "fields_large"
    for name, value in message.fields:
        if re.search(rb"[\x80-\xff]", value):
            yield "obs_text"
        if name == "sec-websocket-key1":
            yield "old_websocket"
        if "_" in name and name.replace("_", "-") in LOOKALIKES:
            yield "lookalike"
    if any(len(message.values(name)) > 1 for name in SINGLE):
        yield "singletons"
    if END_TO_END & set(message.tokens("connection")):
        yield "connection"
    expected = [value.lower() for value in message.values("expect")]
    if message.version != "1.0" and expected not in ([], [b"100-continue"]):
        yield "expect"
    if any(value.isdigit() and int(value) > BODY_MAX for value in message.values("content-length")):
        yield "body_large"


def path_of(target: str) -> str:
    """The path of a target in whichever form."""
    absolute = strict.ABSOLUTE.fullmatch(target.encode())
    return ((absolute[2].decode() if absolute else target) or "/").partition("?")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Must:
    """What must become of one connection."""

    forwarded: tuple[Message, ...]
    """Requests that reach the upstream, in order, if they are answered at all."""
    answers: tuple[frozenset[int], ...]
    """For each request, what may be the status of its answer; the last may be a refusal."""
    least: int
    """So many answers there must be; after a request that may end the connection there may be none."""
    continues: tuple[bool, bool]
    """Whether 100 Continue may be said when all bytes come together, and when they come in pieces."""
    rules: tuple[str, ...]
    """Why the last one is refused: names in `RULES`, the likeliest first; empty: nothing is."""
    kept: str
    """What is told of a connection on which nothing is refused."""


def musts(raw: bytes, lane: str) -> list[Must]:
    """Everything that is right for `raw`, the strictest first: a CR or LF alone between two requests, or before the
    first, is refused or ignored (RFC 9112 §2.2, §3)."""
    strictly, loosely = must(raw, lane), must(raw, lane, loose_blanks=True)
    return [strictly] if strictly == loosely else [strictly, loosely]


def must(raw: bytes, lane: str, *, loose_blanks: bool = False) -> Must:
    """What must become of `raw` on a connection; requests below ``/{lane}/`` are for its upstream.

    `loose_blanks` as in `strict.read`.
    """
    found = strict.read(raw, loose_blanks=loose_blanks)
    forwarded: list[Message] = []
    answers: list[frozenset[int]] = []
    rules: tuple[str, ...] = ()
    heads = [*found.messages, found.partial]
    least = 1 if any(message.values("upgrade") for message in found.messages) else 0
    for n, message in enumerate(found.messages):
        if rules := house_rules(message):
            break
        # A trailer that stands once in a head is not for trailers (RFC 9110 §6.5.1): dropped as others, or refused.
        doubtful = not {"host", *SINGLE}.isdisjoint(message.trailers)
        answers.append(_status(message, lane) | (BAD if doubtful else frozenset()))
        if path_of(message.target).startswith(f"/{lane}/"):
            forwarded.append(message)
        follows = bool(found.breach) or n + 1 < len(found.messages)
        if _may_close(message) or (message.chunked and follows):
            least = least or len(answers)
    else:
        rules = _unread(raw, found)
    if rules:
        answers.append(frozenset().union(*(RULES[rule].answers for rule in rules)))
    return Must(
        forwarded=tuple(forwarded),
        answers=tuple(answers),
        least=least or len(answers),
        continues=(found.breach == "body_unfinished" and _expects(found.partial), any(map(_expects, heads))),
        rules=rules,
        kept=_kept(found.messages),
    )


def _status(message: Message, lane: str) -> frozenset[int]:
    if message.target == "*":
        return frozenset({204})
    path = path_of(message.target)
    if path in PAGES:
        return frozenset({200 if message.method in ("GET", "HEAD") else 405})
    return frozenset({200 if path.startswith(f"/{lane}/") else 404})


def _expects(message: Message | None) -> bool:
    """The caller may wait for 100 Continue before it sends the body (RFC 9110 §10.1.1)."""
    return message is not None and message.version != "1.0" and "100-continue" in message.tokens("expect")


def _may_close(message: Message) -> bool:
    """Docs/http.md: what closes the connection although the caller did not ask for it. llhttp reads Proxy-Connection,
    which no RFC defines any more, as if it were Connection."""
    unwelcome = message.trailers or message.values("proxy-connection")
    return bool(unwelcome) or (message.target == "*" and bool(message.body))


def _unread(raw: bytes, found: strict.Reading) -> tuple[str, ...]:
    """Why what `strict` could not read is refused; empty: there is nothing, or only line ends."""
    if not found.breach:
        return ()
    rest = raw[found.ends[-1] if found.ends else 0 :].lstrip(b"\r\n")
    if found.breach == "head_unfinished" and not rest:
        return ()
    early = house_rules(found.partial) if found.partial is not None else ()
    if found.breach == "head_unfinished" and len(rest) > TARGET_MAX + FIELD_BYTES_MAX:
        early = ("fields_large",)
    late = ("head_unfinished",) if found.breach in OF_WHOLE_HEADS and b"\r\n\r\n" not in rest else ()
    return tuple(dict.fromkeys([*early, found.breach, *filter(None, [found.also]), *late]))


def _kept(messages: list[Message]) -> str:
    """Why a connection's requests are answered as they came."""
    if not messages:
        return "RFC 9112 §9.5: a connection on which nothing is asked is closed after a while"
    told = [why for message in messages for why, holds in _REASONS.items() if holds(message)]
    return told[0] if told else "RFC 9112 §6.3: no body, or one of Content-Length bytes; passed on in a form of our own"


_REASONS: Final[dict[str, Callable[[Message], object]]] = {
    "RFC 9112 §3: spaces may be read as one; passed on in a form of our own": lambda m: "spaces" in m.oddities,
    "RFC 9110 §7.8: an Upgrade may be ignored": lambda m: m.values("upgrade"),
    "RFC 9112 §3.2.4: OPTIONS * asks the server itself": lambda m: m.target == "*",
    "RFC 9110 §10.1.1: 100 Continue is ours to say": lambda m: m.values("expect"),
    "RFC 9112 §3.2.2: the absolute form of a target must be accepted": lambda m: not m.target.startswith("/"),
    "RFC 9110 §6.5.1: trailers may be dropped": lambda m: m.trailers,
    "RFC 9112 §7.1: chunks are decoded, and passed on with a length": lambda m: m.chunked,
    "RFC 9112 §9.6: nothing is read behind a request that closes": lambda m: m.closes,
}


# What did become of it ------------------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class Case:
    """One case, before and after."""

    corpus: str
    name: str
    raw: bytes
    wants: str = ""
    """What the corpus itself expects, in its own words."""
    refused: bool = False
    """The corpus says that it has to be refused."""
    served: bool = False
    """The corpus says that it has to be served."""
    answered: bool = False
    """The corpus says that it is a request, which gets an answer, whatever that is."""
    did: str = ""
    why: str = ""
    """The section and what it says."""
    faults: tuple[str, ...] = ()


def run(stage: Stage, lane: Lane, case: Case, pieces: Sequence[bytes] = ()) -> Heard:
    """Throw a case at the process and judge it; `pieces`: how it is cut. Faults are told in the case."""
    lane.taken()
    heard = stage.throw(pieces or [case.raw])
    arrived = lane.taken()
    case.did = described(heard, arrived)
    wanted, faults = judged(case.raw, heard, arrived, lane.name, is_cut=len(pieces) > 1)
    case.why = _reason(wanted, heard)
    first = heard.statuses[0] if heard.statuses else 0
    if (case.refused and 0 < first < 400) or (case.served and not 200 <= first < 300) or (case.answered and not first):
        faults.append(f"the corpus wants: {case.wants}")
    try:
        stage.ordinary(lane)
    except (AssertionError, OSError) as fault:
        faults.append(f"the next request: {fault}")
    case.faults = tuple(faults)
    return heard


def judged(
    raw: bytes, heard: Heard, arrived: Sequence[bytes], lane: str, *, is_cut: bool = False
) -> tuple[Must, list[str]]:
    """What of all that is right came nearest to what was done, and the faults that are left."""
    found = [(wanted, list(faults_of(wanted, heard, arrived, lane, is_cut=is_cut))) for wanted in musts(raw, lane)]
    return min(found, key=lambda each: len(each[1]))


def faults_of(
    wanted: Must, heard: Heard, arrived: Sequence[bytes], lane: str, *, is_cut: bool = False
) -> Iterator[str]:
    """What is not as it must be: answers, what arrived upstream, or the end of the connection."""
    yield from _answers(wanted, heard, is_cut)
    yield from _forwarded(wanted, heard, arrived, lane)


def described(heard: Heard, arrived: list[bytes]) -> str:
    """What the proxy did, in words."""
    words = [f"answered {status}" if status < 300 else f"refused {status}" for status in heard.statuses]
    said = ", ".join(words) or "no answer"
    codes = "/".join(heard.codes)
    count = sum(len(strict.read(data).messages) for data in arrived)
    return f"{said}{f' ({codes})' if codes else ''}; forwarded {count}; {'closed' if heard.closed else 'open'}"


def _reason(wanted: Must, heard: Heard) -> str:
    if not wanted.rules:
        return wanted.kept
    last = heard.statuses[-1] if heard.statuses else 0
    rule = next((rule for rule in wanted.rules if last in RULES[rule].answers), wanted.rules[0])
    return f"{RULES[rule].section}: {RULES[rule].why}" + (" (house rule)" if rule in HOUSE else "")


def _answers(wanted: Must, heard: Heard, is_cut: bool) -> Iterable[str]:
    got, rights, least = heard.statuses, list(wanted.answers), wanted.least
    if is_cut and wanted.rules and len(got) < len(rights):
        # A segment that begins inside a request and holds a bad one: the good ones between are refused with it.
        rights[max(0, len(got) - 1)] |= rights[-1]
        least = min(least, 1)
    if not heard.closed:
        yield "the connection is still open"
    if b"HTTP/1.1 101" in heard.raw:
        yield "it switched protocols"
    if heard.raw and not heard.raw.startswith(b"HTTP/1.1 "):
        yield f"no HTTP/1.1: {heard.raw[:40]!r}"
    if b"HTTP/1.1 100" in heard.raw and not wanted.continues[is_cut]:
        yield "100 Continue to a caller that does not wait for it"
    if len(got) > len(rights) or len(got) < least:
        yield f"{len(got)} answers instead of {len(rights)}: {got}"
    for n, (status, right) in enumerate(zip(got, rights, strict=False)):
        if status not in right:
            yield f"answer {n + 1} is {status}, right would be {sorted(right)}"


def _forwarded(wanted: Must, heard: Heard, arrived: Sequence[bytes], lane: str) -> Iterable[str]:
    """Whether what arrived upstream are the forwarded requests, as every reader reads them."""
    said: list[readers.Said] = []
    heads: list[Message] = []
    for data in arrived:
        try:
            said += readers.the_same_to_all(data)
        except (AssertionError, ValueError) as fault:
            yield f"upstream: {fault}"
            return
        heads += strict.read(data).messages
    count = sum(status == 200 for status in heard.statuses)
    meant = [(one.method, _upstream_target(one.target, lane), one.body) for one in wanted.forwarded][:count]
    if sorted(said) != sorted(meant):
        yield f"upstream got {said}, meant was {meant}"
    for head in heads:
        yield from _head_faults(head)


def _upstream_target(target: str, lane: str) -> str:
    absolute = strict.ABSOLUTE.fullmatch(target.encode())
    if absolute is not None:
        target = (absolute[2] + (absolute[3] or b"")).decode()
    return target.removeprefix(f"/{lane}")


def _head_faults(head: Message) -> Iterable[str]:
    names = [name for name, _ in head.fields]
    if forbidden := HOP_BY_HOP & set(names):
        yield f"upstream: hop-by-hop {sorted(forbidden)}"
    if head.version != "1.1" or head.oddities or head.values("host")[0][:10] != b"127.0.0.1:":
        yield "upstream: the head is not of our making"
    for name in ("host", "content-length", *SINGLE):
        if names.count(name) > 1:
            yield f"upstream: {name} twice"
    if any(re.search(rb"[^\t -~]", value) for _, value in head.fields):
        yield "upstream: a value that is not printable ASCII"
