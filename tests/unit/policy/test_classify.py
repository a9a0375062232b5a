from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.base.outcome import Class, Outcome
from proxy.policy.classify import CODE_MAX, MESSAGE_MAX, Reply, classify, classify_error_object
from tests import data

WALL = 1_700_000_000.0
DIALECTS = ("openai", "azure", "anthropic", "gemini", "bedrock")


def judge(
    dialect: str,
    status: int,
    body: object = b"",
    headers: dict[str, str] | None = None,
    *,
    caller_key: bool = False,
) -> Outcome:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    found = headers or {}
    reply = Reply(dialect=dialect, status=status, get=lambda name: found.get(name.lower()), body=raw, wall_s=WALL)
    return classify(reply, caller_key=caller_key)


def openai(message: str = "", code: str | None = None, kind: str | None = "invalid_request_error") -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def anthropic(kind: str, message: str = "", error_code: str | None = None) -> dict[str, Any]:
    error: dict[str, Any] = {"type": kind, "message": message}
    if error_code:
        error["details"] = {"error_code": error_code}
    return {"type": "error", "error": error, "request_id": "req_1"}


def google(code: int, status: str, message: str = "", *details: dict[str, Any]) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "status": status, "details": list(details)}}


def quota(*ids: str) -> dict[str, Any]:
    return {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"quotaId": i} for i in ids]}


def retry_info(delay: str) -> dict[str, Any]:
    return {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}


def reason(word: str) -> dict[str, Any]:
    return {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": word, "domain": "googleapis.com"}


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (400, openai("", "context_length_exceeded"), Class.CONTEXT_LENGTH),
        (400, openai("This model's maximum context length is 8192 tokens."), Class.CONTEXT_LENGTH),
        (400, openai("Your input tokens exceed the configured limit"), Class.CONTEXT_LENGTH),
        (400, openai("maximum context length is 5", "string_above_max_length"), Class.INVALID_REQUEST),
        (400, openai("Invalid 'user': too many tokens"), Class.INVALID_REQUEST),
        (400, openai("", "content_policy_violation"), Class.CONTENT_POLICY),
        (400, openai("as violating our usage policy", "invalid_prompt"), Class.CONTENT_POLICY),
        (400, openai("", "bio_policy"), Class.CONTENT_POLICY),
        (400, openai("", "misalignment_policy_violation"), Class.CONTENT_POLICY),
        (400, openai("Your request was rejected as a result of our safety system."), Class.CONTENT_POLICY),
        (400, openai("", "unsupported_parameter"), Class.INVALID_REQUEST),
        (400, openai("Invalid service_tier argument"), Class.INVALID_REQUEST),
        (400, openai("could not be verified", "invalid_encrypted_content"), Class.INVALID_REQUEST),
        (401, openai("Incorrect API key provided: x", "invalid_api_key"), Class.AUTH),
        (401, openai("You must be a member of an organization"), Class.AUTH),
        (403, openai("", "unsupported_country_region_territory"), Class.PERMISSION),
        (403, openai("Project does not have access to model"), Class.PERMISSION),
        (404, openai("The model `x` does not exist", "model_not_found"), Class.MODEL_NOT_FOUND),
        (404, openai("This is not a chat model and thus not supported in the v1/chat/completions endpoint."),
         Class.INVALID_REQUEST),
        (404, openai("Response with id 'resp_1' not found."), Class.INVALID_REQUEST),
        (404, openai("No such File object: file-1"), Class.INVALID_REQUEST),
        (408, openai(), Class.TIMEOUT),
        (409, openai(), Class.SERVER_ERROR),
        (422, openai(), Class.INVALID_REQUEST),
        (429, openai("", "rate_limit_exceeded", "tokens"), Class.RATE_LIMIT),
        (429, openai("", None, "requests"), Class.RATE_LIMIT),
        (429, openai("", "slow_down"), Class.RATE_LIMIT),
        (503, openai("", "slow_down", "server_error"), Class.MODEL_OVERLOADED),
        (429, openai("", "insufficient_quota", "insufficient_quota"), Class.QUOTA_EXCEEDED),
        (429, openai("", "credit_balance_exhausted"), Class.QUOTA_EXCEEDED),
        (429, openai("", "organization_spend_limit_exceeded"), Class.QUOTA_EXCEEDED),
        (429, openai("", "project_spend_limit_exceeded"), Class.QUOTA_EXCEEDED),
        (429, openai("", "organization_usage_limit_exceeded"), Class.QUOTA_EXCEEDED),
        (429, openai("", "billing_hard_limit_reached"), Class.QUOTA_EXCEEDED),
        (429, openai("You exceeded your current quota"), Class.QUOTA_EXCEEDED),
        (429, openai("", "resource_unavailable"), Class.MODEL_OVERLOADED),
        (500, openai("", None, "server_error"), Class.SERVER_ERROR),
        (520, openai("", None, "server_error"), Class.SERVER_ERROR),
        (503, openai("", "server_is_overloaded", "service_unavailable_error"), Class.MODEL_OVERLOADED),
        (503, openai("The engine is currently overloaded", None, "server_error"), Class.MODEL_OVERLOADED),
        (504, openai("", None, "server_error"), Class.TIMEOUT),
        (524, b"", Class.TIMEOUT),
        (400, openai("", None, "server_error"), Class.SERVER_ERROR),
    ],
)  # fmt: skip
def test_L05_openai(status: int, body: object, expected: Class) -> None:
    assert judge("openai", status, body).cls is expected


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (400, anthropic("invalid_request_error", "prompt is too long: 9 tokens > 8 maximum"), Class.CONTEXT_LENGTH),
        (400, anthropic("invalid_request_error", "input length and `max_tokens` exceed context limit: 3 + 4 > 5"),
         Class.CONTEXT_LENGTH),
        (400, anthropic("invalid_request_error", "Your credit balance is too low"), Class.QUOTA_EXCEEDED),
        (400, anthropic("invalid_request_error", "You have reached your specified API usage limits."),
         Class.QUOTA_EXCEEDED),
        (400, anthropic("invalid_request_error", "above the spend limit you set"), Class.QUOTA_EXCEEDED),
        (400, anthropic("invalid_request_error", "", "organization_on_hold"), Class.PERMISSION),
        (400, anthropic("invalid_request_error", "", "organization_not_enrolled_in_beta"), Class.PERMISSION),
        (400, anthropic("invalid_request_error", "Output blocked by content filtering policy"), Class.CONTENT_POLICY),
        (400, anthropic("invalid_request_error", "tools.0: Extra inputs are not permitted"), Class.INVALID_REQUEST),
        (400, anthropic("invalid_request_error", "", "request_body_timeout"), Class.TIMEOUT),
        (401, anthropic("authentication_error"), Class.AUTH),
        (402, anthropic("billing_error"), Class.QUOTA_EXCEEDED),
        (402, anthropic("x", "", "linked_organization_unpaid"), Class.QUOTA_EXCEEDED),
        (403, anthropic("permission_error"), Class.PERMISSION),
        (404, anthropic("not_found_error", "model: x"), Class.MODEL_NOT_FOUND),
        (409, anthropic("conflict_error"), Class.SERVER_ERROR),
        (413, anthropic("request_too_large"), Class.INVALID_REQUEST),
        (429, anthropic("rate_limit_error"), Class.RATE_LIMIT),
        (429, anthropic("rate_limit_error", "", "ramp_limit_exceeded"), Class.RATE_LIMIT),
        (429, anthropic("rate_limit_error", "", "enforced_spend_limit_reached"), Class.QUOTA_EXCEEDED),
        (429, anthropic("rate_limit_error", "", "contract_spend_limit_reached"), Class.QUOTA_EXCEEDED),
        (500, anthropic("api_error"), Class.SERVER_ERROR),
        (503, anthropic("api_error", "", "cmek_key_unreachable"), Class.SERVER_ERROR),
        (504, anthropic("timeout_error"), Class.TIMEOUT),
        (529, anthropic("overloaded_error"), Class.MODEL_OVERLOADED),
        (503, anthropic("x", "", "compaction_unavailable"), Class.MODEL_OVERLOADED),
    ],
)  # fmt: skip
def test_L05_anthropic(status: int, body: object, expected: Class) -> None:
    assert judge("anthropic", status, body).cls is expected


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (400, google(400, "INVALID_ARGUMENT", "The input token count (9) exceeds the maximum number of tokens allowed"),
         Class.CONTEXT_LENGTH),
        (400, google(400, "INVALID_ARGUMENT", "API key not valid.", reason("API_KEY_INVALID")), Class.AUTH),
        (400, google(400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key."), Class.AUTH),
        (400, google(400, "FAILED_PRECONDITION", "User location is not supported"), Class.PERMISSION),
        (400, google(400, "INVALID_ARGUMENT", "thought_signature missing"), Class.INVALID_REQUEST),
        (401, google(401, "UNAUTHENTICATED"), Class.AUTH),
        (403, google(403, "PERMISSION_DENIED", "", reason("SERVICE_DISABLED")), Class.PERMISSION),
        (404, google(404, "NOT_FOUND"), Class.MODEL_NOT_FOUND),
        (429, google(429, "RESOURCE_EXHAUSTED", "", quota("GenerateRequestsPerMinutePerProject")), Class.RATE_LIMIT),
        (429, google(429, "RESOURCE_EXHAUSTED", "", quota("PerMinute", "RequestsPerDay")), Class.QUOTA_EXCEEDED),
        (429, google(429, "RESOURCE_EXHAUSTED", "Resource exhausted."), Class.MODEL_OVERLOADED),
        (429, google(429, "RESOURCE_EXHAUSTED", "Spend-based limit, rolling window"), Class.RATE_LIMIT),
        (429, [google(429, "RESOURCE_EXHAUSTED", "", quota("PerMinute"))], Class.RATE_LIMIT),
        (499, google(499, "CANCELLED"), Class.TIMEOUT),
        (500, google(500, "INTERNAL"), Class.SERVER_ERROR),
        (503, google(503, "UNAVAILABLE", "The model is overloaded."), Class.MODEL_OVERLOADED),
        (429, google(429, "UNAVAILABLE", "", reason("MODEL_CAPACITY_EXHAUSTED")), Class.MODEL_OVERLOADED),
        (504, google(504, "DEADLINE_EXCEEDED"), Class.TIMEOUT),
    ],
)  # fmt: skip
def test_L05_gemini(status: int, body: object, expected: Class) -> None:
    assert judge("gemini", status, body).cls is expected


@pytest.mark.parametrize(
    ("status", "kind", "message", "expected"),
    [
        (429, "ThrottlingException", "Too many tokens, please wait before trying again.", Class.RATE_LIMIT),
        (429, "ThrottlingException", "Too many tokens per day, please wait", Class.QUOTA_EXCEEDED),
        (429, "TooManyRequestsException", "", Class.RATE_LIMIT),
        (400, "ServiceQuotaExceededException", "", Class.QUOTA_EXCEEDED),
        (429, "ModelNotReadyException", "", Class.MODEL_OVERLOADED),
        (408, "ModelTimeoutException", "", Class.TIMEOUT),
        (424, "ModelErrorException", "", Class.SERVER_ERROR),
        (424, "ModelStreamErrorException", "", Class.SERVER_ERROR),
        (500, "InternalServerException", "", Class.SERVER_ERROR),
        (503, "ServiceUnavailableException", "", Class.MODEL_OVERLOADED),
        (400, "ValidationException", "Input is too long for requested model.", Class.CONTEXT_LENGTH),
        (400, "ValidationException", "expected maxLength: 10, actual: 20", Class.CONTEXT_LENGTH),
        (400, "ValidationException", "The provided model identifier is invalid.", Class.MODEL_NOT_FOUND),
        (400, "ValidationException", "Invocation of model ID x with on-demand throughput isn’t supported.",
         Class.MODEL_NOT_FOUND),
        (400, "ValidationException", "A conversation must start with a user message.", Class.INVALID_REQUEST),
        (404, "ResourceNotFoundException", "", Class.MODEL_NOT_FOUND),
        (404, "FTUFormNotFilled", "", Class.PERMISSION),
        (403, "AccessDeniedException", "You don't have access to the model", Class.PERMISSION),
        (403, "AccessDeniedException", "The security token included in the request is expired", Class.AUTH),
        (403, "UnrecognizedClientException", "", Class.AUTH),
        (403, "InvalidSignatureException", "", Class.AUTH),
        (400, "IncompleteSignature", "", Class.AUTH),
        (403, "ExpiredTokenException", "", Class.AUTH),
    ],
)  # fmt: skip
@pytest.mark.parametrize("form", ["header", "header_uri", "body"])
def test_L05_bedrock_names_its_errors_in_a_header_or_in_the_body(
    status: int, kind: str, message: str, expected: Class, form: str
) -> None:
    body: dict[str, Any] = {"message": message}
    headers = {}
    if form == "header":
        headers["x-amzn-errortype"] = kind
    elif form == "header_uri":
        headers["x-amzn-errortype"] = f"{kind}:http://internal.amazon.com/coral/com.amazon.bedrock/"
    else:
        body = {"__type": f"com.amazon.bedrock#{kind}", "Message": message}
    outcome = judge("bedrock", status, body, headers)
    assert outcome.cls is expected
    assert outcome.code == kind


@pytest.mark.parametrize(
    ("original", "expected"),
    [(400, Class.INVALID_REQUEST), (429, Class.RATE_LIMIT), (500, Class.SERVER_ERROR)],
)
def test_bedrock_passes_on_the_status_of_the_model_behind_it(original: int, expected: Class) -> None:
    body = {"__type": "ModelErrorException", "message": "x", "originalStatusCode": original}
    assert judge("bedrock", 424, body).cls is expected


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (400, {"error": {"code": "content_filter", "message": "filtered"}}, Class.CONTENT_POLICY),
        (400, {"error": {"code": "BadRequest", "innererror": {"code": "ResponsibleAIPolicyViolation"}}},
         Class.CONTENT_POLICY),
        (401, {"error": {"code": "401", "message": "Access denied due to invalid subscription key"}}, Class.AUTH),
        (401, {"error": {"code": "PermissionDenied", "message": "Principal does not have access"}}, Class.AUTH),
        (403, {"error": {"code": "403", "message": "Access denied due to Virtual Network/Firewall rules."}},
         Class.PERMISSION),
        (404, {"error": {"code": "DeploymentNotFound", "message": "The API deployment does not exist."}},
         Class.MODEL_NOT_FOUND),
        (404, {"error": {"code": "404", "message": "Resource not found"}}, Class.MODEL_NOT_FOUND),
        (408, {"error": {"code": "Timeout", "message": "The operation was timeout."}}, Class.TIMEOUT),
        (424, {"error": {"code": "424", "message": "upstream failed"}}, Class.SERVER_ERROR),
        (429, {"error": {"code": "429", "message": "exceeded call rate limit"}}, Class.RATE_LIMIT),
        (429, {"error": {"code": "429", "message": "The system is experiencing high demand"}}, Class.MODEL_OVERLOADED),
        (503, {"error": {"code": "DeploymentNotReady", "message": ""}}, Class.MODEL_OVERLOADED),
    ],
)  # fmt: skip
def test_L05_azure(status: int, body: object, expected: Class) -> None:
    assert judge("azure", status, body).cls is expected


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (401, {"detail": "Unauthorized"}, Class.AUTH),
        (422, {"detail": [{"type": "missing", "loc": ["body"], "msg": "Field required", "input": {}}]},
         Class.INVALID_REQUEST),
        (404, {"error": "model 'x' not found"}, Class.MODEL_NOT_FOUND),
        (400, {"error": "You must provide a model"}, Class.INVALID_REQUEST),
        (400, {"object": "error", "message": "Invalid model: x", "type": "invalid_model", "code": "1500"},
         Class.MODEL_NOT_FOUND),
        (429, {"object": "error", "message": "Service tier capacity exceeded for this model.", "code": "3505"},
         Class.RATE_LIMIT),
        (402, {"error": {"message": "Insufficient Balance", "type": "unknown_error"}}, Class.QUOTA_EXCEEDED),
        (400, {"error": {"message": "Model Not Exist", "code": "invalid_request_error"}}, Class.MODEL_NOT_FOUND),
        (400, {"error": {"message": "x", "code": "tool_use_failed"}}, Class.SERVER_ERROR),
        (400, {"error": {"message": "x", "code": "json_validate_failed"}}, Class.SERVER_ERROR),
        (498, {"error": {"message": "over capacity"}}, Class.MODEL_OVERLOADED),
        (413, {"error": {"message": "Request too large", "type": "tokens", "code": "rate_limit_exceeded"}},
         Class.RATE_LIMIT),
        (200, {"error": {"code": 502, "message": "Provider returned error"}}, Class.SERVER_ERROR),
        (200, {"error": {"code": 429, "message": "Provider returned error"}}, Class.RATE_LIMIT),
        (200, b"\n\n\n   {\"error\":{\"code\":402,\"message\":\"Insufficient credits\"}}", Class.QUOTA_EXCEEDED),
        (403, {"error": {"code": 403, "message": "x requires moderation", "metadata": {"flagged_input": "…"}}},
         Class.CONTENT_POLICY),
        (404, {"error": {"code": 404, "message": "No endpoints found that support image input"}},
         Class.INVALID_REQUEST),
        (400, {"error": {"code": 400, "message": "the request exceeds the available context size"}},
         Class.CONTEXT_LENGTH),
        (500, {"error": {"code": 500, "message": "Context size has been exceeded.", "type": "server_error"}},
         Class.CONTEXT_LENGTH),
        (400, {"error": "`inputs` tokens + `max_new_tokens` must be <= 4096"}, Class.CONTEXT_LENGTH),
        (400, {"message": "Current length is 9000 while limit is 8192", "type": "x"}, Class.CONTEXT_LENGTH),
        (400, {"error": "input too long: 9000 input tokens, limit is 8192"}, Class.CONTEXT_LENGTH),
        (403, {"error": "please check the api-key you provided"}, Class.AUTH),
        (403, {"success": False, "errors": [{"code": 10001, "message": "Unable to authenticate request"}]}, Class.AUTH),
        (401, {"error": {"message": "Unauthorized", "type": "api_error"}}, Class.AUTH),
        (400, {"error": {"message": "the file used by the model at /x does not exist"}}, Class.INVALID_REQUEST),
    ],
)  # fmt: skip
def test_L05_the_many_servers_that_speak_openai(status: int, body: object, expected: Class) -> None:
    assert judge("openai", status, body).cls is expected


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (300, Class.SERVER_ERROR), (302, Class.SERVER_ERROR), (400, Class.INVALID_REQUEST), (401, Class.AUTH),
        (402, Class.QUOTA_EXCEEDED), (403, Class.PERMISSION), (404, Class.MODEL_NOT_FOUND), (408, Class.TIMEOUT),
        (409, Class.SERVER_ERROR), (413, Class.INVALID_REQUEST), (418, Class.INVALID_REQUEST),
        (422, Class.INVALID_REQUEST), (425, Class.TIMEOUT), (429, Class.RATE_LIMIT), (451, Class.INVALID_REQUEST),
        (499, Class.TIMEOUT), (500, Class.SERVER_ERROR), (501, Class.SERVER_ERROR), (502, Class.SERVER_ERROR),
        (503, Class.MODEL_OVERLOADED), (504, Class.TIMEOUT), (520, Class.SERVER_ERROR), (524, Class.TIMEOUT),
        (529, Class.MODEL_OVERLOADED), (599, Class.SERVER_ERROR), (999, Class.SERVER_ERROR), (200, Class.SERVER_ERROR),
    ],
)  # fmt: skip
@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"null", b"plain words", b"\xff\xfe\x00", b'{"a":'])
def test_L06_without_a_word_the_status_decides_and_is_kept(
    dialect: str, status: int, expected: Class, body: bytes
) -> None:
    outcome = judge(dialect, status, body)
    assert outcome.cls is expected
    assert outcome.status == status


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (200, Class.SERVER_ERROR), (301, Class.SERVER_ERROR), (400, Class.SERVER_ERROR), (401, Class.AUTH),
        (403, Class.SERVER_ERROR), (404, Class.SERVER_ERROR), (408, Class.TIMEOUT), (413, Class.INVALID_REQUEST),
        (429, Class.RATE_LIMIT), (502, Class.SERVER_ERROR), (503, Class.SERVER_ERROR), (504, Class.TIMEOUT),
        (522, Class.SERVER_ERROR), (524, Class.TIMEOUT),
    ],
)  # fmt: skip
def test_S19_a_page_of_html_is_the_edge_speaking(status: int, expected: Class) -> None:
    page = (
        b"\n<!DOCTYPE html>\n<html><head><title>api | 502:\n Bad gateway</title></head><body>rate limit</body></html>"
    )
    outcome = judge("openai", status, page)
    assert outcome.cls is expected
    assert outcome.message == "HTML page: api | 502: Bad gateway"


def test_S17_an_error_event_as_the_body_of_a_200() -> None:
    body = (
        b': ping\n\nevent: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}\n\n'
    )
    assert judge("anthropic", 200, body[8:]).cls is Class.MODEL_OVERLOADED
    assert judge("openai", 200, b'data: {"error":{"code":"rate_limit_exceeded"}}\n\n').cls is Class.RATE_LIMIT


@pytest.mark.parametrize(
    ("dialect", "error", "expected"),
    [
        ("anthropic", anthropic("overloaded_error"), Class.MODEL_OVERLOADED),
        ("anthropic", anthropic("api_error"), Class.SERVER_ERROR),
        ("anthropic", anthropic("rate_limit_error"), Class.RATE_LIMIT),
        ("anthropic", anthropic("timeout_error"), Class.TIMEOUT),
        ("openai", {"type": "response.failed", "response": {"status": "failed", "error": {"code": "server_error"}}},
         Class.SERVER_ERROR),
        ("openai", {"type": "error", "code": "rate_limit_exceeded", "message": "x"}, Class.RATE_LIMIT),
        ("openai", {"error": {"code": 400, "message": "Token limit reached"}}, Class.INVALID_REQUEST),
        ("openai", {"code": "invalid_parameter_error", "type": "invalid_request_error"}, Class.INVALID_REQUEST),
        ("openai", {"message": "x", "type": "invalid_request_error"}, Class.INVALID_REQUEST),
        ("openai", {"error": {"message": "x", "code": "tool_use_failed", "status_code": 400}}, Class.SERVER_ERROR),
        ("openai", {"error": {"message": "failed to decode"}}, Class.STREAM_INTERRUPTED),
        ("openai", {"error": "the model is overloaded, try later"}, Class.MODEL_OVERLOADED),
        ("openai", {}, Class.STREAM_INTERRUPTED),
        ("bedrock", {"__type": "throttlingException", "message": "slow"}, Class.RATE_LIMIT),
        ("bedrock", {"__type": "internalServerException"}, Class.SERVER_ERROR),
        ("bedrock", {"__type": "modelStreamErrorException"}, Class.SERVER_ERROR),
        ("bedrock", {"__type": "serviceUnavailableException"}, Class.MODEL_OVERLOADED),
        ("bedrock", {"__type": "validationException", "message": "bad"}, Class.INVALID_REQUEST),
        ("gemini", google(503, "UNAVAILABLE"), Class.MODEL_OVERLOADED),
    ],
)  # fmt: skip
def test_L07_errors_inside_a_stream_go_by_name(dialect: str, error: dict[str, Any], expected: Class) -> None:
    assert classify_error_object(dialect, 200, error).cls is expected


def test_an_unknown_error_in_a_stream_takes_the_class_the_caller_gives() -> None:
    assert classify_error_object("openai", 200, {"x": 1}, unknown=Class.SERVER_ERROR).cls is Class.SERVER_ERROR


def test_the_status_inside_a_200_is_reported() -> None:
    assert judge("openai", 200, {"error": {"code": 502, "message": "x"}}).status == 502
    assert judge("openai", 200, {"error": {"message": "x"}}).status == 200
    assert judge("openai", 404, {"error": {"code": 400, "message": "x"}}).status == 404


# --- waits ---------------------------------------------------------------------------------------------------------


def test_S23_the_told_wait_is_read_where_it_means_something() -> None:
    assert judge("openai", 429, b"", {"retry-after": "3", "retry-after-ms": "700"}).told_wait_s == pytest.approx(0.7)
    assert judge("openai", 503, b"", {"retry-after": "3"}).told_wait_s == 3.0
    assert judge("openai", 500, b"", {"retry-after": "3"}).told_wait_s is None
    assert judge("openai", 429, b"", {"retry-after": "soon"}).told_wait_s is None


def test_gemini_takes_the_greatest_of_header_details_and_message() -> None:
    body = google(429, "RESOURCE_EXHAUSTED", "Please retry in 38.92s.", quota("PerMinute"), retry_info("37s"))
    assert judge("gemini", 429, body).told_wait_s == pytest.approx(38.92)
    assert judge("gemini", 429, body, {"retry-after": "50"}).told_wait_s == 50.0
    body = google(429, "RESOURCE_EXHAUSTED", "", quota("PerMinute"), retry_info("3.957525076s"))
    assert judge("gemini", 429, body, {"retry-after": "1"}).told_wait_s == pytest.approx(3.957525076)


def test_a_quota_per_day_is_not_fooled_by_its_retry_delay() -> None:
    body = google(429, "RESOURCE_EXHAUSTED", "", quota("RequestsPerDayPerProjectPerModel"), retry_info("7s"))
    outcome = judge("gemini", 429, body)
    assert outcome.cls is Class.QUOTA_EXCEEDED
    assert outcome.told_wait_s is None
    assert not outcome.per_credential, "the quota is the model's: other models of the key still answer"


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("Please try again in 512ms. Visit https://x", 0.512),
        ("Please try again in 6m0s.", 360.0),
        ("Please retry after 3 seconds.", 3.0),
        ("Please try again in a while", None),
        ("try again in 99999999h", None),
    ],
)
def test_a_wait_in_the_message_is_the_last_resort(message: str, expected: float | None) -> None:
    assert judge("openai", 429, openai(message, "rate_limit_exceeded")).told_wait_s == (
        None if expected is None else pytest.approx(expected)
    )
    assert judge("openai", 429, openai(message, "rate_limit_exceeded"), {"retry-after": "1"}).told_wait_s == 1.0


def test_rate_limit_headers_quoted_in_a_body_are_read() -> None:
    quoted = {"X-RateLimit-Limit": "16", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1700000015000"}
    body = {"error": {"code": 429, "message": "Rate limit exceeded", "metadata": {"headers": quoted}}}
    assert judge("openai", 429, body).told_wait_s == pytest.approx(15.0)


@pytest.mark.parametrize(
    ("status", "message", "expected"),
    [
        (429, "Request too large for gpt-4o on tokens per min (TPM): Limit 30000, Requested 31538.", True),
        (429, "Rate limit reached on tokens per min (TPM): Limit 30000, Used 29000, Requested 1200.", False),
        (429, "Limit 6000, Requested 7000", True),
        (413, "Request too large", True),
        (429, "", False),
    ],
)
def test_a_request_larger_than_its_allowance_never_fits(status: int, message: str, expected: bool) -> None:
    assert judge("openai", status, openai(message, "rate_limit_exceeded", "tokens")).no_wait_helps is expected


def test_the_upstreams_word_on_retrying_is_kept() -> None:
    assert judge("openai", 429, b"", {"x-should-retry": "false"}).should_retry is False
    assert judge("openai", 429, b"", {"x-should-retry": " True "}).should_retry is True
    assert judge("openai", 429, b"", {"x-should-retry": "perhaps"}).should_retry is None
    assert judge("openai", 503, b"", {"grpc-retry-pushback-ms": "-1", "x-should-retry": "true"}).should_retry is False
    assert judge("openai", 503, b"", {"grpc-retry-pushback-ms": "250"}).told_wait_s == 0.25


def test_S25_what_belongs_to_the_credential() -> None:
    assert judge("openai", 401).per_credential
    assert judge("openai", 402).per_credential
    assert judge("openai", 429, openai("", "insufficient_quota")).per_credential
    assert not judge("openai", 429).per_credential
    assert not judge("openai", 403).per_credential
    assert judge("openai", 403, caller_key=True).per_credential


# --- what is shown -------------------------------------------------------------------------------------------------


def test_code_and_message_are_bounded_printable_and_without_keys() -> None:
    noisy = "bad\x00\n\tthing \x1b[31m" + "é" + "x" * 900
    outcome = judge("openai", 400, {"error": {"message": noisy, "code": "c\n\u00e9" + "o" * 300}})
    assert outcome.message.startswith("bad thing [31mé")
    assert len(outcome.message) == MESSAGE_MAX
    assert outcome.code == "c" + "o" * 61
    for key in ("sk-proj-abcdefghijk", "AIzaSyA1234567890abc", "AKIAABCDEFGH1234", "test-key***enai", "Bearer abcdef"):
        assert key not in judge("openai", 401, openai(f"Incorrect API key provided: {key}. Or {key}?")).message


def test_a_piece_of_an_answer_is_neither_shown_nor_searched() -> None:
    for body in (b"Dear user, the rate limit of my story", b'{"choices":[{"message":{"content":"rate limit'):
        outcome = judge("openai", 200, body)
        assert outcome.cls is Class.SERVER_ERROR
        assert outcome.message == "the answer is not JSON"


# --- hostile and recorded ------------------------------------------------------------------------------------------

TEXT = st.text(max_size=60) | st.sampled_from(
    [
        "error",
        "message",
        "code",
        "type",
        "status",
        "details",
        "retry in 5s",
        "rate limit",
        "Limit 1, Requested 2",
        "429",
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(
        st.sampled_from(
            ["error", "errors", "message", "code", "type", "status", "detail", "details", "@type", "violations",
             "metadata", "raw", "headers", "response", "innererror", "retryDelay", "quotaId", "originalStatusCode",
             "param", "__type"]
        ) | TEXT,
        inner,
        max_size=5,
    ),
    max_leaves=25,
)  # fmt: skip
HEADERS = st.dictionaries(
    st.sampled_from(
        ["retry-after", "retry-after-ms", "date", "x-should-retry", "x-amzn-errortype", "x-ratelimit-reset",
         "x-ratelimit-remaining", "grpc-retry-pushback-ms", "anthropic-ratelimit-tokens-reset"]
    ),
    TEXT,
    max_size=5,
)  # fmt: skip


def is_well_formed(outcome: Outcome) -> None:
    assert outcome.cls not in (Class.OK, Class.CANCELLED, Class.CIRCUIT_OPEN, Class.LOCAL_REJECT, Class.CONNECT_ERROR)
    assert len(outcome.message) <= MESSAGE_MAX
    assert outcome.message.isprintable()
    assert len(outcome.code) <= CODE_MAX
    assert all(" " <= c <= "~" for c in outcome.code)
    assert outcome.told_wait_s is None or 0.0 <= outcome.told_wait_s <= 86_400.0


@given(st.sampled_from(DIALECTS), st.integers(100, 999), st.binary(max_size=300), HEADERS)
def test_no_bytes_break_it(dialect: str, status: int, body: bytes, headers: dict[str, str]) -> None:
    is_well_formed(judge(dialect, status, body, headers))


@given(st.sampled_from(DIALECTS), st.integers(100, 999), JSON, HEADERS)
def test_no_json_breaks_it(dialect: str, status: int, body: object, headers: dict[str, str]) -> None:
    is_well_formed(judge(dialect, status, body, headers))
    if isinstance(body, dict):
        is_well_formed(classify_error_object(dialect, status, body))


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000, b'{"error":' * 50_000, b'{"error":' * 500 + b"1" + b"}" * 500, b'{"error":"' + b"*" * 200_000,
        b'{"error":{"message":"' + b"sk-" * 5_000 + b'"}}', b"<html>" + b"<title>" * 5_000, b'{"error":"\\ud800"}',
        b'{"error":{"code":' + b"9" * 4_000 + b"}}", b"data: {" * 20_000, b"{" + b'"message":"' + b"a " * 600_000,
        b'{"error":{"message":"model ' + b"model " * 3_000 + b'"}}', b'{"error":"' + b"limit 1 " * 20_000 + b'"}',
    ],
    ids=range(12),
)  # fmt: skip
def test_hostile_bodies_are_judged(body: bytes) -> None:
    for status in (200, 400, 429, 500):
        is_well_formed(judge("openai", status, body))


SHAPES = {
    "openai-429-tpm": (Class.RATE_LIMIT, 0.512, False),
    "openai-429-too-large": (Class.RATE_LIMIT, None, True),
    "openai-429-insufficient-quota": (Class.QUOTA_EXCEEDED, None, False),
    "openai-500": (Class.SERVER_ERROR, None, False),
    "openai-502-html": (Class.SERVER_ERROR, None, False),
    "azure-429-short": (Class.RATE_LIMIT, 3.0, False),
    "azure-400-content-filter": (Class.CONTENT_POLICY, None, False),
    "anthropic-529": (Class.MODEL_OVERLOADED, None, False),
    "anthropic-429": (Class.RATE_LIMIT, 1.0, False),
    "anthropic-midstream-overloaded": (Class.MODEL_OVERLOADED, None, False),
    "gemini-503": (Class.MODEL_OVERLOADED, None, False),
    "gemini-429-retryinfo": (Class.RATE_LIMIT, 38.922534355, False),
    "bedrock-429-throttling": (Class.RATE_LIMIT, None, False),
}


def test_reported_error_shapes() -> None:
    seen = {}
    for row in data.rows("error_shapes/reported_error_shapes.jsonl"):
        body = row["body"].encode() if isinstance(row["body"], str) else row["body"]
        outcome = judge(row["provider"], row["status"], body, row["headers"])
        seen[row["id"]] = (outcome.cls, outcome.told_wait_s, outcome.no_wait_helps)
    assert seen == SHAPES


def dialect_of(row: dict[str, Any]) -> str:
    family = row["api"].split(".")[0]
    return family if family in DIALECTS else "azure" if row["provider"] == "azure" else "openai"


NARROW = {
    Class.AUTH: {400, 401, 403},
    Class.QUOTA_EXCEEDED: {402},
    Class.PERMISSION: {403},
    Class.MODEL_NOT_FOUND: {400, 404},
    Class.RATE_LIMIT: {429},
    Class.MODEL_OVERLOADED: {429},
    Class.CONTEXT_LENGTH: {400, 500},
    Class.INVALID_REQUEST: {400, 404, 422},
    Class.SERVER_ERROR: {400, 500, 502},
}
"""Statuses each class was recorded with; anything else is a surprise worth a look."""


def test_recorded_errors_fall_into_the_classes_their_statuses_allow() -> None:
    judged = 0
    for path in sorted(data.need("exchanges").glob("*.jsonl.gz")):
        for row in data.rows(f"exchanges/{path.name}"):
            response = row["response"]
            if response["status"] < 400:
                continue
            outcome = judge(dialect_of(row), response["status"], data.body(response), response["headers"])
            is_well_formed(outcome)
            assert response["status"] in NARROW[outcome.cls], (row["id"], outcome)
            assert outcome.status == response["status"]
            if response["status"] == 401:
                assert outcome.cls is Class.AUTH, row["id"]
            judged += 1
    assert judged > 500


def test_recorded_errors_inside_a_200_are_errors() -> None:
    found = {}
    for row in data.rows("exchanges/openrouter__openai.chat.jsonl.gz"):
        if "error_in_200" in row["flags"]:
            response = row["response"]
            found[row["id"]] = judge("openai", 200, data.body(response), response["headers"]).cls
    assert found == {
        "0018c1e717c02c": Class.INVALID_REQUEST,
        "4d07f859e9f860": Class.INVALID_REQUEST,
        "e84f6342816092": Class.SERVER_ERROR,
        "bd16934d596f52": Class.SERVER_ERROR,
    }
