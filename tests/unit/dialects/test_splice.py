from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dialects import splice

KEYS = st.one_of(
    st.sampled_from(["model", "max_tokens", "messages", "mod", "Model", 'a"model"', "\\", "mod\u00e9l"]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=6),
)
NUMBERS = st.one_of(st.integers(-(10**30), 10**30), st.floats(allow_nan=False, allow_infinity=False))
TEXTS = st.one_of(
    st.text(max_size=10), st.sampled_from(['"model"', '\\"model\\": "x"', "{[,:", "\\", '"', "é🎈\u2028"])
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)),
    max_leaves=8,
)


def escaped(key: str) -> str:
    """A key written with an escape for every character."""
    return '"' + "".join(f"\\u{ord(c):04x}" if ord(c) < 0x10000 else c for c in key) + '"'


def written(pairs: list[tuple[str, Any]], how: list[int]) -> bytes:
    """An object with these members in this order, repeated keys and odd spellings included."""
    gaps = ["", " ", "\n\t", "\r\n  "]
    out = []
    for i, (key, value) in enumerate(pairs):
        style = how[i % len(how)] if how else 0
        name = escaped(key) if style % 5 == 4 else json.dumps(key, ensure_ascii=bool(style & 1))
        gap = gaps[style % 4]
        body = json.dumps(value, ensure_ascii=bool(style & 2), separators=(",", ":") if style & 4 else (", ", ": "))
        out.append(f"{gap}{name}{gap}:{gap}{body}{gap}")
    return ("{" + ",".join(out) + "}").encode("utf-8", "surrogatepass")


def all_pairs(body: bytes) -> list[tuple[str, Any]]:
    """The members of the outer object, repeated ones too."""

    class Pairs(list[tuple[str, Any]]):
        pass

    parsed = json.loads(body.decode("utf-8", "surrogatepass"), object_pairs_hook=Pairs)
    assert isinstance(parsed, Pairs)

    def plain(value: Any) -> Any:
        if isinstance(value, Pairs):
            return {key: plain(inner) for key, inner in value}
        return [plain(inner) for inner in value] if isinstance(value, list) else value

    return [(key, plain(value)) for key, value in parsed]


@given(
    pairs=st.lists(st.tuples(KEYS, VALUES), max_size=6),
    how=st.lists(st.integers(0, 63), max_size=6),
    values=st.dictionaries(
        st.sampled_from(["model", "max_tokens"]), st.one_of(st.just("gpt-é"), st.integers(1, 9)), min_size=1
    ),
)
def test_every_top_level_occurrence_is_replaced_and_nothing_else(
    pairs: list[tuple[str, Any]], how: list[int], values: dict[str, Any]
) -> None:
    body = written(pairs, how)
    before = all_pairs(body)
    after = all_pairs(splice.replace(body, values))
    expected = [(key, values.get(key, value)) for key, value in before]
    missing = [(key, value) for key, value in values.items() if key not in dict(before)]
    assert after == [*missing, *expected]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"model":"a"}', b'{"model":"b"}'),
        (b' { "model" : "a" } ', b' { "model" : "b" } '),
        (b"{}", b'{"model":"b"}'),
        (b"{ }", b'{"model":"b" }'),
        (b'{"x":1}', b'{"model":"b","x":1}'),
        (b'{"model":null,"x":1}', b'{"model":"b","x":1}'),
        (b'{"model":{"model":"a"},"x":[{"model":"a"}]}', b'{"model":"b","x":[{"model":"a"}]}'),
        (b'{"model":"a","model":"c"}', b'{"model":"b","model":"b"}'),
        (rb'{"mod\u0065l":"a","model":"c"}', rb'{"mod\u0065l":"b","model":"b"}'),
        (rb'{"mod\u0065l":"a"}', rb'{"mod\u0065l":"b"}'),
        (rb'{"\u006D\u006f\u0064\u0065\u006C":"a"}', rb'{"\u006D\u006f\u0064\u0065\u006C":"b"}'),
        (rb'{"a":"\"model\":\"x\"","model":"c"}', rb'{"a":"\"model\":\"x\"","model":"b"}'),
        (rb'{"a":"\\","model":"c"}', rb'{"a":"\\","model":"b"}'),
        (b'{"a":"model","b":["model"],"model":"c"}', b'{"a":"model","b":["model"],"model":"b"}'),
        (b'{"a":"model"}', b'{"model":"b","a":"model"}'),
        (b'{"tools":[{"model":"x"}]}', b'{"model":"b","tools":[{"model":"x"}]}'),
        (b'{"n":123456789012345678901234567890,"model":"c"}', b'{"n":123456789012345678901234567890,"model":"b"}'),
        (b'\xef\xbb\xbf{"model":"a"}', b'\xef\xbb\xbf{"model":"b"}'),
        (rb'{"\ud800":"\udfff","model":"a"}', rb'{"\ud800":"\udfff","model":"b"}'),
        (b'{"\xed\xa0\x80\\n":1,"model":"a"}', b'{"\xed\xa0\x80\\n":1,"model":"b"}'),
        (b'{"model":NaN}', b'{"model":"b"}'),
    ],
)
def test_table(body: bytes, expected: bytes) -> None:
    assert splice.replace(body, {"model": "b"}) == expected


def test_two_values_at_once() -> None:
    body = b'{"max_tokens":10,"model":"a","max_tokens":99}'
    assert splice.replace(body, {"model": "b", "max_tokens": 5}) == b'{"max_tokens":5,"model":"b","max_tokens":5}'
    assert splice.replace(b'{"model":"a"}', {"model": "b", "max_tokens": 5}) == b'{"max_tokens":5,"model":"b"}'


def test_a_large_body_keeps_its_bytes() -> None:
    image = b"A" * 4_000_000
    body = b'{"messages":[{"content":"' + image + b'"}],"model":"a","n":1}'
    assert splice.replace(body, {"model": "b"}) == body.replace(b'"model":"a"', b'"model":"b"')


def test_a_string_of_backslashes_costs_no_square() -> None:
    body = b'{"a":"' + b"\\\\" * 500_000 + b'\\"","model":"x"}'
    assert splice.replace(body, {"model": "b"}).endswith(b'"model":"b"}')


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b' {"model": "a", "messages": [{"model": "b"}], "n": 2} ', {"model": "a", "n": 2}),
        (b'{"model": "a", "model": "b"}', {"model": "b"}),
        (b'{"x": {"model": "a"}}', {}),
        (b"{}", {}),
        (b"[1]", None),
        (b"", None),
        (b'{"model": nonsense}', None),
    ],
)
def test_members_looks_up_without_parsing_the_rest(body: bytes, expected: dict[str, Any] | None) -> None:
    assert splice.members(body, frozenset({"model", "n"})) == expected


def test_members_leaves_out_what_is_long() -> None:
    body = b'{"model": "a", "tools": [' + b'"' + b"x" * 100 + b'"]}'
    assert splice.members(body, frozenset({"model", "tools"}), most_bytes=64) == {"model": "a"}


@pytest.mark.parametrize(
    ("body", "left"),
    [
        (b'{"a":1,"gone":0.5,"b":2}', b'{"a":1,"b":2}'),
        (b'{"a":1, "gone" : {"gone":[1,"}"]} }', b'{"a":1 }'),
        (b'{ "gone":1 , "a":{"gone":1}}', b'{  "a":{"gone":1}}'),
        (b'{"gone":1,"gone":2,"a":"gone"}', b'{"a":"gone"}'),
        (b'{"gone":1,"also":2}', b"{}"),
        (b'{"a":1,\n  "g\\u006fne": "\\"x", "also":null}', b'{"a":1}'),
        (b'{"a":1}', b'{"a":1}'),
    ],
)
def test_members_are_taken_out_and_the_rest_keeps_its_bytes(body: bytes, left: bytes) -> None:
    assert splice.without(body, {"gone", "also"}) == left


@given(
    st.dictionaries(
        st.sampled_from(["a", "gone", "b", "also", 'q"']),
        st.recursive(
            st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
        ),
        max_size=5,
    ),
    st.sampled_from([None, 1]),
)
def test_what_is_taken_out_is_gone_and_nothing_else(body: dict[str, Any], indent: int | None) -> None:
    left = splice.without(json.dumps(body, indent=indent).encode(), {"gone", "also"})
    assert json.loads(left) == {key: value for key, value in body.items() if key not in ("gone", "also")}
