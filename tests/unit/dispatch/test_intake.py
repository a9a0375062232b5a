"""What a request is, read once: where it goes, whose headers are whose, what its body asks for."""

from __future__ import annotations

import re

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.control import fingerprint
from proxy.dispatch.intake import Headers, Refusal, Sorter, locate, model_of, parse_body
from proxy.engine.plan import Endpoint

PROVIDERS = {"openai": object(), "v2": object()}


def sort(*pairs: tuple[str, str]) -> Headers:
    return Sorter("outrider-1").sort(tuple((k.encode("latin-1"), v.encode("latin-1")) for k, v in pairs))


# Where ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "endpoint", "canonical"),
    [
        ("/v1/chat/completions", Endpoint.CHAT, "/v1/chat/completions"),
        ("/chat/completions", Endpoint.CHAT, "/v1/chat/completions"),
        ("/v1/v1/chat/completions", Endpoint.CHAT, "/v1/chat/completions"),
        ("/v1/v1/v1/messages", Endpoint.MESSAGES, "/v1/messages"),
        ("/embeddings", Endpoint.EMBEDDINGS, "/v1/embeddings"),
        ("/v1/responses", Endpoint.RESPONSES, "/v1/responses"),
        ("/v1/messages/count_tokens", Endpoint.COUNT, "/v1/messages/count_tokens"),
        ("/v1/audio/speech", Endpoint.RAW, "/v1/audio/speech"),
        ("/v1/chat/completions/", Endpoint.RAW, "/v1/chat/completions/"),
    ],
)
def test_paths_with_and_without_v1(path: str, endpoint: Endpoint, canonical: str) -> None:
    where = locate("POST", path, PROVIDERS)
    assert (where.endpoint, where.path, where.provider, where.models) == (endpoint, canonical, None, False)


@pytest.mark.parametrize(
    ("path", "provider", "rest"),
    [
        ("/openai/v1/files", "openai", "/v1/files"),
        ("/openai", "openai", "/"),
        ("/openai/", "openai", "/"),
        ("/v2/chat/completions", "v2", "/chat/completions"),
    ],
)
def test_passthrough_by_the_providers_name(path: str, provider: str, rest: str) -> None:
    where = locate("DELETE", path, PROVIDERS)
    assert (where.endpoint, where.provider, where.path) == (Endpoint.RAW, provider, rest)


@pytest.mark.parametrize("path", ["/v1/models", "/models", "/v1/models/gpt-4o", "/models/org/name"])
def test_models_are_ours_to_read(path: str) -> None:
    assert locate("GET", path, PROVIDERS).models
    assert locate("HEAD", path, PROVIDERS).models


def test_deleting_a_model_is_the_providers_business() -> None:
    where = locate("DELETE", "/v1/models/ft:mine", PROVIDERS)
    assert (where.models, where.endpoint, where.path) == (False, Endpoint.RAW, "/v1/models/ft:mine")


@pytest.mark.parametrize("path", ["/", "/elsewhere", "/nobody/v1/files", "/v1", "/openai2/x", "/v1x/chat/completions"])
def test_an_unknown_path_is_a_404_that_helps(path: str) -> None:
    with pytest.raises(Refusal) as caught:
        locate("POST", path, PROVIDERS)
    assert (caught.value.status, caught.value.code) == (404, "unknown_path")
    assert "/v1/chat/completions" in caught.value.message


def test_a_chat_by_get_is_a_405() -> None:
    with pytest.raises(Refusal) as caught:
        locate("GET", "/v1/chat/completions", PROVIDERS)
    assert (caught.value.status, caught.value.code) == (405, "method_not_allowed")


# Headers --------------------------------------------------------------------------------------------------------------


def test_order_spelling_and_repetition_are_kept() -> None:
    sorted_ = sort(("X-A", "1"), ("x-a", "2"), ("Content-Type", "application/json"), ("X-A", "1"))
    assert sorted_.passed == [b"X-A: 1\r\n", b"x-a: 2\r\n", b"Content-Type: application/json\r\n", b"X-A: 1\r\n"]


def test_our_headers_and_those_of_the_connection_reach_no_provider() -> None:
    sorted_ = sort(
        ("Host", "a"),
        ("Content-Length", "3"),
        ("Transfer-Encoding", "chunked"),
        ("TE", "trailers"),
        ("Keep-Alive", "timeout=5"),
        ("Upgrade", "h2c"),
        ("HTTP2-Settings", "AA"),
        ("Proxy-Connection", "keep-alive"),
        ("X-Forwarded-For", "10.0.0.1"),
        ("Forwarded", "for=10.0.0.1"),
        ("Cookie", "a=b"),
        ("X-Max-Retries", "5"),
        ("X-Provider-Key-OpenAI", "sk-x"),
        ("X-Served-By", "me"),
        ("Priority", "u=1"),
    )
    assert sorted_.passed == []
    assert sorted_.control == (("x-max-retries", "5"), ("x-provider-key-openai", "sk-x"))


def test_what_connection_names_is_dropped_whatever_the_order_and_spelling() -> None:
    sorted_ = sort(
        ("x-before", "1"),
        ("Connection", "close, X-Before , x-AFTER,OpenAI-Organization"),
        ("X-After", "2"),
        ("OpenAI-Organization", "org"),
        ("X-Kept", "3"),
    )
    assert sorted_.passed == [b"X-Kept: 3\r\n"]
    assert sorted_.account == []


def test_headers_that_bound_the_deadline_are_read_and_a_deadline_of_the_caller_goes_no_further() -> None:
    sorted_ = sort(("X-Stainless-Read-Timeout", "600"), ("grpc-timeout", "5S"))
    assert sorted_.control == (("x-stainless-read-timeout", "600"), ("grpc-timeout", "5S"))
    assert sorted_.passed == [b"X-Stainless-Read-Timeout: 600\r\n"]


@pytest.mark.parametrize(
    ("pairs", "key"),
    [
        ((("Authorization", "Bearer sk-1"),), "sk-1"),
        ((("authorization", "bearer   sk-1 "),), "sk-1"),
        ((("Authorization", "Bearer sk-1"), ("x-api-key", "sk-2")), "sk-2"),
        ((("X-Api-Key", "sk-2"), ("Authorization", "Bearer sk-1")), "sk-2"),
        ((("api-key", "azure"),), "azure"),
        ((("x-goog-api-key", "AIza"),), "AIza"),
        ((("x-api-key", ""), ("Authorization", "Bearer sk-1")), "sk-1"),
        ((("Authorization", "Basic dTpw"),), ""),
        ((("Authorization", "Bearer"),), ""),
        ((("Authorization", "Bearer first"), ("authorization", "Bearer second")), "first"),
        ((), ""),
    ],
)
def test_one_credential_is_taken_and_none_passes(pairs: tuple[tuple[str, str], ...], key: str) -> None:
    sorted_ = sort(*pairs)
    assert sorted_.credential == key
    assert sorted_.passed == []


def test_a_request_that_has_been_here_before_is_a_loop() -> None:
    with pytest.raises(Refusal) as caught:
        sort(("Via", "1.1 cache, 1.1 outrider-1"))
    assert (caught.value.status, caught.value.code) == (508, "proxy_loop_detected")
    assert sort(("Via", "1.1 outrider-2")).passed == []


def test_the_memory_of_names_is_bounded() -> None:
    sorter = Sorter("outrider-1")
    for n in range(10_000):
        sorter.sort(((b"x-%d" % n, b"1"),))
    assert len(sorter._fates) <= 4_096
    assert sorter.sort(((b"x-99999", b"1"), (b"x-max-retries", b"2"))).control == (("x-max-retries", "2"),)


TOKEN = st.text("abcXYZ09-_!~", min_size=1, max_size=12)
VALUE = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)


@given(st.lists(st.tuples(TOKEN, VALUE), max_size=12))
def test_every_passed_line_is_one_line(pairs: list[tuple[str, str]]) -> None:
    for line in sort(*pairs).passed:
        assert re.fullmatch(rb"[^\r\n:]+: [^\r\n]*\r\n", line)


def test_fingerprints_tell_keys_apart_and_nothing_else() -> None:
    assert fingerprint("sk-1", b"s") == fingerprint("sk-1", b"s")
    assert fingerprint("sk-1", b"s") != fingerprint("sk-2", b"s")
    assert fingerprint("sk-1", b"s") != fingerprint("sk-1", b"t")
    assert "sk-1" not in fingerprint("sk-1", b"s")
    assert fingerprint("caf\xe9\udc80", b"s")


# Bodies ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"m","x":NaN}',
        b'{"model":"m","x":"\\ud800"}',
        b'\xef\xbb\xbf{"model":"m"}',
        b' \n{"model":"m"}\n',
        b'{"model":"m","n":123456789012345678901234567890}',
    ],
)
def test_what_a_provider_may_well_take_is_not_refused(body: bytes) -> None:
    assert model_of(parse_body(body)) == "m"


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"null", b'"x"', b"{", b"{'a':1}", b"\xff\xfe{", b"\x1f\x8b\x08\x00", b"[" * 100_000]
)
def test_a_body_that_is_no_object_is_a_400(body: bytes) -> None:
    with pytest.raises(Refusal) as caught:
        parse_body(body)
    assert (caught.value.status, caught.value.code) == (400, "invalid_json")
    assert len(caught.value.message) < 300


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "missing_model"),
        ({"model": ""}, "missing_model"),
        ({"model": None}, "missing_model"),
        ({"model": ["m"]}, "missing_model"),
        ({"model": "m\r\nX: y"}, "invalid_model"),
        ({"model": "m" * 257}, "invalid_model"),
        ({"model": "\ud800"}, "invalid_model"),
    ],
)
def test_a_model_is_a_name(body: dict[str, object], code: str) -> None:
    with pytest.raises(Refusal) as caught:
        model_of(body)
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, code, "model")


def test_a_large_body_of_few_long_strings_is_looked_through_and_not_parsed() -> None:
    image = "A" * (1 << 20)
    body = orjson.dumps({"messages": [{"content": image, "model": "no"}], "model": "yes", "stream": True})
    assert parse_body(body) == {"model": "yes", "stream": True}


def test_a_large_body_of_many_small_values_is_parsed() -> None:
    body = orjson.dumps({"model": "m", "input": list(range(200_000))})
    assert parse_body(body)["input"][-1] == 199_999
