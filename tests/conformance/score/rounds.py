"""Answers told in another dialect and back again, without what the way there had to lose."""

from __future__ import annotations

from tests.conformance.score import answers, oracle
from tests.conformance.score.records import Record


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
