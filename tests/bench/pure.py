"""What translation costs by itself: no sockets, no process, the least of several repetitions.

The rows of `run.measure_translated` are what a translated answer costs a process more than one that is not; they hold
everything and share the noise of the machine. These hold the work of `proxy.dialects` and nothing else.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

import orjson

from proxy.dialects import registry
from proxy.dialects.chat import Asked, Encoded, ModelFacts
from tests.bench import foreign
from tests.bench.load import Job
from tests.bench.upstream import CONTENT_BYTES, answer

APIS = {"anthropic": "messages", "gemini": "generate", "bedrock": "converse"}
EVENTS = 200
REPEATS, EACH = 5, 60


def least_us(work: Callable[[], object], each: int = EACH) -> float:
    """CPU microseconds of one call, the least of `REPEATS` averages over `each` calls."""
    work()
    found = []
    for _ in range(REPEATS):
        began = time.process_time_ns()
        for _ in range(each):
            work()
        found.append((time.process_time_ns() - began) / each / 1000)
    return min(found)


@functools.cache
def asked_body() -> dict[str, Any]:
    """The caller's parsed request, that of the process rows."""
    wire = b"".join(Job(model="unary-1024").request())
    return dict(orjson.loads(wire.partition(b"\r\n\r\n")[2]))


def written(api: str, dialect: str) -> Encoded:
    """The request, read and written for `api` and turned into bytes."""
    request = registry.speaker("chat").read_request(asked_body())
    encoded = registry.written(api, request, ModelFacts(model="unary-1024", dialect=dialect))
    orjson.dumps(encoded.body)
    return encoded


def costs() -> Iterator[tuple[str, float]]:
    """(row, microseconds) for every dialect of a target, with a chat caller."""
    asked = Asked(body=asked_body(), created=1763726400, seed="0" * 32, model="unary-1024", include_usage=True)
    for dialect, api in APIS.items():
        encoded = written(api, dialect)

        def whole(body: bytes, api: str = api, encoded: Encoded = encoded) -> None:
            why, _ = registry.translator(api, "chat", encoded, asked, False).whole(body)
            assert not why, why

        def events(pieces: list[bytes], api: str = api, encoded: Encoded = encoded) -> None:
            translator = registry.translator(api, "chat", encoded, asked, True)
            for piece in pieces:
                translator.feed(piece)
            translator.close()
            assert translator.is_over

        request_us = least_us(functools.partial(written, api, dialect))
        small, large = (
            least_us(functools.partial(whole, answer(f"unary-{size}", dialect).body)) for size in (1024, 65536)
        )
        said = foreign.stream(dialect, "stream-200", ["w".ljust(CONTENT_BYTES, "x")] * EVENTS)
        yield f"pure_{dialect}_us", request_us + small
        yield f"pure_{dialect}_kib_us", (large - small) / 63
        yield f"pure_{dialect}_event_us", least_us(functools.partial(events, said), 2) / EVENTS
