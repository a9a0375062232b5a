"""The provider's keys of translation: what it speaks, what is known of its models, where its credential comes from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from proxy.config import apis
from proxy.config.compiled import MEMO_MAX, Config, Model, Provider
from proxy.config.load import load_text, render_effective
from proxy.engine.plan import Endpoint, Price


def loaded(text: str, env: dict[str, str] | None = None) -> Config:
    found = load_text(text, "f.yaml", env or {})
    assert found.errors == ()
    assert found.config is not None
    return found.config


def one(body: str, env: dict[str, str] | None = None) -> Provider:
    """The only provider `p`, given as a flow mapping without its braces."""
    return loaded(f"providers: {{p: {{{body}}}}}", env).providers["p"]


def errors(body: str) -> list[str]:
    return [
        str(error).split(": ", 1)[1].replace("providers.p.", "")
        for error in load_text(f"providers: {{p: {{{body}}}}}", "f.yaml", {}).errors
    ]


def warned(body: str, env: dict[str, str] | None = None) -> list[str]:
    found = load_text(f"providers: {{p: {{{body}}}}}", "f.yaml", env or {})
    assert found.errors == ()
    return [str(problem).split(": ", 1)[1].replace("providers.p.", "") for problem in found.warnings]


# What it speaks -------------------------------------------------------------------------------------------------------

OPEN = ("chat", "responses", "embeddings")
SPEAKS = [
    ("dialect: openai, base_url: https://api.openai.com/v1, api_key: k", "openai", OPEN),
    ("dialect: azure, base_url: https://acme.openai.azure.com, api_key: k", "azure", OPEN),
    ("dialect: openai, base_url: https://gateway.example/v1, api_key: k", "", OPEN),
    ("dialect: openai, base_url: https://gateway.example/v1, api_key: k, vendor: mistral", "mistral", OPEN[::2]),
    ("dialect: openai, base_url: https://api.deepinfra.com/v1/openai, api_key: k", "deepinfra", OPEN[::2]),
    ("dialect: openai, base_url: https://api.groq.com/openai/v1, api_key: k", "groq", OPEN),
    ("dialect: openai, base_url: https://openrouter.ai/api/v1, api_key: k", "openrouter", OPEN),
    ("dialect: anthropic, api_key: k", "anthropic", ("messages",)),
    ("dialect: gemini, api_key: k", "gemini", ("generate",)),
    (
        "dialect: gemini, base_url: https://gateway.example/v1/projects/p/locations/eu, identity: gcp_metadata",
        "vertex",
        ("generate",),
    ),
    (
        "dialect: anthropic, base_url: https://europe-west1-aiplatform.googleapis.com/v1/projects/p/locations/europe-west1,"
        " identity: gcp_metadata",
        "vertex",
        ("messages",),
    ),
    ("dialect: bedrock, region: eu-west-1", "", ("converse",)),
    ("dialect: bedrock, base_url: https://bedrock-mantle.us-east-1.api.aws/anthropic", "mantle", ("messages",)),
    ("dialect: bedrock, base_url: https://bedrock-mantle.us-east-1.api.aws/openai/v1", "mantle", ("chat", "responses")),
    ("dialect: bedrock, base_url: https://bedrock-runtime.us-east-1.amazonaws.com/openai/v1", "", ("chat",)),
    ("dialect: bedrock, region: eu-west-1, apis: [invoke, converse, invoke]", "", ("invoke", "converse")),
]


@pytest.mark.parametrize(("body", "vendor", "spoken"), SPEAKS)
def test_what_a_provider_speaks_by_itself(body: str, vendor: str, spoken: tuple[str, ...]) -> None:
    provider = one(body)
    assert (provider.vendor, provider.apis) == (vendor, spoken)


def test_a_model_may_have_one_api_of_its_own() -> None:
    provider = one("dialect: bedrock, region: eu-west-1, models: {claude: {name: c, api: invoke}, llama: l}")
    claude, llama = provider.models
    assert apis.choose(Endpoint.MESSAGES, provider, claude) == ("invoke", True)
    assert apis.choose(Endpoint.MESSAGES, provider, llama) == ("converse", True)
    openai = one("dialect: openai, base_url: https://h/v1, api_key: k, models: {o: {name: o3-pro, api: responses}}")
    assert apis.choose(Endpoint.CHAT, openai, openai.models[0]) == ("responses", True)
    assert apis.choose(Endpoint.RESPONSES, openai, openai.models[0]) == ("responses", False)


def test_a_provider_can_take_what_one_of_its_models_can() -> None:
    body = "dialect: openai, base_url: https://h/v1, api_key: k, apis: [embeddings]"
    assert not apis.can_take(Endpoint.CHAT, one(body))
    assert apis.can_take(Endpoint.CHAT, one(f"{body}, models: {{a: {{api: responses}}, b: b}}"))


def test_a_provider_made_without_a_file_speaks_by_its_dialect() -> None:
    provider = Provider(name="p", dialect="anthropic", base_url="https://h", api_key=None)
    assert apis.choose(Endpoint.MESSAGES, provider, apis.ANY_MODEL) == ("messages", False)


BAD: list[tuple[str, list[str]]] = [
    (
        "dialect: anthropic, api_key: k, apis: [chat]",
        ['apis.0: is not spoken by dialect anthropic, which has messages, got "chat"'],
    ),
    (
        "dialect: gemini, api_key: k, models: {a: {api: converse}}",
        ['models.a.api: is not spoken by dialect gemini, which has generate, got "converse"'],
    ),
    ("dialect: gemini, api_key: k, apis: []", ["apis: must have at least 1 entry"]),
    (
        "dialect: gemini, api_key: k, apis: [generat]",
        [
            "apis.0: must be one of chat, responses, embeddings, messages, converse, invoke or generate,"
            ' got "generat"; did you mean "generate"?'
        ],
    ),
    (
        "dialect: gemini, api_key: k, vendor: Vertex",
        ["vendor: must be a word of lower-case letters, digits, '-' and '_', got \"Vertex\""],
    ),
    ("dialect: gemini, identity: aws", ['identity: is of no use for dialect gemini, got "aws"']),
    (
        "dialect: azure, base_url: https://h, identity: gcp_metadata",
        ['identity: is of no use for dialect azure, got "gcp_metadata"'],
    ),
    (
        "dialect: bedrock, region: r, aws: {access_key_id: a}",
        ["aws.secret_access_key: is required: a key and its secret go together"],
    ),
    (
        "dialect: bedrock, region: r, aws: {secret_access_key: hunter2}",
        ["aws.access_key_id: is required: a key and its secret go together"],
    ),
    (
        "dialect: bedrock, region: r, aws: {session_token: hunter2}",
        ["aws.session_token: needs access_key_id and secret_access_key"],
    ),
    (
        "dialect: bedrock, region: r, api_key: k, aws: {access_key_id: a, secret_access_key: hunter2}",
        ["aws.access_key_id: is another credential than api_key; state one of them"],
    ),
    (
        "dialect: bedrock, region: r, identity: aws, aws: {access_key_id: a, secret_access_key: hunter2}",
        ["identity: is another credential than aws.access_key_id; state one of them"],
    ),
    (
        "dialect: bedrock, base_url: https://gateway.example, aws: {access_key_id: a, secret_access_key: hunter2}",
        ["aws.region: is required: neither region nor the host of base_url tells it"],
    ),
    (
        "dialect: gemini, api_key: k, safety_settings: [{category: HARM_CATEGORY_HARASSMENT}]",
        ["safety_settings.0.threshold: is required"],
    ),
    (
        "dialect: anthropic, api_key: k, anthropic_version: latest",
        [
            "anthropic_version: must be a date such as 2023-06-01, or a platform's such as vertex-2023-10-16,"
            ' got "latest"'
        ],
    ),
    (
        "dialect: gemini, api_key: k, models: {a: {capabilities: {visoin: true}}}",
        ['models.a.capabilities.visoin: unknown key; did you mean "vision"?'],
    ),
    (
        "dialect: gemini, api_key: k, models: {a: {capabilities: {vision: yes, reasoning: hard, efforts: [huge]}}}",
        [
            'models.a.capabilities.vision: must be true or false, got "yes" (write true)',
            "models.a.capabilities.reasoning: must be one of none, effort, budget, adaptive, level or always,"
            ' got "hard"',
            "models.a.capabilities.efforts.0: must be one of none, minimal, low, medium, high, xhigh or max,"
            ' got "huge"',
        ],
    ),
]


@pytest.mark.parametrize(("body", "expected"), BAD)
def test_what_can_never_work_is_an_error(body: str, expected: list[str]) -> None:
    assert errors(body) == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("dialect: bedrock, region: eu-west-1, credentials: caller, identity: aws",
         ["identity: is never used with credentials: caller"]),
        ("dialect: anthropic, api_key: k, safety_settings: [{category: A, threshold: OFF}]",
         ["safety_settings: is of use for dialect gemini only"]),
        ("dialect: gemini, api_key: k, anthropic_betas: []",
         ["anthropic_betas: is of use for Anthropic's API only"]),
        ("dialect: bedrock, region: r, api_key: k, aws: {role_arn: x}",
         ["aws.role_arn: is used with identity: aws only"]),
        ("dialect: bedrock, region: eu-west-1, aws: {role_arn: x, web_identity_token_file: /t}", []),
    ],
)  # fmt: skip
def test_what_has_no_use_is_a_warning(body: str, expected: list[str]) -> None:
    assert warned(body) == expected


# Its credential -------------------------------------------------------------------------------------------------------


def test_bedrock_takes_a_key_or_aws_keys_or_the_pods_identity() -> None:
    bare = one("dialect: bedrock, region: eu-west-1")
    assert (bare.identity, bare.disabled, bare.aws.region, bare.aws.service) == ("aws", "", "eu-west-1", "bedrock")
    keyed = one("dialect: bedrock, region: eu-west-1, api_key: k")
    assert (keyed.identity, keyed.aws.region, keyed.aws.has_keys) == ("", "", False)
    signed = one(
        "dialect: bedrock, base_url: https://bedrock-mantle.us-east-2.api.aws/anthropic, region: somewhere,"
        ' aws: {access_key_id: "${A}", secret_access_key: "${S}", session_token: "${T}"}',
        {"A": "AKIA", "S": "hunter2"},
    )
    aws = signed.aws
    assert (signed.identity, signed.disabled, aws.region, aws.service) == ("", "", "us-east-2", "bedrock-mantle")
    assert aws.access_key_id is not None
    assert aws.secret_access_key is not None
    assert (aws.access_key_id.read(), aws.secret_access_key.read(), aws.session_token) == ("AKIA", "hunter2", None)
    local = one("dialect: bedrock, base_url: http://127.0.0.1:1")
    assert (local.identity, local.aws.region) == ("", "")
    assert one("dialect: bedrock, region: r, credentials: caller").identity == ""
    stated = one("dialect: bedrock, region: eu-west-1, aws: {region: eu-north-1, service: other}")
    assert (stated.aws.region, stated.aws.service) == ("eu-north-1", "other")


def test_claude_on_aws_is_signed_for_its_own_service() -> None:
    found = one("dialect: anthropic, base_url: https://claude.example, identity: aws, region: us-east-1")
    assert (found.identity, found.aws.region, found.aws.service) == ("aws", "us-east-1", "aws-external-anthropic")


def test_a_provider_with_an_identity_needs_no_key() -> None:
    assert one("dialect: azure, base_url: https://acme.openai.azure.com, identity: azure_workload").api_key is None
    assert errors("dialect: azure, base_url: https://acme.openai.azure.com") == [
        "api_key: is required: write ${NAME}, {file: /path}, or credentials: caller"
    ]


def test_missing_aws_keys_disable_their_provider_with_a_warning() -> None:
    body = 'dialect: bedrock, region: r, aws: {access_key_id: "${A}", secret_access_key: "${S}"}'
    assert warned(body, {"A": "x"}) == ["aws.secret_access_key: no key: ${S} is not set; the provider is disabled"]
    assert one(body, {"A": "x"}).disabled == "no key: ${S} is not set"
    assert one(body, {"A": "x", "S": "y"}).disabled == ""


def test_no_aws_secret_is_ever_shown(tmp_path: Path) -> None:
    token = tmp_path / "t"
    token.write_text("hunter2-file")
    config = loaded(
        "providers: {p: {dialect: bedrock, region: r, aws: {access_key_id: hunter2-a,"
        f' secret_access_key: "${{S}}", session_token: {{file: {token}}}}}}}}}',
        {"S": "hunter2-s"},
    )
    provider = config.providers["p"]
    assert provider.aws.session_token is not None
    assert provider.aws.session_token.read() == "hunter2-file"
    shown = json.dumps(render_effective(config))
    assert "hunter2" not in shown + repr(config) + str(config.warnings)
    assert render_effective(config)["config"]["providers"]["p"]["aws"] == {
        "access_key_id": "(literal)",
        "secret_access_key": "${S}",
        "session_token": f"file:{token}",
        "region": "",
        "service": "",
        "role_arn": "",
        "web_identity_token_file": "",
    }
    bad = load_text("providers: {p: {dialect: bedrock, region: r, aws: {access_key_id: hunter2 x}}}", "f", {})
    assert bad.errors
    assert "hunter2" not in str([str(error) for error in bad.errors])


def test_digits_are_a_key_too() -> None:
    found = one("dialect: bedrock, region: r, aws: {access_key_id: 0012, secret_access_key: 34}")
    assert found.aws.access_key_id is not None
    assert found.aws.access_key_id.read() == "0012"


# What is known of its models ------------------------------------------------------------------------------------------


def test_capabilities_are_the_facts_that_win() -> None:
    provider = one(
        "dialect: anthropic, api_key: k, models: {a: {name: claude-sonnet-4-5, max_output_tokens: 99,"
        " capabilities: {prefill: false, efforts: [low, high], reasoning: adaptive, default_max_tokens: 7}}}"
    )
    entry = provider.models[0]
    facts = provider.facts_for(entry, "claude-sonnet-4-5")
    assert (facts.prefill, facts.efforts, facts.reasoning) == (False, frozenset({"low", "high"}), "adaptive")
    assert (facts.default_max_tokens, facts.max_output_tokens, facts.family) == (7, 99, "claude")
    assert provider.facts_for(entry, "claude-sonnet-4-5") is facts


def test_facts_are_remembered_for_the_entry_they_were_made_of_and_not_without_end() -> None:
    provider = one(
        'dialect: openai, base_url: https://h/v1, api_key: k, models: {"*": {capabilities: {vision: false}}}'
    )
    assert provider.facts_for(provider.models[0], "x").vision is False
    assert provider.facts_for(apis.ANY_MODEL, "x").vision is None
    for number in range(MEMO_MAX + 5):
        provider.facts_for(apis.ANY_MODEL, f"m{number}")
    assert len(provider.memo) <= MEMO_MAX


def test_anthropics_second_version_takes_no_sampling_at_all() -> None:
    entry = Model(asked="*", name="")
    old = one("dialect: anthropic, api_key: k, anthropic_version: 2023-06-01, anthropic_betas: [a-1, b]")
    new = one("dialect: anthropic, api_key: k, anthropic_version: 2026-10-21")
    facts = old.facts_for(entry, "claude-haiku-4-5"), new.facts_for(entry, "claude-haiku-4-5")
    assert [(each.sampling, each.api_version) for each in facts] == [(True, "2023-06-01"), (False, "2026-10-21")]
    assert (old.anthropic_betas, new.anthropic_betas) == (("a-1", "b"), None)


def test_safety_settings_are_among_the_facts() -> None:
    provider = one("dialect: gemini, api_key: k, safety_settings: [{category: HARM_X, threshold: BLOCK_NONE}]")
    facts = provider.facts_for(apis.ANY_MODEL, "gemini-2.5-flash")
    assert facts.safety_settings == ({"category": "HARM_X", "threshold": "BLOCK_NONE"},)


# The external file ----------------------------------------------------------------------------------------------------

LIST: dict[str, Any] = {
    "sample_spec": {"max_tokens": "set to max output tokens"},
    "gpt-4o": {"max_input_tokens": 128_000, "max_output_tokens": 16_384, "input_cost_per_token": 2.5e-06,
               "output_cost_per_token": 1e-05, "supports_vision": True, "unused": "x"},
    "azure/gpt-4o": {"max_input_tokens": 1000, "supports_vision": False},
}  # fmt: skip


def listed(tmp_path: Path, providers: str) -> Config:
    path = tmp_path / "models.json"
    path.write_text(json.dumps(LIST))
    return loaded(f"model_data: {{path: {path}}}\nproviders: {providers}")


def test_the_external_file_fills_in_what_is_not_stated(tmp_path: Path) -> None:
    config = listed(
        tmp_path,
        "{openai: {api_key: k, models: {big: {name: gpt-4o, context_window: 5}, gpt-4o: passthrough, other: o,"
        ' "*": passthrough}}}',
    )
    provider = config.providers["openai"]
    big, plain, other, rest = provider.models
    assert (big.max_output_tokens, big.context_window, big.price) == (16_384, 5, Price(input=2.5, output=10.0))
    assert (plain.max_output_tokens, plain.context_window) == (16_384, 128_000)
    assert (other.max_output_tokens, other.price) == (None, None)
    assert (rest.context_window, provider.completed(rest, "gpt-4o").context_window) == (None, 128_000)
    assert provider.completed(rest, "unheard-of") is rest
    assert "unused" not in provider.external["gpt-4o"]
    assert "sample_spec" not in provider.external


def test_the_platforms_entry_beats_the_plain_one_and_what_is_stated_beats_both(tmp_path: Path) -> None:
    config = listed(
        tmp_path,
        "{azure: {base_url: https://a.example, api_key: k, models: {a: gpt-4o,"
        " b: {name: gpt-4o, capabilities: {vision: true}, price: {input: 1, output: 2}}}}}",
    )
    provider = config.providers["azure"]
    a, b = provider.models
    assert (a.context_window, a.price, provider.facts_for(a, "gpt-4o").vision) == (1000, None, False)
    assert (b.price, provider.facts_for(b, "gpt-4o").vision) == (Price(input=1.0, output=2.0), True)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (None, "is no readable file"),
        ("{", "is a file that holds no JSON"),
        ("[]", "is a file whose JSON is no object of models"),
        ('{"a": 1}', 'is a file whose entry "a" is no object'),
    ],
)
def test_a_bad_external_file_is_an_error_with_its_path(tmp_path: Path, content: str | None, fault: str) -> None:
    path = tmp_path / "m.json"
    if content is not None:
        path.write_text(content)
    found = load_text(f"providers: {{openai: {{api_key: k}}}}\nmodel_data: {{path: {path}}}", "f.yaml", {})
    assert len(found.errors) == 1
    assert str(found.errors[0]).startswith(f"f.yaml:2:14: model_data.path: {fault}, got ")


def test_without_a_file_nothing_is_known_from_outside() -> None:
    provider = one("dialect: openai, base_url: https://h/v1, api_key: k")
    assert provider.external == {}
    assert provider.external_entry("gpt-4o") is None
