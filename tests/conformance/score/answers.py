"""Recorded answers, translated for callers of every dialect and compared by meaning."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

from proxy.dialects import registry
from proxy.dialects.chat import Asked, Encoded, Json
from proxy.dialects.hearing import Speaker
from proxy.dialects.translation import Translator
from tests.conformance.score import oracle, sdk
from tests.conformance.score.records import APIS, Record

ASKED = Asked(
    body={"model": "caller-model", "stream": True, "stream_options": {"include_usage": True}},
    created=1_764_000_000,
    seed="5ee0d5ee0d5ee0d5ee0d5ee0d5ee0d5e",
    model="target-model",
)
PLAIN = replace(ASKED, body={"model": "caller-model"})
OWN = Encoded(body={})
BYTES_MAX = 4096
"""Streams up to this size are also fed byte by byte."""

ACCEPTED: dict[str, dict[str, set[str]]] = {
    "chat": {"stop_sequence": {"stop"}, "context": {"length"}, "pause": {"length"}},
    "responses": {"stop_sequence": {"stop"}, "context": {"length"}, "pause": {"length"}},
    "messages": {},
    "generate": {"stop_sequence": {"stop"}, "context": {"length"}, "pause": {"pause", "length"}},
    "converse": {"pause": {"length", "stop"}},
}
"""How a caller's dialect may tell a reason that it has no word of its own for (`providers.md` 2.6)."""
REFUSED = ("refused", "SAFETY", "PROHIBITED_CONTENT", "BLOCKLIST", "OTHER")
"""What stands for a refusal without words (2.1), or for its reason."""
SILENT = {"stop", "stop_sequence", "tool_calls", "unknown", "malformed", ""}


def translator(target: str, caller: str, stream: bool) -> Translator:
    """As production makes it; a speaker that translates to itself is not let pass the bytes on."""
    to = registry.speaker(target)
    return Translator(to, _other(registry.speaker(caller)), OWN, ASKED if stream else PLAIN, stream)


def _other(speaker: Speaker) -> Speaker:
    return replace(speaker)


def pieces(body: bytes, sizes: tuple[int, ...]) -> Iterator[bytes]:
    at = n = 0
    while at < len(body):
        size = max(1, sizes[min(n, len(sizes) - 1)])
        yield body[at : at + size]
        at += size
        n += 1


def translated(record: Record, caller: str, sizes: tuple[int, ...] = ()) -> tuple[str, bytes]:
    """(``error: ...`` or another word for what went wrong, or empty; the caller's bytes)."""
    made = translator(record.api, caller, record.stream)
    if not record.stream:
        verdict, out = made.whole(record.body)
        return (f"error: {_message(made.error)}" if made.error is not None else verdict), out
    out = b"".join(made.feed(piece) for piece in pieces(record.body, sizes or (len(record.body) or 1,)))
    out += made.close()
    return (f"error: {_message(made.error)}" if made.error is not None else ""), out


def _message(error: Json | None) -> str:
    inner = (error or {}).get("error", error)
    return str((inner if isinstance(inner, dict) else error or {}).get("message") or "")


def sources(record: Record) -> bool:
    """Whether a record is an answer (or an error inside one) that is worth translating."""
    return record.status < 300 and record.api in (*APIS, "invoke") and bool(record.body.strip()) and _is_whole(record)


def _is_whole(record: Record) -> bool:
    """A stream in the form that our requests ask for: neither Gemini's JSON array nor a body that is no answer."""
    return record.stream or record.body.lstrip()[:1] == b"{"


def differences(record: Record, caller: str, told: oracle.Said | None = None) -> list[str]:
    """What a caller is told otherwise than the provider said; empty: nothing."""
    truth = told or oracle.said(record.api, record.body, record.stream)
    problem, out = translated(record, caller)
    if truth.error is not None:
        return _faulty(truth, problem, out, caller, record)
    if problem == "empty" or (problem.startswith("error: the model produced nothing usable")):
        nothing = not (truth.text or truth.refusal or truth.thinking or truth.calls or truth.blocked)
        return [] if nothing and truth.finish in SILENT else [f"{problem} although it says something"]
    if problem:
        return [problem]
    heard = oracle.said(caller, out, record.stream)
    found = compare(truth, heard, record.api, caller)
    if not found and truth.is_over and record.api != caller and not _beyond_sdk(record, caller, truth):
        found = sdk.answer_faults(caller, out, record.stream)
    return found


def _beyond_sdk(record: Record, caller: str, truth: oracle.Said) -> bool:
    """What the SDK's types leave out although the API has it: custom calls in chat's streams. Claude's own JSON over
    another road is as little judged as any answer that stays in its dialect."""
    if record.api == "invoke" and caller == "messages":
        return True
    return caller == "chat" and record.stream and any(isinstance(call.arguments, str) for call in truth.calls)


def _faulty(truth: oracle.Said, problem: str, out: bytes, caller: str, record: Record) -> list[str]:
    if not problem.startswith("error: "):
        return [f"the error {truth.error!r} is not told: {problem or 'an answer'}"]
    if " ".join((truth.error or "").split())[:60] not in " ".join(problem.split()):
        return [f"error {truth.error!r} became {problem!r}"]
    # Where a reason for the end may come before the error, the two have already been told.
    if record.stream and out and caller in ("chat", "responses", "messages") and oracle.said(caller, out, True).is_over:
        return ["an end although there was an error"]
    return []


def compare(truth: oracle.Said, heard: oracle.Said, target: str, caller: str) -> list[str]:
    found = []
    if heard.error is not None:
        return [f"an error: {heard.error!r}"]
    if not truth.is_over:
        return [] if not heard.is_over else ["an end although the stream was cut"]
    if not heard.is_over:
        return ["no end"]
    found += _texts(truth, heard, caller)
    if not _joined(truth.thinking, heard.thinking) and not (
        caller == "messages" and not heard.thinking and target not in ("messages", "invoke")
    ):
        found.append(f"thinking {_short(truth.thinking)} became {_short(heard.thinking)}")
    found += _calls(truth, heard, caller)
    allowed = ACCEPTED[caller].get(truth.finish, {truth.finish})
    if truth.finish in ("malformed", "unknown"):
        allowed = {"stop", "tool_calls", truth.finish, "length" if truth.finish == "malformed" else "stop"}
    if heard.finish not in allowed:
        found.append(f"finish {truth.finish} became {heard.finish}")
    if (want := usage_for(truth.usage, caller)) != (got := usage_for(heard.usage, caller)):
        found.append(f"usage {want} became {got}")
    return found


def _texts(truth: oracle.Said, heard: oracle.Said, caller: str) -> list[str]:
    want, got = truth.text, heard.text
    if caller in ("messages", "converse", "generate"):
        # No member for a refusal: it is text there, and the finish reason tells what it is.
        is_apart = caller == "messages" and heard.refusal not in (truth.refusal, heard.text)
        got = heard.text + (heard.refusal if is_apart else "")
        options = [[*truth.texts], [*truth.texts, truth.refusal], [truth.refusal, *truth.texts]]
        if truth.finish == "content_filter" and not truth.refusal:
            options += [[*truth.texts, word] for word in REFUSED]
        if truth.refusal and target_lost(truth, got):
            return [f"refusal {truth.refusal!r} became {got!r} {heard.refusal!r}"]
        return (
            [] if any(_joined(option, [got]) for option in options) else [f"text {_short(want)} became {_short(got)}"]
        )
    out = []
    if not _joined(truth.texts, [got]):
        out.append(f"text {_short(want)} became {_short(got)}")
    if truth.refusal and truth.refusal != heard.refusal:
        out.append(f"refusal {truth.refusal!r} became {heard.refusal!r}")
    if heard.refusal and not truth.refusal and truth.finish != "content_filter":
        out.append(f"a refusal out of nothing: {heard.refusal!r}")
    return out


def target_lost(truth: oracle.Said, got: str) -> bool:
    """Whether words of a refusal are missing where they could stand as text only."""
    return truth.finish != "content_filter" and truth.refusal not in got


def _joined(want: list[str], got: list[str]) -> bool:
    """Whether blocks say the same; what stands between two of them is free."""
    whole = "".join(got)
    blocks = [block for block in want if block]
    return any(whole == between.join(blocks) for between in ("", "\n\n", "\n", " ")) or whole == "".join(blocks)


def _calls(truth: oracle.Said, heard: oracle.Said, caller: str) -> list[str]:
    if [call.name for call in truth.calls] != [call.name for call in heard.calls]:
        return [f"calls {[call.name for call in truth.calls]} became {[call.name for call in heard.calls]}"]
    found = []
    for want, got in zip(truth.calls, heard.calls, strict=True):
        if not same_arguments(want.arguments, got.arguments):
            found.append(f"arguments {_short(want.arguments)} became {_short(got.arguments)}")
        if want.id and want.id != got.id:
            found.append(f"call id {want.id!r} became {got.id!r}")
        if not got.id and caller != "generate":
            found.append("a call without an id")
    if len({call.id for call in heard.calls}) != len(heard.calls) and len({call.id for call in truth.calls}) == len(
        truth.calls
    ):
        found.append("two calls with one id")
    return found


def same_arguments(want: Any, got: Any) -> bool:
    """Text that is no JSON may stand inside an object where a dialect demands one."""
    if isinstance(want, str) and isinstance(got, dict) and len(got) == 1 and next(iter(got)) in ("_raw", "input"):
        got = next(iter(got.values()))
    if isinstance(got, str) and isinstance(want, dict) and set(want) == {"_raw"}:
        want = want["_raw"]
    if want is not got and not isinstance(want, dict) and isinstance(got, dict) and got == {"_raw": want}:
        return True
    return bool(want == got) or (not isinstance(want, dict) and isinstance(got, dict) and list(got.values()) == [want])


def usage_for(usage: tuple[int, int, int, int, int] | None, caller: str) -> tuple[int, int, int, int, int]:
    """What a dialect can tell of a count: Gemini knows no cache writes, Converse no reasoning."""
    into, read, write, output, reasoning = usage or (0, 0, 0, 0, 0)
    if caller == "generate":
        return (into + write, read, 0, output, min(reasoning, output))
    return (into, read, write, output, 0 if caller == "converse" else reasoning)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 160 else f"{text[:70]} ... {text[-70:]}"


def cut_faults(record: Record, caller: str) -> list[str]:
    """Whether other read sizes, or an early end of the connection, change what the caller is sent."""
    problem, whole = translated(record, caller)
    found = []
    if record.sizes and translated(record, caller, record.sizes) != (problem, whole):
        found.append("recorded read sizes give other bytes")
    if len(record.body) <= BYTES_MAX and translated(record, caller, (1,)) != (problem, whole):
        found.append("single bytes give other bytes")
    if translated(record, caller, (7, 64, 1, 333)) != (problem, whole):
        found.append("odd pieces give other bytes")
    for share in (0.3, 0.7):
        early = replace(record, body=record.body[: int(len(record.body) * share)])
        try:
            truth = oracle.said(record.api, _complete(early), True)
        except ValueError:
            continue
        if truth.error is not None or truth.is_over:
            continue
        _, out = translated(early, caller)
        if oracle.said(caller, out, True).is_over:
            found.append(f"cut at {share}: told as a proper end")
    return found


def _complete(record: Record) -> bytes:
    """The whole events of a cut stream: what stands behind the last blank line is no event."""
    if record.api in ("converse", "invoke"):
        return record.body
    body = record.body.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return body[: body.rfind(b"\n\n") + 2]


def round_trip(record: Record, caller: str) -> list[str]:
    """An answer told in another dialect and back again."""
    truth = oracle.said(record.api, record.body, record.stream)
    home = "messages" if record.api == "invoke" else record.api
    if truth.error is not None or not truth.is_over:
        return []
    problem, out = translated(record, caller)
    if problem:
        return []  # judged as an answer already
    back = replace(record, api=caller, body=out, sizes=())
    problem, out = translated(back, home)
    if problem:
        return [f"on the way back: {problem}"]
    heard = oracle.said(home, out, record.stream)
    middle = replace(truth, usage=usage_for(truth.usage, caller))
    middle.finish = next(iter(ACCEPTED[caller].get(truth.finish, {truth.finish})))
    found = [each for each in compare(middle, heard, caller, home) if not each.startswith(("thinking", "finish"))]
    if caller in ("messages", "generate", "converse") and truth.refusal:
        found = [each for each in found if not each.startswith(("text", "refusal", "a refusal"))]
    return found


def sample(found: list[Record], most: int) -> list[Record]:
    return list(islice(found, most))
