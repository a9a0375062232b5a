"""The corpora against the running process, and the judges against bytes that they must refuse.

Every case is judged in `verdict`: the answers are those its RFC or a house rule of docs/http.md asks for, what arrived
upstream says the same to every reader, and the next ordinary request on the lane is served.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.fuzz import corpora, corpus, readers, strict, texts, verdict
from tests.fuzz.rules import BREACHES, HOUSE, RULES
from tests.fuzz.stage import Lane, Stage, stage
from tests.fuzz.verdict import Case

LANES = 128
"""Most cases wait for a limit, and many can wait together."""
BUSY = 32
"""Fewer where each case is many segments: a head must not be late only because of the others."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with stage(tmp_path_factory.mktemp("stage"), LANES) as made:
        yield made


def assert_right(cases: list[Case], least: int) -> None:
    assert len(cases) >= least
    wrong = "\n".join(corpus.table(case for case in cases if case.faults))
    assert not wrong, wrong


# Whole ----------------------------------------------------------------------------------------------------------------


def test_our_own_cases(running: Stage) -> None:
    assert_right(corpus.http(running, corpora.own()), 100)


@pytest.mark.parametrize(("name", "least"), [("http11probe", 100), ("gunicorn", 74), ("llhttp", 75)])
def test_public_cases(running: Stage, name: str, least: int) -> None:
    assert_right(corpus.http(running, corpora.public(name)), least)


def test_json_bodies(running: Stage) -> None:
    assert_right(corpus.json_bodies(running), 316)


def test_naughty_strings(running: Stage) -> None:
    assert_right(corpus.naughty(running), 750)
    text = running.do(_metrics(running))
    samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    assert {sample.labels.get("model", "") for sample in samples} == {"", "other"}, "callers make labels of their own"


async def _metrics(running: Stage) -> str:
    async with running.sidecar.session.get(f"{running.sidecar.admin}/metrics") as response:
        return await response.text()


def test_yaml_suite() -> None:
    assert_right([texts.judge_yaml(case) for case in texts.yaml_cases()], 200)


# Cut ------------------------------------------------------------------------------------------------------------------


def cut_at(running: Stage, work: list[tuple[Case, int]], most: int) -> list[Case]:
    """Every case as two segments, the second from an offset on; 0: a segment for every byte."""

    def one(lane: Lane, each: tuple[Case, int]) -> Case:
        case, at = each
        raw = corpora.aimed(case.raw, lane.name)
        aimed = replace(case, name=f"{case.name}, cut at {at or 'every byte'}", raw=raw)
        pieces = [raw[:at], raw[at:]] if at else [raw[n : n + 1] for n in range(len(raw))]
        verdict.run(running, lane, aimed, pieces)
        return aimed

    return running.across(one, work, most)


def closing(case: Case) -> Case:
    """The case with ``Connection: close`` in its first head where there is none, so that nobody waits for the end."""
    if b"onnection" in case.raw:
        return case
    return replace(case, raw=re.sub(rb"(HTTP/1\.1\r\n)", rb"\1Connection: close\r\n", case.raw, count=1))


CUT_AT_EVERY_BYTE = (
    "chunk after a good one is bad", "trailer before another request", "length before a coding", "folded coding",
    "upgrade with another request behind", "two good ones", "a good one with a body, a bad one",
)  # fmt: skip


def test_a_cut_at_every_byte_changes_nothing(running: Stage) -> None:
    chosen = [case for case in corpora.own() if case.name in CUT_AT_EVERY_BYTE]
    assert len(chosen) == len(CUT_AT_EVERY_BYTE)
    work = [(case, at) for case in chosen for at in range(1, len(corpora.aimed(case.raw, f"p{LANES}")))]
    assert_right(cut_at(running, work, LANES), 400)


def test_byte_by_byte_changes_nothing(running: Stage) -> None:
    short = [closing(case) for case in corpora.own() if 0 < len(case.raw) < 400]
    assert_right(cut_at(running, [(case, 0) for case in short], BUSY), 90)


@pytest.mark.torture
def test_every_case_cut_at_every_byte(running: Stage) -> None:
    cases = [*corpora.own(), *(case for name in corpus.PUBLIC for case in corpora.public(name))]
    work = [(case, at) for case in map(closing, cases) if len(case.raw) < 1_000 for at in range(len(case.raw) + 3)]
    random.Random(1).shuffle(work)  # those that wait for a limit do not wait together
    assert_right(cut_at(running, work, BUSY), 20_000)


# The judges -----------------------------------------------------------------------------------------------------------

GOOD = b"POST /u HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
DIFFERING = {
    "both framings": GOOD.replace(b"Content-L", b"Transfer-Encoding: chunked\r\nContent-L"),
    "two lengths": GOOD.replace(b"Content-L", b"Content-Length: 3\r\nContent-L"),
    "length with zeros": GOOD.replace(b": 5", b": 05"),
    "line feeds": GOOD.replace(b"x\r\n", b"x\n"),
    "folded": GOOD.replace(b"Content-L", b"X: a\r\n Content-L"),
    "underscore": GOOD.replace(b"Content-L", b"Content_Length: 2\r\nContent-L"),
    "a byte too few": GOOD[:-1],
    "a byte too many": GOOD + b"G",
    "two hosts": GOOD.replace(b"Host: x", b"Host: x\r\nHost: y"),
    "chunks": b"POST /u HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n",
    "a trailer": b"POST /u HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: y\r\n\r\n",
}


def test_readers_agree_on_what_is_plain() -> None:
    second = b"GET /v?a=b HTTP/1.1\r\nHost: x\r\n\r\n"
    assert readers.the_same_to_all(GOOD + second + GOOD) == [
        ("POST", "/u", b"hello"),
        ("GET", "/v?a=b", b""),
        ("POST", "/u", b"hello"),
    ]


@pytest.mark.parametrize("name", DIFFERING)
def test_readers_see_what_could_be_read_differently(name: str) -> None:
    with pytest.raises(AssertionError):
        readers.the_same_to_all(DIFFERING[name])


@pytest.mark.parametrize("name", ["both framings", "two lengths", "underscore"])
def test_careless_readers_differ_where_they_should(name: str) -> None:
    read = [readers.carelessly(DIFFERING[name], *how) for how in readers.CARELESS]
    assert any(one != read[0] for one in read) or read[0] != [("POST", "/u", b"hello")]


def test_every_rule_is_met_by_a_case_of_our_own() -> None:
    met = {rule for case in corpora.own() for rule in verdict.must(corpora.aimed(case.raw, "p0"), "p0").rules}
    assert set(RULES) - met == set()


def test_rules_name_a_section() -> None:
    for rule in (*BREACHES.values(), *HOUSE.values()):
        assert re.fullmatch(r"RFC \d{4} §\d+(\.\d+)*", rule.section)
        assert all(status >= 400 for status in rule.answers)


WRONG = {
    "a second answer": b"HTTP/1.1 200 OK\r\n\r\n",
    "a status that is not right": b"HTTP/1.1 500 X\r\n\r\n",
    "something before the answer": b"500\nHTTP/1.1 200 OK\r\n\r\n",
}


ONE = b"GET /none HTTP/1.1\r\nHost: x\r\n\r\n"
SEVERAL_ARE_RIGHT: dict[str, tuple[bytes, list[list[int]], list[list[int]]]] = {
    "a request line that LF ends": (ONE.replace(b"1.1\r", b"1.1"), [[400]], [[404], [505], [501], []]),
    "a request line without a version that LF ends": (b"GET /u\n\r\n", [[400], [505]], [[404], [501], []]),
    "a request line without a version that CR ends": (b"GET /u\rX\r\n\r\n", [[400], [505]], [[404], [501], []]),
    "an unknown method and LF": (b"FETCH /u HTTP/1.1\n\r\n", [[400], [501]], [[404], [200], []]),
    "LF between": (ONE + b"\n" + ONE, [[404, 404], [404, 400]], [[404], [404, 501], [400], [404, 404, 404]]),
    "CR between": (ONE + b"\r" + ONE, [[404, 404], [404, 400]], [[404], [404, 501], [400], [404, 404, 404]]),
    "LF behind": (ONE + b"\n", [[404], [404, 400]], [[], [400], [404, 408], [404, 404]]),
    "LF before": (b"\n" + ONE, [[404], [400]], [[], [501], [404, 404]]),
    "LF and a bad one behind": (ONE + b"\nBAD\r\n\r\n", [[404, 400]], [[404], [404, 404], [400]]),
    "a space before the method": (b" " + ONE, [[400], [501]], [[404], [505], []]),
    "a space before the second": (ONE + b" " + ONE, [[404, 400], [404, 501]], [[404], [404, 404], [400]]),
    "half a head behind": (ONE + ONE[:20], [[404, 408]], [[], [404], [404, 404], [408]]),
    "half a head": (ONE[:20], [[408], [400]], [[], [404]]),
    "half a head of version 2": (b"GET /u HTTP/2.0\r\nHo", [[505], [400], [408]], [[], [404]]),
    "a whole head of version 2": (b"GET /u HTTP/2.0\r\nHost: x\r\n\r\n", [[505], [400]], [[], [404], [408]]),
}


@pytest.mark.parametrize("name", SEVERAL_ARE_RIGHT)
def test_the_judge_takes_every_right_answer_and_no_other(name: str) -> None:
    """What the fuzzer has found at length, where a judge knew one right answer of several."""
    raw, rights, wrongs = SEVERAL_ARE_RIGHT[name]
    for statuses in (*rights, *wrongs):
        heard = verdict.Heard(b"".join(b"HTTP/1.1 %d X\r\n\r\n" % status for status in statuses), 0.0, True)
        assert bool(verdict.judged(raw, heard, [], "p0")[1]) == (statuses in wrongs), statuses


@pytest.mark.parametrize(
    ("body", "is_cut", "right"), [(b"hello", False, False), (b"hello", True, True), (b"hell", False, True)]
)
def test_the_judge_sees_a_100_continue_that_nobody_waits_for(body: bytes, is_cut: bool, right: bool) -> None:
    raw = b"POST /u HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
    rest = b"HTTP/1.1 404 X\r\n\r\n" if body == b"hello" else b"HTTP/1.1 408 X\r\n\r\n"
    for asked in (raw, raw.replace(b"Expect: 100-continue\r\n", b""), raw.replace(b"1.1", b"1.0")):
        plain = verdict.Heard(rest, 0.0, True)
        interim = verdict.Heard(b"HTTP/1.1 100 Continue\r\n\r\n" + rest, 0.0, True)
        assert not verdict.judged(asked + body, plain, [], "p0", is_cut=is_cut)[1]
        assert bool(verdict.judged(asked + body, interim, [], "p0", is_cut=is_cut)[1]) != (right and asked is raw)


@pytest.mark.parametrize(
    ("wish", "asked", "answer"),
    [
        ("refused", b"GET /dashboard HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"),
        ("served", b"GET /none HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 404 X\r\n\r\n"),
        ("answered", b"\r\n", b""),
    ],
    ids=["refused", "served", "answered"],
)
def test_the_judge_hears_what_a_corpus_wants(wish: str, asked: bytes, answer: bytes) -> None:
    """Each is right by the RFCs, and not what the corpus says."""
    told: Any = SimpleNamespace(throw=lambda pieces: verdict.Heard(answer, 0.0, True), ordinary=lambda lane: None)
    right = Case(corpus="", name="", raw=asked)
    wrong = replace(right, wants="else", **{wish: True})
    verdict.run(told, Lane("p0"), right)
    verdict.run(told, Lane("p0"), wrong)
    assert (right.faults, wrong.faults) == ((), ("the corpus wants: else",))


@pytest.mark.parametrize("name", WRONG)
def test_the_judge_sees_a_wrong_answer(name: str) -> None:
    raw = b"GET /p0/u HTTP/1.1\r\nHost: x\r\n\r\n"
    heard = verdict.Heard(b"HTTP/1.1 200 OK\r\n\r\n" * (name == "a second answer") + WRONG[name], 0.0, True)
    arrived = [b"GET /u HTTP/1.1\r\nHost: 127.0.0.1:1\r\n\r\n"]
    assert verdict.judged(raw, heard, arrived, "p0")[1]


@pytest.mark.parametrize(
    "arrived",
    [
        b"GET /v HTTP/1.1\r\nHost: 127.0.0.1:1\r\n\r\n",
        b"GET /u HTTP/1.1\r\nHost: 127.0.0.1:1\r\nTE: trailers\r\n\r\n",
        b"GET /u HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /u HTTP/1.1\r\nHost: 127.0.0.1:1\r\nContent-Length: 3\r\n\r\n",
        b"GET /u HTTP/1.1\r\nHost: 127.0.0.1:1\r\n\r\n" * 2,
        b"",
    ],
)
def test_the_judge_sees_a_wrong_request_upstream(arrived: bytes) -> None:
    wanted = verdict.must(b"GET /p0/u HTTP/1.1\r\nHost: x\r\n\r\n", "p0")
    heard = verdict.Heard(b"HTTP/1.1 200 OK\r\n\r\n", 0.0, True)
    right = b"GET /u HTTP/1.1\r\nHost: 127.0.0.1:1\r\n\r\n"
    assert not list(verdict.faults_of(wanted, heard, [right], "p0"))
    assert list(verdict.faults_of(wanted, heard, [arrived], "p0"))


def test_the_strict_reader_reads_bodies() -> None:
    raw = b'POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5;a="b"\r\nhello\r\n0\r\n\r\n' + GOOD
    assert [message.body for message in strict.read(raw).messages] == [b"hello", b"hello"]
