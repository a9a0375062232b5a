"""How much a model is asked to reason, in the spelling of its vendor (`providers.md` 2.2)."""

from __future__ import annotations

import re
from typing import Any, Final

from proxy.dialects.chat import ModelFacts, Reasoning, Request
from proxy.dialects.openai.quirks import is_reasoning, quirks_of
from proxy.dialects.spelling import Warnings

ORDER: Final = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
_BUDGETS: Final = ((2048, "low"), (8192, "medium"), (24576, "high"))
"""Most tokens of a budget that an effort stands for; above them ``xhigh``."""
_EVERYWHERE: Final = ("low", "medium", "high")
_SWITCHED: Final = re.compile(r"(?:^|[/.])gpt-5\.\d")
"""Models that take ``none``."""


def write(request: Request, facts: ModelFacts, body: dict[str, Any], warn: Warnings) -> None:
    """Ask for reasoning as far as the request does and the target can."""
    wish = request.reasoning
    if wish is None:
        return
    own = request.dialect == "chat"
    if own and (wish.effort is None or "reasoning" in request.extra):
        return  # said in the words of a vendor, which `extra` keeps
    if facts.reasoning == "none":
        if _is_on(wish):
            warn.dropped("reasoning")
        return
    form = quirks_of(facts).reasoning
    if form == "object" and not own:
        _as_object(wish, body)
    elif form == "mode" and not own:
        _as_mode(wish, body, warn)
    elif own and facts.efforts is None:
        body["reasoning_effort"] = wish.effort
    else:
        _as_effort(wish, facts, body, warn, own)


def _is_on(wish: Reasoning) -> bool:
    return not (wish.mode == "disabled" or wish.budget == 0 or wish.effort == "none")


def _stated(wish: Reasoning) -> str | None:
    """The effort that a wish amounts to; None: none in particular."""
    if not _is_on(wish):
        return "none"
    if wish.effort is not None:
        return wish.effort
    if wish.budget is None or wish.budget < 0:
        return None
    return next((effort for most, effort in _BUDGETS if wish.budget <= most), "xhigh")


def _as_effort(wish: Reasoning, facts: ModelFacts, body: dict[str, Any], warn: Warnings, own: bool) -> None:
    stated = _stated(wish)
    if stated is None:
        return
    takes = (
        own
        or facts.reasoning is not None
        or facts.efforts is not None
        or is_reasoning(facts.model)
        or facts.family == "gpt-oss"
    )
    if not takes:
        if _is_on(wish):
            warn.dropped("reasoning")
        return
    found = nearest(stated, _accepted(facts))
    if found is None:
        warn.dropped("reasoning")
        return
    body["reasoning_effort"] = found
    if found != wish.effort and not (found == "none" and not _is_on(wish)):
        warn.approximated("reasoning")


def _accepted(facts: ModelFacts) -> frozenset[str]:
    if facts.efforts is not None:
        return facts.efforts
    known = set(_EVERYWHERE)
    model = facts.model.lower()
    if _SWITCHED.search(model):
        known.add("none")
    elif is_reasoning(model) and "gpt-5" in model:
        known.add("minimal")
    return frozenset(known)


def nearest(stated: str, accepted: frozenset[str]) -> str | None:
    """The accepted effort that is next to the one stated, rather less than more; None: there is none. To switch
    reasoning off is not the same as to ask for little of it."""
    if stated in accepted:
        return stated
    if stated == "none" or stated not in ORDER:
        return None
    at = ORDER.index(stated)
    lower = [effort for effort in ORDER[1:at] if effort in accepted]
    higher = [effort for effort in ORDER[at + 1 :] if effort in accepted]
    return lower[-1] if lower else higher[0] if higher else None


def _as_object(wish: Reasoning, body: dict[str, Any]) -> None:
    """OpenRouter turns either way of asking into what the model takes."""
    if not _is_on(wish):
        body["reasoning"] = {"enabled": False}
        return
    out: dict[str, Any] = {}
    if wish.effort is not None:
        out["effort"] = wish.effort
    elif wish.budget is not None and wish.budget > 0:
        out["max_tokens"] = wish.budget
    else:
        out["enabled"] = True
    if wish.shown is False:
        out["exclude"] = True
    body["reasoning"] = out


def _as_mode(wish: Reasoning, body: dict[str, Any], warn: Warnings) -> None:
    on = _is_on(wish)
    body["thinking"] = {"type": "enabled" if on else "disabled"}
    if on and (wish.effort is not None or wish.budget is not None):
        warn.approximated("reasoning")
