"""The ``providers`` section: vendor accounts, their models and where their credentials come from."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from proxy.config.schema_breaker import Machine
from proxy.config.section import Section
from proxy.config.section import key as _key
from proxy.config.section import section as _section
from proxy.config.validate import (
    API,
    ASKED,
    BETA,
    CALLED,
    CATEGORY,
    DIALECTS,
    EFFORT,
    FLAG,
    IDENTITIES,
    LINE,
    PLATFORM_VERSION,
    REASONINGS,
    REGION,
    SECRET,
    TOKENS,
    URL,
    VENDOR,
    VERSION,
    number,
    whole,
    word,
)


class Price(Section):
    input: Annotated[float, number(0, 1e6, " USD")] = Field(description="USD per million prompt tokens.")
    output: Annotated[float, number(0, 1e6, " USD")] = Field(description="USD per million output tokens.")


class Capabilities(Section):
    """What the operator knows of a model; whatever is left out is looked up."""

    vision: Annotated[bool | None, FLAG] = _key(None, "Takes images.")
    documents: Annotated[bool | None, FLAG] = _key(None, "Takes PDFs.")
    audio: Annotated[bool | None, FLAG] = _key(None, "Takes audio.")
    video: Annotated[bool | None, FLAG] = _key(None, "Takes video.")
    url_images: Annotated[bool | None, FLAG] = _key(None, "Fetches images by URL itself.")
    tools: Annotated[bool | None, FLAG] = _key(None, "Calls tools.")
    parallel_tools: Annotated[bool | None, FLAG] = _key(None, "Takes parallel_tool_calls.")
    forced_tools: Annotated[bool | None, FLAG] = _key(None, "Lets a tool call be demanded.")
    structured: Annotated[bool | None, FLAG] = _key(None, "Answers by a JSON Schema natively.")
    sampling: Annotated[bool | None, FLAG] = _key(None, "False: refuses temperature, top_p and top_k.")
    both_sampling: Annotated[bool | None, FLAG] = _key(None, "False: takes temperature or top_p, not both.")
    prefill: Annotated[bool | None, FLAG] = _key(None, "Goes on with an assistant turn at the end.")
    stop: Annotated[bool | None, FLAG] = _key(None, "Takes stop sequences.")
    mid_system: Annotated[bool | None, FLAG] = _key(None, "Takes system messages in mid-conversation (Anthropic).")
    reasoning: Annotated[str | None, word(*REASONINGS)] = _key(None, "How reasoning is asked for.")
    efforts: Annotated[list[Annotated[str, EFFORT]], Field(max_length=8)] | None = _key(
        None, "Values of effort that are accepted."
    )
    completion_limit_name: Annotated[str | None, word("max_tokens", "max_completion_tokens")] = _key(
        None, "Name of the output limit in OpenAI's dialect."
    )
    default_max_tokens: Annotated[int | None, TOKENS] = _key(
        None, "Output limit where the dialect demands one and the caller stated none."
    )


class ModelEntry(Section):
    name: Annotated[str, CALLED] = _key("", "Name the provider is called with; passthrough, or left out: as asked.")
    deployment: Annotated[str, CALLED] = _key("", "Azure deployment.")
    tier: Annotated[str, word("standard", "economy")] = _key(
        "standard", "economy marks the smaller model that may answer in degraded mode."
    )
    quality: Annotated[float, number(0, 10)] = _key(10.0, "Quality score reported when the answer is degraded.")
    max_output_tokens: Annotated[int | None, TOKENS] = _key(None, "Longest output; none: as model_data tells.")
    context_window: Annotated[int | None, TOKENS] = _key(None, "Prompt and output together; none: as model_data tells.")
    price: Price | None = _key(
        None, "None: as model_data tells; where it does not, a hedge with a cost limit is not sent."
    )
    api: Annotated[str | None, API] = _key(None, "The one API that this model speaks; none: the provider's apis.")
    capabilities: Capabilities = _section(Capabilities, "Over model_data and the built-in table.")

    @model_validator(mode="before")
    @classmethod
    def _name_alone(cls, data: object) -> object:
        return {"name": data} if isinstance(data, str) else data

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> dict[str, Any]:
        return {"anyOf": [{"type": "string", "minLength": 1, "maxLength": 256}, handler(schema)]}


class Aws(Section):
    """Signing with AWS keys instead of an API key."""

    access_key_id: Annotated[Any, SECRET] = _key(None, "Access key; goes with secret_access_key.")
    secret_access_key: Annotated[Any, SECRET] = _key(None, "Its secret.")
    session_token: Annotated[Any, SECRET] = _key(None, "Of temporary keys; a variable that is not set means none.")
    region: Annotated[str, REGION] = _key("", "Region that is signed for; default: the host's, else the provider's.")
    service: Annotated[str, REGION] = _key("", "Service that is signed for; default: told by the host.")
    role_arn: Annotated[str, LINE] = _key("", "Role of identity aws; default: the variable AWS_ROLE_ARN.")
    web_identity_token_file: Annotated[str, LINE] = _key(
        "", "Token of identity aws; default: the variable AWS_WEB_IDENTITY_TOKEN_FILE."
    )


class SafetySetting(Section):
    category: Annotated[str, CATEGORY] = Field(description="Gemini's HARM_CATEGORY_...")
    threshold: Annotated[str, CATEGORY] = Field(description="BLOCK_NONE, BLOCK_ONLY_HIGH, OFF ...")


class Provider(Section):
    dialect: Annotated[str | None, word(*DIALECTS)] = _key(
        None, "Wire language; default: the provider's own name where that is one of the five."
    )
    base_url: Annotated[str | None, URL] = _key(
        None, "Default: the vendor's address for anthropic, gemini, bedrock (from region) and a provider named openai."
    )
    api_key: Annotated[Any, SECRET] = _key(None, "Credential; none for a loopback base_url means none is sent.")
    credentials: Annotated[str, word("sidecar", "caller", "caller_or_sidecar")] = _key(
        "sidecar", "Whose key is used: the sidecar's, the caller's own, or the caller's if it sends one."
    )
    region: Annotated[str, LINE] = _key("", "Region, told in X-Served-Region.")
    max_concurrency: Annotated[int, whole(1, 100_000)] = _key(1024, "Calls in flight at the same time.")
    api_version: Annotated[str | None, VERSION] = _key(
        None, "Azure: v1 (default), or a dated version with deployments."
    )
    vendor: Annotated[str, VENDOR] = _key("", "Whose quirks the address has; default: told by the host.")
    apis: Annotated[list[Annotated[str, API]], Field(min_length=1, max_length=7)] | None = _key(
        None, "APIs that the provider speaks itself; default: by dialect and vendor."
    )
    identity: Annotated[str | None, word(*IDENTITIES)] = _key(
        None, "Fetch the credential from the platform; default: aws for bedrock without keys, else none."
    )
    aws: Aws = _section(Aws, "Keys to sign calls with, and where identity aws looks.")
    anthropic_version: Annotated[str, PLATFORM_VERSION] = _key("", "Default: the caller's, else 2023-06-01.")
    anthropic_betas: (
        Annotated[list[Annotated[str, BETA]], Field(max_length=64), BeforeValidator(lambda v: [] if v is None else v)]
        | None
    ) = _key(None, "Values of anthropic-beta that are let through; default: all.")
    safety_settings: Annotated[list[SafetySetting], Field(max_length=16)] = _key([], "Sent with Gemini's requests.")
    traceparent: Annotated[bool, FLAG] = _key(False, "Send the W3C trace context with calls; off: none is sent.")
    models: dict[Annotated[str, ASKED], ModelEntry] | None = _key(
        None, 'Asked name: called name or a mapping. Default: {"*": passthrough}.'
    )
    circuit_breaker: Machine = _section(Machine, "Over the policy's circuit_breaker for this provider's targets.")
    tls_verify: Annotated[bool, FLAG] = _key(True, "Check the server's certificate.")
    ca_file: Annotated[str, LINE] = _key("", "PEM file of further authorities.")
