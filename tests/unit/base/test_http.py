"""Which header passes, which is ours, which is dropped: one answer for every name, in both directions."""

from __future__ import annotations

import pytest

from proxy.base.http import CONTROL, CREDENTIALS, HOP_BY_HOP, OUR_ANSWERS, OUR_PREFIXES, Fate, answer_passes, fate


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("content-type", Fate.PASS),
        ("user-agent", Fate.PASS),
        ("anthropic-version", Fate.PASS),
        ("openai-beta", Fate.PASS),
        ("idempotency-key", Fate.PASS),
        ("x-stainless-retry-count", Fate.PASS),
        ("x-stainless-read-timeout", Fate.READ),
        ("grpc-timeout", Fate.CONTROL),
        ("accept-encoding", Fate.ACCEPT_ENCODING),
        ("openai-organization", Fate.ACCOUNT),
        ("openai-project", Fate.ACCOUNT),
        ("connection", Fate.CONNECTION),
        ("host", Fate.DROP),
        ("content-length", Fate.DROP),
        ("expect", Fate.DROP),
        ("cookie", Fate.DROP),
        ("forwarded", Fate.DROP),
        ("x-forwarded-for", Fate.DROP),
        ("x-forwarded-anything", Fate.DROP),
        ("x-real-ip", Fate.DROP),
        ("via", Fate.DROP),
        ("priority", Fate.DROP),
        ("baggage", Fate.DROP),
        ("tracestate", Fate.TRACE),
        ("traceparent", Fate.TRACE),
        ("x-served-by", Fate.DROP),
        ("x-provider-key-openai", Fate.CONTROL),
        ("x-retry-cofnig", Fate.CONTROL),
        ("x-failover-provider", Fate.CONTROL),
    ],
)
def test_fate_of_a_request_header(name: str, expected: Fate) -> None:
    assert fate(name) is expected


def test_every_name_of_the_contract_is_kept_from_providers() -> None:
    assert {fate(name) for name in CONTROL} == {Fate.CONTROL}
    assert {fate(name) for name in CREDENTIALS} == {Fate.CREDENTIAL}
    assert {fate(name) for name in OUR_ANSWERS} == {Fate.DROP}
    assert {fate(name) for name in HOP_BY_HOP - {"connection"}} == {Fate.DROP}


@pytest.mark.parametrize("prefix", OUR_PREFIXES)
def test_a_misspelt_name_of_ours_is_ours_to_refuse(prefix: str) -> None:
    assert fate(f"{prefix}-nobody-knows") is Fate.CONTROL


@pytest.mark.parametrize("name", sorted(OUR_ANSWERS | CONTROL | HOP_BY_HOP))
def test_L24_no_upstream_can_speak_in_our_name(name: str) -> None:
    assert not answer_passes(name)


@pytest.mark.parametrize("name", ["set-cookie", "alt-svc", "server", "date", "content-length", "cf-ray", "retry-after"])
def test_what_belongs_to_the_upstreams_connection_or_is_told_anew_is_dropped(name: str) -> None:
    assert not answer_passes(name)


@pytest.mark.parametrize(
    "name",
    [
        "content-type",
        "x-request-id",
        "request-id",
        "x-ratelimit-remaining-requests",
        "anthropic-ratelimit-tokens-reset",
        "ratelimit",
        "openai-processing-ms",
        "deprecation",
        "sunset",
        "cache-control",
    ],
)
def test_what_a_vendor_tells_its_client_passes(name: str) -> None:
    assert answer_passes(name)
