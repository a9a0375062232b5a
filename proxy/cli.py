"""The command line: run, check, schema, explain, demo, drill, simulate, replay, wait, shutdown.

Exit codes: 0 done, 1 failed, 2 usage, 78 bad configuration (EX_CONFIG of sysexits). Heavy rooms are imported by the
command that needs them, so that `--version`, `wait` and `shutdown` start at once.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from proxy import __version__
from proxy.sim.whatif import options

if TYPE_CHECKING:
    from proxy.app import App
    from proxy.config.compiled import Config
    from proxy.config.load import Loaded
    from proxy.sim.whatif.simulate import Run

DONE: Final = 0
FAILED: Final = 1
USAGE: Final = 2
BAD_CONFIG: Final = 78

CONFIG_DEFAULT: Final = "config.yaml"
SECONDS_MAX: Final = 86_400.0
_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; never raises for what the user typed."""
    args, rest = _parser().parse_known_args(list(sys.argv[1:] if argv is None else argv) or ["--help"])
    flags = _flags(rest)
    if isinstance(flags, str):
        print(f"outrider: {flags}", file=sys.stderr)
        return USAGE
    if flags and not getattr(args, "takes_settings", False):
        print(f"outrider {args.command}: unknown option --{next(iter(flags))}", file=sys.stderr)
        return USAGE
    args.flags = flags
    try:
        result: int = args.go(args)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return FAILED
    return result


def _flags(rest: Sequence[str]) -> dict[str, str] | str:
    """``--listen-data-port=8080`` or ``--listen-data-port 8080`` into settings; a text: what is wrong."""
    flags: dict[str, str] = {}
    words = list(rest)
    while words:
        word = words.pop(0)
        if not word.startswith("--") or len(word) < 3:
            return f"unexpected argument {word!r}"
        name, equals, value = word[2:].partition("=")
        if not equals:
            if not words or words[0].startswith("--"):
                return f"--{name} needs a value"
            value = words.pop(0)
        flags[name] = value
    return flags


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="outrider",
        description="A sidecar that makes LLM calls reliable: retries, failover, hedging and circuit breaking.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"outrider {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(
        name: str, text: str, example: str, go: Callable[[argparse.Namespace], int], settings: bool = False
    ) -> argparse.ArgumentParser:
        made = commands.add_parser(
            name,
            help=text,
            description=text,
            epilog=f"example: {example}",
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        made.set_defaults(go=go, takes_settings=settings)
        return made

    run = command(
        "run", "Start the proxy.", "outrider run --config config.yaml --listen-data-port 8080", _run, settings=True
    )
    run.add_argument("--config", default=os.environ.get("OUTRIDER_CONFIG", CONFIG_DEFAULT), metavar="FILE")
    run.add_argument("--loop", choices=("uvloop", "asyncio"), default=os.environ.get("OUTRIDER_LOOP", "uvloop"))

    check = command(
        "check",
        "Check configuration files; all errors at once, with their place.",
        "outrider check config.yaml",
        _check,
    )
    check.add_argument("files", nargs="*", default=[], metavar="FILE")
    check.add_argument("--config", metavar="FILE", help="the same as naming FILE")
    check.add_argument("--format", choices=("text", "json", "github"), default="text")

    command("schema", "Print the JSON Schema of the configuration file.", "outrider schema > outrider.json", _schema)

    explain = command(
        "explain",
        "Print the effective plan of a request, with the origin of each value. No call is made.",
        "outrider explain --config config.yaml --model gpt-4o -H 'X-Max-Retries: 5'",
        _explain,
    )
    explain.add_argument("--config", default=os.environ.get("OUTRIDER_CONFIG", CONFIG_DEFAULT), metavar="FILE")
    explain.add_argument("--path", default="/v1/chat/completions")
    explain.add_argument("--model", default="")
    explain.add_argument("--stream", action="store_true")
    explain.add_argument("-H", "--header", action="append", default=[], metavar="'NAME: VALUE'")
    explain.add_argument(
        "--request", metavar="FILE", help='a request as JSON: {"path": …, "headers": {…}, "body": {"model": …}}'
    )
    explain.add_argument("--format", choices=("text", "json"), default="text")

    demo = command("demo", "Start the built-in fake providers and the proxy in front of them.", "outrider demo", _demo)
    demo.add_argument("--port", type=_port, default=8711, help="data port; 0 takes a free one")
    demo.add_argument("--admin-port", type=_port, default=8712, help="admin port; 0 takes a free one")
    demo.add_argument("--loop", choices=("uvloop", "asyncio"), default="uvloop")

    drill = command(
        "drill",
        "Inject faults into routes of a running sidecar for a while, and report whether callers noticed.",
        "outrider drill --route chat --fault primary:error=503 --for 10s",
        _drill,
    )
    drill.add_argument("--url", "--admin", type=_admin_url, default="http://127.0.0.1:8712", metavar="URL")
    drill.add_argument("--route", action="append", default=[], metavar="NAME", help="repeatable; default: every route")
    drill.add_argument("--fault", action="append", required=True, metavar="WHO:WHAT", help="as X-Chaos takes it")
    drill.add_argument("--for", dest="for_s", type=_duration, default=10.0, metavar="TIME", help="10s, 500ms, 2m")
    drill.add_argument("--watch", action="store_true", help="send nothing, look at the app's own requests")
    drill.add_argument("--model", default="", help="for the requests sent; default: one that the route knows")
    drill.add_argument("-H", "--header", action="append", default=[], metavar="'NAME: VALUE'")
    drill.add_argument("--json", action="store_true", help="print the whole report")

    simulate = command(
        "simulate",
        "What callers would have seen: your configuration, some traffic, some outages, in virtual time.",
        "outrider simulate --config config.yaml --rate 5 --for 4h --outage openai:hang,from=1h,for=2h",
        _simulate,
    )
    replay = command(
        "replay",
        "What another configuration would have made of the requests that a sidecar has had.",
        "outrider replay --config new.yaml history.sqlite",
        _replay,
    )
    options.of_simulate(simulate)
    options.of_replay(replay)
    for made in (simulate, replay):
        made.add_argument("--config", default=os.environ.get("OUTRIDER_CONFIG", CONFIG_DEFAULT), metavar="FILE")
        options.of_both(made)

    for name, text, example, go in (
        ("wait", "Wait until a sidecar has started.", "outrider wait --timeout 30", _wait),
        ("shutdown", "Ask the sidecar on this host to leave.", "outrider shutdown", _shutdown),
    ):
        made = command(name, text, example, go)
        made.add_argument("--admin", type=_admin_url, default="http://127.0.0.1:8712", metavar="URL")
        made.add_argument("--timeout", type=_seconds, default=30.0, metavar="SECONDS")
    return parser


def _seconds(text: str) -> float:
    value = float(text)
    if not 0.0 <= value <= SECONDS_MAX:  # not a number, too, which would wait for ever
        raise argparse.ArgumentTypeError(f"must be seconds from 0 to {SECONDS_MAX:.0f}, got {text!r}")
    return value


def _duration(text: str) -> float:
    """Seconds from ``10s``, ``500ms``, ``2m``, or a number of seconds."""
    unit = next((unit for unit in _UNITS if text.endswith(unit)), "")
    try:
        value = float(text.removesuffix(unit)) * _UNITS.get(unit, 1.0)
    except ValueError:
        value = 0.0
    if not 0.0 < value <= 3600.0:
        raise argparse.ArgumentTypeError(f"must be a time such as 10s, 500ms or 2m, at most an hour, got {text!r}")
    return value


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 65_535:
        raise argparse.ArgumentTypeError(f"must be a port from 0 to 65535, got {text!r}")
    return value


def _admin_url(text: str) -> str:
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(text)
        fits = parts.scheme == "http" and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fits = False
    if not fits:
        raise argparse.ArgumentTypeError(f"must be a URL such as http://127.0.0.1:8712, got {text!r}")
    return text


# run ------------------------------------------------------------------------------------------------------------------


def _load(path: str, flags: Mapping[str, str] | None = None) -> Loaded:
    from proxy.config.load import load_file

    return load_file(path, os.environ, flags=flags)


def _report(loaded: Loaded) -> None:
    for problem in loaded.errors:
        print(problem, file=sys.stderr)


def _start_lightly() -> None:
    """Before the heavy imports of a start: no collector that finds nothing, no search for pydantic's plugins.

    Together about a fifth of the time to the first answer. `App.start` turns the collector on again.
    """
    gc.disable()
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")


def _run(args: argparse.Namespace) -> int:
    _start_lightly()
    loaded = _load(args.config, args.flags)
    config = loaded.config
    if config is None:
        _report(loaded)
        return BAD_CONFIG
    if config.providers and all(provider.disabled for provider in config.providers.values()):
        print("No provider has its key, so the built-in demo providers are started instead:", file=sys.stderr)
        for provider in config.providers.values():
            print(f"  {provider.name}: {provider.disabled}", file=sys.stderr)
        return _run_demo(config.listen.data_port, config.listen.admin_port, args.loop)
    return _serve(config, args.config, args.flags, args.loop)


def _serve(config: Config, path: str, flags: Mapping[str, str], loop: str) -> int:
    from proxy import app
    from proxy.server.listeners import BindError
    from proxy.server.reload import Source

    source = Source(path=path, env=dict(os.environ), flags=flags)
    try:
        return int(app.run(lambda: app.serve(config, source=source), loop))
    except BindError as error:
        print(f"outrider: {error}", file=sys.stderr)
        return FAILED


# demo -----------------------------------------------------------------------------------------------------------------


def _demo(args: argparse.Namespace) -> int:
    return _run_demo(args.port, args.admin_port, args.loop)


def _run_demo(data_port: int, admin_port: int, loop: str) -> int:
    _start_lightly()
    from proxy import app
    from proxy.server.listeners import BindError

    try:
        return int(app.run(lambda: _play(data_port, admin_port), loop))
    except BindError as error:
        print(f"outrider: {error}", file=sys.stderr)
        return FAILED


async def _play(data_port: int, admin_port: int) -> int:
    """The fake providers and the proxy in front of them, in one process."""
    from proxy import app
    from proxy.config.load import load_text
    from proxy.demo.world import World

    async with World() as world:
        config = load_text(world.config(data_port, admin_port), "demo", {}).config
        assert config is not None

        def ready(running: App) -> None:
            ports = running.listeners
            assert ports is not None
            print(world.said(__version__, ports.data_port, ports.admin_port), flush=True)

        return await app.serve(config, ready)


# check, schema, explain -----------------------------------------------------------------------------------------------


def _check(args: argparse.Namespace) -> int:
    files = [*args.files, *([args.config] if args.config else [])] or [CONFIG_DEFAULT]
    worst = DONE
    reports = []
    for path in files:
        loaded = _load(path)
        if loaded.config is None:
            worst = BAD_CONFIG
        reports += [("error", problem) for problem in loaded.errors]
        reports += [("warning", problem) for problem in loaded.warnings]
        if args.format == "text":
            for kind, problem in reports:
                print(problem if kind == "error" else f"{problem} (warning)")
            reports = []
            if loaded.config is not None:
                print(f"{path}: ok")
    if args.format == "json":
        import orjson

        entries = [
            {
                "severity": kind,
                "file": problem.file,
                "line": problem.line,
                "column": problem.column,
                "path": problem.path,
                "message": problem.message,
            }
            for kind, problem in reports
        ]
        print(orjson.dumps(entries, option=orjson.OPT_INDENT_2).decode())
    elif args.format == "github":
        for kind, problem in reports:
            text = f"{problem.path}: {problem.message}" if problem.path else problem.message
            print(f"::{kind} file={problem.file},line={problem.line},col={problem.column}::{text}")
    return worst


def _schema(args: argparse.Namespace) -> int:
    import orjson

    from proxy.config.load import json_schema

    print(orjson.dumps(json_schema(), option=orjson.OPT_INDENT_2).decode())
    return DONE


def _explain(args: argparse.Namespace) -> int:
    """The same plan as the running proxy would make, by the same code."""
    import orjson

    from proxy.config import explain
    from proxy.config.control import fingerprint
    from proxy.config.planner import HeaderError, NoRoute, Planner
    from proxy.dispatch.intake import Refusal, Sorter, locate
    from proxy.engine.plan import Endpoint

    loaded = _load(args.config)
    if loaded.config is None:
        _report(loaded)
        return BAD_CONFIG
    try:
        path, model, stream, raw = _described(args)
        where = locate("POST", path, loaded.config.providers)
        headers = Sorter("outrider-explain").sort(raw)
        secret = os.urandom(16)
        planned = Planner(loaded.config, secret).plan(
            endpoint=where.endpoint,
            path=where.path,
            model="" if where.endpoint is Endpoint.RAW else model,
            control=headers.control,
            stream=stream,
            caller_key=fingerprint(headers.credential, secret) if headers.credential else None,
            provider=where.provider,
        )
    except (Refusal, HeaderError, NoRoute) as refused:
        print(f"{refused.status} {refused.code}: {refused.message}", file=sys.stderr)
        return FAILED
    except (OSError, ValueError) as error:
        print(f"outrider explain: {error}", file=sys.stderr)
        return USAGE
    described = explain.describe(planned, loaded.config)
    if args.format == "json":
        print(orjson.dumps(described, option=orjson.OPT_INDENT_2).decode())
    else:
        print(explain.render(described), end="")
    return DONE


def _described(args: argparse.Namespace) -> tuple[str, str, bool, tuple[tuple[bytes, bytes], ...]]:
    """(path, model, stream, raw headers) from flags, over what a request file says."""
    import orjson

    path, model, stream = args.path, args.model, args.stream
    headers: list[tuple[str, str]] = []
    if args.request:
        request = orjson.loads(Path(args.request).read_bytes())
        if not isinstance(request, dict):
            raise ValueError(f"{args.request}: must hold a JSON object")
        path = request.get("path", path)
        inner = request.get("body")
        body: dict[str, Any] = inner if isinstance(inner, dict) else request
        model = model or str(body.get("model", ""))
        stream = stream or body.get("stream") is True
        given = request.get("headers")
        headers += [(str(k), str(v)) for k, v in given.items()] if isinstance(given, dict) else []
    headers += _headers(args.header)
    return path, model, stream, tuple((k.encode("latin-1"), v.encode("latin-1")) for k, v in headers)


def _headers(lines: Sequence[str]) -> list[tuple[str, str]]:
    """What ``-H 'Name: value'`` says. Raises ValueError."""
    headers = []
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name.strip():
            raise ValueError(f"-H wants 'Name: value', got {line!r}")
        headers.append((name.strip(), value.strip()))
    return headers


# drill ----------------------------------------------------------------------------------------------------------------


def _drill(args: argparse.Namespace) -> int:
    import json

    from proxy.drill import DrillError, Wanted, hold

    try:
        headers = _headers(args.header)
    except ValueError as error:
        print(f"outrider drill: {error}", file=sys.stderr)
        return USAGE
    wanted = Wanted(
        admin=args.url,
        routes=args.route,
        faults=args.fault,
        for_s=args.for_s,
        watch=args.watch,
        model=args.model,
        headers=headers,
    )
    try:
        report = hold(wanted)
    except DrillError as error:
        print(f"outrider drill: {error}", file=sys.stderr)
        return FAILED
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        for route in report["routes"]:
            told = "pass" if route["passed"] else "fail"
            print(
                f"{told}  {route['route']}: {route['requests']} requests, {route['failed']} failed, "
                f"{route['failed_over']} failed over, {route['faults']} faults met"
                + (f" - {route['why']}" if route["why"] else "")
            )
    return DONE if report["passed"] else FAILED


# simulate, replay -----------------------------------------------------------------------------------------------------


def _simulate(args: argparse.Namespace) -> int:
    from proxy.sim.whatif import scenario
    from proxy.sim.whatif.simulate import simulate

    def run(config: Config) -> Run:
        flags = options.spoken(args, dict(_headers(args.header)))
        return simulate(config, scenario.read(args.scenario, flags), options.bar(sys.stderr))

    return _what_if(args, run)


def _replay(args: argparse.Namespace) -> int:
    from proxy.sim.whatif import history
    from proxy.sim.whatif.replay import replay

    def run(config: Config) -> Run:
        headers, seed = dict(_headers(args.header)), 1 if args.seed is None else args.seed
        return replay(config, history.read(args.history), seed, headers, options.bar(sys.stderr))

    return _what_if(args, run)


def _what_if(args: argparse.Namespace, run: Callable[[Config], Run]) -> int:
    """Run it under the configuration, and report."""
    import orjson

    from proxy.sim.whatif import picture, report
    from proxy.sim.whatif.simulate import configured

    config, problems = configured(args.config)
    if config is None:
        for problem in problems:
            print(problem, file=sys.stderr)
        return BAD_CONFIG
    try:
        made = run(config)
        if args.html:
            Path(args.html).write_text(picture.draw(made), encoding="utf-8")
    except (OSError, ValueError) as error:  # everything wrong with what the user gave is a ValueError
        print(f"outrider {args.command}: {error}", file=sys.stderr)
        return USAGE
    told = report.describe(made)
    if args.format == "json":
        print(orjson.dumps(told, option=orjson.OPT_INDENT_2).decode())
    else:
        print(report.render(told), end="")
    return DONE


# wait, shutdown -------------------------------------------------------------------------------------------------------


def _ask(url: str, method: str, path: str, timeout_s: float) -> int:
    """Status of one request to the admin port; 0 when nobody answers."""
    from http.client import HTTPConnection, HTTPException
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    connection = HTTPConnection(parts.hostname or "127.0.0.1", parts.port or 8712, timeout=timeout_s)
    try:
        connection.request(method, path)
        return connection.getresponse().status
    except (OSError, HTTPException):
        return 0
    finally:
        connection.close()


def _wait(args: argparse.Namespace) -> int:
    import time

    end = time.monotonic() + args.timeout
    while True:
        if _ask(args.admin, "GET", "/startupz", 1.0) == 200:
            return DONE
        if time.monotonic() >= end:
            print(f"outrider: no sidecar has started at {args.admin} within {args.timeout:g} s", file=sys.stderr)
            return FAILED
        time.sleep(0.05)


def _shutdown(args: argparse.Namespace) -> int:
    status = _ask(args.admin, "POST", "/quitquitquit", min(args.timeout, 5.0))
    if status == 200:
        return DONE
    print(f"outrider: {args.admin} " + (f"answered {status}" if status else "does not answer"), file=sys.stderr)
    return FAILED
