"""Recorded streams, put together for callers who want one body, and compared by meaning."""

from __future__ import annotations

from tests.conformance.score import answers, oracle
from tests.conformance.score.records import Record


def differences(record: Record, caller: str) -> list[str]:
    """What a caller who wants one body is told otherwise than a stream says."""
    truth = oracle.said(record.api, record.body, True)
    made = answers.translator(record.api, caller, False)
    out = b"".join(made.feed(piece) for piece in answers.pieces(record.body, record.sizes or (1 << 16,))) + made.close()
    problem = f"error: {answers._message(made.error)}" if made.error is not None else ""
    if truth.error is not None:
        return answers._faulty(truth, problem, b"", caller, record)
    if problem:
        nothing = not (truth.text or truth.refusal or truth.thinking or truth.calls or truth.blocked)
        return [] if nothing and truth.finish in answers.SILENT else [problem]
    if not truth.is_over:
        return ["a body although the stream was cut"] if out else []
    return answers.compare(truth, oracle.said(caller, out, False), record.api, caller)
