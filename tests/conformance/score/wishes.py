"""Recorded requests, written for targets of every dialect: of a form that the official SDKs take, and the same in
meaning.

A loss that is told in a warning is right: whether it may be a warning rather than a refusal is what `providers.md` 2.0
decides, field by field (`HINTS`).
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from proxy.dialects import models, registry
from proxy.dialects.chat import Encoded, Malformed, ModelFacts, NotPortable
from tests.conformance.score import pleas, sdk
from tests.conformance.score.answers import same_arguments
from tests.conformance.score.pleas import Plea, Step
from tests.conformance.score.records import APIS, Record, exchanges, fuzzed, parallel_api, parallel_requests

FILLERS = {".", "Continue.", "(continued)"}
"""Words that a writer may put where a dialect demands a turn or a text that the caller never gave."""


def _facts(model: str, dialect: str, vendor: str) -> ModelFacts:
    return models.facts(model, dialect, vendor, {}, None)


TARGETS: dict[str, tuple[tuple[str, ModelFacts], ...]] = {
    "chat": (
        ("gpt-4.1", _facts("gpt-4.1", "openai", "openai")),
        ("gpt-5.2", _facts("gpt-5.2", "openai", "openai")),
    ),
    "responses": (
        ("gpt-4.1", _facts("gpt-4.1", "openai", "openai")),
        ("gpt-5.2", _facts("gpt-5.2", "openai", "openai")),
    ),
    "messages": (
        ("claude-sonnet-4-5", _facts("claude-sonnet-4-5", "anthropic", "anthropic")),
        ("claude-opus-4-8", _facts("claude-opus-4-8", "anthropic", "anthropic")),
    ),
    "generate": (
        ("gemini-2.5-flash", _facts("gemini-2.5-flash", "gemini", "gemini")),
        ("gemini-3-pro-preview", _facts("gemini-3-pro-preview", "gemini", "gemini")),
    ),
    "converse": (
        (
            "claude-sonnet-4-5",
            _facts("us.anthropic.claude-sonnet-4-5-20250929-v1:0", "bedrock", "bedrock"),
        ),
        ("nova-pro", _facts("us.amazon.nova-pro-v1:0", "bedrock", "bedrock")),
    ),
}
"""Two models of each dialect: an older one that takes most parameters, and one that is choosy."""


@dataclass(frozen=True, slots=True)
class Verdict:
    faults: list[str]
    excluded: str = ""
    """``reason: detail`` of the refusal; empty: written."""


def asks(record: Record) -> bool:
    """Whether a recorded request is one that its own provider took: what it refused, we need not carry elsewhere."""
    asked = record.asked
    return (
        record.api in (*APIS, "invoke")
        and isinstance(asked, dict)
        and record.status < 300
        and any(key in asked for key in ("messages", "input", "contents"))
    )


def sources() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(id, wire API, body) of every request that its own provider took, of the parallel ones and of the generated."""
    for record in exchanges():
        if asks(record):
            yield record.id, record.api, record.asked
    for case, found in parallel_requests():
        for name, body in found.items():
            yield f"parallel/{case}/{name}", parallel_api(name), body
    for record in fuzzed():
        yield record.id, record.api, record.asked


def differences(api: str, asked: dict[str, Any], target: str, facts: ModelFacts) -> list[str] | str:
    """The faults of one translation; text: the word of a refusal."""
    verdict = judge(api, asked, target, facts)
    return verdict.excluded.split(":")[0] or verdict.faults


def judge(record_api: str, asked: dict[str, Any], target: str, facts: ModelFacts) -> Verdict:
    """Read, write for the target, compare."""
    caller = registry.speaker("messages" if record_api == "invoke" else record_api)
    before = copy.deepcopy(asked)
    try:
        request = caller.read_request(asked)
    except Malformed as fault:
        return Verdict([], f"malformed: {fault}")
    try:
        encoded = registry.speaker(target).write_request(request, facts)
    except NotPortable as obstacle:
        return Verdict([], f"{obstacle.reason}: {obstacle.detail}")
    faults = ["the caller's body was changed"] if asked != before else []
    if target != record_api and not (record_api == "invoke" and target == "messages"):
        faults += sdk.request_faults(target, encoded.body)
    want, got = pleas.plea(record_api, asked), pleas.plea(target, encoded.body)
    return Verdict(faults + compare(want, got, encoded, record_api, target))


def compare(want: Plea, got: Plea, encoded: Encoded, caller: str, target: str) -> list[str]:
    """What is asked otherwise than the caller asked, and not told in a warning."""
    warned = Warned(encoded.warnings)
    found: list[str] = []
    back = dict(encoded.names)
    if encoded.format_tool:
        schema = got.tools.pop(encoded.format_tool, ("", None))[1]
        if want.format is None or not alike(schema, want.format[-1]):
            found.append(f"the tool for structured output has {schema}")
        got = replace(got, format=want.format, choice=want.choice)
    found += _system(want, got, warned)
    found += _steps(want, got, warned, back, caller)
    found += _tools(want, got, warned, back)
    found += _settings(want, got, warned, target, back)
    if caller != target:
        found += [
            f"{field} is lost in silence" for field in sorted(want.unread) if not _is_told(field, warned, encoded)
        ]
    return found


def same_request(want: Plea, got: Plea, encoded: Encoded) -> list[str]:
    """What of a conversation, its tools and the form of its answer two requests of one dialect say differently."""
    warned = Warned(encoded.warnings)
    back = dict(encoded.names)
    found = _system(want, got, warned)
    if encoded.format_tool and want.format is not None:
        got.tools.pop(encoded.format_tool, None)
        got = replace(got, format=want.format, choice=want.choice)
    found += _steps(want, got, warned, back, "chat")
    found += _tools(want, got, warned, back)
    found += _choice(want, got, warned, back)
    if (want.format and want.format[0]) != (got.format and got.format[0]) and not warned.of("format", "schema"):
        found.append(f"format {_clip(repr(want.format))} became {_clip(repr(got.format))}")
    return found


class Warned:
    """The fields that the warnings name, letters only: spellings differ by dialect."""

    def __init__(self, warnings: tuple[str, ...]) -> None:
        self.fields = [_letters(each.split("=")[0]) for each in warnings]

    def of(self, *words: str) -> bool:
        return any(word in field for field in self.fields for word in words)

    def __bool__(self) -> bool:
        return bool(self.fields)


def _letters(text: str) -> str:
    return re.sub(r"[^a-z]", "", text.lower())


CARRIED = {
    "user": ("user", "safety_identifier", "metadata", "requestMetadata", "labels"),
    "safety_identifier": ("user", "safety_identifier", "metadata", "requestMetadata"),
    "metadata": ("metadata", "user", "safety_identifier", "requestMetadata"),
    "service_tier": ("service_tier", "serviceTier"),
    "serviceTier": ("service_tier", "serviceTier"),
    "verbosity": ("verbosity", "text"),
    "store": ("store",),
    "prompt_cache_key": ("prompt_cache_key",),
    "requestMetadata": ("metadata",),
    "thinking": ("reasoning_content",),
}
"""Members that the oracle does not read, and where they may be found in another dialect."""
SAME = {"user": ("safety", "metadata"), "safety_identifier": ("user",), "metadata": ("user", "requestmetadata")}
NO_WISH = {"prompt_cache_options", "anthropic_beta", "betas"}


def _is_told(field: str, warned: Warned, encoded: Encoded) -> bool:
    return (
        warned.of(_letters(field), *SAME.get(field, ()))
        or any(name in encoded.body for name in CARRIED.get(field, ()))
        or field in NO_WISH
    )


def _system(want: Plea, got: Plea, warned: Warned) -> list[str]:
    said, told = pleas.squeezed("".join(want.system)), pleas.squeezed("".join(got.system))
    if said == told or (said in told and warned):
        return []
    early = got.steps[0].words if got.steps and got.steps[0].side == "user" else []
    if said and said in pleas.squeezed("".join(early)):
        return []
    return [f"system {said[:80]!r} became {told[:80]!r}"]


def _steps(want: Plea, got: Plea, warned: Warned, back: dict[str, str], caller: str) -> list[str]:
    left, right = _bare(want.steps), _bare(got.steps)
    if [step.side for step in left] != [step.side for step in right]:
        left, right = _folded(left), _folded(right)
    if [step.side for step in left] != [step.side for step in right]:
        return [f"sides {_sides(left)} became {_sides(right)}"]
    found = []
    for a, b in zip(left, right, strict=True):
        said, told = pleas.squeezed("".join(a.words)), pleas.squeezed("".join(b.words))
        is_longer = len(told) - len(said) > REMARK_MAX and not warned
        if said != told and (is_longer or not _in_order(a.words, told)):
            found.append(f"{a.side} says {_clip(said)} became {_clip(told)}")
        if len(a.calls) != len(b.calls):
            found.append(f"calls {[c[1] for c in a.calls]} became {[c[1] for c in b.calls]}")
        for (_, name, arguments), (_, new_name, new_arguments) in zip(a.calls, b.calls, strict=False):
            if name != back.get(new_name, new_name):
                found.append(f"call of {name} became {new_name}")
            if not same_arguments(arguments, new_arguments):
                found.append(f"arguments {_clip(repr(arguments))} became {_clip(repr(new_arguments))}")
        if sorted(a.media) != sorted(b.media):
            found.append(f"media {a.media} became {b.media}")
    everything = pleas.squeezed("".join(word for step in right for word in step.words))
    return found + _results(_answered(left), _answered(right), caller, everything)


REMARK_MAX = 200
"""Letters that a writer may add to a turn in silence: the name of a document, where a picture of a result has gone."""


def _answered(steps: list[Step]) -> list[tuple[int, Any, bool]]:
    """(number of the call, content, whether it is an error) of all results; -1: of no call.

    A result belongs to the latest call of its id, or where there are no ids to the first open one of its name.
    """
    calls: list[tuple[str, str]] = []
    is_open: set[int] = set()
    found = []
    for step in steps:
        for call_id, name, _ in step.calls:
            is_open.add(len(calls))
            calls.append((call_id, name))
        for call_id, value, is_error in step.results:
            named = call_id.removeprefix("=") if call_id.startswith("=") else None
            hits = [n for n, call in enumerate(calls) if (call[1] == named if named else call_id in (call[0], ""))]
            pending = [n for n in hits if n in is_open]
            number = (pending[0] if named or not call_id else pending[-1]) if pending else hits[-1] if hits else -1
            is_open.discard(number)
            found.append((number, value, is_error))
    return found


def _results(want: list[tuple[int, Any, bool]], got: list[tuple[int, Any, bool]], caller: str, words: str) -> list[str]:
    found = []
    left = list(got)
    for number, value, is_error in want:
        hit = next((each for each in left if each[0] == number and _same_result(value, each[1])), None)
        if hit is None and number < 0:
            # 2.1: the result of a call that nobody made is told in words.
            if pleas.squeezed(value if isinstance(value, str) else json.dumps(value)) not in words:
                found.append(f"the result {_clip(repr(value))} of no call is lost")
            continue
        if hit is None:
            found.append(f"result {number} {_clip(repr(value))} became {_clip(repr(got))}")
            continue
        left.remove(hit)
        if is_error and not hit[2] and caller not in ("chat", "responses"):
            found.append(f"the error of call {number} is told as a success")
    nothing = pleas.squeezed(pleas.MISSING)
    return found + [f"a result out of nothing: {each!r}" for each in left if nothing not in str(each[1])]


def _same_result(want: Any, got: Any) -> bool:
    """A picture in a result may leave a remark behind where it moved elsewhere."""
    if want == got or (want in ("", {}) and got in ("", {})):
        return True
    return isinstance(want, str) and isinstance(got, str) and got.startswith(want) and len(got) - len(want) < 120


def _bare(steps: list[Step]) -> list[Step]:
    """Without fillers and without steps that say nothing, neighbours of one side joined again."""
    out: list[Step] = []
    for step in steps:
        words = [word for word in step.words if word not in FILLERS and word.strip()]
        if not (words or step.calls or step.results or step.media):
            continue
        if out and out[-1].side == step.side:
            last = out[-1]
            last.words += words
            last.calls += step.calls
            last.results += step.results
            last.media += step.media
        else:
            out.append(Step(step.side, words, list(step.calls), list(step.results), list(step.media)))
    return out


def _folded(steps: list[Step]) -> list[Step]:
    """Calls one after another taken as one batch: a writer may answer each before the next where two turns of the model
    stood side by side."""
    out: list[Step] = []
    for n, step in enumerate(steps):
        only_results = step.side == "user" and not (step.words or step.media)
        if out and only_results and n + 1 < len(steps) and len(out) > 1 and out[-1].side == "assistant":
            held = out[-1]
            held.results += step.results
        elif out and out[-1].side == step.side == "assistant":
            out[-1].words += step.words
            out[-1].calls += step.calls
            out[-1].media += step.media
        else:
            if step.side == "user" and out and out[-1].results and out[-1].side == "assistant":
                step.results = out[-1].results + step.results
                out[-1].results = []
            out.append(step)
    return out


def _in_order(pieces: list[str], told: str) -> bool:
    at = 0
    for piece in pieces:
        found = told.find(pleas.squeezed(piece), at)
        if found < 0:
            return False
        at = found + len(pleas.squeezed(piece))
    return True


def _sides(steps: list[Step]) -> str:
    return "".join(step.side[0] for step in steps)


def _tools(want: Plea, got: Plea, warned: Warned, back: dict[str, str]) -> list[str]:
    found = []
    have = {back.get(name, name): told for name, told in got.tools.items()}
    if want.choice == ("none",) and not have:
        return []
    allowed = set(want.choice[1:]) if want.choice[0] in ("auto", "required") else set()
    for name, (description, schema) in want.tools.items():
        if name not in have:
            if not (allowed and name not in allowed):
                found.append(f"tool {name} is lost")
            continue
        new_description, new_schema = have[name]
        if description.strip() and pleas.squeezed(description) not in pleas.squeezed(new_description):
            found.append(f"description of {name} is lost")
        if schema == "text":
            if new_schema != "text" and not (
                isinstance(new_schema, dict) and list(new_schema.get("members", {})) == ["input"]
            ):
                found.append(f"custom tool {name} became {new_schema}")
        elif not alike(schema, new_schema) and not warned.of("tools", "schema", "function"):
            found.append(f"parameters of {name}: {_clip(repr(schema))} became {_clip(repr(new_schema))}")
    invented = set(have) - set(want.tools)
    used = {call[1] for step in want.steps for call in step.calls}
    if invented - used:
        found.append(f"tools out of nothing: {sorted(invented)}")
    if want.server_tools and got.server_tools != want.server_tools and not warned.of("tools", "websearch"):
        found.append(f"server tools {want.server_tools} are lost")
    return found


def alike(want: Any, got: Any) -> bool:
    """Whether two shapes demand the same. What one side leaves open, the other may."""
    if want == got:
        return True
    if isinstance(want, dict) and isinstance(got, dict):
        for key in want.keys() | got.keys():
            if key == "members":
                a, b = want.get(key, {}), got.get(key, {})
                if a.keys() != b.keys() or not all(alike(a[name], b[name]) for name in a):
                    return False
            elif key == "items":
                if not alike(want.get(key, "any"), got.get(key, "any")):
                    return False
            elif key == "options":
                a, b = want.get(key, []), got.get(key, [])
                if len(a) != len(b) or not all(alike(x, y) for x, y in zip(a, b, strict=True)):
                    return False
            elif key == "type":
                if want.get(key) != got.get(key) and {"values", "options"}.isdisjoint(want):
                    return False
            elif want.get(key, []) != got.get(key, []):
                return False
        return True
    return False


NEUTRAL = {"temperature": 1, "top_p": 1, "presence": 0, "frequency": 0}
"""What every provider does when nothing is said."""
NUMBER_WORDS = {
    "temperature": ("temperature",),
    "top_p": ("topp",),
    "top_k": ("topk",),
    "presence": ("presence",),
    "frequency": ("frequency",),
    "seed": ("seed",),
}


def _settings(want: Plea, got: Plea, warned: Warned, target: str, back: dict[str, str]) -> list[str]:
    found = []
    for name, words in NUMBER_WORDS.items():
        told = name in got.numbers or want.numbers.get(name) != NEUTRAL.get(name)
        if name in want.numbers and told and want.numbers[name] != got.numbers.get(name) and not warned.of(*words):
            found.append(f"{name} {want.numbers[name]} became {got.numbers.get(name)}")
        if name in got.numbers and name not in want.numbers:
            found.append(f"{name} out of nothing: {got.numbers[name]}")
    if want.limit is not None and want.limit > 0 and got.limit != want.limit and not warned.of("max", "token"):
        found.append(f"limit {want.limit} became {got.limit}")
    if target == "messages" and got.limit is None:
        found.append("no limit")
    stops = [stop for stop in want.stop if stop.strip()]
    if sorted(stops) != sorted(got.stop) and not warned.of("stop"):
        found.append(f"stop {stops} became {got.stop}")
    if want.format != got.format and not warned.of("format", "schema", "mime", "outputconfig"):
        same = want.format and got.format and want.format[0] == got.format[0] and alike(want.format[-1], got.format[-1])
        if not same:
            found.append(f"format {_clip(repr(want.format))} became {_clip(repr(got.format))}")
    is_off = want.reasoning in (("disabled",), ("adaptive",), ("effort", "none"), ("budget", 0), ("budget", -1))
    may_be_silent = is_off and (target != "generate" or want.reasoning in (("adaptive",), ("budget", -1)))
    if want.reasoning and not got.reasoning and not may_be_silent and not warned.of("reason", "thinking", "effort"):
        found.append(f"reasoning {want.reasoning} became {got.reasoning}")
    if want.tools and not want.parallel and got.parallel and not warned.of("parallel", "choice"):
        found.append("parallel calls are allowed")
    return found + _choice(want, got, warned, back)


def _choice(want: Plea, got: Plea, warned: Warned, back: dict[str, str]) -> list[str]:
    told = (got.choice[0], *sorted(back.get(name, name) for name in got.choice[1:]))
    if not want.tools or want.choice == told or warned.of("choice", "functioncall", "toolconfig"):
        return []
    if want.choice == ("none",) and not got.tools:
        return []
    if want.choice[0] == got.choice[0] and set(got.tools) == set(want.choice[1:]):
        return []  # allowed tools are the only ones left
    if want.choice[0] == "required" and len(want.choice) == 2 and got.choice == ("named", want.choice[1]):
        return []
    return [f"choice {want.choice} became {got.choice}"]


def _clip(text: str) -> str:
    return text if len(text) < 140 else f"{text[:70]} ... {text[-60:]}"
