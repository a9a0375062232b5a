from __future__ import annotations

import hashlib

import pytest

from proxy.dialects.sigv4 import Credentials, Scope, canonical_request, scope_of, sign

HOST = "bedrock-runtime.us-east-1.amazonaws.com"
PATH = "/model/us.anthropic.claude-haiku-4-5-20251001-v1%3A0/converse-stream"
BODY = b'{"messages":[{"role":"user","content":[{"text":"hi"}]}]}'
HEADERS = [("Content-Type", "application/json"), ("Accept", "application/vnd.amazon.eventstream")]
DATE = "20260115T123045Z"
WHO = Credentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "TOKENEXAMPLE")


def test_vector() -> None:
    """`providers.md` 9.1, every stage."""
    assert hashlib.sha256(BODY).hexdigest() == "c3335e07d6e89650bf94cb98664be69f8774dbc3198df221f113db0a59ea14f0"
    added = [("x-amz-date", DATE), ("x-amz-security-token", "TOKENEXAMPLE")]
    canonical, signed = canonical_request("POST", HOST, PATH, "", HEADERS + added, BODY)
    assert canonical.splitlines()[1] == "/model/us.anthropic.claude-haiku-4-5-20251001-v1%253A0/converse-stream"
    assert signed == "accept;content-type;host;x-amz-date;x-amz-security-token"
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    assert digest == "ace0bb1627b727c528912011fe8ffe27b33510af2fee44d27b4fb2df7fb684fe"
    assert sign("POST", HOST, PATH, "", HEADERS, BODY, WHO, "us-east-1", "bedrock", DATE) == [
        *added,
        (
            "Authorization",
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20260115/us-east-1/bedrock/aws4_request, "
            "SignedHeaders=accept;content-type;host;x-amz-date;x-amz-security-token, "
            "Signature=fe7f6f3113c09e335adc94fdce8a0269d0b36a86a24820995563bb4891862267",
        ),
    ]


def test_a_permanent_key_has_no_token() -> None:
    out = sign("POST", HOST, PATH, "", HEADERS, BODY, Credentials("A", "S"), "us-east-1", "bedrock", DATE)
    assert [name for name, _ in out] == ["x-amz-date", "Authorization"]
    assert "SignedHeaders=accept;content-type;host;x-amz-date," in out[1][1]


@pytest.mark.parametrize(
    ("wire", "canonical"),
    [
        ("/model/a:0/converse", "/model/a%3A0/converse"),
        ("/model/a%3A0/converse", "/model/a%253A0/converse"),
        ("/model/arn%3Aaws%3Ab%2Fc/invoke", "/model/arn%253Aaws%253Ab%252Fc/invoke"),
        ("/a-b_c.d~e/ f", "/a-b_c.d~e/%20f"),
        ("", "/"),
    ],
)
def test_the_path_is_encoded_once_more(wire: str, canonical: str) -> None:
    assert canonical_request("POST", HOST, wire, "", [], b"")[0].splitlines()[1] == canonical


def test_query_is_sorted_and_encoded() -> None:
    text, _ = canonical_request("GET", HOST, "/", "b=2&a=x%20y&a=%2f&empty", [], b"")
    assert text.splitlines()[2] == "a=%2F&a=x%20y&b=2&empty="


def test_headers_are_trimmed_joined_and_chosen() -> None:
    headers = [
        ("X-Two", "  a   b "),
        ("x-two", "c"),
        ("User-Agent", "curl"),
        ("Accept-Encoding", "identity"),
        ("Connection", "close"),
        ("Content-Length", "3"),
        ("Host", "somewhere.else"),
        ("Authorization", "Bearer caller"),
    ]
    text, signed = canonical_request("POST", HOST, "/", "", headers, b"")
    assert signed == "host;x-two"
    assert f"host:{HOST}\nx-two:a b,c\n\n" in text


def test_our_date_wins_over_the_callers() -> None:
    args = (BODY, WHO, "us-east-1", "bedrock", DATE)
    plain = sign("POST", HOST, PATH, "", HEADERS, *args)
    assert sign("POST", HOST, PATH, "", [*HEADERS, ("X-Amz-Date", "20200101T000000Z")], *args) == plain


def test_the_secret_is_not_shown() -> None:
    assert "wJal" not in repr(WHO)
    assert "TOKEN" not in repr(WHO)


@pytest.mark.parametrize(
    ("host", "scope"),
    [
        (HOST, Scope("us-east-1", "bedrock")),
        (HOST.upper() + ":443", Scope("us-east-1", "bedrock")),
        ("bedrock-runtime-fips.us-gov-west-1.amazonaws.com", Scope("us-gov-west-1", "bedrock")),
        ("bedrock-runtime.cn-north-1.amazonaws.com.cn", Scope("cn-north-1", "bedrock")),
        ("bedrock-runtime.eusc-de-east-1.amazonaws.eu", Scope("eusc-de-east-1", "bedrock")),
        ("vpce-0a-1b.bedrock-runtime.eu-central-1.vpce.amazonaws.com", Scope("eu-central-1", "bedrock")),
        ("bedrock.ap-southeast-2.amazonaws.com", Scope("ap-southeast-2", "bedrock")),
        ("bedrock-mantle.us-west-2.api.aws", Scope("us-west-2", "bedrock-mantle")),
        ("bedrock-mantle-fips.us-west-2.api.aws", Scope("us-west-2", "bedrock-mantle")),
        ("my-proxy.corp.example", None),
        ("notbedrock-runtime.us-east-1.amazonaws.com", None),
        ("localhost:8080", None),
    ],
)
def test_region_and_service_of_a_host(host: str, scope: Scope | None) -> None:
    assert scope_of(host) == scope
