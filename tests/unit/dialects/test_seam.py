"""The join of a continuation: exact to the letter, whatever the sizes of the pieces, or refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.demo.say import TEXT, WORDS
from proxy.dialects.seam import Seam


def joined(sent: str, continuation: str, size: int, exact: bool = False) -> tuple[str, bool]:
    """(what the caller has in the end, whether the continuation was found unfit)."""
    seam = Seam(sent, exact)
    out = "".join(seam.feed(continuation[i : i + size]) for i in range(0, len(continuation), size))
    return sent + out + seam.end(), seam.unfit


def words(start: int, end: int = 60) -> str:
    return " ".join(WORDS[start:end])


@pytest.mark.parametrize("size", [1, 3, 8, 10_000])
@pytest.mark.parametrize("cut", range(1, 60))
def test_s08_the_three_shapes_of_a_continuation_join_exactly(cut: int, size: int) -> None:
    sent = words(0, cut)
    assert joined(sent, words(cut), size) == (TEXT, False), "goes on"
    assert joined(sent, " " + words(cut), size) == (TEXT, False), "goes on, with its space"
    assert joined(sent, TEXT, size) == (TEXT, False), "begins again"
    for repeated in range(1, min(cut, 12)):
        assert joined(sent, words(cut - repeated), size) == (TEXT, False), f"repeats {repeated} words"


@pytest.mark.parametrize("cut", [7, 11, 55, 100, 211])
def test_a_cut_inside_a_word_joins_by_repetition_and_by_prefill(cut: int) -> None:
    assert joined(TEXT[:cut], TEXT, 4) == (TEXT, False)
    assert joined(TEXT[:cut], TEXT[cut:], 4, exact=True) == (TEXT, False)


@pytest.mark.parametrize("trailing", [" ", "\n\n"])
def test_white_space_at_the_cut_is_sent_once(trailing: str) -> None:
    sent = "one two three." + trailing
    assert joined(sent, trailing + "Four five.", 3, exact=True) == (sent + "Four five.", False)
    assert joined(sent, "Four five.", 3) == (sent + "Four five.", False)
    assert joined(sent, "three. Four five.", 3)[0].split() == ["one", "two", "three.", "Four", "five."]


def test_a_space_is_put_between_words_and_nowhere_else() -> None:
    assert joined("so it goes", "on for ever", 2) == ("so it goes on for ever", False)
    assert joined("so it goes", ", and on", 2) == ("so it goes, and on", False)
    assert joined("これは日本", "語の文です", 2) == ("これは日本語の文です", False)


@pytest.mark.parametrize(
    ("sent", "continuation"),
    [
        (words(0, 40), words(0, 10) + " " + words(45)),
        (words(0, 40), words(0, 5)),
        (words(0, 40), words(10, 22) + " " + words(50)),
        ("the cat sat on the mat and then it", "Certainly! Here is a story about a cat"),
    ],
    ids=["another turn", "shorter than what was sent", "from the middle, another turn", "a new beginning"],
)
@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_s08c_what_fits_nowhere_is_refused_and_nothing_of_it_is_sent(sent: str, continuation: str, size: int) -> None:
    assert joined(sent, continuation, size) == (sent, True)


def test_a_target_that_has_nothing_to_add_completes_the_answer() -> None:
    assert joined(TEXT, TEXT, 5) == (TEXT, False)
    assert joined(TEXT, words(50), 5) == (TEXT, False)


@pytest.mark.parametrize(("exact", "unfit"), [(True, False), (False, True)])
@pytest.mark.parametrize("came", ["", " \n"])
def test_a_target_that_says_nothing_completes_only_what_it_takes_for_its_own(
    came: str, exact: bool, unfit: bool
) -> None:
    """World seed 431: a stream was cut, the next target said nothing at all, and the torso passed for the whole."""
    seam = Seam(words(0, 3), exact=exact)
    assert (seam.feed(came) + seam.end(), seam.unfit) == ("", unfit)


def test_text_is_let_through_at_once_when_the_case_is_decided() -> None:
    seam = Seam(words(0, 20), exact=False)
    assert seam.feed(words(20, 22)) == " " + words(20, 22)
    assert seam.decided
    assert seam.feed(" next") == " next"


@given(st.integers(1, 59), st.integers(0, 59), st.lists(st.integers(1, 40), min_size=1, max_size=30))
def test_any_pieces_give_the_same_text(cut: int, start: int, sizes: list[int]) -> None:
    sent, continuation = words(0, cut), words(min(start, cut))
    seam, out, at, i = Seam(sent, exact=False), "", 0, 0
    while at < len(continuation):
        out += seam.feed(continuation[at : at + sizes[i % len(sizes)]])
        at += sizes[i % len(sizes)]
        i += 1
    out += seam.end()
    assert (sent + out, seam.unfit) == (TEXT, False)
