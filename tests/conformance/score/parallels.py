"""One logical request, stated by hand in several dialects: ours in another dialect against theirs.

The authors did not translate word by word: models, limits and ids differ, follow-up turns hold each model's own words,
and some cases ask a little differently. So the two statements are first held against each other as they stand, and an
aspect that already differs there proves nothing; in every other aspect our translation must say what theirs says: who
speaks, calls, results, pictures, tools and their parameters, the choice among them, the form of the answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from proxy.dialects import registry
from proxy.dialects.chat import Encoded, NotPortable
from tests.conformance.score import pleas, wishes
from tests.conformance.score.records import parallel_api, parallel_requests


def cases() -> Iterator[tuple[str, str, str, dict[str, Any], dict[str, Any]]]:
    """(case, dialect A, dialect B, A's request, B's request), for every ordered pair of a case."""
    for case, found in parallel_requests():
        for a, ours in found.items():
            for b, theirs in found.items():
                if a != b and parallel_api(a) != parallel_api(b):
                    yield case, a, b, ours, theirs


def differences(a: str, b: str, ours: dict[str, Any], theirs: dict[str, Any]) -> list[str] | str:
    """What our translation of A's request says otherwise than B's own statement; text: why it is not made."""
    source, target = parallel_api(a), parallel_api(b)
    _, facts = wishes.TARGETS[target][0]
    model = theirs.get("model")
    request = registry.speaker(source).read_request(ours)
    try:
        encoded = registry.speaker(target).write_request(request, replace(facts, model=model) if model else facts)
    except NotPortable as obstacle:
        return obstacle.reason
    stated = {
        _aspect(each) for each in wishes.same_request(pleas.plea(target, theirs), pleas.plea(source, ours), NOTHING)
    }
    found = wishes.same_request(pleas.plea(target, theirs), pleas.plea(target, encoded.body), encoded)
    return [each for each in found if _aspect(each) not in stated]


NOTHING = Encoded(body={})


def _aspect(fault: str) -> str:
    """What a complaint is about: who says what, the calls, one tool."""
    words = fault.split()
    if words[0] in ("parameters", "description"):
        return f"tool {words[2].rstrip(':')}"
    if words[0] in ("result", "a", "the"):
        return "result"
    return " ".join(words[:2]) if words[0] in ("tool", "assistant", "user") else words[0]
