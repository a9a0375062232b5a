"""References and credentials: what is looked up, when a key file is read again, and that nothing is ever shown."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.load import load_text
from proxy.config.secrets import CHECK_EVERY_S, MAX_FILE_BYTES, expand, fixed, from_file, is_secret


class Clock:
    """Seconds that move when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("text", "out", "missing"),
    [
        ("plain", "plain", ()),
        ("${A}", "1", ()),
        ("x${A}y${B}z", "x1yz", ("B",)),
        ("${A}${A}", "11", ()),
        ("${B:-d}", "d", ()),
        ("${B:-}", "", ()),
        ("${E:-d}", "d", ()),
        ("${E}", "", ()),
        ("${A:-d}", "1", ()),
        ("${B:-http://h:1/x y}", "http://h:1/x y", ()),
        ("$${A}", "${A}", ()),
        ("$$${A}", "$${A}", ()),
        ("$A {A} $", "$A {A} $", ()),
        ("${R}", "${A}", ()),
    ],
)
def test_references_are_replaced_once_and_never_in_their_own_result(
    text: str, out: str, missing: tuple[str, ...]
) -> None:
    got = expand(text, {"A": "1", "E": "", "R": "${A}"})
    assert (got.text, got.missing, got.malformed) == (out, missing, False)


@pytest.mark.parametrize("text", ["${", "${}", "${1A}", "${A", "${A-d}", "a ${A:d}", "${A B}"])
def test_what_is_almost_a_reference_is_malformed(text: str) -> None:
    assert expand(text, {"A": "1"}).malformed


def test_a_value_full_of_unfinished_references_is_refused_at_once() -> None:
    assert expand("${A:-" * 100_000, {}).malformed  # a default never runs on into the next reference
    loaded = load_text("providers: {openai: {api_key: k}}\nstore: {path: '" + "${A}" * 65 + "'}", "f.yaml", {"A": "x"})
    assert str(loaded.errors[0]) == "f.yaml:2:9: store.path: holds more than 64 references"


@given(st.text(alphabet="${}A:-x"))
def test_expansion_never_raises(text: str) -> None:
    assert isinstance(expand(text, {"A": "1"}).text, str)


def test_only_names_of_variables_go_into_a_reference() -> None:
    assert repr(fixed("hunter2", ("A", "B"))) == "Secret(${A}${B})"
    assert fixed("hunter2").reference == "(literal)"
    assert fixed(None, ("A",)).read() is None


def test_the_places_of_secrets() -> None:
    assert is_secret(("providers", "x", "api_key"))
    assert is_secret(("providers", "x", "api_key", "file"))
    assert is_secret(("listen", "auth_tokens", 0))
    assert not is_secret(("providers", "api_key"))
    assert not is_secret(("listen",))


def test_a_key_file_is_read_again_when_it_changes_at_most_once_a_second(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "key"
    secret = from_file(str(path), clock)
    assert secret.reference == f"file:{path}"
    assert secret.read() is None
    path.write_text("one\n")
    assert secret.read() is None
    clock.now += CHECK_EVERY_S
    assert secret.read() == "one"
    path.write_text("two!")
    assert secret.read() == "one"
    clock.now += CHECK_EVERY_S
    assert secret.read() == "two!"
    path.unlink()
    clock.now += CHECK_EVERY_S
    assert secret.read() is None


def test_a_swapped_link_is_seen_though_size_and_time_are_the_same(tmp_path: Path) -> None:
    clock = Clock()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "key").write_text(f"{name}\n")
        os.utime(tmp_path / name / "key", (5, 5))
    (tmp_path / "..data").symlink_to("one")
    (tmp_path / "key").symlink_to("..data/key")
    secret = from_file(str(tmp_path / "key"), clock)
    assert secret.read() == "one"
    (tmp_path / "..tmp").symlink_to("two")
    (tmp_path / "..tmp").replace(tmp_path / "..data")
    clock.now += CHECK_EVERY_S
    assert secret.read() == "two"


@pytest.mark.parametrize("now", [999.0, -1e9, float("nan"), float("inf"), 1e300])
def test_a_clock_that_jumps_looks_again(tmp_path: Path, now: float) -> None:
    clock, path = Clock(), tmp_path / "key"
    path.write_text("one")
    secret = from_file(str(path), clock)
    assert secret.read() == "one"
    path.write_text("longer")
    clock.now = now
    assert secret.read() == "longer"


@pytest.mark.parametrize(
    ("content", "key"),
    [
        (b"k\n", "k"),
        (b"k\r\n", "k"),
        (b"k\n\n", None),
        (b"", None),
        (b"\n", None),
        (b"a b", None),
        (b"a\nX-Evil: 1", None),
        ("schlüssel".encode(), None),
        (b"\xff\xfe", None),
        (b"k" * (MAX_FILE_BYTES + 1), None),
        (b"k" * MAX_FILE_BYTES, "k" * MAX_FILE_BYTES),
    ],
)
def test_a_key_file_holds_one_key_that_a_header_can_carry(tmp_path: Path, content: bytes, key: str | None) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    assert from_file(str(path), Clock()).read() == key


def test_a_directory_or_a_pipe_is_no_key_and_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert from_file(str(tmp_path), Clock()).read() is None
    assert from_file(str(tmp_path / "pipe"), Clock()).read() is None


def test_a_provider_whose_key_file_is_not_there_yet_comes_alive(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "key"
    text = f"providers:\n  openai:\n    api_key: {{file: {path}}}\n"
    loaded = load_text(text, "f.yaml", {}, clock=clock)
    assert loaded.config is not None
    provider = loaded.config.providers["openai"]
    assert provider.disabled == ""
    assert provider.api_key is not None
    assert provider.api_key.read() is None
    assert [warning.line for warning in loaded.warnings] == [3]
    path.write_text("sk-late\n")
    clock.now += CHECK_EVERY_S
    assert provider.api_key.read() == "sk-late"


def test_a_missing_variable_in_the_path_of_a_key_file_disables_the_provider() -> None:
    loaded = load_text('providers: {openai: {api_key: {file: "${DIR}/key"}}}', "f.yaml", {})
    assert loaded.config is not None
    assert loaded.config.providers["openai"].disabled == "no key: ${DIR} is not set"
