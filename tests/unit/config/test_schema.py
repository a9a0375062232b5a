"""The schema: defaults agree with the engine's, ranges with the headers', and docs and JSON Schema with both."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from proxy.config import schema
from proxy.config.compiled import base_breaker
from proxy.config.load import json_schema, load_text
from proxy.config.names import did_you_mean, nearest
from proxy.config.validate import Rule, covers, is_loopback, overlap
from proxy.engine.plan import Plan, Retry, Stream, Timers
from proxy.policy import backoff, breaker, hedge

ROOT = Path(__file__).resolve().parents[3]
BUILTIN = schema.BUILTIN


def test_the_built_in_layer_agrees_with_the_defaults_of_the_engine_and_the_policies() -> None:
    wait, side, timers, retry, stream = backoff.Settings(), hedge.Settings(), Timers(), Retry(), Stream()
    plan = {field: Plan.__dataclass_fields__[field].default for field in ("timeout_s", "failover", "max_attempts")}
    assert BUILTIN["timeout_s"] == plan["timeout_s"]
    assert BUILTIN["failover.enabled"] == plan["failover"]
    assert BUILTIN["failover.max_attempts"] == plan["max_attempts"]
    assert BUILTIN["failover.on"] == ("any_error",)
    assert BUILTIN["connect_timeout_s"] == timers.connect_s
    assert BUILTIN["first_byte_timeout_s"] == timers.first_byte_s
    assert BUILTIN["first_content_timeout_s"] == timers.first_content_s
    assert BUILTIN["stream_idle_timeout_s"] == timers.idle_s
    assert BUILTIN["stream_recovery"] == stream.recovery
    assert BUILTIN["stream.write_timeout_s"] == stream.write_timeout_s
    assert BUILTIN["stream.buffer_kb"] * 1024 == stream.buffer_bytes
    assert frozenset(BUILTIN["retry.retry_on"]) == retry.retry_on
    assert BUILTIN["retry.max_retries"] == retry.max_retries
    assert BUILTIN["retry.max_told_wait_ms"] / 1000 == retry.max_told_wait_s
    assert BUILTIN["retry.initial_delay_ms"] / 1000 == wait.initial_s
    assert BUILTIN["retry.max_delay_ms"] / 1000 == wait.max_s
    for key in ("strategy", "multiplier", "jitter"):
        assert BUILTIN[f"retry.{key}"] == getattr(wait, key)
    for key in ("enabled", "strategy", "cancel_slower", "budget_percent", "max_hedges", "rescue_after_s"):
        assert BUILTIN[f"hedging.{key}"] == getattr(side, key)


def test_a_breaker_section_becomes_settings_and_an_empty_one_the_adaptive_default() -> None:
    text = """\
providers: {openai: {api_key: k, circuit_breaker: {timeout: 7}}}
defaults: {circuit_breaker: {error_threshold: 5, timeout: 9, excluded_errors: [503]}}
"""
    config = load_text(text, "f.yaml", {}).config
    assert config is not None
    settings = base_breaker(config.providers["openai"], {**BUILTIN, **config.defaults})
    assert settings == breaker.Settings(error_threshold=5, timeout_s=7.0, excluded_errors=frozenset({"503"}))
    plain = load_text("providers: {openai: {api_key: k}}", "f.yaml", {}).config
    assert plain is not None
    assert base_breaker(plain.providers["openai"], BUILTIN) == breaker.Settings()


@pytest.mark.parametrize(
    ("key", "low", "high"),
    [
        ("retry.max_retries", 0, 10),
        ("retry.initial_delay_ms", 0, 60_000),
        ("retry.multiplier", 1, 10),
        ("hedging.delay_ms", 0, 60_000),
        ("circuit_breaker.error_threshold", 1, 1024),
        ("circuit_breaker.error_threshold_window", 0.1, 3600),
        ("circuit_breaker.timeout", 0.1, 3600),
        ("circuit_breaker.half_open_requests", 1, 10),
        ("circuit_breaker.success_threshold", 1, 100),
        ("circuit_breaker.latency_threshold_ms", 1, 600_000),
    ],
)
def test_policy_keys_have_the_ranges_of_their_headers(key: str, low: float, high: float) -> None:
    *section, name = key.split(".")

    def accepted(value: float) -> bool:
        text = json.dumps({"providers": {"openai": {"api_key": "k"}}, "defaults": {section[0]: {name: value}}})
        return load_text(text, "f.yaml", {}).config is not None

    step = 1 if isinstance(low, int) and isinstance(high, int) else 0.01
    assert accepted(low)
    assert accepted(high)
    assert not accepted(low - step)
    assert not accepted(high + step)


def sections(node: dict[str, Any], definitions: dict[str, Any], at: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every key of the JSON Schema with its dotted path; ``*`` stands for a name, ``[]`` for a list item."""
    node = {**node, **definitions.get(str(node.get("$ref", "")).rpartition("/")[2], {})}
    for key, value in node.get("properties", {}).items():
        yield f"{at}{key}", value
        yield from sections(value, definitions, f"{at}{key}.")
    for named in node.get("patternProperties", {}).values():
        yield from sections(named, definitions, f"{at}*.")
    if isinstance(node.get("items"), dict):
        yield from sections(node["items"], definitions, f"{at[:-1]}[].")
    for option in node.get("anyOf", ()):
        yield from sections(option, definitions, at)


def keys() -> dict[str, dict[str, Any]]:
    whole = json_schema()
    return dict(sections(whole, whole["$defs"], ""))


def test_the_json_schema_is_one_and_takes_the_example_and_refuses_a_typo() -> None:
    whole = json_schema()
    jsonschema.Draft202012Validator.check_schema(whole)
    assert whole["$schema"].endswith("2020-12/schema")
    example = yaml.safe_load((ROOT / "config.example.yaml").read_text())
    example["defaults"]["failover"]["on"] = example["defaults"]["failover"].pop(
        True, ["any_error"]
    )  # YAML 1.1 reads `on`
    validator = jsonschema.Draft202012Validator(whole)
    assert list(validator.iter_errors(example)) == []
    assert list(validator.iter_errors({**example, "rutes": []}))
    assert list(validator.iter_errors({**example, "limits": {"max_retries": 11}}))
    assert {"defaults.retry.jitter", "providers.*.models.*.price.input", "policies.*.timeout_s"} <= set(keys())
    assert all(value.get("description") for value in keys().values())


POLICY = "`defaults`, `policies.*` and `routes[].policy`"


def test_every_key_is_documented_with_its_default() -> None:
    text = (ROOT / "docs" / "config.md").read_text()
    rows = dict(re.findall(r"^\| `([^`]+)` \| (.+) \|$", text, re.MULTILINE))
    missing = []
    for path, value in keys().items():
        # A policy is described once, relative to its section, for the three places where it may stand.
        path = re.sub(r"^(defaults|policies\.\*|routes\[\]\.policy)\.", "", path)
        is_scalar = value.get("type") in ("string", "integer", "number", "boolean", "array")
        is_leaf = is_scalar or ("default" in value and "patternProperties" not in value)
        if is_leaf and path not in rows:
            missing.append(path)
        elif is_leaf and isinstance(value.get("default"), int | float | str):
            default = value["default"]
            shown = (
                str(default).lower()
                if isinstance(default, bool)
                else f"{default:g}"
                if isinstance(default, float)
                else str(default)
            )
            assert f"`{shown or '(empty)'}`" in rows[path], path
    assert missing == []
    assert POLICY in text


def test_a_rule_says_what_it_wants() -> None:
    def rules(section: type[schema.Section]) -> Iterator[Rule]:
        for field in section.model_fields.values():
            yield from (part for part in field.metadata if isinstance(part, Rule))

    for section in (schema.Listen, schema.Policy, schema.Retry, schema.Hedging, schema.Limits, schema.Provider):
        assert all(rule.must.startswith("must be ") for rule in rules(section))


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        ("gpt-4o", "gpt-4o", True),
        ("gpt-4o", "gpt-4", False),
        ("gpt-*", "gpt-4o", True),
        ("gpt-*", "claude-*", False),
        ("*", "claude-*", True),
        ("*-mini", "gpt-*", True),
        ("*-mini", "*-large", False),
        ("a*b*c", "ab*bc", True),
        ("a*", "*b", True),
        ("ab*", "a*c", True),
        ("ab*", "ac*", False),
        ("*a", "a", True),
    ],
)
def test_globs_overlap(one: str, other: str, both: bool) -> None:
    assert overlap(one, other) is both
    assert overlap(other, one) is both


def test_globs_cover() -> None:
    assert covers([], [])
    assert covers([], ["x"])
    assert not covers(["x"], [])
    assert covers(["gpt-*"], ["gpt-4*", "gpt-4o"])
    assert not covers(["gpt-4*"], ["gpt-*"])
    assert covers(["*"], ["a*b"])


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost", "LOCALHOST", "::ffff:127.0.0.1", "a.localhost"]
)
def test_this_machine(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host",
    [
        "0.0.0.0",
        "::",
        "10.0.0.1",
        "example.com",
        "",
        "localhost.example.com",
        "::ffff:10.0.0.1",
        "127.0.0.1.example.com",
    ],
)
def test_another_machine(host: str) -> None:
    assert not is_loopback(host)


def test_the_nearest_name() -> None:
    assert nearest("wieght", ["weight", "tier"]) == "weight"
    assert nearest("Max-Retries", ["max_retries"]) == "max_retries"
    assert nearest("zzz", ["weight"]) == ""
    assert nearest("weight", ["weight"]) == "", "the word itself is no advice"
    assert nearest("weight", ["weight", "weights"]) == "weights"
    assert nearest("", ["weight"]) == ""
    assert nearest("x" * 10**6, ["y"]) == ""
    assert did_you_mean("OPENAI", ["openai"]) == '; did you mean "openai"?'
    assert did_you_mean("zzz", ["openai"]) == ""


def test_pydantic_is_imported_by_the_schema_alone_and_names_cost_nothing() -> None:
    code = (
        "import sys, proxy.config.names; print(any(m.startswith(('pydantic', 'yaml', 'difflib')) for m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    users = sorted(
        path.name
        for path in (ROOT / "proxy").rglob("*.py")
        if re.search(r"^\s*(from|import) pydantic", path.read_text(), re.MULTILINE)
    )
    assert users == [
        "scenario.py",
        "schema.py",
        "schema_breaker.py",
        "schema_notify.py",
        "schema_provider.py",
        "schema_rollout.py",
        "section.py",
    ]
