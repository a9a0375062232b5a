"""What a new file changes: which evidence still means the same thing, and what has to wait for a restart."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from proxy.base.target import Target
from proxy.config.changes import changes, differing, tokens_in_force, waiting
from proxy.config.compiled import Config
from proxy.config.load import load_text

BASE: dict[str, Any] = {
    "version": 1,
    "providers": {
        "a": {"dialect": "openai", "base_url": "http://127.0.0.1:1", "api_key": "k1", "models": {"m": "m", "n": "n"}},
        "b": {"dialect": "azure", "base_url": "http://127.0.0.1:2", "api_key": "k2", "models": {"m": {"name": "m"}}},
    },
}
OWN, CALLERS = Target("a", "m"), Target("a", "m", "fp")


def made(**over: Any) -> Config:
    """The base file; `over` replaces values by dotted path, with ``__`` for the dot, None takes them away."""
    tree = yaml.safe_load(yaml.safe_dump(BASE))
    for path, value in over.items():
        node = tree
        *way, last = path.split("__")
        for part in way:
            node = node.setdefault(part, {})
        if value is None:
            node.pop(last)
        else:
            node[last] = value
    loaded = load_text(yaml.safe_dump(tree), "f", {"K": "k1"})
    assert loaded.config is not None, loaded.errors
    return loaded.config


def test_the_same_file_changes_nothing() -> None:
    found = changes(made(), made())
    assert (found.keys, found.kept) == ((), {"a", "b"})
    assert [found.moved, found.rekeyed, found.models, found.rejudged] == [frozenset()] * 4


@pytest.mark.parametrize(
    "over",
    [
        {"providers__a__base_url": "http://127.0.0.1:9"},
        {"providers__a__dialect": "anthropic"},
        {"providers__a": None},
    ],
)
def test_a_provider_that_moved_is_forgotten_whole(over: dict[str, Any]) -> None:
    found = changes(made(), made(**over))
    assert found.forgets(OWN)
    assert found.forgets(CALLERS)
    assert not found.forgets(Target("b", "m"))
    assert found.kept == {"b"}


@pytest.mark.parametrize("key", ["k9", "${K}", {"file": "/k"}])
def test_another_key_forgets_what_the_old_one_has_shown(key: Any) -> None:
    found = changes(made(), made(providers__a__api_key=key))
    assert found.keys == tuple(dict.fromkeys(("providers.a.api_key", *found.keys)))
    assert (found.forgets(OWN), found.forgets(CALLERS), found.kept) == (True, False, {"b"})
    assert "k9" not in str(found)


def test_a_file_that_is_rotated_is_no_change(tmp_path: Any) -> None:
    path = tmp_path / "k"
    path.write_text("one")
    old = made(providers__a__api_key={"file": str(path)})
    path.write_text("two")
    assert changes(old, made(providers__a__api_key={"file": str(path)})).kept == {"a", "b"}


def test_other_models_and_deployments() -> None:
    found = changes(
        made(), made(providers__a__models={"m": "m"}, providers__b__models={"m": {"name": "m", "deployment": "d"}})
    )
    assert found.models == {("a", "n"), ("b", "m")}
    assert found.kept == {"a", "b"}
    assert not found.forgets(OWN)


def test_connections_follow_who_is_trusted_and_evidence_does_not() -> None:
    found = changes(made(), made(providers__a__tls_verify=False))
    assert (found.kept, found.forgets(OWN)) == ({"b"}, False)


@pytest.mark.parametrize(
    ("over", "rejudged"),
    [
        ({"providers__a__max_concurrency": 5}, {"a"}),
        ({"providers__a__circuit_breaker": {"error_threshold": 3}}, {"a"}),
        ({"defaults": {"circuit_breaker": {"error_threshold": 3}}}, {"a", "b"}),
        ({"defaults": {"timeout_s": 3}}, set()),
        ({"routes": [{"name": "r", "policy": {"circuit_breaker": {"error_threshold": 3}}}]}, {"a", "b"}),
    ],
)
def test_other_limits_judge_anew_and_forget_nothing(over: dict[str, Any], rejudged: set[str]) -> None:
    found = changes(made(), made(**over))
    assert found.rejudged == rejudged
    assert found.rejudges(OWN) == ("a" in rejudged)
    assert not found.forgets(OWN)
    assert found.kept == {"a", "b"}


def test_differences_are_named_and_not_shown() -> None:
    old = {"a": {"x": 1, "y": [1, 2]}, "b": 1}
    assert [*differing(old, {"a": {"x": 1, "y": [1, 3]}, "c": 1})] == ["a.y", "b", "c"]


def test_what_is_bound_waits() -> None:
    new = made(
        listen__data={"port": 99},
        listen__max_body_mb=5,
        telemetry={"metrics": False, "log": {"level": "debug"}},
        store__path="/tmp/x.db",
    )
    assert waiting(made(), new) == ("listen.data.port", "listen.max_body_mb", "telemetry.metrics", "store.path")
    assert waiting(made(), made(listen__auth_tokens=["t"], limits__max_held_mb=7)) == ()


def test_an_open_port_keeps_its_tokens() -> None:
    wide = made(listen__data={"host": "0.0.0.0"}, listen__auth_tokens=["t"]).listen
    narrow, other = made().listen, made(listen__auth_tokens=["u"]).listen
    insecure = made(listen__data={"host": "0.0.0.0"}, listen__insecure=True).listen
    assert tokens_in_force(wide, wide, narrow) is wide.auth_tokens
    assert tokens_in_force(wide, wide, other) is other.auth_tokens
    assert tokens_in_force(wide, wide, insecure) == ()
    assert tokens_in_force(narrow, other, narrow) == ()
