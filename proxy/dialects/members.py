"""Members of a JSON object, read without trust: what is of another kind is absent, or refused by its name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from proxy.dialects.chat import Finish, Format, Json, Malformed


def string(value: Any) -> str:
    """A string as it is; anything else is none."""
    return value if isinstance(value, str) else ""


def mapping(value: Any) -> Json:
    """An object as it is; anything else is an empty one."""
    return value if isinstance(value, Mapping) else {}


def objects(value: Any) -> Iterator[Json]:
    """The objects of a list; anything else has none."""
    if isinstance(value, list):
        yield from (each for each in value if isinstance(each, Mapping))


def dumped(value: Any) -> str:
    """Compact JSON."""
    return orjson.dumps(value).decode()


def number(body: Json, name: str) -> float | None:
    """A number, None: it is not there. Raises Malformed for anything else."""
    value = body.get(name)
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return value
    raise Malformed(name, "must be a number")


def flag(body: Json, name: str) -> bool | None:
    """A truth value, None: it is not there. Raises Malformed for anything else."""
    value = body.get(name)
    if value is None or isinstance(value, bool):
        return value
    raise Malformed(name, "must be true or false")


def cache_mark(holder: Json) -> str:
    """Anthropic's mark for the prompt cache, which some vendors take in OpenAI's dialect; empty: none."""
    mark = holder.get("cache_control")
    if not isinstance(mark, Mapping):
        return ""
    return "1h" if mark.get("ttl") == "1h" else "5m"


def schema_in(stated: Json) -> Format:
    """The format that an object of OpenAI's ``json_schema`` asks for."""
    schema, strict = stated.get("schema"), stated.get("strict")
    return Format(
        kind="json_schema",
        name=string(stated.get("name")),
        schema=schema if isinstance(schema, Mapping) else None,
        strict=strict if isinstance(strict, bool) else None,
        description=string(stated.get("description")),
    )


def finish_in(known: Mapping[str, Finish], reason: Any, calls: int) -> Finish:
    """Why it ended, with `calls` tools of the caller's called: whoever calls tools has not simply stopped."""
    finish = known.get(reason, Finish.UNKNOWN) if isinstance(reason, str) else Finish.UNKNOWN
    if calls and finish in (Finish.STOP, Finish.UNKNOWN):
        return Finish.TOOL_CALLS
    if not calls and finish is Finish.TOOL_CALLS:
        return Finish.STOP
    return finish
