"""The corpora that are not HTTP: JSON as request bodies, naughty strings wherever a string goes, YAML as configuration.

The judge of JSON is the standard library, which shares nothing with the parser on the request's way.
"""

from __future__ import annotations

import base64
import json
import re
import tarfile
from collections.abc import Iterator
from typing import Any

import yaml

from proxy.config.load import Loaded, load_bytes
from tests.data import need, rows
from tests.fuzz import strict
from tests.fuzz.stage import Heard, Lane, Stage
from tests.fuzz.verdict import Case

CHAT = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Failover-Providers: %b\r\n"
CHAT += b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n"
RAW = b"POST /%b/u HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
MESSAGES = b'"messages":[{"role":"user","content":"hi"}]'


def ask(stage: Stage, lane: Lane, body: bytes) -> tuple[Heard, list[bytes]]:
    """A chat call for a lane, and the bodies that its upstream got."""
    lane.taken()
    heard = stage.throw([CHAT % (lane.name.encode(), len(body)), body])
    return heard, [message.body for data in lane.taken() for message in strict.read(data).messages]


# JSON -----------------------------------------------------------------------------------------------------------------


def json_cases() -> Iterator[Case]:
    """Every text as a body of its own, and as a member of a correct one."""
    for row in rows("http/json_parsing.jsonl"):
        text = base64.b64decode(row["b64"])
        yield Case(corpus="json, whole", name=row["name"], raw=text, wants=row["kind"])
        member = b'{"model":"gpt-4o",%b,"x":%b}' % (MESSAGES, text)
        yield Case(corpus="json, member", name=row["name"], raw=member, wants=row["kind"])


def is_rfc_json(text: bytes) -> bool | None:
    """Whether a text is JSON by RFC 8259; None: it nests too deeply for this judge."""
    try:
        json.loads(text.decode("utf-8"), parse_constant=_refused)
    except RecursionError:
        return None
    except ValueError:
        return False
    return True


def _refused(name: str) -> None:
    raise ValueError(name)


def judge_json(stage: Stage, lane: Lane, case: Case) -> Case:
    """Correct JSON goes on byte for byte, and never anything else than the caller's bytes; nothing is answered 500.

    To a provider's own path any bytes go on.
    """
    heard, bodies = ask(stage, lane, case.raw)
    status = heard.statuses[0] if heard.statuses else 0
    case.did = f"{'passed on unchanged' if bodies else 'refused'}, {status} {'/'.join(heard.codes)}".rstrip()
    correct = is_rfc_json(case.raw)
    faults = []
    if status not in (200, 400):
        faults.append(f"answered {heard.raw[:200]!r}")
    if bodies not in ([], [case.raw]):
        faults.append("the upstream got another body")
    lane.taken()
    stage.throw([RAW % (lane.name.encode(), len(case.raw)), case.raw])
    if [message.body for data in lane.taken() for message in strict.read(data).messages] != [case.raw]:
        faults.append("the provider's own path changed the body")
    if correct and case.corpus == "json, member" and status != 200:
        faults.append("correct JSON was refused")
    if correct is False and bodies and not re.search("NaN|nan|[Ii]nf|BOM|UTF-?16|surrogate|number", case.name):
        faults.append("what is no JSON was passed on")
    case.why = "RFC 8259: JSON goes on as it came; a body that is none, or no object, is 400"
    case.faults = tuple(faults)
    return case


# Naughty strings ------------------------------------------------------------------------------------------------------


def strings() -> list[str]:
    return list(json.loads(need("http/blns.json").read_text(encoding="utf-8")))


def string_cases(lane: str) -> Iterator[Case]:
    """Every string as a header value and in a query, as raw bytes: `verdict` judges those."""
    for n, text in enumerate(strings()):
        raw = b"GET /%b/u HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Note: %b\r\n\r\n" % (
            lane.encode(),
            text.encode(),
        )
        yield Case(corpus="blns, header", name=str(n), raw=raw)
        raw = b"GET /%b/u?q=%b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % (lane.encode(), text.encode())
        yield Case(corpus="blns, query", name=str(n), raw=raw)


def judge_string(stage: Stage, lane: Lane, case: Case) -> Case:
    """A string as a prompt and as a model's name: it goes on unchanged, or the name is refused by name."""
    text = case.raw.decode()
    body = json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": text}]}, ensure_ascii=False).encode()
    heard, bodies = ask(stage, lane, body)
    faults = [] if (heard.statuses, bodies) == ([200], [body]) else [f"as a prompt: {heard.raw[:200]!r}"]
    body = json.dumps({"model": text, "messages": [{"role": "user", "content": "hi"}]}, ensure_ascii=False).encode()
    heard, bodies = ask(stage, lane, body)
    usable = 0 < len(text) <= 256 and text.isprintable()
    if usable and (heard.statuses, bodies) != ([200], [body]):
        faults.append(f"as a model: {heard.raw[:300]!r}")
    if not usable and (heard.statuses, bodies, heard.codes[:1]) != (
        [400],
        [],
        ["invalid_model" if text else "missing_model"],
    ):
        faults.append(f"as a model: {heard.raw[:300]!r}")
    case.why = "RFC 8259 §7: any character may stand in a string; a model's name is printable"
    case.did = f"as a prompt unchanged; as a model {'unchanged' if usable else 'refused'}"
    case.faults = tuple(faults)
    return case


# YAML -----------------------------------------------------------------------------------------------------------------

MARKS = {"␣": " ", "———»": "\t", "——»": "\t", "—»": "\t", "»": "\t", "↵": "", "∎\n": "", "←": "\r", "⇔": "\ufeff"}
"""How the suite writes what cannot be seen."""


def yaml_cases() -> Iterator[Case]:
    with tarfile.open(need("http/yaml_test_suite.tar.gz")) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.name.endswith(".yaml") else None
            if file is None:
                continue
            inherited: dict[str, Any] = {}
            for n, entry in enumerate(yaml.safe_load(file.read().decode())):
                inherited = {**inherited, "fail": False, **entry}
                text = str(inherited["yaml"])
                for mark, meant in MARKS.items():
                    text = text.replace(mark, meant)
                name = f"{member.name.rpartition('/')[2]}/{n} {inherited.get('name', '')}"
                wants = "fail" if inherited["fail"] else "parses"
                yield Case(corpus="yaml", name=name, raw=text.encode("utf-8", "surrogatepass"), wants=wants)


def judge_yaml(case: Case) -> Case:
    """No text of the suite is a configuration: each is refused, at a line and a column that it has."""
    try:
        loaded = load_bytes(case.raw, "f.yaml", {})
    except Exception as error:
        case.faults = (f"crashed: {error!r}",)
        return case
    case.did = f"refused: {loaded.errors[0]}" if loaded.errors else "taken"
    case.why = "docs/config.md: an error with its place"
    case.faults = tuple(misplaced(case.raw, loaded))
    if not loaded.errors:
        case.faults = ("taken for a configuration",)
    return case


def misplaced(text: bytes, loaded: Loaded) -> Iterator[str]:
    """Errors that do not say where, or name a place that the file does not have."""
    decoded = text.decode("utf-8", "replace")
    lines = re.split(r"\r\n|[\n\r\x85\u2028\u2029]", decoded)  # all that YAML 1.1 takes for line ends
    widest = max(map(len, decoded.split("\n")))  # what is no YAML at all is placed by LF alone
    for problem in loaded.errors:
        line, column = problem.line, problem.column
        if not 1 <= line <= len(lines) + 1 or not 1 <= column <= widest + 2:
            yield f"{problem} is at no place of {len(lines)} lines"
        if not str(problem).startswith(f"f.yaml:{line}:{column}: "):
            yield f"{problem} does not begin with its place"
