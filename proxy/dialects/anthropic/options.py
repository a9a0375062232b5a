"""What a Messages request says beside the conversation and the tools: reasoning, sampling, the limit of the answer.

What the target's model takes decides. A Messages caller's own words are kept as long as nothing is known against them;
they are changed where his model is replaced by one of another generation, as a fallback on another platform may be.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from proxy.dialects.anthropic.words import DIALECT, generation
from proxy.dialects.chat import ModelFacts, NotPortable, Reasoning, Request
from proxy.dialects.spelling import Warnings

BUDGETS: Final = {"minimal": 1024, "low": 1024, "medium": 2048, "high": 4096, "xhigh": 8192, "max": 16384}
"""Tokens of thinking for an effort (`providers.md` 2.1)."""
BUDGET_MIN: Final = 1024
BUDGET_STEPS: Final = ((2048, "low"), (8192, "medium"), (24_576, "high"))
"""Most tokens of a budget -> the effort that is closest (`providers.md` 2.2); more than the last is ``xhigh``."""
EFFORTS: Final = ("minimal", "low", "medium", "high", "xhigh", "max")
BASIC_EFFORTS: Final = frozenset({"low", "medium", "high"})
LIMIT_DEFAULT: Final = 4096
LIMIT_STREAM_MAX: Final = 32_000
LIMIT_UNARY_MAX: Final = 16_000
"""A longer answer in one piece may take more than the ten minutes that a connection is kept."""
NO_SAMPLING_FROM: Final = "2026-10-21"
"""Version of the API from which on no model takes sampling parameters (`providers.md` 0.1)."""
TIERS: Final = {"auto": "auto", "default": "standard_only", "standard_only": "standard_only"}
_BEFORE: Final = ("none", "budget")
"""How models reason that know no effort, unless it is told that they do."""
SAMPLING: Final = ("temperature", "top_p", "top_k")
_MAIL_OR_PHONE: Final = re.compile(r"\S@\S|^\+?[\d\s().-]{7,}$")

Body = dict[str, Any]


# Limit, stops, tier, user ---------------------------------------------------------------------------------------------


def limit(request: Request, facts: ModelFacts, notes: Warnings) -> int:
    """``max_tokens``, which has to be there: the caller's, else what is configured, else what the model can give."""
    most = facts.max_output_tokens
    if request.limit is None:
        if facts.default_max_tokens is not None:
            return facts.default_max_tokens if most is None else min(facts.default_max_tokens, most)
        if most is None:
            return LIMIT_DEFAULT
        return min(most, LIMIT_STREAM_MAX if request.stream else LIMIT_UNARY_MAX)
    wanted = request.limit if request.dialect == DIALECT else max(1, request.limit)
    if most is not None and wanted > most:
        notes.approximated("limit")
        return most
    return wanted


def stops(request: Request, facts: ModelFacts, notes: Warnings) -> list[str]:
    """``stop_sequences``; white space alone is refused."""
    found = [stop for stop in request.stop if request.dialect == DIALECT or stop.strip()]
    if len(found) < len(request.stop):
        notes.dropped("stop")
    if found and facts.stop is False:
        raise NotPortable("stop", "the model takes no stop sequences")
    return found


def service_tier(request: Request, notes: Warnings) -> str:
    """``service_tier``; empty: none."""
    tier = request.service_tier if request.dialect == DIALECT else TIERS.get(request.service_tier, "")
    if request.service_tier and not tier:
        notes.dropped("service_tier")
    return tier


def metadata(request: Request, notes: Warnings) -> Body:
    """``metadata``: only the id of the user, and that only when it is neither an address nor a telephone number."""
    out: Body = {}
    own = request.dialect == DIALECT
    if request.user:
        if own or not _MAIL_OR_PHONE.search(request.user):
            out["user_id"] = request.user
        else:
            notes.dropped("user")
    if request.metadata:
        if own:
            out.update(request.metadata)
        else:
            notes.dropped("metadata")
    return out


# Sampling -------------------------------------------------------------------------------------------------------------


def sampling(request: Request, facts: ModelFacts, notes: Warnings) -> Body:
    """Temperature and its like as far as the model and the version of the API take them."""
    out = {name: value for name in SAMPLING if (value := getattr(request, name)) is not None}
    if facts.sampling is False or facts.api_version[-10:] >= NO_SAMPLING_FROM:
        without_sampling(out, notes)
        return out
    if request.dialect != DIALECT and out.get("temperature", 0) > 1:
        out["temperature"] = 1.0
        notes.approximated("temperature")
    if facts.both_sampling is False and "temperature" in out and out.pop("top_p", None) is not None:
        notes.dropped("top_p")
    return out


def without_sampling(body: Body, notes: Warnings) -> None:
    """Take all of it out of `body`."""
    for name in SAMPLING:
        if body.pop(name, None) is not None:
            notes.dropped(name)


# Reasoning ------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Thought:
    """How the model is asked to reason."""

    thinking: Body | None = None
    """``thinking``; None: not said."""
    effort: str = ""
    """``output_config.effort``; empty: not said."""
    kept: bool = False
    """It is what a Messages caller wrote: what goes with it is his matter."""

    @property
    def is_on(self) -> bool:
        return self.thinking is not None and self.thinking["type"] in ("enabled", "adaptive")


def is_wanted(reasoning: Reasoning | None) -> bool | None:
    """Whether reasoning was switched on (True), off (False), or neither was said (None)."""
    if reasoning is None:
        return None
    if reasoning.mode == "disabled" or reasoning.budget == 0:
        return False
    if reasoning.mode is not None or reasoning.budget is not None:
        return True
    if reasoning.effort is not None:
        return reasoning.effort != "none"
    return None


def kind_of(facts: ModelFacts) -> str:
    """How the model is asked to reason: the fact where it is known, else what its name tells; empty: unknown."""
    if facts.reasoning is not None:
        return facts.reasoning
    made = generation(facts)
    if made == (0, 0):
        return ""
    return "adaptive" if made >= (4, 6) else "budget" if made >= (3, 7) else "none"


def thinks(request: Request, facts: ModelFacts) -> bool:
    """Whether this model would be asked to reason for this request."""
    return is_wanted(request.reasoning) is True and kind_of(facts) in ("adaptive", "budget")


def reasoning(request: Request, facts: ModelFacts, most: int, forced: bool, blocked: bool, notes: Warnings) -> Thought:
    """`most`: the limit of the answer, which includes the reasoning. `forced`: a tool call is demanded. `blocked`: the
    conversation rules out a thinking budget."""
    wanted, kind = request.reasoning, kind_of(facts)
    if wanted is None:
        return Thought(thinking=_off(forced, kind, facts))
    own = request.dialect == DIALECT
    if own and _fits(wanted, facts, kind, most if request.limit is not None else None):
        return Thought(thinking=_as_asked(wanted), effort=wanted.effort or "", kept=True)
    if own and wanted.mode is None:
        # In this dialect an effort alone switches nothing on.
        effort = _effort(wanted, facts, notes) if facts.efforts or kind == "adaptive" else ""
        if not effort:
            notes.dropped("reasoning")
        return Thought(effort=effort, kept=True)
    if is_wanted(wanted) is not True:
        return _switched_off(wanted, facts, kind, forced, notes)
    if kind == "adaptive":
        return _adaptive(wanted, facts, forced, own, notes)
    if kind == "budget":
        budget = None if forced or blocked else _budget(wanted, most, notes)
        if budget is not None:
            return Thought(thinking={"type": "enabled", "budget_tokens": budget, **_display(wanted, "")})
    elif kind == "always" and wanted.effort is not None and facts.efforts:
        return Thought(effort=_effort(wanted, facts, notes))
    notes.dropped("reasoning")
    return Thought()


def _fits(wanted: Reasoning, facts: ModelFacts, kind: str, most: int | None) -> bool:
    """Whether a Messages caller's own words are taken by this model; `most` None: there is no limit to heed."""
    if wanted.effort is not None and not (wanted.effort in facts.efforts if facts.efforts else kind not in _BEFORE):
        return False
    if wanted.mode == "enabled":
        is_taken = kind in ("budget", "") or (kind == "adaptive" and generation(facts) == (4, 6))
        return is_taken and (most is None or (wanted.budget or 0) < most)
    if wanted.mode == "adaptive":
        return kind in ("adaptive", "always", "")
    return wanted.mode is None or kind != "always"


def _as_asked(wanted: Reasoning) -> Body | None:
    """``thinking`` in a Messages caller's own words."""
    if wanted.mode is None:
        return None
    budget = {} if wanted.budget is None else {"budget_tokens": wanted.budget}
    return {"type": wanted.mode, **budget, **_display(wanted, "")}


def _off(forced: bool, kind: str, facts: ModelFacts) -> Body | None:
    """Models that reason unless they are told not to must be told so where a call is demanded."""
    return {"type": "disabled"} if forced and kind == "adaptive" and generation(facts) >= (5, 0) else None


def _switched_off(wanted: Reasoning, facts: ModelFacts, kind: str, forced: bool, notes: Warnings) -> Thought:
    if is_wanted(wanted) is None:
        return Thought(thinking=_off(forced, kind, facts))
    if kind == "always":
        notes.dropped("reasoning")
    return Thought(thinking={"type": "disabled"} if kind == "adaptive" else None)


def _adaptive(wanted: Reasoning, facts: ModelFacts, forced: bool, own: bool, notes: Warnings) -> Thought:
    effort = _effort(wanted, facts, notes)
    off = _off(forced, "adaptive", facts)
    if off is not None:
        notes.dropped("reasoning")
        return Thought(thinking=off, effort="high" if effort in ("xhigh", "max") else effort)
    if wanted.mode == "enabled":
        notes.approximated("reasoning")
    display = _display(wanted, "" if own else "summarized")
    return Thought(thinking={"type": "adaptive", **display}, effort=effort)


def _display(wanted: Reasoning, unsaid: str) -> Body:
    """How much of the reasoning is shown; `unsaid`: where the caller says nothing, empty for the model's own way."""
    word = unsaid if wanted.shown is None else "summarized" if wanted.shown else "omitted"
    return {"display": word} if word else {}


def _effort(wanted: Reasoning, facts: ModelFacts, notes: Warnings) -> str:
    """The effort itself where the model knows it, else the next lower one, else the lowest; empty: the model's own."""
    asked = wanted.effort
    if asked is None or asked == "none":
        if wanted.budget is None or wanted.budget < 0:
            return ""
        notes.approximated("reasoning")
        asked = next((effort for most, effort in BUDGET_STEPS if wanted.budget <= most), "xhigh")
    known = facts.efforts or BASIC_EFFORTS
    if asked in known:
        return asked
    notes.approximated("reasoning")
    at = EFFORTS.index(asked) if asked in EFFORTS else EFFORTS.index("medium")
    lower = [effort for effort in EFFORTS[:at] if effort in known]
    higher = [effort for effort in EFFORTS[at:] if effort in known]
    return lower[-1] if lower else higher[0] if higher else ""


def _budget(wanted: Reasoning, most: int, notes: Warnings) -> int | None:
    """Tokens to think with, below the limit of the answer; None: the limit leaves no room."""
    if most <= BUDGET_MIN:
        return None
    if wanted.budget is not None and wanted.budget > 0:
        budget = wanted.budget
    else:
        budget = BUDGETS.get(wanted.effort or "medium", BUDGETS["medium"])
        notes.approximated("reasoning")
    # A fifth is kept for the answer itself where the limit is that narrow.
    fitting = max(BUDGET_MIN, budget if budget < most else most * 4 // 5)
    if fitting != budget:
        notes.approximated("reasoning")
    return fitting
