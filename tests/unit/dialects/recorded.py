"""Plays recorded provider answers through the very reader that production uses (`Pump` over a dialect's `Reader`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from proxy.base.outcome import Outcome
from proxy.dialects.reading import Reader
from proxy.dialects.registry import reader
from proxy.upstream.pump import Asked, Pump
from tests import data

ENDPOINTS = {
    "openai.chat": "chat",
    "anthropic.messages": "messages",
    "openai.responses": "responses",
    "openai.embeddings": "embeddings",
}

NO_ANSWER = {
    # Unary answers that carry nothing for the caller, and streams likewise; checked one by one.
    "2fe1adf44cf3dc": "end_turn without any block",
    "b9d387ddf3257a": "end_turn without any block",
    "3905122a957e7a": "finish_reason stop, null content",
    "703aef40097637": "finish_reason stop, no content",
    "f1e811989fd124": "finish_reason stop, no content",
    "2ffe6cfa59efcd": "finish_reason stop, empty content",
    "c62eb85b4fd5bb": "finish_reason stop, empty content",
    "06d4bc0e06fdb5": "finish_reason stop, empty text",
    "cf8154c12bfa33": "finish_reason stop, empty text",
    "1ebe0fe7308b00": "nothing but [DONE]",
    "8d63882951d077": "recorded undecoded",
    "d2599c7e227326": "an echo service, no JSON",
}
BROKEN_FLAGS = frozenset({"midstream_error", "error_in_200"})


class Heard:
    """What a pump tells its driver."""

    def __init__(self) -> None:
        self.contents = 0
        self.outcome: Outcome | None = None

    def opened(self, n: int) -> None: ...

    def content(self, n: int) -> None:
        self.contents += 1

    def full(self, n: int) -> None:
        raise AssertionError("no recorded preamble is that long")

    def finished(self, n: int, outcome: Outcome) -> None:
        assert self.outcome is None
        self.outcome = outcome

    def forwards(self, n: int, data: bytes, begin: int) -> bool:
        return False

    def readable(self, n: int) -> None: ...


def play(the_reader: Reader, pieces: list[bytes]) -> tuple[bool, Outcome, bytes]:
    """(whether content was seen, the outcome, what was sent on) of a stream that comes in `pieces`."""
    driver = Heard()
    pump = Pump(0, driver, the_reader, Asked("stream", "openai", 8 << 20, lambda: 0.0, False))
    pump.head(200, ((b"content-type", b"text/event-stream"),))
    for piece in pieces:
        if not pump.over:
            pump.data(piece)
    pump.end()
    sent = pump.take()
    assert driver.outcome is not None
    assert driver.contents <= 1
    return bool(driver.contents), driver.outcome, sent


def records(api: str) -> Iterator[tuple[dict[str, Any], bytes, Reader, bool]]:
    """(record, body, fresh reader, whether it is a stream) of every recorded 2xx answer."""
    folder = data.need("exchanges")
    for path in sorted(folder.glob(f"*__{api}.jsonl.gz")):
        for record in data.rows(f"exchanges/{path.name}"):
            response = record["response"]
            if not 200 <= response["status"] < 300:
                continue
            asked = record["request"].get("body")
            made = reader(ENDPOINTS[api], asked if isinstance(asked, dict) else {})
            assert made is not None
            yield record, data.body(response), made, bool(record["stream"])


def check(api: str) -> tuple[int, int]:
    """Judge all of an API; returns how many streams and unary answers there were.

    A complete stream is content and `ok`, byte by byte as in one piece; a unary answer is accepted unless it is truly
    none; an error inside a 200 is found to be one.
    """
    streams = unary = 0
    for record, body, made, is_stream in records(api):
        name, broken = record["id"], BROKEN_FLAGS & set(record["flags"])
        if not is_stream:
            unary += 1
            verdict = made.whole(body)
            if broken:
                assert verdict == "error", name
            else:
                assert bool(verdict) == (name in NO_ANSWER), (name, verdict)
            continue
        streams += 1
        content, outcome, sent = play(made, [body])
        if broken:
            assert outcome.cls.value != "ok", name
        elif name in NO_ANSWER:
            assert (content, outcome.cls.value) == (False, "server_error"), name
        else:
            assert (content, outcome.name, sent) == (True, "ok", body), name
        if len(body) < 4096 or streams % 16 == 0:
            again = type(made)(made._needed)  # type: ignore[attr-defined, call-arg]
            assert play(again, [body[i : i + 7] for i in range(0, len(body), 7)]) == (content, outcome, sent), name
            assert again.usage == made.usage, name
    return streams, unary
