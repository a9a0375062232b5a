"""Reading a configuration: every refusal with its exact words and place, overrides, references, and what is built."""
# ruff: noqa: E501 - a table of messages is read line by line

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from proxy.base.outcome import ANY_ERROR, Class
from proxy.config import names, reading, schema, secrets
from proxy.config.compiled import Config, Model
from proxy.config.load import load_file, load_text, render_effective
from proxy.engine.plan import Tier
from tests.data import need

ROOT = Path(__file__).resolve().parents[3]
KEYS = {"OPENAI_API_KEY": "sk-o", "ANTHROPIC_API_KEY": "sk-a", "DEEPINFRA_API_KEY": "sk-d"}
BASE = "providers: {a: {dialect: openai, base_url: http://127.0.0.1:9/v1}, b: {dialect: openai, base_url: http://127.0.0.1:8/v1}}\n"
WORDS = {
    "<triggers>": "auth, circuit_open, connect_error, content_policy, context_length, invalid_request, model_not_found, model_overloaded, permission, quota_exceeded, rate_limit, server_error, stream_interrupted, timeout or any_error",
    "<failures>": "auth, circuit_open, connect_error, content_policy, context_length, invalid_request, model_not_found, model_overloaded, permission, quota_exceeded, rate_limit, server_error, stream_interrupted, timeout, timeout.connect, timeout.first_byte, timeout.first_content, timeout.idle, timeout.total, connect_error.dns, connect_error.refused, connect_error.tls, connect_error.reset, connect_error.unreachable",
    "<policy>": "cache, circuit_breaker, connect_timeout_s, degraded_mode, failover, first_byte_timeout_s, first_content_timeout_s, hedging, priority, retry, stream, stream_idle_timeout_s, stream_recovery, timeout_s",
}
# fmt: off
BAD: list[tuple[str, str, list[str]]] = [
    ("empty", "", ["1:1: the file is empty; it needs at least providers"]),
    ("only comments", "# nothing\n", ["1:1: the file is empty; it needs at least providers"]),
    ("null document", "---\n", ["1:1: the file is empty; it needs at least providers"]),
    ("a scalar", "hello", ["1:1: the file must be a mapping; its sections begin with 'providers:'"]),
    ("a list", "- a\n- b\n", ["1:1: the file must be a mapping; its sections begin with 'providers:'"]),
    ("two documents", BASE + "---\na: 1\n", ["2:1: only one document is allowed; remove this ---"]),
    ("tab", BASE + "listen:\n\tinsecure: true\n", ["3:1: a tab where indentation or a value is expected; use spaces"]),
    ("unclosed bracket", BASE + "routes: [\n", ["3:1: did not find expected node content"]),
    ("unquoted reference in a flow mapping", "providers:\n  a: {api_key: ${KEY}}\n", ['2:17: did not find expected \',\' or \'}\'; inside { } and [ ] write "${NAME}" in quotes']),
    ("at sign", BASE + "store: {path: @x}\n", ["2:15: found character that cannot start any token; put the value in quotes"]),
    ("colon in a value", BASE + "store: a: b\n", ["2:9: mapping values are not allowed in this context; check the indentation, or put a value that holds ': ' in quotes"]),
    ("alias", BASE + "defaults: &d {timeout_s: 1}\npolicies:\n  p: *d\n", ["4:6: aliases (*name) are not supported; write the value out"]),
    ("merge key", BASE + "defaults: {<<: {timeout_s: 1}}\n", ['2:12: defaults."<<": unknown key; allowed: <policy>']),
    ("tag", BASE + "store: {path: !!str 5}\n", ["2:15: tags (!name) are not supported; remove it"]),
    ("duplicate key", BASE + "store: {path: a, path: b}\n", ['2:18: duplicate key "path"']),
    ("key that is a list", BASE + "? [x]\n: 1\n", ["2:3: a key must be text"]),
    ("NUL", BASE + 'store: {path: "a\x00b"}\n', ["2:17: the character U+0000 is not allowed"]),
    ("escaped NUL", BASE + 'store: {path: "a\\0b"}\n', ['2:9: store.path: must be text in one line, in quotes if it looks like a number, got "a\\u0000b"']),
    ("no providers", "version: 1\n", ["1:1: providers: is required"]),
    ("empty providers", "providers: {}\n", ["1:1: providers: must have at least 1 entry"]),
    ("providers is a list", "providers: [a]\n", ["1:1: providers: must be a mapping, got a list"]),
    ("unknown section", BASE + "rutes: []\n", ['2:1: rutes: unknown key; did you mean "routes"?']),
    ("unknown key, nothing near", BASE + "shutdown: {zzz: 1}\n", ["2:12: shutdown.zzz: unknown key; allowed: drain_timeout_s, idle_s, linger_s, mode"]),
    ("section is a scalar", BASE + "shutdown: 5\n", ["2:1: shutdown: must be a mapping with keys drain_timeout_s, idle_s, linger_s, mode, got 5"]),
    ("list is a mapping", BASE + "routes: {name: x}\n", ["2:1: routes: must be a list, got a mapping"]),
    ("future version", BASE + "version: 2\n", ["2:1: version: must be 1, got 2"]),
    ("YAML 1.1 truth", BASE + "listen: {insecure: on}\n", ['2:10: listen.insecure: must be true or false, got "on" (write true)']),
    ("YAML 1.1 falsehood", BASE + "defaults: {failover: {enabled: No}}\n", ['2:23: defaults.failover.enabled: must be true or false, got "No" (write false)']),
    ("sexagesimal", BASE + "defaults: {timeout_s: 1:30}\n", ['2:12: defaults.timeout_s: must be a number from 0.001 to 86400 seconds, got "1:30" (write 90)']),
    ("underscores", BASE + "limits: {max_targets: 1_000}\n", ['2:10: limits.max_targets: must be a whole number from 16 to 65536, got "1_000" (write 1000)']),
    ("unit in the value", BASE + "defaults: {timeout_s: 30s}\n", ['2:12: defaults.timeout_s: must be a number from 0.001 to 86400 seconds, got "30s" (write 30)']),
    ("milliseconds in the value", BASE + "defaults: {retry: {initial_delay_ms: 250ms}}\n", ['2:20: defaults.retry.initial_delay_ms: must be a whole number from 0 to 60000 milliseconds, got "250ms" (write 250)']),
    ("quoted number", BASE + 'limits: {max_retries: "5"}\n', ['2:10: limits.max_retries: must be a whole number from 0 to 10, got "5" (remove the quotes)']),
    ("infinity", BASE + "defaults: {timeout_s: .inf}\n", ['2:12: defaults.timeout_s: must be a number from 0.001 to 86400 seconds, got ".inf"']),
    ("not a number", BASE + "defaults: {timeout_s: .nan}\n", ['2:12: defaults.timeout_s: must be a number from 0.001 to 86400 seconds, got ".nan"']),
    ("overflowing float", BASE + "defaults: {timeout_s: 1e999}\n", ["2:12: defaults.timeout_s: must be a number from 0.001 to 86400 seconds, got 1e999"]),
    ("float for a whole number", BASE + "limits: {max_retries: 2.5}\n", ["2:10: limits.max_retries: must be a whole number from 0 to 10, got 2.5"]),
    ("truth for a number", BASE + "limits: {max_retries: true}\n", ["2:10: limits.max_retries: must be a whole number from 0 to 10, got true"]),
    ("nothing for a number", BASE + "limits: {max_retries: }\n", ["2:10: limits.max_retries: must be a whole number from 0 to 10, got nothing"]),
    ("mapping for a number", BASE + "limits: {max_retries: {a: 1}}\n", ["2:10: limits.max_retries: must be a whole number from 0 to 10, got a mapping"]),
    ("negative port", BASE + "listen: {data: {port: -1}}\n", ["2:17: listen.data.port: must be a whole number from 0 to 65535, got -1"]),
    ("huge port", BASE + "listen: {data: {port: 65536}}\n", ["2:17: listen.data.port: must be a whole number from 0 to 65535, got 65536"]),
    ("huge number", BASE + "listen: {data: {port: 999999999999999999999999999999999999999999999999999999999999999999999999999999999999999999}}\n", ["2:17: listen.data.port: must be a whole number from 0 to 65535, got 999999999999999999999999999999999999999999999999999999999999"]),
    ("zero timeout", BASE + "defaults: {timeout_s: 0}\n", ["2:12: defaults.timeout_s: must be a number from 0.001 to 86400 seconds, got 0"]),
    ("wrong word", BASE + "defaults: {stream_recovery: contiune}\n", ['2:12: defaults.stream_recovery: must be one of continue, error or buffer, got "contiune"; did you mean "continue"?']),
    ("capitals", BASE + "defaults: {stream_recovery: ERROR}\n", ['2:12: defaults.stream_recovery: must be one of continue, error or buffer, got "ERROR"; did you mean "error"?']),
    ("trigger", BASE + "defaults: {failover: {on: [timeout, ratelimit]}}\n", ['2:37: defaults.failover.on.1: must be one of <triggers>, got "ratelimit"; did you mean "rate_limit"?']),
    ("single trigger", BASE + "defaults: {failover: {on: timeot}}\n", ['2:23: defaults.failover.on: must be one of <triggers>, got "timeot"; did you mean "timeout"?']),
    ("no trigger", BASE + "defaults: {failover: {on: []}}\n", ["2:23: defaults.failover.on: must have at least 1 entry"]),
    ("jitter", BASE + "defaults: {retry: {jitter: 3}}\n", ["2:20: defaults.retry.jitter: must be true, false, full, equal, decorrelated or none, got 3"]),
    ("hedge delay", BASE + "defaults: {hedging: {delay_ms: atuo}}\n", ['2:22: defaults.hedging.delay_ms: must be a whole number from 0 to 60000 milliseconds, or auto, got "atuo"; did you mean "auto"?']),
    ("excluded errors", BASE + "defaults: {circuit_breaker: {excluded_errors: [99]}}\n", ["2:48: defaults.circuit_breaker.excluded_errors.0: must be a status from 100 to 599 or one of <failures>, got 99"]),
    ("breaker bounds", BASE + "defaults: {circuit_breaker: {half_open_requests: 11}}\n", ["2:30: defaults.circuit_breaker.half_open_requests: must be a whole number from 1 to 10, got 11"]),
    ("custom without rules", BASE + "defaults: {retry: {strategy: custom}}\n", ["2:20: defaults.retry.strategy: custom needs retry.rules"]),
    ("rule without effect", BASE + "defaults: {retry: {strategy: custom, rules: [{error_type: timeout}]}}\n", ["2:46: defaults.retry.rules.0: needs one of wait_ms, attempts or immediate_failover"]),
    ("too many delays", BASE + "defaults: {retry: {delays_ms: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]}}\n", ["2:20: defaults.retry.delays_ms: must have at most 10 entries"]),
    ("same ports", BASE + "listen: {data: {port: 80}, admin: {port: 80}}\n", ["2:36: listen.admin.port: must differ from listen.data.port (0 lets the system choose), got 80"]),
    ("open data port", BASE + "listen: {data: {host: 0.0.0.0}}\n", ['2:17: listen.data.host: is not loopback: this needs listen.auth_tokens, or listen.insecure: true, got "0.0.0.0"']),
    ("open data port, IPv6", BASE + 'listen: {data: {host: "::"}}\n', ['2:17: listen.data.host: is not loopback: this needs listen.auth_tokens, or listen.insecure: true, got "::"']),
    ("bad host", BASE + 'listen: {data: {host: "a b"}}\n', ['2:17: listen.data.host: must be an IP address or a host name, got "a b"']),
    ("no scheme", "providers: {a: {dialect: openai, base_url: api.example.com, api_key: k}}\n", ['1:34: providers.a.base_url: must begin with http:// or https://, got "api.example.com"']),
    ("other scheme", 'providers: {a: {dialect: openai, base_url: "ftp://h", api_key: k}}\n', ['1:34: providers.a.base_url: must begin with http:// or https://, got "ftp://h"']),
    ("password in the URL", 'providers: {a: {dialect: openai, base_url: "https://u:hunter2@h", api_key: k}}\n', ["1:34: providers.a.base_url: must not hold a user or password; put the key into api_key"]),
    ("query in the URL", 'providers: {a: {dialect: openai, base_url: "https://h/v1?key=hunter2", api_key: k}}\n', ["1:34: providers.a.base_url: must not hold '?' or '#'"]),
    ("fragment in the URL", 'providers: {a: {dialect: openai, base_url: "https://h/#x", api_key: k}}\n', ["1:34: providers.a.base_url: must not hold '?' or '#'"]),
    ("no host", 'providers: {a: {dialect: openai, base_url: "https://", api_key: k}}\n', ['1:34: providers.a.base_url: has no valid host and port, got "https://"']),
    ("bad port in the URL", 'providers: {a: {dialect: openai, base_url: "https://h:99999", api_key: k}}\n', ['1:34: providers.a.base_url: has no valid host and port, got "https://h:99999"']),
    ("no key", "providers: {a: {dialect: openai, base_url: https://h}}\n", ["1:13: providers.a.api_key: is required: write ${NAME}, {file: /path}, or credentials: caller"]),
    ("key with a space", "providers: {a: {dialect: openai, base_url: https://h, api_key: hunter2 x}}\n", ["1:55: providers.a.api_key: must be text without spaces such as ${NAME}, or {file: /absolute/path}"]),
    ("key in a relative file", "providers: {a: {dialect: openai, base_url: https://h, api_key: {file: hunter2}}}\n", ["1:55: providers.a.api_key: must be text without spaces such as ${NAME}, or {file: /absolute/path}"]),
    ("unknown dialect", "providers: {a: {dialect: antropic, base_url: https://h, api_key: k}}\n", ['1:17: providers.a.dialect: must be one of openai, azure, anthropic, gemini or bedrock, got "antropic"; did you mean "anthropic"?']),
    ("no dialect", "providers: {a: {base_url: https://h, api_key: k}}\n", ["1:13: providers.a.dialect: is required: one of openai, azure, anthropic, gemini, bedrock"]),
    ("no address", "providers: {groq: {dialect: openai, api_key: k}}\n", ["1:13: providers.groq.base_url: is required"]),
    ("bedrock without region", "providers: {bedrock: {}}\n", ["1:13: providers.bedrock.base_url: is required, or region"]),
    ("no certificate file", "providers: {openai: {api_key: k, ca_file: /nowhere/ca.pem}}\n", ['1:34: providers.openai.ca_file: is no readable file, got "/nowhere/ca.pem"']),
    ("reserved name", "providers: {v1: {dialect: openai, base_url: http://localhost:1}}\n", ["1:13: providers.v1: is the name of an endpoint; taken are v1, chat, responses, embeddings, models, messages, dashboard"]),
    ("bad name", 'providers: {"a/b": {dialect: openai, base_url: http://localhost:1}}\n', ['1:13: providers.a/b: must be a name of 1 to 63 letters, digits, \'.\', \'_\' and \'-\' that begins with a letter or digit, got "a/b"']),
    ("names that differ in capitals", "providers: {a: {dialect: openai, base_url: http://localhost:1}, A: {dialect: openai, base_url: http://localhost:1}}\n", ['1:65: providers.A: differs from "a" in capitals only, which header names do not tell apart']),
    ("no models", "providers: {a: {dialect: openai, base_url: http://localhost:1, models: {}}}\n", ["1:64: providers.a.models: is empty, so that every model would be refused; leave it out to send every name as asked"]),
    ("odd glob", 'providers: {a: {dialect: openai, base_url: http://localhost:1, models: {"gpt-?": x}}}\n', ['1:73: providers.a.models."gpt-?": must be a model\'s name without spaces, \'?\' and \'[\', where * is any text, got "gpt-?"']),
    ("model as a number", "providers: {a: {dialect: openai, base_url: http://localhost:1, models: {x: 4}}}\n", ["1:73: providers.a.models.x: must be a model's name in quotes, or a mapping with keys api, capabilities, context_window, deployment, max_output_tokens, name, price, quality, tier, got 4"]),
    ("half a price", "providers: {a: {dialect: openai, base_url: http://localhost:1, models: {x: {price: {input: 1}}}}}\n", ["1:77: providers.a.models.x.price.output: is required"]),
    ("variable missing", BASE + 'listen:\n  data: {host: "${NOWHERE}"}\n', ["3:10: listen.data.host: ${NOWHERE} is not set; a default is written ${NAME:-default}"]),
    ("variable misspelt", BASE + "store:\n  path: ${1X}\n", ['3:3: store.path: write ${NAME} or ${NAME:-default}, and "$${" for a literal "${"']),
    ("variable with the wrong value", BASE + "listen:\n  data:\n    port: ${SECRET}\n", ['4:5: listen.data.port: must be a whole number from 0 to 65535, got "${SECRET}"']),
    ("token missing", BASE + "listen:\n  auth_tokens:\n    - ${NOWHERE}\n", ["4:7: listen.auth_tokens.0: ${NOWHERE} is not set; a default is written ${NAME:-default}"]),
    ("unknown provider", BASE + "routes: [{targets: [{provider: c}]}]\n", ['2:22: routes.0.targets.0.provider: is no configured provider, got "c"; there are a, b']),
    ("unknown provider, near", "providers: {openai: {api_key: k}}\nroutes: [{targets: [{provider: opnai}]}]\n", ['2:22: routes.0.targets.0.provider: is no configured provider, got "opnai"; did you mean "openai"?']),
    ("unknown model of a provider", "providers: {openai: {api_key: k, models: {gpt-4o: gpt-4o-2024}}}\nroutes: [{targets: [{provider: openai, model: gpt-4p}]}]\n", ['2:40: routes.0.targets.0.model: is no configured model of provider openai, got "gpt-4p"; did you mean "gpt-4o"?']),
    ("target without provider", BASE + "routes: [{targets: [{tier: primary}]}]\n", ["2:21: routes.0.targets.0.provider: is required"]),
    ("same target twice", BASE + "routes: [{targets: [{provider: a}, {provider: a}]}]\n", ["2:36: routes.0.targets.1: is the same as an earlier target of the route"]),
    ("no targets", BASE + "routes: [{targets: []}]\n", ["2:11: routes.0.targets: must have at least 1 entry"]),
    ("tier", BASE + "routes: [{targets: [{provider: a, tier: 1}]}]\n", ["2:35: routes.0.targets.0.tier: must be one of primary, secondary, tertiary or emergency, got 1"]),
    ("weight", BASE + "routes: [{targets: [{provider: a, weight: 0}]}]\n", ["2:35: routes.0.targets.0.weight: must be a whole number from 1 to 1000, got 0"]),
    ("unreachable target", 'providers: {openai: {api_key: k, models: {gpt-4o: gpt-4o}}}\nroutes: [{match: {models: ["claude-*"]}, targets: [{provider: openai}]}]\n', ["2:53: routes.0.targets.0.provider: can never be reached: its provider's models cover none of the route's match.models"]),
    ("same route name", BASE + "routes: [{name: x, match: {models: [m]}}, {name: x}]\n", ['2:44: routes.1.name: is the name of an earlier route too, got "x"']),
    ("path without slash", BASE + "routes: [{match: {paths: [v1/chat]}}]\n", ['2:27: routes.0.match.paths.0: must be a path that begins with / and holds no \'?\', where * is any text, got "v1/chat"']),
    ("unknown hedge provider", BASE + "policies: {p: {hedging: {providers: [a, c/x]}}}\n", ['2:41: policies.p.hedging.providers.1: is no configured provider, got "c/x"; there are a, b']),
    ("family", BASE + "limits: {allow_overrides: [failover, retries]}\n", ['2:38: limits.allow_overrides.1: must be one of failover, retry, circuit_breaker, hedging, degraded, cache, timeout or explain, got "retries"; did you mean "retry"?']),
]
# fmt: on


def ok(text: str, env: dict[str, str] | None = None, flags: dict[str, str] | None = None) -> Config:
    """The configuration of a text that must have no errors."""
    loaded = load_text(text, "f.yaml", env or {}, flags=flags)
    assert loaded.errors == ()
    assert loaded.config is not None
    return loaded.config


def warned(text: str, env: dict[str, str] | None = None) -> list[str]:
    loaded = load_text(text, "f.yaml", env or {})
    assert loaded.config is not None, loaded.errors
    assert loaded.config.warnings == tuple(str(warning) for warning in loaded.warnings)
    return list(loaded.config.warnings)


@pytest.mark.parametrize(("text", "expected"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_a_bad_file_is_told_by_place_path_and_remedy(text: str, expected: list[str]) -> None:
    loaded = load_text(text, "f.yaml", {"SECRET": "hunter2"})
    for short, words in WORDS.items():
        expected = [line.replace(short, words) for line in expected]
    assert [str(error) for error in loaded.errors] == [f"f.yaml:{line}" for line in expected]
    assert loaded.config is None
    assert loaded.warnings == ()
    assert "hunter2" not in str(loaded)


def test_all_errors_at_once_also_behind_broken_parts() -> None:
    text = """\
providers:
  openai: {base_url: ftp://x, apikey: k, max_concurrency: many}
  local: {dialect: opnai, base_url: http://127.0.0.1:1}
listen: {data: {port: 99999, host: 0.0.0.0}, insecure: on}
defaults: {timeout_s: 1:30, store: *a, retry: {max_retries: 11}}
routes:
  - targets: [{provider: opnai}, {provider: local, wieght: 2}]
  - 5
  - {name: late, targets: [{provider: nowhere}]}
limitz: {}
"""
    found = [(error.line, error.path) for error in load_text(text, "f.yaml", {}).errors]
    assert found == [
        (2, "providers.openai.base_url"),
        (2, "providers.openai.apikey"),
        (2, "providers.openai.max_concurrency"),
        (3, "providers.local.dialect"),
        (4, "listen.data.port"),
        (4, "listen.insecure"),
        (5, "defaults.timeout_s"),
        (5, "defaults.store"),
        (5, ""),
        (5, "defaults.retry.max_retries"),
        (7, "routes.0.targets.0.provider"),
        (7, "routes.0.targets.1.wieght"),
        (8, "routes.1"),
        (9, "routes.2.targets.0.provider"),
        (10, "limitz"),
    ]


# --- bytes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"\xff\xfea\x00", "1:1: the file is UTF-16; save it as UTF-8"),
        (b"version: 1\nstore: {path: \xe9}\n", "2:15: the file is not UTF-8"),
        (b"version: 1\r\n# \x1b\r\n", "2:3: the character U+001B is not allowed"),
        (b"#" * (1024 * 1024 + 1), "1:1: the file is larger than 1 MiB"),
        (b"a: " + b"[" * 100 + b"]" * 100, "1:67: nested more than 64 levels deep"),
        (b"- " * 500_000, "1:129: nested more than 64 levels deep"),
        (b"a: [" + b"x," * 30_000 + b"]", "1:39999: the file has more than 20000 values and keys"),
        (
            BASE.encode() + b"redis: [&a [x, x], *a, *a]\n",
            "2:20: aliases (*name) are not supported; write the value out",
        ),
    ],
    ids=["UTF-16", "Latin-1", "escape", "size", "flow depth", "block depth", "nodes", "aliases"],
)
def test_bytes_that_are_no_reasonable_text(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes(content)
    errors = load_file(str(path), {}).errors
    assert str(errors[0]) == f"{path}:{expected}"


def test_a_byte_order_mark_and_windows_line_ends_are_harmless(tmp_path: Path) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + BASE.replace("\n", "\r\n").encode() + b"redis: {}\r\n")
    loaded = load_file(str(path), {})
    assert loaded.config is not None
    assert loaded.config.path == str(path)
    assert loaded.warnings[0].line == 2


def test_a_file_that_is_not_there_is_an_error_and_no_exception(tmp_path: Path) -> None:
    missing = str(tmp_path / "none.yaml")
    assert str(load_file(missing, {}).errors[0]) == f"{missing}: cannot be read: No such file or directory"
    assert str(load_file(str(tmp_path), {}).errors[0]) == f"{tmp_path}: cannot be read: Is a directory"
    assert str(load_file("a\0b", {}).errors[0]) == "a\0b: cannot be read: not a usable path"


def test_problems_are_bounded() -> None:
    errors = load_text(BASE + "".join(f"x{n}: 1\n" for n in range(800)), "f.yaml", {}).errors
    assert len(errors) == reading.MAX_PROBLEMS + 1
    assert errors[-1].message == "300 more problems follow"


# --- types of plain scalars ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [("012", 12), ("0o17", 15), ("0x1F", 31), ("+5", 5), ("1e3", 1000.0), (".5", 0.5), ("~", None), ("True", True)]
    + [(word, word) for word in ("on", "no", "1:30", "3_000", "1_0.5", "2024-01-01", ".inf", "0b1", "=", "<<", "1" * 101)],
)  # fmt: skip
def test_plain_scalars_follow_the_yaml_1_2_core_schema(text: str, value: object) -> None:
    typed = names.typed(text)
    assert typed == value
    assert type(typed) is type(value)


# --- references ------------------------------------------------------------------------------------------------------


def test_references_are_typed_again_when_plain_and_text_when_quoted() -> None:
    env = {"PORT": "9000", "DIR": "x", "EMPTY": ""}
    text = BASE + 'listen: \n  data:\n    port: ${PORT}\nstore: {path: "${DIR}/${NONE:-y}/$${z}${EMPTY:-e}"}\n'
    config = ok(text, env)
    assert config.listen.data_port == 9000
    assert config.store.path == "x/y/${z}e"
    error = load_text(text.replace("${PORT}", "'${PORT}'"), "f.yaml", env).errors[0]
    assert str(error) == 'f.yaml:4:5: listen.data.port: must be a whole number from 0 to 65535, got "${PORT}"'


def test_a_missing_key_disables_its_provider_and_no_other() -> None:
    text = "providers:\n  openai:\n    api_key: ${A}\n  anthropic:\n    api_key: ${B}\n  gemini:\n    api_key: ${C}\n"
    loaded = load_text(text, "f.yaml", {"B": "sk-b\n", "C": " "})
    assert loaded.config is not None
    disabled = {name: provider.disabled for name, provider in loaded.config.providers.items()}
    assert disabled == {"openai": "no key: ${A} is not set", "anthropic": "", "gemini": "no key: ${C} is empty"}
    keys = {name: p.api_key.read() for name, p in loaded.config.providers.items() if p.api_key}
    assert keys == {"openai": None, "anthropic": "sk-b", "gemini": None}
    assert [str(warning) for warning in loaded.warnings] == [
        "f.yaml:3:5: providers.openai.api_key: no key: ${A} is not set; the provider is disabled",
        "f.yaml:7:5: providers.gemini.api_key: no key: ${C} is empty; the provider is disabled",
    ]


def test_a_caller_with_its_own_key_needs_none_of_ours() -> None:
    text = "providers:\n  openai: {credentials: caller}\n  b:\n    dialect: openai\n    base_url: https://h\n    credentials: caller_or_sidecar\n    api_key: ${A}\n"
    config = ok(text)
    assert config.providers["openai"].api_key is None
    both = config.providers["b"]
    assert both.disabled == ""
    assert both.api_key is not None
    assert both.api_key.read() is None
    assert warned(text) == ["f.yaml:7:5: providers.b.api_key: no key: ${A} is not set; only callers' own keys are used"]


def test_a_key_of_digits_is_a_key() -> None:
    provider = ok("providers: {openai: {api_key: 0012}}").providers["openai"]
    assert provider.api_key is not None
    assert provider.api_key.read() == "0012"


def test_secrets_are_never_shown_by_any_output() -> None:
    text = """\
providers:
  openai: {api_key: hunter2-a}
  anthropic:
    api_key: ${KEY:-hunter2-b}
  x:
    dialect: openai
    base_url: https://${HOST}/v1
    api_key: ${KEY2}
    models: {m: "${MODEL}", n: {name: "${MODEL}"}}
listen:
  auth_tokens: [hunter2-c, "${TOKEN}"]
redis: {url: "redis://:hunter2-d@h"}
"""
    env = {"KEY2": "hunter2-e", "HOST": "hunter2-f.example", "TOKEN": "hunter2-g", "MODEL": "hunter2-h"}
    loaded = load_text(text, "f.yaml", env)
    assert loaded.config is not None
    assert [token.read() for token in loaded.config.listen.auth_tokens] == ["hunter2-c", "hunter2-g"]
    shown = (
        json.dumps(render_effective(loaded.config)) + str(loaded.warnings) + str(loaded.config.providers["x"].api_key)
    )
    assert "hunter2" not in shown
    assert loaded.config.providers["x"].base_url == "https://hunter2-f.example/v1"
    effective = render_effective(loaded.config)["config"]
    assert effective["providers"]["x"]["base_url"] == "https://${HOST}/v1"
    assert effective["providers"]["x"]["models"]["m"]["name"] == "${MODEL}"
    assert effective["providers"]["openai"]["api_key"] == "(literal)"
    assert effective["providers"]["anthropic"]["api_key"] == "${KEY}"
    assert effective["listen"]["auth_tokens"] == ["(literal)", "${TOKEN}"]


# --- overrides -------------------------------------------------------------------------------------------------------


def test_precedence_is_flag_variable_file_default() -> None:
    text = BASE + "listen: {data: {port: 1}, admin: {port: 2}}\n"
    env = {"OUTRIDER_LISTEN_DATA_PORT": "3", "OUTRIDER_LISTEN_ADMIN_PORT": "4", "OUTRIDER_DEFAULTS_TIMEOUT_S": "1.5"}
    config = ok(text, env, {"listen-data-port": "5"})
    assert (config.listen.data_port, config.listen.admin_port, config.listen.data_host) == (5, 4, "127.0.0.1")
    assert config.defaults["timeout_s"] == 1.5


def test_an_override_is_checked_and_blamed_by_its_own_name() -> None:
    env = {
        "OUTRIDER_LISTEN_DATA_PORT": "x",
        "OUTRIDER_DEFAULTS_RETRY_JITTER": "false",
        "OUTRIDER_LISTEN_INSECURE": "on",
    }
    errors = load_text(BASE, "f.yaml", env, flags={"--listen-admin-prt": "1", "telemetry-log-level": "loud"}).errors
    assert sorted(str(error) for error in errors) == [
        '--listen-admin-prt: unknown flag; did you mean "--listen-admin-port"?',
        '--telemetry-log-level: telemetry.log.level: must be one of debug, info, warning or error, got "loud"',
        'OUTRIDER_LISTEN_DATA_PORT: listen.data.port: must be a whole number from 0 to 65535, got "x"',
        'OUTRIDER_LISTEN_INSECURE: listen.insecure: must be true or false, got "on" (write true)',
    ]


def test_text_settings_take_what_looks_like_a_number_and_no_references() -> None:
    config = ok(BASE + "store:\n", {"OUTRIDER_STORE_PATH": "007", "OUTRIDER_LISTEN_DATA_HOST": ""})
    assert config.store.path == "007"
    assert ok(BASE, {}, {"store-path": "${HOME}"}).store.path == "${HOME}"


def test_every_setting_has_one_variable_and_one_flag() -> None:
    found = secrets.variables()
    assert found["OUTRIDER_DEFAULTS_CIRCUIT_BREAKER_ERROR_THRESHOLD"] == "defaults.circuit_breaker.error_threshold"
    assert found["OUTRIDER_TELEMETRY_LOG_LEVEL"] == "telemetry.log.level"
    assert len(set(found.values())) == len(found) == len(list(schema.scalars())) > 70
    assert len({secrets.flag_of(name) for name in found}) == len(found)
    assert secrets.flag_of("OUTRIDER_LISTEN_DATA_PORT") == "--listen-data-port"
    assert not [path for path in found.values() if path.startswith(("providers", "routes", "policies", "version"))]


def test_a_misspelt_variable_is_told_and_a_foreign_one_is_not() -> None:
    env = {
        "OUTRIDER_LISTEN_DATA_PROT": "1",
        "OUTRIDER_PORT_8712_TCP": "tcp://x",
        "OUTRIDER_SERVICE_HOST": "x",
        "OTHER": "1",
    }
    assert warned(BASE, env) == ['OUTRIDER_LISTEN_DATA_PROT: sets nothing; did you mean "OUTRIDER_LISTEN_DATA_PORT"?']


def test_an_override_into_a_section_that_is_no_section_leaves_the_error() -> None:
    errors = load_text(BASE + "listen: 5\n", "f.yaml", {"OUTRIDER_LISTEN_DATA_PORT": "1"}).errors
    assert [error.path for error in errors] == ["listen"]


# --- what is built ---------------------------------------------------------------------------------------------------


def test_the_smallest_file_gets_every_default() -> None:
    config = ok("providers: {openai: {api_key: k}}")
    assert config.providers["openai"].base_url == "https://api.openai.com/v1"
    assert config.providers["openai"].models == (Model(asked="*", name=""),)
    assert config.defaults == {}
    assert config.policies == {}
    (route,) = config.routes
    assert (route.name, route.paths, route.models, route.policy) == ("default", (), (), {})
    assert [target.provider for target in route.targets] == ["openai"]
    assert len(config.digest) == 64


def test_layers_hold_what_is_stated_in_its_normal_form() -> None:
    text = (
        BASE
        + """\
defaults:
  timeout_s: 30
  failover: {on: timeout}
  retry:
    jitter: true
    strategy: custom
    delays_ms: [0, 1000]
    retry_on: [timeout.connect, server_error]
    rules: [{error_type: timeout, attempts: [100, 200], switch_provider_after: 2}]
  circuit_breaker: {excluded_errors: [503, rate_limit], timeout: 5}
  hedging: {delay_ms: auto, max_additional_cost: 1}
policies: {p: {retry: {jitter: false}}, q: }
"""
    )
    config = ok(text)
    assert config.defaults == {
        "timeout_s": 30.0,
        "failover.on": ("timeout",),
        "retry.jitter": "full",
        "retry.strategy": "custom",
        "retry.delays_ms": (0, 1000),
        "retry.retry_on": ("timeout.connect", "server_error"),
        "retry.rules": ({"error_type": ("timeout",), "attempts": (100, 200), "switch_provider_after": 2},),
        "circuit_breaker.excluded_errors": frozenset({"503", "rate_limit"}),
        "circuit_breaker.timeout": 5.0,
        "hedging.delay_ms": "auto",
        "hedging.max_additional_cost": 1.0,
    }
    assert type(config.defaults["timeout_s"]) is float
    assert config.policies == {"p": {"retry.jitter": "none"}, "q": {}}


def test_exact_models_come_before_globs_in_file_order() -> None:
    text = 'providers: {openai: {api_key: k, models: {"*": passthrough, gpt-4o: big, "o*": {quality: 3}, m: {tier: economy, price: {input: 1, output: 2}}}}}'
    models = ok(text).providers["openai"].models
    assert [(model.asked, model.name) for model in models] == [("gpt-4o", "big"), ("m", ""), ("*", ""), ("o*", "")]
    assert models[1].tier == "economy"
    assert models[1].price is not None
    assert models[1].price.output == 2.0


def test_place_in_the_file_makes_a_rank_only_under_priority() -> None:
    chain = "targets: [{provider: a}, {provider: b, trigger: any_error, max_latency_increase_ms: 500}]"
    first, second = ok(BASE + f"routes: [{{{chain}}}]").routes[0].targets
    assert (first.tier, second.tier) == (Tier.PRIMARY, Tier.SECONDARY)
    assert first.trigger is None
    assert second.trigger == ANY_ERROR
    assert second.max_latency_increase_s == 0.5
    weighted = ok(BASE + f"routes: [{{balance: weighted, {chain}}}]").routes[0].targets
    assert [target.tier for target in weighted] == [Tier.PRIMARY, Tier.PRIMARY]
    stated = ok(BASE + "routes: [{targets: [{provider: a, tier: emergency, trigger: [auth, timeout]}]}]").routes[0]
    assert stated.name == "route1"
    assert stated.targets[0].tier is Tier.EMERGENCY
    assert stated.targets[0].trigger == {Class.AUTH, Class.TIMEOUT}


def test_a_provider_may_be_local_without_a_key_or_have_an_address_by_its_name() -> None:
    text = """\
providers:
  anthropic: {api_key: k, circuit_breaker: {error_threshold: 3, looser: never}}
  bedrock: {region: eu-west-1}
  ollama: {dialect: openai, base_url: "http://[::1]:11434/v1/"}
  azure: {base_url: https://acme.example, api_key: k, api_version: 2024-10-21}
"""
    providers = ok(text).providers
    assert providers["anthropic"].base_url == "https://api.anthropic.com"
    assert providers["anthropic"].breaker == {"error_threshold": 3, "looser": "never"}
    assert providers["bedrock"].base_url == "https://bedrock-runtime.eu-west-1.amazonaws.com"
    assert providers["ollama"].api_key is None
    assert providers["ollama"].base_url == "http://[::1]:11434/v1"
    assert providers["azure"].api_version == "2024-10-21"


def test_nothing_of_pydantic_survives() -> None:
    def parts(value: object) -> Iterator[object]:
        yield value
        children = (
            value.values() if isinstance(value, dict) else value if isinstance(value, tuple | list | frozenset) else ()
        )
        slots = [getattr(value, name) for name in getattr(type(value), "__dataclass_fields__", ())]
        for child in (*children, *slots):
            yield from parts(child)

    modules = {type(part).__module__.split(".")[0] for part in parts(ok(CONTRACT, KEYS))}
    assert modules == {"builtins", "proxy"}


# --- warnings --------------------------------------------------------------------------------------------------------

UNUSED = "accepted, but without effect in this version"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("redis: {anything: [goes]}", [f"2:1: redis: {UNUSED}"]),
        ("redis:\nprices: 1", [f"2:1: redis: {UNUSED}", f"3:1: prices: {UNUSED}"]),
        ("health: {probe: deep}", []),
        ("health: {probe: off}\ncache_: 1".partition("\n")[0], []),
        ("telemetry: {traces: {enabled: true}}", []),
        ("store: {path: ./o.db}", []),
        ("defaults: {cache: {mode: exact}}", [f"2:20: defaults.cache.mode: {UNUSED}"]),
        ("defaults: {cache: {mode: off}, stream_recovery: continue}", []),
        ("policies: {p: {degraded_mode: {enabled: true}}}", [f"2:32: policies.p.degraded_mode.enabled: {UNUSED}"]),
        ("defaults: {circuit_breaker: {fallback: cache}}", [f"2:30: defaults.circuit_breaker.fallback: {UNUSED}"]),
        ("defaults: {timeout_s: 10, first_byte_timeout_s: 15}", ["2:27: defaults.first_byte_timeout_s: never fires: it is longer than timeout_s"]),
        ("defaults: {timeout_s: 10}", []),
        ("defaults: {timeout_s: 1, retry: {delays_ms: [600, 600]}}", ["2:34: defaults.retry.delays_ms: add up to 1.2 seconds, more than timeout_s (1)"]),
        ("defaults: {retry: {initial_delay_ms: 100, max_delay_ms: 50}}", ["2:20: defaults.retry.initial_delay_ms: is cut to retry.max_delay_ms"]),
        ("defaults: {retry: {rules: [{error_type: timeout, wait_ms: 1}]}}", ["2:20: defaults.retry.rules: are used with strategy: custom only"]),
        ("routes: [{match: {models: [\"gpt-*\"]}}, {name: x, match: {models: [gpt-4o, \"gpt-4*\"], paths: [/v1]}}]", ['2:40: routes.1: never matches: route "route1" comes first and covers it; only X-Route reaches it']),
        ("routes: [{match: {models: [\"gpt-*\"]}}, {match: {models: [\"*\"]}}]", []),
        ("routes: [{policy: {failover: {enabled: false}}}]", ["2:31: routes.0.policy.failover.enabled: is off, so only the first of the 2 targets is used unless a header asks for more"]),
        ("routes: [{policy: {failover: {max_attempts: 1}}}]", ["2:31: routes.0.policy.failover.max_attempts: is 1, but the route has 2 targets: the last ones are reached only past refused ones"]),
        ("routes: [{targets: [{provider: a, trigger: auth}]}]", ["2:35: routes.0.targets.0.trigger: has no effect on the only target of a route"]),
    ],
)  # fmt: skip
def test_what_has_no_use_is_a_warning_with_its_place(text: str, expected: list[str]) -> None:
    assert warned(BASE + text) == [f"f.yaml:{line}" for line in expected]


def test_providers_that_are_likely_a_mistake_are_warned_about() -> None:
    text = "providers:\n  a: {dialect: openai, base_url: http://h/v1, api_key: k, tls_verify: false}\n  b: {dialect: openai, base_url: https://h, api_key: k, credentials: caller}\n"
    assert warned(text) == [
        "f.yaml:2:24: providers.a.base_url: sends the key without encryption; use https://",
        "f.yaml:2:59: providers.a.tls_verify: the server's certificate is not checked",
        "f.yaml:3:45: providers.b.api_key: is never used with credentials: caller",
    ]


# --- whole files -----------------------------------------------------------------------------------------------------

CONTRACT = """\
version: 1
listen:
  data:  {host: 127.0.0.1, port: 8711}
  admin: {host: 0.0.0.0, port: 8712}
  auth_tokens: []
  max_body_mb: 32
providers:
  openai:
    dialect: openai
    base_url: https://api.openai.com/v1
    api_key: ${OPENAI_API_KEY}
    credentials: sidecar
    region: us-east
    max_concurrency: 256
    models:
      gpt-4o: gpt-4o
      gpt-4o-mini: {name: gpt-4o-mini, tier: economy, quality: 7, max_output_tokens: 16384, price: {input: 0.15, output: 0.60}}
      "*": passthrough
  azure-west:
    dialect: azure
    base_url: https://acme-west.example
    api_key: ${OPENAI_API_KEY}
    api_version: v1
    region: west
    models: {gpt-4o: {name: gpt-4o, deployment: chat-prod}}
  anthropic:
    dialect: anthropic
    base_url: https://api.anthropic.com
    api_key: ${ANTHROPIC_API_KEY}
    models: {gpt-4o: claude-sonnet-5, "claude-*": passthrough}
  deepinfra:
    dialect: openai
    base_url: https://api.deepinfra.com/v1/openai
    api_key: ${DEEPINFRA_API_KEY}
    models: {gpt-4o: meta-llama/Meta-Llama-3.1-70B-Instruct}
defaults:
  timeout_s: 600
  first_byte_timeout_s: 15
  first_content_timeout_s: 120
  stream_idle_timeout_s: 30
  connect_timeout_s: 2
  stream_recovery: continue
  failover: {enabled: true, max_attempts: 8, on: [any_error]}
  retry:   {max_retries: 2, strategy: exponential, initial_delay_ms: 250, max_delay_ms: 8000, multiplier: 2, jitter: full, max_told_wait_ms: 3000}
  circuit_breaker: {}
  hedging: {enabled: false, delay_ms: auto, budget_percent: 5, rescue_after_s: 10}
  stream: {keepalive_s: 0, write_timeout_s: 60, buffer_kb: 256, upstream_stream: auto}
  degraded_mode: {enabled: false}
  cache: {mode: off, ttl_s: 300, stale_if_error_s: 3600}
policies:
  critical: {hedging: {enabled: true}, timeout_s: 30}
  batch:    {retry: {max_retries: 5}, priority: low}
routes:
  - name: chat
    match: {paths: [/v1/chat/completions, /v1/messages, /v1/responses], models: ["gpt-*", "claude-*"]}
    targets:
      - {provider: openai}
      - {provider: azure-west, weight: 10}
      - {provider: anthropic, trigger: [timeout, rate_limit, server_error]}
      - {provider: deepinfra, tier: emergency}
    balance: priority
    policy: {timeout_s: 120}
limits:
  max_retries: 10
  max_attempts: 16
  max_timeout_s: 900
  max_hedges: 3
  allow_overrides: [failover, retry, circuit_breaker, hedging, degraded, cache, timeout, explain]
health: {probe: off, interval_s: 30, timeout_s: 5, failure_threshold: 3, success_threshold: 2}
store:  {path: ":memory:", retention_days: 35}
shutdown: {drain_timeout_s: 5}
chaos:  {enabled: false}
telemetry: {metrics: true, traces: {enabled: false, sample: 0.05}, log: {format: json, level: info}}
"""


def test_the_shape_of_the_contract_loads_and_says_nothing_but_the_defaults() -> None:
    assert warned(CONTRACT, KEYS) == []
    config = ok(CONTRACT, KEYS)
    assert {**schema.BUILTIN, **config.defaults} == schema.BUILTIN
    assert config.limits == type(config.limits)()
    assert config.listen == type(config.listen)()


def test_the_example_loads_with_and_without_keys() -> None:
    path = str(ROOT / "config.example.yaml")
    with_keys = load_file(path, KEYS)
    assert with_keys.config is not None
    assert with_keys.warnings == ()
    assert [provider.disabled for provider in with_keys.config.providers.values()] == ["", "", ""]
    without = load_file(path, {})
    assert without.config is not None
    assert all(provider.disabled for provider in without.config.providers.values())
    assert len(without.warnings) == 3


# --- hostile input ---------------------------------------------------------------------------------------------------


@given(st.text())
def test_no_text_raises(text: str) -> None:
    loaded = load_text(text, "f.yaml", {})
    assert (loaded.config is None) == bool(loaded.errors)


YAMLISH = st.lists(
    st.sampled_from(["a", "providers", ": ", "\n", "  ", "- ", "{", "}", "[", "]", ",", "'", '"', "|", ">", "*x", "&x ", "!t ", "? ", "---\n", "...\n", "#", "${A}", "${", "\t", "1e999", "<<", "\\", "%", "\u2028", "\x85", "é"]),
    max_size=30,
).map("".join)  # fmt: skip


@given(YAMLISH)
def test_no_near_yaml_raises(text: str) -> None:
    load_text(text, "f.yaml", {"A": "x: [1"})
    load_text("providers: {openai: {api_key: " + text, "f.yaml", {})


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["${A}", "openai", "*"])
)
KEY = st.sampled_from(sorted({key for path, _ in schema.scalars() for key in path} | {"providers", "openai", "routes", "targets", "provider", "models", "policies", "match", "*", "rules", "on", "api_key", "file"})) | st.text(max_size=4)  # fmt: skip
TREES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEY, inner, max_size=4), max_leaves=25
)


@given(st.dictionaries(KEY, TREES, max_size=5))
def test_no_tree_of_known_words_raises(tree: dict[str, object]) -> None:
    base = {"providers": {"openai": {"api_key": "k"}}, **tree}
    load_text(json.dumps(base, ensure_ascii=False), "f.yaml", {"A": "1"})


@given(st.integers(0, len(CONTRACT)), st.integers(0, 40), st.text(max_size=6))
def test_no_damaged_contract_raises_and_every_problem_has_its_place(at: int, cut: int, put: str) -> None:
    text = CONTRACT[:at] + put + CONTRACT[at + cut :]
    loaded = load_text(text, "f.yaml", KEYS)
    lines = text.count("\n") + text.count("\r") + text.count("\x85") + text.count("\u2028") + text.count("\u2029") + 2
    assert all(1 <= problem.line <= lines and problem.column >= 1 for problem in (*loaded.errors, *loaded.warnings))


def test_the_yaml_test_suite_never_crashes_the_loader() -> None:
    count = 0
    with tarfile.open(need("http/yaml_test_suite.tar.gz")) as archive:
        for member in archive.getmembers():
            file = archive.extractfile(member) if member.name.endswith(".yaml") else None
            if file is None:
                continue
            for case in yaml.safe_load(file.read()):
                text = (
                    str(case.get("yaml", ""))
                    .translate(
                        {ord("␣"): " ", ord("»"): "\t", ord("∎"): "", ord("↵"): "", ord("←"): "\r", ord("⇔"): "\ufeff"}
                    )
                    .replace("—", "")
                )
                load_text(text, "f.yaml", {})
                load_text(BASE + "redis:\n" + "".join(f"  {line}\n" for line in text.splitlines()), "f.yaml", {})
                count += 1
    assert count >= 200


def test_naughty_strings_are_values_like_any_other() -> None:
    strings = json.loads(need("http/blns.json").read_text(encoding="utf-8"))
    for text in strings:
        quoted = json.dumps(text, ensure_ascii=False)
        loaded = load_text(f"providers: {{openai: {{api_key: {quoted}, region: {quoted}}}}}", "f.yaml", {})
        assert loaded.config is not None or loaded.errors
        assert all(str(problem).isascii() for problem in (*loaded.errors, *loaded.warnings))
        load_text(f"providers: {{{quoted}: {quoted}}}\nroutes: [{quoted}]\n{text}: {text}", "f.yaml", {})
        load_text(f"{BASE}store:\n  path: ${{A}}\n", "f.yaml", {"A": text})
    assert len(strings) >= 250
