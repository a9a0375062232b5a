"""Joining what a second target says to what the caller has already been sent.

A target that is asked to go on from a broken answer does one of three things: it goes on, it repeats the last words
and then goes on, or it begins the whole answer again (`lessons.md` L51, S08). Which one it is shows only after some
text, so text is held until the case is decided; what the caller already has is then cut off to the letter. A text that
begins again and takes another turn fits nowhere, and is reported as unfit: an honest error is better than a mixture.

Overlaps are found at word borders only. Nothing here knows a language but for one rule of plausibility: in a text that
writes its words small, a target that begins with a capital in the middle of a sentence has begun anew.
"""

from __future__ import annotations

import re
from typing import Final

RESTART_WORDS: Final = 3
"""So many words from the very beginning of the answer are a restart, not a phrase that happens to come again."""
REPEAT_WORDS: Final = 8
"""So many words from the middle of the answer are a repetition of it."""
FIRST_CHARS: Final = 24
"""So many characters decide, whether or not a word has ended among them."""
_WORD: Final = re.compile(r"\w+")
_SENTENCE_ENDS: Final = (".", "!", "?", ":", "\n", '"', "”", "。", "！", "？", ")", "*", "`", "|", "-", "#", ">")


class Seam:
    """The join of one continuation. `sent` is what the caller has; `exact`: the target continues token by token
    (a true prefill), so that no space is ever put in between."""

    __slots__ = ("_exact", "_held", "_sent", "decided", "unfit")

    def __init__(self, sent: str, exact: bool) -> None:
        self._sent = sent
        self._exact = exact
        self._held = ""
        self.decided = False
        self.unfit = False

    def feed(self, text: str) -> str:
        """What of the continuation so far may be sent; empty while undecided or unfit."""
        if self.decided:
            return text
        if self.unfit:
            return ""
        self._held += text
        return self._decide(at_end=False)

    def end(self) -> str:
        """The continuation is over: the rest. Sets `unfit` when it does not reach what was sent."""
        if self.decided or self.unfit:
            return ""
        return self._decide(at_end=True)

    def _decide(self, at_end: bool) -> str:
        sent, came = self._sent, self._held.lstrip()
        if not came and not at_end:
            return ""
        if came.startswith(sent.lstrip()):
            return self._go(came[len(sent.lstrip()) :])
        if self._is_inside(came):
            if not at_end:
                return ""
            # Silence says that the answer was complete only where the target could see that it was its own answer.
            if not (sent.rstrip().endswith(came.rstrip()) if came else self._exact):
                self.unfit = True
            self.decided = not self.unfit
            return ""
        if not at_end and not self._has_a_word(came):
            return ""
        overlap = self._overlap(came)
        if overlap:
            return self._go(came[overlap:])
        if self._is_restart(came) or self._is_repetition(came) or (not self._exact and self._begins_anew(came)):
            self.unfit = True
            return ""
        return self._go(self._joined())

    def _go(self, text: str) -> str:
        self.decided = True
        self._held = ""
        return text

    def _has_a_word(self, came: str) -> bool:
        """Whether the first word is there in full, or so much of a script without spaces that it need not be."""
        first = _WORD.search(came)
        return len(came) >= FIRST_CHARS or (first is not None and first.end() < len(came))

    def _is_inside(self, came: str) -> bool:
        """Whether everything that came so far stands in the answer, from a word's beginning."""
        sent = self._sent
        at = sent.find(came)
        while at >= 0:
            if _begins_word(sent, at):
                return True
            at = sent.find(came, at + 1)
        return False

    def _overlap(self, came: str) -> int:
        """Length of the longest end of the answer that the continuation begins with; 0: none."""
        sent = self._sent.rstrip() if not came[:1].isspace() else self._sent
        for length in range(min(len(sent), len(came)), 0, -1):
            if came[:length] == sent[-length:] and _begins_word(sent, len(sent) - length):
                return length + self._skipped(came, length)
        return 0

    def _skipped(self, came: str, length: int) -> int:
        """White space behind an overlap that the caller has been sent already."""
        trailing = self._sent[len(self._sent.rstrip()) :]
        return len(trailing) if trailing and came[length:].startswith(trailing) else 0

    def _is_restart(self, came: str) -> bool:
        return len(_WORD.findall(_common(came, self._sent.lstrip()))) > RESTART_WORDS

    def _is_repetition(self, came: str) -> bool:
        """Whether the first words come from the middle of the answer, and then take another way."""
        words = list(_WORD.finditer(came[:400]))
        return len(words) > REPEAT_WORDS and self._is_inside(came[: words[REPEAT_WORDS - 1].end()])

    def _begins_anew(self, came: str) -> bool:
        tail = self._sent.rstrip()
        if not came[:1].isupper() or not tail or tail.endswith(_SENTENCE_ENDS):
            return False
        first = _WORD.match(came)
        words = _WORD.findall(self._sent)
        small = sum(1 for word in words if word[:1].islower())
        return first is not None and first[0] not in words and len(first[0]) > 1 and small >= 0.8 * len(words)

    def _joined(self) -> str:
        """What came, with the white space that the join needs: not doubled, and not missing between two words."""
        sent, came = self._sent, self._held
        if not came:
            return ""
        trailing = sent[len(sent.rstrip()) :]
        if trailing:
            return came[len(trailing) :] if came.startswith(trailing) else came.lstrip(" ")
        if self._exact or came[0].isspace():
            return came
        spaced = _spaced(came[0]) and (_spaced(sent[-1:]) or sent.endswith((",", ";", ")")))
        return " " + came if spaced else came


def _begins_word(text: str, at: int) -> bool:
    return at == 0 or not (text[at - 1].isalnum() and text[at : at + 1].isalnum())


def _spaced(char: str) -> bool:
    """Whether a character belongs to a script that puts spaces between words (up to Cyrillic and Greek)."""
    return char.isalnum() and ord(char) < 0x0590


def _common(one: str, other: str) -> str:
    """The common beginning of two texts."""
    most = min(len(one), len(other))
    low = 0
    while low < most and one[low] == other[low]:
        low += 1
    return one[:low]
