"""The section `notify`: what it becomes, what it may not say, and that its secrets stay secrets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from proxy.config.changes import waiting
from proxy.config.load import Loaded, load_text
from proxy.policy.incident import Severity, Type

BASE = "providers: {a: {dialect: openai, base_url: http://127.0.0.1:1}}\n"
FULL = """
listen: {admin_tokens: [hunter2-admin]}
notify:
  signing_key: hunter2-sign
  smtp: {host: mail.example.com, port: 465, tls: tls, sender: o@example.com, username: me, password: "${PW}"}
  sms: {url: https://sms.example.com/hunter2-path, token: hunter2-token}
  slack: {url: "${SLACK}"}
  subscriptions:
    - {channels: webhook, webhook_url: https://hooks.example.com/x, severity_threshold: high, include_types: [outage]}
    - {channels: [email, sms, slack], email: a@example.com, phone: "+4930123456", regions: [eu]}
"""
ENV = {"PW": "hunter2-pw", "SLACK": "https://hooks.slack.example/hunter2-slack"}


def loaded(text: str, env: dict[str, str] | None = None) -> Loaded:
    return load_text(BASE + text, "f", env or {})


def test_everything_stated() -> None:
    config = loaded(FULL, ENV).config
    assert config is not None
    notify = config.notify
    assert [token.read() for token in config.listen.admin_tokens] == ["hunter2-admin"]
    assert notify.signing_key is not None
    assert notify.smtp_password is not None
    assert (notify.signing_key.read(), notify.smtp_password.read()) == ("hunter2-sign", "hunter2-pw")
    assert (notify.smtp_host, notify.smtp_port, notify.smtp_tls) == ("mail.example.com", 465, "tls")
    assert notify.missing == {}
    first, second = notify.subscriptions
    assert (first.channels, first.threshold, first.types) == (("webhook",), Severity.HIGH, frozenset({Type.OUTAGE}))
    assert (second.threshold, second.types, second.regions) == (Severity.MEDIUM, frozenset(Type), frozenset({"eu"}))
    assert first.from_file
    again = loaded(FULL.replace("hunter2-sign", "other"), ENV).config
    assert again is not None
    assert [each.id for each in again.notify.subscriptions] == [first.id, second.id], "what waits finds them again"


def test_secrets_are_shown_as_references() -> None:
    config = loaded(FULL, ENV).config
    assert config is not None
    shown = json.dumps(config.redacted, default=str)
    assert "hunter2" not in shown
    assert config.redacted["notify"]["slack"]["url"] == "${SLACK}"
    assert config.redacted["notify"]["signing_key"] == "(literal)"
    assert config.redacted["listen"]["admin_tokens"] == ["(literal)"]


def test_a_key_in_a_file_is_read_when_it_is_needed(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("one\n")
    config = loaded(f"notify: {{signing_key: {{file: {path}}}}}").config
    assert config is not None
    assert config.notify.signing_key is not None
    assert config.notify.signing_key.read() == "one"


def test_without_the_section() -> None:
    found = loaded("")
    assert found.config is not None
    assert found.warnings == ()
    assert found.config.notify.missing == {"email": "notify.smtp", "sms": "notify.sms", "slack": "notify.slack"}


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("notify: {signing_kee: x}", 'notify: unknown key; did you mean "signing_key"?'),
        ("notify: {smtp: {tls: ssl}}", "notify.smtp.tls: must be one of starttls, tls or none"),
        ("notify: {sms: {url: ftp://x/}}", "notify.sms.url: must begin with https:// or http://"),
        ("notify: {smtp: {host: m, username: u}}", "notify.smtp.username: needs password"),
        ("notify: {subscriptions: [{channels: []}]}", "must have at least 1 entry"),
        ("notify: {subscriptions: [{channels: [fax]}]}", "must be one of webhook, email, sms or slack"),
        ("notify: {subscriptions: [{channels: [sms], phone: '+4930123456'}]}", "sms needs notify.sms.url"),
        ("notify: {subscriptions: [{channels: [slack]}]}", "slack needs notify.slack.url"),
        ("notify: {smtp: {host: m}, subscriptions: [{channels: [email]}]}", "email needs email"),
        ("notify: {smtp: {host: m}, subscriptions: [{channels: [email], email: x}]}", "must be an email address"),
        ("notify: {subscriptions: [{channels: [webhook], webhook_url: https://x/}]}", "needs notify.signing_key"),
        (
            "notify: {signing_key: k, subscriptions: [{channels: [webhook], webhook_url: 'https://u:p@x/'}]}",
            "must not carry a user name or password",
        ),
        ("notify: {subscriptions: [{channels: [webhook], include_types: [outages]}]}", 'did you mean "outage"'),
    ],
)
def test_what_it_may_not_say(text: str, error: str) -> None:
    told = " | ".join(map(str, loaded(text).errors))
    assert error.removeprefix("notify: ") in told
    assert "u:p" not in told


def test_a_password_in_the_clear_is_a_warning() -> None:
    text = "notify: {smtp: {host: m, tls: none, username: u, password: p}}"
    assert any("without encryption" in str(warning) for warning in loaded(text).warnings)


def test_admin_tokens_and_the_section_take_effect_without_a_restart() -> None:
    before, after = loaded("").config, loaded(FULL, ENV).config
    assert before is not None
    assert after is not None
    assert waiting(before, after) == ()
