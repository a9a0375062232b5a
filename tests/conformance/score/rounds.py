"""Answers told in another dialect, and back again, without what the way there has to lose."""

from __future__ import annotations

from tests.conformance.score import answers, oracle
from tests.conformance.score.records import Record
from tests.conformance.score.requests import Excluded


def one_way(record: Record, caller: str) -> list[str]:
    """What a caller is told otherwise than the provider said. Raises `Excluded` for reasoning alone towards Messages:
    such callers are shown none but Claude's, so that it is a failed attempt and no translation."""
    found = answers.differences(record, caller)
    if found == ["empty although it says something"] and caller == "messages":
        truth = oracle.said(record.api, record.body, record.stream)
        if not (truth.text or truth.calls or truth.refusal or truth.blocked):
            raise Excluded("reasoning_only")
    return found


def differences(record: Record, caller: str) -> list[str]:
    """What an answer has lost on its way there and back that the caller's dialect could have carried."""
    found = answers.round_trip(record, caller)
    if not found:
        return []
    truth = oracle.said(record.api, record.body, record.stream)
    is_wordless = not (truth.text or truth.calls or truth.refusal)
    if is_wordless and found == ["on the way back: empty"]:
        return []  # reasoning or a provider's own tools alone, which the caller's dialect had no place for
    if truth.finish == "content_filter" and not truth.refusal:
        # The word that stands for a refusal without words (2.1) comes back as text.
        found = [each for each in found if not (each.startswith("text") and "refused" in each)]
    return found
