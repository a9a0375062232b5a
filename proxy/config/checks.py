"""Strict checks for values that callers send, and the error that tells them what is wrong.

A typo must not silently weaken a policy. So nothing is guessed: a key that is not known, a key given twice, `true`
where a number belongs or `"5"` for 5 are all errors, and each error names the header, the path inside it, what is
allowed and (for names) the nearest allowed one. Numbers that JSON can write but nobody can mean (NaN, 1e999, a thousand
digits) are read as floats and then fail the range of their key like any other number, which keeps the path in the
message.

What callers send may be a credential put in the wrong place; values that look like one are not repeated in messages.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from proxy.base.outcome import ANY_ERROR, TIMEOUT_SUBS, TRIGGER_CLASSES, Class
from proxy.config import names

SHOWN_MAX: Final = 64
"""Characters of a bad value that its error message repeats."""
LIST_MAX: Final = 16
"""Entries in any list of a header, where nothing narrower is said."""

_CREDENTIAL: Final = re.compile(r"(?i)(?<![\w-])(sk|pk|rk|gsk|xai|key)[-_][a-z0-9]|\bbearer\b|\bAIza|\beyJ|://[^/]*@")


class HeaderError(Exception):
    """A control header of the caller cannot be obeyed. Nothing has been sent upstream.

    `status` is 400 with code ``invalid_header``, or 403 with code ``override_forbidden``. `param` names header and path
    (``X-Retry-Config.multiplier``), `message` begins with it; both are ASCII and hold no credential.
    """

    def __init__(self, status: int, header: str, path: str, message: str, code: str = "invalid_header") -> None:
        self.status = status
        self.header = header
        self.path = path
        self.param = header + path if path.startswith("[") or not path else f"{header}.{path}"
        self.message = f"{self.param}: {message}"
        self.code = code
        super().__init__(self.message)


def plain(text: str) -> str:
    """`text` in printable ASCII, everything else escaped, at most `SHOWN_MAX` characters; a credential is hidden."""
    if _CREDENTIAL.search(text):
        return "(hidden)"
    escaped = json.dumps(text)[1:-1]
    return escaped if len(escaped) <= SHOWN_MAX else escaped[:SHOWN_MAX] + "..."


def show(value: object) -> str:
    """A bad value as error messages repeat it: quoted, escaped and shortened; objects and lists by kind only."""
    if isinstance(value, str):
        return f'"{plain(value)}"'
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list):
        return "a list"
    return json.dumps(value)


def nearest(word: str, allowed: Iterable[str]) -> str:
    """``; did you mean "x"?`` for the tail of a message, in ASCII; empty when nothing allowed is near `word`."""
    found = names.nearest(word, allowed)
    return f'; did you mean "{plain(found)}"?' if found else ""


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a header a value stands."""

    header: str
    path: str = ""

    def key(self, name: str) -> Place:
        return Place(self.header, f"{self.path}.{name}" if self.path else name)

    def item(self, index: int) -> Place:
        return Place(self.header, f"{self.path}[{index}]")

    def wrong(self, text: str) -> HeaderError:
        return HeaderError(400, self.header, self.path, text)


Check = Callable[[Any, Place], Any]
"""Takes a decoded JSON value and its place; returns the value as we use it or raises `HeaderError`."""


# Checks ---------------------------------------------------------------------------------------------------------------


def number(low: float, high: float) -> Check:
    """A finite JSON number within [low, high], as float."""

    def check(value: Any, at: Place) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise at.wrong(f"must be a number from {low:g} to {high:g}, got {show(value)}")
        return float(value)

    return check


def whole(low: int, high: int) -> Check:
    """A whole JSON number within [low, high], as int; 2.0 is 2, for JSON knows one kind of number."""

    def check(value: Any, at: Place) -> int:
        fits = not isinstance(value, bool) and isinstance(value, int | float) and low <= value <= high
        if not fits or value != int(value):
            raise at.wrong(f"must be a whole number from {low} to {high}, got {show(value)}")
        return int(value)

    return check


def flag(value: Any, at: Place) -> bool:
    """true or false, nothing that merely looks like it."""
    if not isinstance(value, bool):
        raise at.wrong(f"must be true or false, got {show(value)}")
    return value


def word_or_whole(said: str, high: int) -> Check:
    """The word `said`, or a whole number within [0, high]."""

    def check(value: Any, at: Place) -> int | str:
        if value == said:
            return said
        fits = not isinstance(value, bool) and isinstance(value, int | float) and 0 <= value <= high
        if not fits or value != int(value):
            raise at.wrong(f"must be {said} or a whole number from 0 to {high}, got {show(value)}")
        return int(value)

    return check


def word(*allowed: str) -> Check:
    """One of a few words, as they are written."""
    listed = ", ".join(allowed)

    def check(value: Any, at: Place) -> str:
        if not isinstance(value, str) or value not in allowed:
            hint = nearest(value, allowed) if isinstance(value, str) else ""
            raise at.wrong(f"must be one of {listed}, got {show(value)}{hint}")
        return value

    return check


def label(value: Any, at: Place) -> str:
    """A provider, model or route name: 1 to 256 printable ASCII characters without spaces."""
    if not isinstance(value, str) or not re.fullmatch(r"[!-~]{1,256}", value):
        raise at.wrong(f"must be a name of 1 to 256 printable characters without spaces, got {show(value)}")
    return value


def text(most: int) -> Check:
    """A string of 1 to `most` characters."""

    def check(value: Any, at: Place) -> str:
        if not isinstance(value, str) or not 1 <= len(value) <= most:
            raise at.wrong(f"must be a string of 1 to {most} characters, got {show(value)}")
        return value

    return check


def listing(entry: Check, most: int = LIST_MAX, least: int = 1) -> Check:
    """A list of `least` to `most` entries, as tuple; an entry that was there already is dropped."""

    def check(value: Any, at: Place) -> tuple[Any, ...]:
        if not isinstance(value, list) or not least <= len(value) <= most:
            got = f"{len(value)} entries" if isinstance(value, list) else show(value)
            raise at.wrong(f"must be a list of {least} to {most} entries, got {got}")
        seen: list[Any] = []
        for index, each in enumerate(value):
            kept = entry(each, at.item(index))
            if kept not in seen:
                seen.append(kept)
        return tuple(seen)

    return check


def series(entry: Check, most: int = LIST_MAX) -> Check:
    """A list of 1 to `most` entries in which repetition means something, as tuple."""

    def check(value: Any, at: Place) -> tuple[Any, ...]:
        if not isinstance(value, list) or not 1 <= len(value) <= most:
            got = f"{len(value)} entries" if isinstance(value, list) else show(value)
            raise at.wrong(f"must be a list of 1 to {most} entries, got {got}")
        return tuple(entry(each, at.item(index)) for index, each in enumerate(value))

    return check


def one_or_more(entry: Check) -> Check:
    """One value or a list of them, always as tuple."""
    several = listing(entry)

    def check(value: Any, at: Place) -> tuple[Any, ...]:
        return several(value, at) if isinstance(value, list) else (entry(value, at),)

    return check


def record(keys: Mapping[str, Check], required: Sequence[str] = ()) -> Check:
    """An object with these keys and no others; the keys that were not given are absent from what is returned."""

    def check(value: Any, at: Place) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise at.wrong(f"must be an object, got {show(value)}")
        for key in value:
            if key not in keys:
                raise at.key(plain(key)).wrong(f"unknown key{nearest(key, keys)}")
        for key in required:
            if key not in value:
                raise at.wrong(f'must have the key "{key}"')
        return {key: keys[key](each, at.key(key)) for key, each in value.items()}

    return check


def failure_class(value: Any, at: Place) -> str:
    """A word of ``trigger``: one of the 14 classes or ``any_error``."""
    if not isinstance(value, str) or value not in _CLASS_WORDS:
        hint = nearest(value, _CLASS_WORDS) if isinstance(value, str) else ""
        raise at.wrong(f"must be a failure class or any_error, got {show(value)}{hint}")
    return value


def failure(value: Any, at: Place) -> str:
    """A word of ``retry_on``: as of ``trigger``, or a sub-name."""
    if not isinstance(value, str) or value not in _FAILURE_WORDS:
        hint = nearest(value, _FAILURE_WORDS) if isinstance(value, str) else ""
        raise at.wrong(
            f"must be a failure class, a sub-name such as timeout.connect, or any_error, got {show(value)}{hint}"
        )
    return value


def excluded(value: Any, at: Place) -> str:
    """An entry of ``excluded_errors``: a class, a sub-name, or a status as number or text."""
    if isinstance(value, int) and not isinstance(value, bool) and 100 <= value <= 599:
        return str(value)
    if isinstance(value, str) and (value in _FAILURE_WORDS - {"any_error"} or re.fullmatch(r"[1-5][0-9][0-9]", value)):
        return value
    hint = nearest(value, _FAILURE_WORDS - {"any_error"}) if isinstance(value, str) else ""
    raise at.wrong(
        f"must be a failure class, a sub-name such as timeout.first_byte, or a status, got {show(value)}{hint}"
    )


_CLASS_WORDS: Final = frozenset(c.value for c in TRIGGER_CLASSES) | {"any_error"}
_CONNECT_SUBS: Final = ("dns", "refused", "tls", "reset", "unreachable")
_FAILURE_WORDS: Final = (
    _CLASS_WORDS | {f"timeout.{s}" for s in TIMEOUT_SUBS} | {f"connect_error.{s}" for s in _CONNECT_SUBS}
)


def classes(words: Iterable[str]) -> frozenset[Class]:
    """The classes behind checked trigger words; ``any_error`` means all but content policy and invalid request."""
    found: set[Class] = set()
    for each in words:
        found |= ANY_ERROR if each == "any_error" else {Class(each)}
    return frozenset(found)


def failure_names(words: Iterable[str]) -> frozenset[str]:
    """Checked `retry_on` or `error_type` words as outcome names, ``any_error`` spelled out."""
    found: set[str] = set()
    for each in words:
        found |= {c.value for c in ANY_ERROR} if each == "any_error" else {each}
    return frozenset(found)
