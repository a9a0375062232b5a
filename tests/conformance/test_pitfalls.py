"""The 65 pitfalls of translation (`providers.md` 2.9), one test each, named by their numbers.

P48, P50, P51, P61 to P63 and P65 concern the running proxy as well: `tests/faults/test_stream_matrix.py`,
`tests/e2e/test_scenarios_recovery.py` and `tests/e2e/test_headers.py` show them over real sockets.
"""

from __future__ import annotations

import base64
import struct
from itertools import pairwise
from typing import Any

import orjson
import pytest

from proxy.dialects import gemini
from proxy.dialects.chat import Fault, Finish
from proxy.dialects.models import facts
from proxy.dialects.registry import speaker
from proxy.upstream.address import Place, translated
from proxy.upstream.request import credential_lines
from tests.conformance.pitfalls import (
    ASKED,
    CLAUDE_TOOL,
    TOOL,
    Back,
    call,
    called,
    candidate,
    chat,
    chunks,
    claude,
    claude_stream,
    converse_stream,
    encoded,
    gemini_stream,
    named,
    refused,
    result,
    said,
    text_block,
    tool_block,
    unary,
    use,
    user,
    written,
)

TWO_TOOLS = claude_stream(
    text_block("Let me see."),
    tool_block("a", '{"x":', "1}", call_id="toolu_1"),
    tool_block("b", '{"y":2}', call_id="toolu_2"),
    stop="tool_use",
)
GEMINI_CALLS = gemini_stream(
    candidate({"functionCall": {"name": "a", "args": {"x": 1}}}),
    candidate({"functionCall": {"name": "b", "args": {"y": 2}}}),
    candidate({"text": ""}, finish="STOP", usageMetadata={"promptTokenCount": 3, "candidatesTokenCount": 4}),
)
INTERLEAVED = chunks(
    {"role": "assistant", "content": "Well. "},
    {"tool_calls": [{"index": 0, "id": "c0", "type": "function", "function": {"name": "a", "arguments": ""}}]},
    {"tool_calls": [{"index": 1, "id": "c1", "type": "function", "function": {"name": "b", "arguments": ""}}]},
    {"tool_calls": [{"index": 0, "function": {"arguments": '{"x":'}}]},
    {"tool_calls": [{"index": 1, "function": {"arguments": '{"y":'}}]},
    {"tool_calls": [{"index": 0, "function": {"arguments": "1}"}}]},
    {"tool_calls": [{"index": 1, "function": {"arguments": "2}"}}]},
    finish="tool_calls",
)
SIZES = pytest.mark.parametrize("size", [0, 1, 7])


def blocks(back: Back) -> dict[int, tuple[dict[str, Any], str]]:
    """Blocks of a Messages stream: index -> (start, fragments joined)."""
    out: dict[int, tuple[dict[str, Any], str]] = {}
    for event in back.events:
        if event["type"] == "content_block_start":
            out[event["index"]] = (event["content_block"], "")
        elif event["type"] == "content_block_delta":
            start, text = out[event["index"]]
            delta = event["delta"]
            out[event["index"]] = (start, text + (delta.get("text") or delta.get("partial_json") or ""))
    return out


# Tool streaming -------------------------------------------------------------------------------------------------------


@SIZES
def test_p1_p2_parallel_calls_are_counted_among_calls_not_among_blocks(size: int) -> None:
    calls = Back("messages", TWO_TOOLS, "chat", size=size).calls
    assert {index: (name, arguments) for index, (_, name, arguments) in calls.items()} == {
        0: ("a", '{"x":1}'),
        1: ("b", '{"y":2}'),
    }


@SIZES
def test_p3_gemini_calls_are_counted_over_the_whole_stream(size: int) -> None:
    back = Back("generate", GEMINI_CALLS, "chat", size=size)
    assert sorted(back.calls) == [0, 1]
    assert [orjson.loads(arguments) for _, _, arguments in back.calls.values()] == [{"x": 1}, {"y": 2}]
    ids = [call_id for call_id, _, _ in back.calls.values()]
    assert all(ids)
    assert len(set(ids)) == 2


def test_p4_nothing_is_put_before_the_arguments() -> None:
    assert Back("messages", TWO_TOOLS, "chat").calls[0][2] == '{"x":1}'


def test_p5_a_call_without_parameters_has_empty_arguments() -> None:
    back = Back("messages", claude_stream(tool_block("f"), stop="tool_use"), "chat")
    assert back.calls[0][2] == "{}"


@SIZES
def test_p6_interleaved_fragments_reach_their_own_block(size: int) -> None:
    found = blocks(Back("chat", INTERLEAVED, "messages", size=size))
    assert [start["type"] for start, _ in found.values()] == ["text", "tool_use", "tool_use"]
    assert [(start.get("name"), text) for start, text in list(found.values())[1:]] == [
        ("a", '{"x":1}'),
        ("b", '{"y":2}'),
    ]


def test_p6_blocks_are_never_open_side_by_side() -> None:
    opened: list[int] = []
    for event in Back("chat", INTERLEAVED, "messages").events:
        if event["type"] == "content_block_start":
            assert not opened
            opened.append(event["index"])
        elif event["type"] == "content_block_stop":
            opened.remove(event["index"])
    assert not opened


def test_p7_the_first_token_behind_a_switch_of_blocks_is_sent() -> None:
    raw = chunks({"role": "assistant", "reasoning_content": "hm"}, {"content": "first"}, {"content": " second"})
    assert "first second" in [text for _, text in blocks(Back("chat", raw, "messages")).values()]


def test_p8_a_server_tools_arguments_are_no_call_of_the_caller() -> None:
    search = tool_block("web_search", '{"query":"x"}', call_id="srv_1", kind="server_tool_use")
    back = Back("messages", claude_stream(search, text_block("Found.")), "chat")
    assert back.calls == {}
    assert (back.text, back.finish) == ("Found.", "stop")


@pytest.mark.parametrize("raw", [GEMINI_CALLS, TWO_TOOLS], ids=["generate", "messages"])
def test_p9_calls_end_an_answer_as_calls(raw: bytes) -> None:
    api = "generate" if raw is GEMINI_CALLS else "messages"
    assert Back(api, raw, "chat").finish == "tool_calls"
    stopped = Back(api, raw, "messages").of("message_delta")[-1]["delta"]["stop_reason"]
    assert stopped == "tool_use"


def test_p9_also_when_the_provider_says_stop() -> None:
    raw = chunks({"role": "assistant", "tool_calls": [{"index": 0, **call()}]}, finish="stop")
    assert Back("chat", raw, "messages").of("message_delta")[-1]["delta"]["stop_reason"] == "tool_use"


def test_p10_a_name_and_an_id_may_come_late() -> None:
    raw = chunks(
        {"role": "assistant", "tool_calls": [{"index": 0, "function": {"arguments": '{"x"'}}]},
        {"tool_calls": [{"index": 0, "id": "c", "function": {"name": "a", "arguments": ":1}"}}]},
        finish="tool_calls",
    )
    (start, arguments) = blocks(Back("chat", raw, "messages"))[0]
    assert (start["name"], start["id"], arguments) == ("a", "c", '{"x":1}')


def test_p11_an_id_that_comes_again_opens_no_second_block() -> None:
    one = {"index": 0, "id": "c", "type": "function"}
    raw = chunks(
        {"role": "assistant", "tool_calls": [{**one, "function": {"name": "a", "arguments": '{"x":'}}]},
        {"tool_calls": [{**one, "function": {"arguments": "1}"}}]},
        finish="tool_calls",
    )
    found = blocks(Back("chat", raw, "messages"))
    assert [text for _, text in found.values()] == ['{"x":1}']


# History --------------------------------------------------------------------------------------------------------------

PARALLEL = chat(
    user("do"), called(call(call_id="c1"), call(call_id="c2")), result("c1"), result("c2"), user("and?"), tools=[TOOL]
)


def test_p12_p13_p14_results_follow_their_calls_together_and_before_text() -> None:
    messages = written("chat", PARALLEL, "messages")["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    assert [block["type"] for block in messages[2]["content"]] == ["tool_result", "tool_result", "text"]


def test_p14_from_messages_results_come_first_at_openai_too() -> None:
    body = claude(
        user("do"),
        said([use(call_id="t1")]),
        user([{"type": "text", "text": "here"}, {"type": "tool_result", "tool_use_id": "t1", "content": "ok"}]),
        tools=[CLAUDE_TOOL],
    )
    assert [m["role"] for m in written("messages", body, "chat")["messages"]] == ["user", "assistant", "tool", "user"]


def test_p15_missing_results_are_supplied_and_orphans_are_not_results() -> None:
    missing = chat(user("do"), called(call(call_id="c1"), call(call_id="c2")), result("c1"), tools=[TOOL])
    found = written("chat", missing, "messages")["messages"][2]["content"]
    assert {block["tool_use_id"] for block in found} == {"c1", "c2"}
    orphan = chat(user("do"), result("nobody"), user("go"), tools=[TOOL])
    whole = written("chat", orphan, "messages")["messages"]
    assert "tool_result" not in [
        block["type"] for m in whole if isinstance(m["content"], list) for block in m["content"]
    ]
    twice = chat(user("do"), called(call()), result(content="old"), result(content="new"), tools=[TOOL])
    results = [b for b in written("chat", twice, "messages")["messages"][2]["content"] if b["type"] == "tool_result"]
    assert len(results) == 1


def test_p16_no_empty_text_and_no_white_space_behind_a_beginning() -> None:
    body = chat(user(""), user([{"type": "text", "text": "hi"}, {"type": "text", "text": ""}]), said("so  \n"))
    messages = written("chat", body, "messages", prefill=True)["messages"]
    texts = [m["content"] if isinstance(m["content"], str) else [b["text"] for b in m["content"]] for m in messages]
    flat = [text for each in texts for text in ([each] if isinstance(each, str) else each)]
    assert all(text.strip() for text in flat)
    assert flat[-1] == "so"


@pytest.mark.parametrize("target", ["messages", "converse", "generate"])
def test_p17_the_first_message_is_the_users(target: str) -> None:
    body = written("chat", chat(said("hello"), user("hi")), target)
    first = body["contents" if target == "generate" else "messages"][0]
    assert first["role"] == "user"


@pytest.mark.parametrize("target", ["messages", "converse", "generate"])
def test_p18_roles_alternate(target: str) -> None:
    body = written("chat", chat(user("a"), user("b"), said("c"), said("d"), user("e")), target)
    roles = [message["role"] for message in body["contents" if target == "generate" else "messages"]]
    assert len(roles) == 3
    assert all(one != other for one, other in pairwise(roles))


@pytest.mark.parametrize("target", ["messages", "converse"])
def test_p19_tools_are_there_when_the_history_has_calls(target: str) -> None:
    body = written("chat", chat(user("do"), called(call()), result(), user("thanks")), target)
    assert body["tools" if target == "messages" else "toolConfig"]


def test_p20_unsigned_and_foreign_thinking_is_not_replayed() -> None:
    body = chat(user("a"), {**said("b"), "reasoning_content": "hm"}, user("c"))
    assert "thinking" not in str(written("chat", body, "messages")["messages"])
    signed = claude(
        user("a"),
        said([{"type": "thinking", "thinking": "hm", "signature": "s"}, {"type": "text", "text": "b"}]),
        user("c"),
    )
    assert "hm" not in str(written("messages", signed, "generate", model="gemini-3-pro"))


def test_p20_signed_thinking_is_kept_for_its_own_provider() -> None:
    thinking = {"type": "thinking", "thinking": "hm", "signature": "s"}
    signed = claude(user("a"), said([thinking, {"type": "text", "text": "b"}]), user("c"))
    assert thinking in written("messages", signed, "messages")["messages"][1]["content"]


def test_p21_a_system_message_in_the_middle_stays_there() -> None:
    body = written(
        "chat", chat(user("a"), said("b"), {"role": "system", "content": "now in verse"}, user("c")), "messages"
    )
    assert "verse" not in str(body.get("system", ""))
    assert "now in verse" in str(body["messages"][2:])


def test_p22_gemini_results_have_the_calls_name_and_stand_alone() -> None:
    contents = written("chat", PARALLEL, "generate")["contents"]
    results = [part for content in contents for part in content["parts"] if "functionResponse" in part]
    assert [part["functionResponse"]["name"] for part in results] == ["f", "f"]
    for content in contents:
        kinds = {"functionResponse" in part for part in content["parts"]}
        assert len(kinds) == 1, "a result never shares its content with other parts"


def test_p23_ids_go_to_gemini_3_only() -> None:
    assert '"id"' not in orjson.dumps(written("chat", PARALLEL, "generate", model="gemini-2.5-pro")).decode()
    assert '"id":"c1"' in orjson.dumps(written("chat", PARALLEL, "generate", model="gemini-3-pro")).decode()


def test_p24_p25_gemini_3_gets_one_signature_per_step() -> None:
    parts = written("chat", PARALLEL, "generate", model="gemini-3-pro")["contents"][1]["parts"]
    calls = [part for part in parts if "functionCall" in part]
    assert ["thoughtSignature" in part for part in calls] == [True, False]
    assert not [p for p in written("chat", PARALLEL, "generate")["contents"][1]["parts"] if "thoughtSignature" in p]


def test_p24_a_signature_travels_with_a_chat_caller_and_back() -> None:
    raw = gemini_stream(
        candidate({"functionCall": {"name": "f", "args": {}}, "thoughtSignature": "c2ln"}),
        candidate(finish="STOP"),
    )
    back = Back("generate", raw, "chat")
    (told,) = [each for delta in back.deltas for each in delta.get("tool_calls", []) if "extra_content" in each]
    assert told["extra_content"]["google"]["thought_signature"] == "c2ln"
    assert list(back.way.signatures.values()) == ["c2ln"]
    again = chat(
        user("do"),
        called({**call(call_id=told["id"]), "extra_content": told["extra_content"]}),
        result(told["id"]),
        tools=[TOOL],
    )
    assert (
        '"thoughtSignature":"c2ln"' in orjson.dumps(written("chat", again, "generate", model="gemini-3-pro")).decode()
    )


def test_p26_ids_fit_their_target() -> None:
    long = "call.with/odd characters " + "x" * 60
    body = chat(user("do"), called(call(call_id=long)), result(long), tools=[TOOL])
    sent = written("chat", body, "converse")["messages"]
    made = sent[1]["content"][0]["toolUse"]["toolUseId"]
    assert len(made) <= 64
    assert made == sent[2]["content"][0]["toolResult"]["toolUseId"]
    fitted = written(
        "messages",
        claude(
            user("do"),
            said([use(call_id="t" * 60)]),
            user([{"type": "tool_result", "tool_use_id": "t" * 60, "content": "ok"}]),
            tools=[CLAUDE_TOOL],
        ),
        "chat",
    )["messages"]
    assert len(fitted[1]["tool_calls"][0]["id"]) <= 40
    assert fitted[1]["tool_calls"][0]["id"] == fitted[2]["tool_call_id"]
    nine = written("chat", body, "chat", vendor="mistral")["messages"]
    assert len(nine[1]["tool_calls"][0]["id"]) == 9


@pytest.mark.parametrize("arguments", ["", "not json", '{"cut": "of'])
@pytest.mark.parametrize("target", ["messages", "converse", "generate"])
def test_p27_arguments_that_are_no_json_are_kept_and_never_a_crash(arguments: str, target: str) -> None:
    body = chat(user("do"), called(call(arguments=arguments)), result(), tools=[TOOL])
    sent = orjson.dumps(written("chat", body, target)).decode()
    assert '"f"' in sent
    if arguments:
        assert arguments in sent.replace('\\"', '"')


# Parameters -----------------------------------------------------------------------------------------------------------


def test_p28_anthropic_always_gets_max_tokens() -> None:
    assert written("chat", ASKED, "messages")["max_tokens"] >= 1
    assert written("chat", {**ASKED, "max_tokens": 7}, "messages")["max_tokens"] == 7


def test_p29_reasoning_models_get_max_completion_tokens() -> None:
    body = written("messages", claude(user("a")), "chat", model="gpt-5.1")
    assert "max_tokens" not in body
    assert body["max_completion_tokens"] >= 100
    assert written("messages", claude(user("a")), "chat", model="llama", vendor="deepinfra")["max_tokens"] == 100


def test_p30_models_that_refuse_sampling_are_not_sent_it() -> None:
    sent = encoded("chat", {**ASKED, "temperature": 0.5, "top_p": 0.5}, "messages", model="claude-sonnet-5")
    assert not {"temperature", "top_p", "top_k"} & sent.body.keys()
    assert "temperature=dropped" in sent.warnings


@pytest.mark.parametrize("target", ["messages", "converse"])
def test_p31_a_temperature_above_one_is_one(target: str) -> None:
    body = written("chat", {**ASKED, "temperature": 1.7}, target)
    assert (body.get("temperature") or body["inferenceConfig"]["temperature"]) == 1


@pytest.mark.parametrize("target", ["messages", "converse", "generate", "responses"])
def test_p31_a_temperature_of_nothing_is_not_lost(target: str) -> None:
    body = written("chat", {**ASKED, "temperature": 0}, target)
    holder = body.get("inferenceConfig") or body.get("generationConfig") or body
    assert holder["temperature"] == 0


def test_p32_one_of_temperature_and_top_p() -> None:
    body = written("chat", {**ASKED, "temperature": 0.5, "top_p": 0.5}, "messages")
    assert ("temperature" in body) != ("top_p" in body)


@pytest.mark.parametrize("effort", ["low", "high", "xhigh"])
def test_p33_a_budget_is_below_max_tokens(effort: str) -> None:
    body = written("chat", {**ASKED, "reasoning_effort": effort, "max_tokens": 2000}, "messages")
    assert 1024 <= body["thinking"]["budget_tokens"] < body["max_tokens"]


def test_p34_stream_options_go_with_streams_only() -> None:
    assert "stream_options" not in written("messages", claude(user("a")), "chat")
    assert written("messages", claude(user("a"), stream=True), "chat")["stream_options"] == {"include_usage": True}


def test_p35_no_choice_of_tools_without_tools() -> None:
    body = claude(user("a"), tool_choice={"type": "auto", "disable_parallel_tool_use": True})
    assert not {"tool_choice", "parallel_tool_calls"} & written("messages", body, "chat").keys()


def test_p36_stops_are_counted_and_empty_ones_left_out() -> None:
    assert refused("messages", claude(user("a"), stop_sequences=["1", "2", "3", "4", "5"]), "chat") == "stop"
    assert refused("messages", claude(user("a"), stop_sequences=list("123456")), "generate") == "stop"
    assert written("chat", {**ASKED, "stop": ["", "x", "  "]}, "messages")["stop_sequences"] == ["x"]
    assert written("chat", {**ASKED, "stop": ["", "x"]}, "converse")["inferenceConfig"]["stopSequences"] == ["x"]


@pytest.mark.parametrize("who", ["ann@example.org", "+49 171 1234567"])
def test_p37_neither_addresses_nor_numbers_of_people(who: str) -> None:
    assert who not in str(written("chat", {**ASKED, "user": who}, "messages"))


def test_p38_keywords_that_a_subset_lacks_are_not_sent() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 3, "maximum": 9}}, "required": ["n"]}
    body = {
        **ASKED,
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}},
    }
    sent = written("chat", body, "messages", structured=True)["output_config"]["format"]["schema"]
    assert not {"minimum", "maximum"} & sent["properties"]["n"].keys()
    assert sent["additionalProperties"] is False
    assert "minimum" in schema["properties"]["n"], "the caller's own schema is not changed"


def test_p39_a_demanded_call_does_not_go_with_thinking() -> None:
    body = {**ASKED, "tools": [TOOL], "tool_choice": "required", "reasoning_effort": "high"}
    sent = written("chat", body, "messages")
    assert not (sent.get("thinking", {}).get("type") == "enabled" and sent["tool_choice"]["type"] in ("any", "tool"))


def test_p40_structured_output_by_a_tool_leaves_the_callers_tools_alone() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    alone = encoded("chat", {**ASKED, "response_format": form}, "messages", model="claude-3-5-sonnet", structured=False)
    assert alone.format_tool
    both = {**ASKED, "response_format": form, "tools": [TOOL]}
    assert refused("chat", both, "messages", model="claude-3-5-sonnet", structured=False) == "schema"


def test_p41_cache_marks_stay_within_four_and_at_home() -> None:
    marked = [{"type": "text", "text": str(i), "cache_control": {"type": "ephemeral"}} for i in range(7)]
    assert "cache_control" not in str(written("messages", claude(user(marked)), "chat"))
    assert "top_k" not in written("messages", claude(user("a"), top_k=5), "chat")
    sent = written(
        "converse",
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        part for i in range(6) for part in ({"text": str(i)}, {"cachePoint": {"type": "default"}})
                    ],
                }
            ]
        },
        "messages",
    )
    assert str(sent).count("cache_control") <= 4


def test_p42_a_translated_request_carries_no_betas_of_anybody() -> None:
    assert encoded("chat", ASKED, "messages").betas == ()


# Usage and ends of streams --------------------------------------------------------------------------------------------

CACHED = {"cache_read_input_tokens": 6144, "cache_creation_input_tokens": 3072, "input_tokens": 1840}


def test_p43_cached_tokens_are_counted_once() -> None:
    answer = {
        "type": "message",
        "role": "assistant",
        "id": "m",
        "model": "c",
        "content": [{"type": "text", "text": "a"}],
        "stop_reason": "end_turn",
        "usage": {**CACHED, "output_tokens": 4},
    }
    usage = unary("messages", answer, "chat")["usage"]
    assert (usage["prompt_tokens"], usage["total_tokens"]) == (11_056, 11_060)
    assert usage["prompt_tokens_details"]["cached_tokens"] == 6144
    back = unary("messages", answer, "messages")["usage"]
    assert {key: back[key] for key in CACHED} == CACHED


def test_p44_p45_a_usage_chunk_without_choices_is_read() -> None:
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    tail = orjson.dumps({"id": "1", "choices": [], "usage": usage})
    raw = chunks({"role": "assistant", "content": "a"}, done=False) + b"data: " + tail + b"\n\ndata: [DONE]\n\n"
    told = Back("chat", raw, "messages").of("message_delta")[-1]["usage"]
    assert (told.get("input_tokens"), told["output_tokens"]) == (7, 3)
    assert Back("chat", raw, "responses").events[-1]["response"]["usage"]["total_tokens"] == 10


def test_p46_nulls_do_not_wipe_out_what_was_told() -> None:
    raw = claude_stream(text_block("a"), usage=CACHED).replace(
        b'"usage":{"output_tokens":9}',
        b'"usage":{"output_tokens":9,"input_tokens":null,"cache_read_input_tokens":null}',
    )
    (usage,) = [
        event["usage"] for event in Back("messages", raw, "chat").events if event != "[DONE]" and event.get("usage")
    ]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (11_056, 9)


def test_p47_an_error_inside_a_200_is_an_error() -> None:
    raw = b'data: {"error":{"message":"busy","type":"server_error","code":"overloaded"}}\n\n'
    back = Back("chat", raw, "messages")
    assert back.way.error is not None
    assert back.way.error["message"] == "busy"
    assert back.raw == b""


@pytest.mark.parametrize(
    ("api", "raw"),
    [
        ("chat", chunks({"role": "assistant", "content": "half"}, finish=None, done=False)),
        ("messages", claude_stream(text_block("half")).split(b"event: message_delta")[0]),
        ("generate", gemini_stream(candidate({"text": "half"}))),
        (
            "converse",
            converse_stream(
                ("messageStart", {"role": "assistant"}),
                ("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "half"}}),
            ),
        ),
        (
            "responses",
            named({"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": "half"}),
        ),
    ],
)
@pytest.mark.parametrize("source", ["chat", "messages", "responses"])
def test_p48_p52_an_end_without_a_reason_is_no_success(api: str, raw: bytes, source: str) -> None:
    back = Back(api, raw, source)
    assert not back.way.is_finished
    assert b"[DONE]" not in back.raw
    assert b"message_stop" not in back.raw
    assert b"response.completed" not in back.raw
    assert b"half" in back.raw


def test_p49_a_bare_error_behind_gemini_events_is_found() -> None:
    raw = (
        gemini_stream(candidate({"text": "a"}))
        + b'{"error":{"code":503,"message":"overloaded","status":"UNAVAILABLE"}}'
    )
    error = Back("generate", raw, "chat").way.error
    assert error is not None
    assert error["status"] == "UNAVAILABLE"


def test_p50_one_beginning() -> None:
    back = Back("chat", INTERLEAVED, "messages")
    assert len(back.of("message_start")) == 1
    assert len([1 for delta in Back("messages", TWO_TOOLS, "chat").deltas if delta.get("role")]) == 1


@pytest.mark.parametrize("source", ["chat", "messages", "responses"])
def test_p51_an_error_event_stands_alone(source: str) -> None:
    way = Back("generate", gemini_stream(candidate({"text": "a"})), source).way
    told = way.fail({"message": "cut", "type": "server_error", "code": "stream_interrupted", "param": None})
    assert told.endswith(b"\n\n")
    assert told.count(b"\n\n") == 1
    assert b"cut" in told


def test_p53_azures_first_chunk_and_null_deltas() -> None:
    first = {"choices": [], "model": "", "prompt_filter_results": [{"prompt_index": 0}]}
    null = {"id": "1", "model": "gpt-4o", "choices": [{"index": 0, "delta": None, "content_filter_results": {}}]}
    raw = b"".join(b"data: " + orjson.dumps(e) + b"\n\n" for e in (first, null))
    back = Back("chat", raw + chunks({"role": "assistant", "content": "hi"}), "messages")
    assert [text for _, text in blocks(back).values()] == ["hi"]


@pytest.mark.parametrize("name", ["throttlingException", "ThrottlingException"])
def test_p54_an_exception_frame_is_an_error_by_its_name(name: str) -> None:
    from proxy.dialects.eventstream import exception_frame
    from proxy.policy.classify import classify_error_object

    back = Back("converse", exception_frame(name, {"message": "Too many requests"}), "chat")
    assert back.way.error is not None
    assert classify_error_object("bedrock", 200, back.way.error).cls == "rate_limit"
    assert not back.way.is_finished


def test_p55_a_200_with_an_error_body_is_no_answer() -> None:
    assert unary("chat", {"error": {"code": 502, "message": "no provider"}}, "messages") == {"why": "error"}


# Media ----------------------------------------------------------------------------------------------------------------

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def picture(url: str) -> dict[str, Any]:
    return chat(user([{"type": "text", "text": "what?"}, {"type": "image_url", "image_url": {"url": url}}]))


def test_p56_images_by_address_do_not_go_where_nobody_fetches_them() -> None:
    assert refused("chat", picture("https://example.org/a.png"), "converse") == "url_images"
    assert written("chat", picture("https://example.org/a.png"), "messages")


@pytest.mark.parametrize("target", ["messages", "converse", "generate"])
def test_p57_image_jpg_is_image_jpeg(target: str) -> None:
    sent = orjson.dumps(written("chat", picture(f"data:image/jpg;base64,{PIXEL}"), target)).decode()
    assert "image/jpg" not in sent
    assert PIXEL in sent
    assert "jpeg" in sent


def test_p58_a_data_url_without_base64_is_read() -> None:
    sent = orjson.dumps(written("chat", picture("data:image/png,%89PNG"), "messages")).decode()
    assert base64.b64encode(b"\x89PNG").decode() in sent


def test_p59_a_document_comes_with_text_at_bedrock() -> None:
    pdf = {"type": "file", "file": {"filename": "a b?.pdf", "file_data": "data:application/pdf;base64,JVBERg=="}}
    content = written("chat", chat(user([pdf])), "converse")["messages"][0]["content"]
    assert {"document", "text"} <= {key for block in content for key in block}
    (name,) = [block["document"]["name"] for block in content if "document" in block]
    assert "?" not in name


def test_p60_an_image_in_a_result_follows_it_at_openai() -> None:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}}
    body = claude(
        user("do"),
        said([use()]),
        user([{"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "see"}, image]}]),
        tools=[CLAUDE_TOOL],
    )
    messages = written("messages", body, "chat")["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "user"]
    assert PIXEL not in str(messages[2])
    assert PIXEL in str(messages[3])


# HTTP -----------------------------------------------------------------------------------------------------------------


def test_p62_each_target_gets_one_credential_in_its_own_place() -> None:
    lines = {
        dialect: credential_lines(dialect, "k") for dialect in ("openai", "azure", "anthropic", "gemini", "bedrock")
    }
    assert lines == {
        "openai": b"Authorization: Bearer k\r\n",
        "azure": b"api-key: k\r\n",
        "anthropic": b"x-api-key: k\r\n",
        "gemini": b"x-goog-api-key: k\r\n",
        "bedrock": b"Authorization: Bearer k\r\n",
    }


def test_p64_embeddings_are_base64_when_asked() -> None:
    asked = {"model": "m", "input": "a", "encoding_format": "base64"}
    told = gemini.read_embeddings({"embeddings": [{"values": [0.5, -1.0]}]}, asked, "m")
    assert told["data"][0]["embedding"] == base64.b64encode(struct.pack("<2f", 0.5, -1.0)).decode()
    plain = gemini.read_embeddings({"embeddings": [{"values": [0.5]}]}, {"model": "m", "input": "a"}, "m")
    assert plain["data"][0]["embedding"] == [0.5]


def test_p65_a_models_name_is_one_segment_of_the_path() -> None:
    arn = "arn:aws:bedrock:us-east-1:1:inference-profile/us.anthropic.claude-haiku-4-5-20251001-v1:0"
    path, _ = translated(Place(dialect="bedrock", base_path=""), "converse", arn, True)
    assert path.startswith("/model/arn%3Aaws%3Abedrock")
    assert path.count("/") == 3
    assert path.endswith("/converse-stream")


# Beyond the list: what other gateways got wrong -----------------------------------------------------------------------


def test_tool_choice_none_reaches_bedrock_as_none() -> None:
    body = written("chat", {**ASKED, "tools": [TOOL], "tool_choice": "none"}, "converse")
    assert "toolConfig" not in body


def test_calls_that_arrive_in_one_chunk_stay_apart() -> None:
    raw = chunks(
        {
            "role": "assistant",
            "tool_calls": [{"index": 0, **call("a", call_id="1")}, {"index": 1, **call("b", call_id="2")}],
        },
        finish="tool_calls",
    )
    found = blocks(Back("chat", raw, "messages"))
    assert [start["name"] for start, _ in found.values()] == ["a", "b"]


def test_gemini_completion_tokens_count_the_thoughts() -> None:
    answer = candidate(
        {"text": "a"},
        finish="STOP",
        usageMetadata={
            "promptTokenCount": 3,
            "candidatesTokenCount": 560,
            "thoughtsTokenCount": 3480,
            "totalTokenCount": 4043,
        },
    )
    assert unary("generate", answer, "chat")["usage"]["completion_tokens"] == 4040
    assert unary("generate", answer, "messages")["usage"]["output_tokens"] == 4040


def test_an_empty_description_is_no_description_at_bedrock() -> None:
    tool = {"type": "function", "function": {"name": "f", "description": "", "parameters": {"type": "object"}}}
    spec = written("chat", {**ASKED, "tools": [tool]}, "converse")["toolConfig"]["tools"][0]["toolSpec"]
    assert spec.get("description") != ""


@pytest.mark.parametrize("api", ["chat", "messages", "generate", "converse", "responses"])
def test_answers_without_optional_fields_are_read(api: str) -> None:
    least: dict[str, dict[str, Any]] = {
        "chat": {"choices": [{"message": {"content": "a"}}]},
        "messages": {"content": [{"type": "text", "text": "a"}]},
        "generate": {"candidates": [{"content": {"parts": [{"text": "a"}]}}]},
        "converse": {"output": {"message": {"content": [{"text": "a"}]}}},
        "responses": {"output": [{"type": "message", "content": [{"type": "output_text", "text": "a"}]}]},
    }
    for source in ("chat", "messages", "responses"):
        assert "why" not in unary(api, least[api], source)


def test_the_reason_of_an_error_in_mid_stream_is_kept() -> None:
    raw = claude_stream(text_block("a")).split(b"event: content_block_stop")[0]
    raw += named({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}})
    error = Back("messages", raw, "chat").way.error
    assert error is not None
    assert (error["type"], error["message"]) == ("overloaded_error", "Overloaded")


def test_readers_agree_on_what_a_fault_is() -> None:
    for api in ("chat", "messages", "responses", "generate"):
        events = speaker(api).stream_reader().feed(b'data: {"type":"error","error":{"message":"no"}}\n\n')
        assert isinstance(events[-1], Fault), api


def test_facts_of_the_examples_are_what_the_tests_mean() -> None:
    assert facts("claude-sonnet-5", "anthropic", "", {}, None).sampling is False
    assert facts("claude-sonnet-4-5", "anthropic", "", {}, None).reasoning == "budget"
    assert Finish.STOP == "stop"
