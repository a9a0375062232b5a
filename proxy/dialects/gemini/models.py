"""What is told of a Gemini model by its name, and how its reasoning is asked for (`providers.md` 1.6, 2.3)."""

from __future__ import annotations

import re
from typing import Any, Final

from proxy.dialects.chat import ModelFacts, Reasoning, Request
from proxy.dialects.spelling import Warnings

Generation = tuple[int, int]

_VERSION: Final = re.compile(r"gemini-(?:[a-z]+-)*?(\d{1,2})(?:\.(\d{1,2}))?(?!\d)")
_LATEST: Final = re.compile(r"gemini-[a-z-]*latest$")
UNKNOWN: Final[Generation] = (2, 0)
"""What a model is taken for whose name tells nothing: no ids, no signatures, no reasoning to ask for."""

BUDGETS: Final = {
    "none": 0, "minimal": 1024, "low": 1024, "medium": 8192, "high": 24576, "xhigh": 32768, "max": 32768,
}  # fmt: skip
"""Tokens that an effort is worth where a budget is asked for; cut to what the model takes."""
LEVELS: Final = ("minimal", "low", "medium", "high", "xhigh")
"""Levels of reasoning from Gemini 3 on, the least first."""


def generation(facts: ModelFacts) -> Generation:
    """(major, minor) of the model: ``gemini-2.5-pro`` is (2, 5), ``gemini-3-flash-preview`` (3, 0).

    The moving names (``gemini-flash-latest``) have been on 3 since recorded traffic shows call ids there. A name that
    tells nothing is judged by how reasoning is asked for.
    """
    found = _VERSION.search(facts.model)
    if found is not None:
        return int(found[1]), int(found[2] or 0)
    if _LATEST.search(facts.model) or facts.reasoning == "level":
        return 3, 0
    return (2, 5) if facts.reasoning == "budget" else UNKNOWN


def thinking(request: Request, facts: ModelFacts, warn: Warnings) -> dict[str, Any]:
    """The ``thinkingConfig``; empty: send none. Never a budget and a level together."""
    asked = request.reasoning
    if asked is None:
        return {}
    way = facts.reasoning
    own = request.dialect == "gemini"
    if way not in ("none", "always", "budget", "level"):
        made = generation(facts)
        way = "level" if made >= (3, 0) else "budget" if made >= (2, 5) or (own and way is None) else "none"
    if way == "none":
        if asked.effort not in (None, "none") or asked.budget or asked.shown:
            warn.dropped("reasoning")
        return {}
    out: dict[str, Any] = {}
    if way == "budget":
        budget = _budget(asked, request.limit, facts.model, warn, own)
        if budget is not None:
            out["thinkingBudget"] = budget
    elif way == "level":
        out.update(_level(asked, facts, warn, own))
    elif asked.effort is not None or asked.budget is not None:
        warn.dropped("reasoning")
    # Anthropic's callers are shown the reasoning that they give a budget to, unless they say otherwise.
    shown = asked.shown is True or (asked.shown is None and request.dialect == "messages" and asked.mode == "enabled")
    if shown or (asked.shown is False and own):
        out["includeThoughts"] = shown
    return out


def _budget(asked: Reasoning, limit: int | None, model: str, warn: Warnings, own: bool) -> int | None:
    """Tokens for a model of the 2.5 kind; None: its own default. `own`: the caller spoke of budgets of this very
    kind, so the number is the caller's affair."""
    if own and asked.budget is not None:
        return asked.budget
    if asked.mode == "disabled":
        wanted = 0
    elif asked.budget is not None:
        wanted = asked.budget
    elif asked.effort is not None:
        wanted = BUDGETS.get(asked.effort, BUDGETS["medium"])
        if asked.effort != "none":
            warn.approximated("reasoning")
    else:
        return -1 if asked.mode == "adaptive" else None
    if wanted < 0:
        return -1
    pro, lite = "pro" in model, "lite" in model
    least = 128 if pro else 512 if lite else 1
    given = min(wanted, 32768 if pro else 24576)
    if given or pro:
        given = max(given, least)
    if limit is not None and given >= limit:
        # Thoughts count towards the limit: a budget that fills it leaves no room for an answer.
        given = max(limit // 2, least if pro else 0)
        if lite and given < least:
            given = 0
    if given != wanted and not (asked.effort and asked.effort != "none"):
        warn.approximated("reasoning")
    return given


def _level(asked: Reasoning, facts: ModelFacts, warn: Warnings, own: bool) -> dict[str, Any]:
    """Level for a model from 3 on; empty: its own default."""
    if asked.budget is not None and asked.budget >= 0 and asked.mode != "disabled":
        if own:  # 3 still takes the budgets of its predecessor from callers who wrote them
            return {"thinkingBudget": asked.budget}
        wanted = "none" if asked.budget == 0 else "low"
        if asked.budget > 1024:
            wanted = "medium" if asked.budget <= 8192 else "high"
        warn.approximated("reasoning")
    elif asked.mode == "disabled":
        wanted = "none"
    elif asked.effort is not None:
        wanted = asked.effort
    else:
        return {"thinkingBudget": asked.budget} if own and asked.budget is not None else {}
    if own:
        return {"thinkingLevel": wanted.upper()}
    level = _nearest(wanted, facts)
    if level != wanted:
        warn.approximated("reasoning")
    return {"thinkingLevel": level.upper()}


def _nearest(wanted: str, facts: ModelFacts) -> str:
    """The accepted level nearest to what was asked for, rather less than more."""
    if facts.efforts:
        accepted = [level for level in LEVELS if level in {effort.lower() for effort in facts.efforts}]
    else:
        accepted = ["low", "medium", "high"] if "pro" in facts.model else ["minimal", "low", "medium", "high"]
    if not accepted:
        accepted = ["high"]
    if wanted == "none":
        return accepted[0]
    rank = LEVELS.index(wanted) if wanted in LEVELS else len(LEVELS) if wanted == "max" else LEVELS.index("medium")
    below = [level for level in accepted if LEVELS.index(level) <= rank]
    return below[-1] if below else accepted[0]
