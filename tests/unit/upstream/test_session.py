"""The providers of one configuration after those of another: what goes over, what ends, and when a key has turned."""

from __future__ import annotations

from typing import Any

from proxy.config.secrets import fixed, from_file
from proxy.upstream.credentials import Stated
from proxy.upstream.grants import AwsKeys
from proxy.upstream.session import Account, Upstreams


def account(name: str, **more: Any) -> Account:
    return Account(name=name, dialect="openai", base_url="http://127.0.0.1:1", key=fixed(f"key-{name}"), **more)


def upstreams(*accounts: Account) -> Upstreams:
    return Upstreams({each.name: each for each in accounts}, lambda: 0.0, lambda: 0.0)


async def test_what_is_kept_goes_over_with_its_pool() -> None:
    old = upstreams(account("a"), account("b"))
    first, second = old["a"], old["b"]
    new = old.succeeded({"a": account("a"), "b": account("b"), "c": account("c")}, frozenset({"a", "gone"}))
    assert new["a"] is first
    assert new["b"] is not second
    assert [upstream.account.name for upstream in new.built()] == ["a", "b"]
    assert old["b"] is second  # for the requests that began with it
    assert (first.connector._closed, second.connector._closed) == (False, True)
    new.close()


async def test_what_is_built_by_a_late_request_keeps_nothing_open() -> None:
    old = upstreams(account("a"))
    new = old.succeeded({}, frozenset())
    assert old["a"].connector._closed
    assert new.built() == []


async def test_a_rotated_key_is_seen_at_once_when_it_was_refused(tmp_path: Any) -> None:
    path = tmp_path / "key"
    path.write_text("one")
    clock = [0.0]
    made = upstreams(
        Account(name="a", dialect="openai", base_url="http://h", key=from_file(str(path), lambda: clock[0]))
    )
    upstream = made["a"]
    assert upstream.secret() == "one"
    path.write_text("two")
    assert upstream.secret() == "one"  # remembered for a second
    assert upstream.is_renewed("one")
    assert not upstream.is_renewed("two")
    assert upstream.has_turned()
    assert not upstream.has_turned()
    path.unlink()
    assert not upstream.is_renewed("two")  # a file that is missing is no new key
    assert upstream.own_line() == b""


async def test_keys_to_sign_with_turn_as_well(tmp_path: Any) -> None:
    path = tmp_path / "secret"
    path.write_text("one")
    keys = Stated(fixed("AKIA"), from_file(str(path), lambda: 0.0), None)
    upstream = upstreams(Account(name="b", dialect="bedrock", base_url="https://h.invalid", key=None, credential=keys))[
        "b"
    ]
    sent = upstream.secret()
    assert sent == AwsKeys("AKIA", "one", "")
    assert not upstream.is_renewed(sent)
    path.write_text("two")
    assert upstream.is_renewed(sent)
