"""From what a provider answered to one `Outcome`: the only place that knows the vendors' words for failure.

Order of evidence (`providers.md` section 3):

1. an explicit code in the body (or Bedrock's error-type header);
2. the body's type or status word;
3. the HTTP status, refined by phrases of the message where one status stands for several classes;
4. those phrases alone, where there is no status.

Three kinds of words are told apart. A *telling* word (`insufficient_quota`) decides by itself. A *generic* word
(`invalid_request_error`) is sent by many servers for everything, by one with 401 and by another with 404, so the status
is asked first and the word only where there is none. A number in the place of a code is a status
(OpenRouter answers 200 and puts 502 into `error.code`).

A page of HTML is not the provider speaking but an edge in front of it. It says `server_error`, also with 403; only
statuses that mean the same from anybody (401, 402, 408, 413, 429, 504 ...) keep their class.

Phrases that name a missing model are kept narrow: that class takes the target out for minutes, so a caller's mistake
must never look like it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from proxy.base.outcome import Class, Outcome
from proxy.policy import retry_after
from proxy.policy.error_body import CODE_MAX, TEXT_MAX, Said, collect, read, word_of

MESSAGE_MAX: Final = 200
REASON_MAX: Final = 2000
"""Characters of a provider's reason that its caller is told; logs and traces get `MESSAGE_MAX`."""

Get = Callable[[str], str | None]


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer that is an error: status >= 300, or an error object (or no answer at all) inside a 2xx."""

    dialect: str
    """`openai`, `azure`, `anthropic`, `gemini` or `bedrock`."""
    status: int
    get: Get
    """Case-insensitive look-up of a response header; None: absent."""
    body: bytes
    """As much of the decoded body as was read; may be empty or cut."""
    wall_s: float
    """Local epoch time of the answer, for dates where the answer itself has none."""


def classify(reply: Reply, *, caller_key: bool = False) -> Outcome:
    """Judge a whole answer. Never raises, whatever the bytes.

    `caller_key`: the call used the caller's own key, so that a missing right speaks about that key alone.
    """
    said = read(reply.body, reply.status)
    header = reply.get("x-amzn-errortype")
    if header:
        said.words.insert(0, word_of(header))
    if reply.dialect == "bedrock":
        for name in ("x-amzn-errormessage", "x-amzn-error-message"):
            said.text = said.text or (reply.get(name) or "").lower()[:TEXT_MAX]
    return _outcome(said, reply.dialect, reply.status, reply.get, reply.wall_s, caller_key, Class.SERVER_ERROR)


def classify_error_object(
    dialect: str,
    status: int,
    error: Mapping[str, object],
    *,
    get: Get = lambda name: None,
    wall_s: float = 0.0,
    caller_key: bool = False,
    unknown: Class = Class.STREAM_INTERRUPTED,
) -> Outcome:
    """Judge an error that arrived inside a stream, by the same tables.

    `error` is the event's parsed data or the error object in it (for Bedrock: `{"__type": exception name, "message":
    ...}`). `status` is that of the response, normally 200; 0: none. `unknown`: the class where nothing in it decides.
    """
    said = Said()
    collect(error, said, 0)
    return _outcome(said, dialect, status, get, wall_s, caller_key, unknown)


# --- words ---------------------------------------------------------------------------------------------------------


def _table(rows: Mapping[Class, str]) -> dict[str, Class]:
    return {word: cls for cls, words in rows.items() for word in words.split()}


_TELLING: Final = _table(
    {
        Class.CONTEXT_LENGTH: """context_length_exceeded context_window_exceeded exceed_context_size_error
            too_many_prompt_tokens too_many_tokens prompt_too_long input_too_long string_too_long_for_context""",
        Class.CONTENT_POLICY: """content_policy_violation content_filter content_filtered invalid_prompt bio_policy
            misalignment_policy_violation responsibleaipolicyviolation moderation_blocked content_policy
            data_inspection_failed prohibited_content cyber_policy_violation""",
        Class.QUOTA_EXCEEDED: """insufficient_quota credit_balance_exhausted organization_spend_limit_exceeded
            project_spend_limit_exceeded organization_usage_limit_exceeded billing_hard_limit_reached
            billing_not_active billing_error enforced_spend_limit_reached contract_spend_limit_reached
            servicequotaexceededexception quota_exceeded quotaexceeded insufficient_balance insufficient_credits
            payment_required""",
        Class.RATE_LIMIT: """rate_limit_exceeded rate_limit_error rate_limit ratelimitreached rate_limited
            ramp_limit_exceeded throttlingexception throttling toomanyrequestsexception too_many_requests
            toomanyrequests tokens requests service_tier_capacity_exceeded""",
        Class.AUTH: """invalid_api_key invalid_key wrong_api_key api_key_invalid authentication_error
            invalid_authentication invalid_authentication_error account_deactivated unauthenticated unauthorized
            ip_not_authorized unrecognizedclientexception invalidsignatureexception incompletesignature
            incompletesignatureexception expiredtokenexception expiredtoken missingauthenticationtoken
            missingauthenticationtokenexception signaturedoesnotmatch invalidclienttokenid requestexpired""",
        Class.PERMISSION: """permission_error permission_denied permissiondenied unsupported_country_region_territory
            organization_on_hold organization_not_enrolled_in_beta service_disabled accessdeniedexception
            access_denied ftuformnotfilled failed_precondition multimodal_not_enabled""",
        Class.MODEL_NOT_FOUND: """model_not_found model_not_available model_decommissioned invalid_model
            deploymentnotfound not_found_error not_found resourcenotfoundexception unknown_model""",
        Class.MODEL_OVERLOADED: """overloaded_error overloaded server_is_overloaded service_unavailable_error
            service_unavailable serviceunavailableexception resource_unavailable compaction_unavailable
            model_overloaded engine_overloaded engine_overloaded_error model_capacity_exhausted unavailable
            unavailable_error modelnotreadyexception deploymentnotready capacity_exceeded""",
        Class.TIMEOUT: """timeout timeout_error request_timeout request_body_timeout deadline_exceeded
            modeltimeoutexception cancelled""",
        Class.SERVER_ERROR: """server_error internal_server_error internal_error internal conflict_error
            internalserverexception internalfailure modelerrorexception modelstreamerrorexception tool_use_failed
            json_validate_failed cmek_key_unreachable cmek_context_unavailable aborted data_loss""",
        Class.INVALID_REQUEST: """unsupported_parameter unsupported_value unknown_parameter invalid_value
            missing_required_parameter invalid_type invalid_image_url decimal_above_max_value
            decimal_below_min_value integer_above_max_value integer_below_min_value string_above_max_length
            string_below_min_length array_above_max_length empty_array invalid_function_parameters
            invalid_encrypted_content request_too_large out_of_range invalid_parameter_combination
            invalid_parameter_error unsupported_file""",
    }
)
_PREFIXES: Final = (("linked_organization_", Class.QUOTA_EXCEEDED), ("cmek_", Class.SERVER_ERROR))

_VAGUE: Final = frozenset({"server_error", "internal_server_error", "internal_error", "internal"})
_GENERIC: Final = _table(
    {
        Class.INVALID_REQUEST: """invalid_request_error invalid_request badrequesterror invalid_argument
            validationexception""",
        Class.SERVER_ERROR: "api_error",
    }
)
"""Asked only where there is no status. `api_error` is Anthropic's word for 500, and of others for anything."""

_STATUS: Final = {
    401: Class.AUTH,
    402: Class.QUOTA_EXCEEDED,
    403: Class.PERMISSION,
    404: Class.MODEL_NOT_FOUND,
    408: Class.TIMEOUT,
    409: Class.SERVER_ERROR,
    424: Class.SERVER_ERROR,
    425: Class.TIMEOUT,
    429: Class.RATE_LIMIT,
    498: Class.MODEL_OVERLOADED,
    499: Class.TIMEOUT,
    503: Class.MODEL_OVERLOADED,
    504: Class.TIMEOUT,
    524: Class.TIMEOUT,
    529: Class.MODEL_OVERLOADED,
}
_STATUS_OF_HTML: Final = frozenset({401, 402, 408, 425, 429, 499, 504, 524})


def _by_status(status: int, unknown: Class) -> Class:
    found = _STATUS.get(status)
    if found is not None:
        return found
    if 400 <= status <= 499:
        return Class.INVALID_REQUEST
    return Class.SERVER_ERROR if status >= 300 else unknown


# --- phrases -------------------------------------------------------------------------------------------------------


def _any(*patterns: str) -> Callable[[str], bool]:
    found = re.compile("|".join(patterns))
    return lambda text: found.search(text) is not None


_is_policy = _any(
    "violating our usage polic",
    "violates our usage polic",
    "result of our safety system",
    "content filtering policy",
    "content management policy",
    "content_filter",
    "responsibleaipolicyviolation",
    "content policy violation",
    "input was flagged",
    "requires moderation",
    "inappropriate content",
)
_is_context = _any(
    "maximum context length",
    "context_length_exceeded",
    "max context length",
    "exceed context limit",
    "exceeds the context window",
    "maximum context limit",
    "longer than the model's context length",
    "exceeds the available context size",
    "context size has been exceeded",
    r"`inputs` tokens \+ `max_new_tokens` must be",
    r"maximum input length is .{1,24} tokens",
    r"input too long: .{0,40}input tokens, limit is",
    "current length is .{1,24} while limit is",
    "prompt is too long",
    "prompt too long",
    "too many tokens",
    "too many input tokens",
    "input is too long",
    "input tokens exceed",
    "number of input tokens exceeds",
    "exceeds the maximum number of tokens allowed",
    "input token count",
    "expected maxlength",
)
_is_field_length = _any("string_above_max_length", "invalid 'user'")
_is_quota = _any(
    "credit balance is too low",
    "spend limit",
    "spending limit",
    "specified api usage limits",
    "exceeded your current quota",
    "insufficient_quota",
    "insufficient balance",
    "insufficient credits",
    "billing hard limit",
    "monthly included credits",
    "out of credits",
    "too many tokens per day",
)
_is_auth = _any(
    "api key not valid",
    "api key provided",
    "invalid api key",
    "invalid api token",
    "invalid x-api-key",
    "wrong api key",
    "check the api-key",
    "unable to authenticate",
    "authentication fails",
    "security token included in the request",
    "signature has expired",
    "signature we calculated does not match",
)
_is_place = _any(
    r"(?:country|region|location|territory)\b.{0,40}(?:not|un)[ -]?supported",
    r"not (?:supported|available) in your (?:country|region|location)",
    "location is not supported",
)
_is_unknown_model = _any(
    "model not exist",
    "model identifier is invalid",
    "on-demand throughput isn.t supported",
    "not a valid model id",
    "invalid model id",
    r"^\W*invalid model\b",
    "unexpected model name format",
    "supported api model names are",
    "not supported model",
    r"\bmodel:? (?:`[^`]{1,80}`|'[^']{1,80}'|[\w./:@-]{1,80}) "
    r"(?:does not exist|was removed on|(?:has been|was) (?:deprecated|decommissioned|retired))",
    r"^model \S{1,80} (?:is not supported\. supported models are|not found)",
    "is not found for api version",
    r"deployment .{0,60}does not exist",
)
_is_ability = _any(
    "no endpoints found that support",
    "not supported in this model",
    "not supported with this model",
    "not supported in the v1/",
    "not supported with the responses api",
    "does not support",
    "with id '",  # a stored response, file or conversation
    "no such (?!model)",
)
_is_overload = _any("overloaded", "high demand", "resource unavailable", "at capacity", "not ready")
_is_rate = _any("rate limit", "rate_limit", "rate-limited", "too many requests", "service tier capacity exceeded")
_is_too_large = _any("request too large", "token budget", "larger than .{0,40}tokens per minute")
_LIMIT: Final = re.compile(r"limit:? ([0-9]{1,12})\b.{0,60}?requested:? ([0-9]{1,12})\b")
_SAID_WAIT: Final = re.compile(
    r"(?:try again|retry) in ([0-9][0-9.hmnsuµ]{0,24})|retry after ([0-9.]{1,12}) (?:seconds?|s\b)"
)


def _refine(status: int, text: str) -> Class | None:
    """The class that phrases give to an answer whose status stands for several; None: they say nothing."""
    if status == 500:
        # llama.cpp answers 500 to a prompt that does not fit, for ever: no retry would help.
        return Class.CONTEXT_LENGTH if "context size has been exceeded" in text else None
    for statuses, is_it, cls in _PHRASES:
        if (status in statuses or (status < 300 and 0 in statuses)) and is_it(text):
            return cls
    return None


_PHRASES: Final[tuple[tuple[frozenset[int], Callable[[str], bool], Class], ...]] = (
    (frozenset({0, 400, 403, 422, 451}), _is_policy, Class.CONTENT_POLICY),
    (frozenset({0, 400, 401, 402, 403, 429}), _is_quota, Class.QUOTA_EXCEEDED),
    (
        frozenset({0, 400, 413, 422}),
        lambda text: _is_context(text) and not _is_field_length(text),
        Class.CONTEXT_LENGTH,
    ),
    (frozenset({400, 403}), _is_auth, Class.AUTH),
    (frozenset({400, 403}), _is_place, Class.PERMISSION),
    # What a model cannot do, or what is not stored, is the request's matter; "not found" would take the model away
    # from everybody.
    (frozenset({404}), _is_ability, Class.INVALID_REQUEST),
    (frozenset({0, 400, 403, 422}), _is_unknown_model, Class.MODEL_NOT_FOUND),
    (frozenset({0, 429}), _is_overload, Class.MODEL_OVERLOADED),
    (frozenset({0, 400, 403, 413}), _is_rate, Class.RATE_LIMIT),
)


# --- deciding ------------------------------------------------------------------------------------------------------


def _class(said: Said, dialect: str, status: int, unknown: Class) -> Class:
    if said.html:
        if status == 413:
            return Class.INVALID_REQUEST
        return _by_status(status, Class.SERVER_ERROR) if status in _STATUS_OF_HTML else Class.SERVER_ERROR
    words = [word.lower() for word in said.words]
    for word in words:
        found = _special(word, said, dialect, status)
        if found is not None:
            return found
    return (
        _refine(status, said.text)
        or (_by_status(status, unknown) if status >= 300 else None)
        or next((_GENERIC[word] for word in words if word in _GENERIC), None)
        or unknown
    )


def _special(word: str, said: Said, dialect: str, status: int) -> Class | None:
    """The class of a telling word, with the exceptions of single vendors; None: it does not decide."""
    if word == "resource_exhausted":
        return _exhausted(said, status)
    if word == "slow_down":
        return Class.MODEL_OVERLOADED if status >= 500 else Class.RATE_LIMIT
    if word == "api_error" and dialect == "anthropic":
        return Class.SERVER_ERROR
    if word == "modelerrorexception" and 400 <= said.original_status <= 499:
        return Class.RATE_LIMIT if said.original_status == 429 else Class.INVALID_REQUEST
    found = _TELLING.get(word)
    if found is None:
        return next((cls for prefix, cls in _PREFIXES if word.startswith(prefix)), None)
    text = said.text
    if found is Class.RATE_LIMIT:
        if "too many tokens per day" in text or (dialect == "anthropic" and _is_quota(text)):
            return Class.QUOTA_EXCEEDED
        if dialect == "azure" and "experiencing high demand" in text:
            return Class.MODEL_OVERLOADED
    elif found is Class.PERMISSION:
        if word == "accessdeniedexception" and _is_auth(text):
            return Class.AUTH
        if word == "permissiondenied" and status == 401:
            return Class.AUTH  # Azure's word for a wrong key
    elif found is Class.MODEL_NOT_FOUND and _is_ability(text):
        return Class.INVALID_REQUEST
    elif word in _VAGUE and (status in _STATUS or status == 500):
        return None  # the status is more precise: 503 with `server_error` is an overload
    return found


def _exhausted(said: Said, status: int) -> Class:
    """Gemini's RESOURCE_EXHAUSTED: per minute it passes, per day it does not, without a quota the pool is full."""
    if any("perday" in quota for quota in said.quotas):
        return Class.QUOTA_EXCEEDED
    if said.quotas or said.delays_s or "spend" in said.text or "retry in" in said.text:
        return Class.RATE_LIMIT
    return Class.QUOTA_EXCEEDED if _is_quota(said.text) else Class.MODEL_OVERLOADED


def _outcome(
    said: Said, dialect: str, status: int, get: Get, wall_s: float, caller_key: bool, unknown: Class
) -> Outcome:
    effective = said.status or status
    cls = _class(said, dialect, effective, unknown)
    pushback = retry_after.grpc_pushback(get)
    return Outcome(
        cls=cls,
        status=status if status >= 300 else effective,
        code=_code(said, effective),
        message=_clean(said.message),
        told_wait_s=_told_s(said, cls, get, wall_s, pushback),
        no_wait_helps=cls is Class.RATE_LIMIT and _never_fits(said.text, effective),
        should_retry=_should_retry(get, pushback),
        per_credential=_is_per_credential(said, cls, caller_key),
    )


def _told_s(said: Said, cls: Class, get: Get, wall_s: float, pushback: float | None) -> float | None:
    """The wait by headers; Gemini's details and the message only add to it (`providers.md` 3.4: the greatest)."""
    if cls not in retry_after.TOLD_CLASSES:
        return None
    told = retry_after.told_wait_s(get, wall_s, cls)
    if told is None and said.headers:
        told = retry_after.told_wait_s(said.headers.get, retry_after.server_now_s(get, wall_s), cls)
    if told is None and pushback is not None and pushback >= 0.0:
        told = pushback
    if cls is Class.QUOTA_EXCEEDED:
        return told  # the retryDelay beside a quota per day is misleading
    if said.delays_s:
        told = max([*said.delays_s, *([] if told is None else [told])])
    if told is None or said.delays_s:
        spoken = _spoken_s(said.text)
        told = spoken if told is None else max(told, spoken or 0.0)
    return told


def _spoken_s(text: str) -> float | None:
    """The wait named in the message: "try again in 512ms", "retry in 38.9s", "retry after 3 seconds"."""
    found = _SAID_WAIT.search(text)
    if found is None:
        return None
    wait = (found[1] or found[2]).rstrip(".")
    # An epoch makes no sense in a sentence, so the clock is left out.
    return retry_after.parse_wait(wait, 0.0)


def _never_fits(text: str, status: int) -> bool:
    """Whether the request alone is larger than the allowance, so that no wait will help."""
    if status == 413 or _is_too_large(text):
        return True
    found = _LIMIT.search(text)
    return found is not None and int(found[2]) > int(found[1])


def _should_retry(get: Get, pushback: float | None) -> bool | None:
    if pushback == retry_after.NEVER:
        return False
    return {"true": True, "false": False}.get((get("x-should-retry") or "").strip().lower())


def _is_per_credential(said: Said, cls: Class, caller_key: bool) -> bool:
    if cls is Class.AUTH:
        return True
    if cls is Class.QUOTA_EXCEEDED:
        # Gemini and Bedrock count per day and model; other models of the same key still answer.
        per_model = said.quotas and all("permodel" in quota for quota in said.quotas)
        return not per_model and "too many tokens per day" not in said.text
    return cls is Class.PERMISSION and caller_key


def _code(said: Said, status: int) -> str:
    """The first telling word, else the first word at all, as printable ASCII."""
    words = [word for word in _printable(said.words) if word]
    for word in words:
        if word.lower() in _TELLING or word.lower() in ("slow_down", "resource_exhausted"):
            return word
    plain = [word for word in words if word not in ("error", "response.failed")]
    return plain[0] if plain else (str(said.status) if said.status else "")


def _printable(words: list[str]) -> Iterator[str]:
    for word in words:
        yield "".join(c for c in word if " " <= c <= "~")[:CODE_MAX]


SECRET: Final = re.compile(
    r"\b(?:sk|pk|rk|gsk|xai|hf|nvapi|tgp|csk|pplx)[-_][\w*.-]{6,}"
    r"|(?<=key provided: )\S+"
    r"|\bAIza[\w*-]{10,}|\bAKIA[A-Z0-9]{8,}|\bBearer\s+\S+|[\w-]{0,40}\*{3,}[\w*-]{0,40}|\beyJ[\w-]{10,}[\w.-]*",
    re.IGNORECASE,
)


def _clean(text: str, most: int = MESSAGE_MAX) -> str:
    """One printable line of at most `most` characters, with anything that looks like a key masked."""
    line = "".join(c if c.isprintable() else " " for c in text[: 4 * most])
    return SECRET.sub("[redacted]", " ".join(line.split()))[:most]


def reason(body: bytes, status: int) -> str:
    """The provider's own words about a failure, for a caller of another dialect; empty when it gave none."""
    return _clean(read(body, status).message, REASON_MAX)


def reason_of(error: Mapping[str, object]) -> str:
    """The same for an error object from inside a stream."""
    said = Said()
    collect(error, said, 0)
    return _clean(said.message, REASON_MAX)
