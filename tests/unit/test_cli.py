"""The command line: exit codes, where the words go, and no traceback for anything that was typed."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from proxy import __version__
from proxy.cli import BAD_CONFIG, DONE, FAILED, USAGE, main

ROOT = Path(__file__).resolve().parents[2]
GOOD = """
version: 1
providers:
  a: {dialect: openai, base_url: "http://127.0.0.1:1/v1", api_key: "${CLI_TEST_KEY:-sk-x}"}
"""


@pytest.fixture
def good(tmp_path: Path) -> str:
    path = tmp_path / "good.yaml"
    path.write_text(GOOD)
    return str(path)


@pytest.fixture
def bad(tmp_path: Path) -> str:
    path = tmp_path / "bad.yaml"
    path.write_text(GOOD.replace("openai", "opneai") + "unknown: 1\n")
    return str(path)


def run(*argv: str) -> int:
    """Exit code of `main`, whether it returned or argparse left."""
    try:
        return main(argv)
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else FAILED


# Usage ----------------------------------------------------------------------------------------------------------------


def test_codes_are_those_of_the_contract() -> None:
    assert (DONE, FAILED, USAGE, BAD_CONFIG) == (0, 1, 2, 78)


def test_nothing_typed_is_a_call_for_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == DONE
    assert "check" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["run", "check", "schema", "explain", "demo", "drill", "wait", "shutdown"])
def test_every_command_has_help_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command, "--help") == DONE
    assert f"example: outrider {command}" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == DONE
    assert capsys.readouterr().out.strip() == f"outrider {__version__}"


@pytest.mark.parametrize(
    "argv",
    [
        ("frobnicate",),
        ("check", "--frobnicate"),
        ("check", "--frobnicate", "1"),
        ("check", "--format", "xml"),
        ("run", "--listen-data-port"),
        ("run", "stray"),
        ("run", "--loop", "trio"),
        ("schema", "stray"),
        ("wait", "--timeout", "soon"),
        ("wait", "--timeout", "nan"),
        ("wait", "--admin", "http://127.0.0.1:port"),
        ("shutdown", "--admin", "http://127.0.0.1:99999"),
        ("shutdown", "--admin", "http://[::1"),
        ("demo", "--port", "many"),
        ("demo", "--port", "70000"),
        ("demo", "--admin-port", "-1"),
    ],
    ids=" ".join,
)
def test_what_cannot_be_meant_is_a_usage_error_in_words(
    argv: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*argv) == USAGE
    said = capsys.readouterr()
    assert said.err.strip()
    assert "Traceback" not in said.err
    assert said.out == ""


def test_an_unknown_setting_is_bad_configuration_with_a_hint(good: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("run", "--config", good, "--listen-data-prot", "1") == BAD_CONFIG
    assert "--listen-data-port" in capsys.readouterr().err


# check, schema --------------------------------------------------------------------------------------------------------


def test_check_a_good_file(good: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", good) == DONE
    assert capsys.readouterr().out.strip().endswith("good.yaml: ok")


def test_check_tells_all_errors_with_their_place(bad: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", bad) == BAD_CONFIG
    out = capsys.readouterr().out
    assert f"{bad}:4:" in out
    assert "unknown" in out
    assert ": ok" not in out


def test_check_several_files_fails_if_one_does(good: str, bad: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", good, bad) == BAD_CONFIG
    assert f"{good}: ok" in capsys.readouterr().out


def test_check_as_json_and_for_github(bad: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("check", bad, "--format", "json") == BAD_CONFIG
    reports = json.loads(capsys.readouterr().out)
    assert len(reports) >= 2
    assert all({"severity", "file", "line", "column", "path", "message"} == set(report) for report in reports)
    assert run("check", bad, "--format", "github") == BAD_CONFIG
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(reports)
    assert all(line.startswith(("::error file=", "::warning file=")) for line in lines)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"{", b"- 1\n", b"version: 99\n"])
def test_a_file_that_is_none_is_bad_configuration(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "odd.yaml"
    path.write_bytes(content)
    assert run("check", str(path)) == BAD_CONFIG
    assert "odd.yaml" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["check", "run", "explain"])
def test_a_missing_file_is_bad_configuration(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(command, "--config", str(tmp_path / "none.yaml")) == BAD_CONFIG
    said = capsys.readouterr()
    assert "none.yaml" in said.out + said.err


def test_no_key_is_ever_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLI_TEST_KEY", "sk-very-secret")
    path = tmp_path / "c.yaml"
    path.write_text(GOOD)
    assert run("check", str(path)) == DONE
    assert run("explain", "--config", str(path), "--model", "m") == DONE
    assert run("explain", "--config", str(path), "--model", "m", "--format", "json") == DONE
    said = capsys.readouterr()
    assert "sk-very-secret" not in said.out + said.err


def test_schema_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("schema") == DONE
    assert json.loads(capsys.readouterr().out)["properties"]["providers"]


# explain --------------------------------------------------------------------------------------------------------------


def test_explain_prints_the_plan_with_origins(good: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("explain", "--config", good, "--model", "gpt-4o", "-H", "X-Max-Retries: 5") == DONE
    out = capsys.readouterr().out
    assert "x-max-retries" in out.lower()
    assert "built-in" in out


def test_explain_reads_a_request_file(good: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    request = tmp_path / "request.json"
    request.write_text(json.dumps({"headers": {"X-Max-Retries": "4"}, "body": {"model": "m", "stream": True}}))
    assert run("explain", "--config", good, "--request", str(request), "--format", "json") == DONE
    assert json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (("--model", "m", "-H", "X-Max-Retries: many"), FAILED),
        (("--model", "m", "-H", "X-Max-Retrys: 1"), FAILED),
        (("--path", "/nowhere", "--model", "m"), FAILED),
        (("--model", "m", "-H", "no colon"), USAGE),
        (("--model", "m", "-H", "X-Ä: \u6a21"), USAGE),
        (("--request", "/nonexistent.json"), USAGE),
        (("--request", "/dev/null"), USAGE),
    ],
)
def test_explain_says_what_is_wrong(
    good: str, argv: tuple[str, ...], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("explain", "--config", good, *argv) == code
    said = capsys.readouterr()
    assert said.err.strip()
    assert "Traceback" not in said.err
    assert said.out == ""


# wait, shutdown -------------------------------------------------------------------------------------------------------


class Admin(BaseHTTPRequestHandler):
    """An admin port: 503 to the first question of each kind, 200 afterwards."""

    asked: list[str]

    def _answer(self) -> None:
        self.asked.append(f"{self.command} {self.path}")
        self.send_response(200 if len(self.asked) > 1 else 503)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST = _answer

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def admin() -> Iterator[tuple[str, list[str]]]:
    handler = type("Handler", (Admin,), {"asked": []})
    server = HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", handler.asked  # type: ignore[attr-defined]
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address where nobody listens: bound, so that nobody else takes it meanwhile."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def test_wait_asks_until_the_sidecar_has_started(admin: tuple[str, list[str]]) -> None:
    url, asked = admin
    assert run("wait", "--admin", url, "--timeout", "5") == DONE
    assert asked == ["GET /startupz", "GET /startupz"]


def test_wait_gives_up(nobody: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("wait", "--admin", nobody, "--timeout", "0") == FAILED
    assert nobody in capsys.readouterr().err


def test_shutdown_asks_once_and_tells_a_refusal(
    admin: tuple[str, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    url, asked = admin
    assert run("shutdown", "--admin", url) == FAILED
    assert "answered 503" in capsys.readouterr().err
    assert run("shutdown", "--admin", url) == DONE
    assert asked == ["POST /quitquitquit"] * 2


def test_shutdown_of_nobody(nobody: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("shutdown", "--admin", nobody) == FAILED
    assert "does not answer" in capsys.readouterr().err


# The real process -----------------------------------------------------------------------------------------------------


def test_a_taken_port_is_a_failure_in_one_line(good: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = subprocess.run(
            [sys.executable, "-m", "proxy", "run", "--config", good],
            cwd=ROOT,
            env={**os.environ, "OUTRIDER_LISTEN_DATA_PORT": str(taken.getsockname()[1])},
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
    assert done.returncode == FAILED
    assert "Traceback" not in done.stderr
    assert done.stderr.strip().startswith("outrider: ")


def test_python_m_proxy_is_the_same_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "proxy", "--version"], cwd=ROOT, capture_output=True, text=True, timeout=20, check=True
    )
    assert done.stdout.strip() == f"outrider {__version__}"
