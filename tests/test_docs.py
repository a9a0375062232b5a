"""The documentation against the code, in both directions: what exists is told, and what is told exists.

Nothing here is a list kept by hand. Keys come from the JSON Schema, headers from the tables of `base/http.py`, numbers
from a rendered scrape, fields from a real `/status`, log lines and variables from the source. The pages are read by
their tables: the first column of a table holds the names, in backticks.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import functools
import re
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from proxy import cli
from proxy.app import App
from proxy.base.exchange import Inbound
from proxy.base.http import CONTROL, OUR_ANSWERS, Fate, fate
from proxy.base.outcome import Class
from proxy.base.target import Target
from proxy.config.compiled import Config
from proxy.config.load import load_file, load_text
from proxy.config.schema import json_schema, scalars
from proxy.dispatch.intake import Refusal, Where, locate
from proxy.engine.cluster import Moved
from proxy.engine.plan import Candidate, Endpoint
from proxy.observe import exposition
from proxy.observe.logs import Log
from proxy.observe.metrics import OUTCOMES
from proxy.observe.record import AttemptRecord, RequestRecord
from proxy.policy.breaker import Change, State
from proxy.server.admin import Admin, AdminState
from proxy.server.health_stream import NAMES
from tests.test_house import sources

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]

Row = list[str]


def text_of(page: str) -> str:
    return (DOCS / page).read_text()


def section(text: str, heading: str) -> str:
    """What stands under a heading, up to the next one of the same or a higher level. Fails when it is not there."""
    found = re.search(rf"^(#+) {re.escape(heading)}$", text, re.MULTILINE)
    assert found is not None, heading
    rest = text[found.end() :]
    end = re.search(rf"^#{{1,{len(found[1])}}} ", rest, re.MULTILINE)
    return rest[: end.start()] if end else rest


def tables(text: str) -> Iterator[tuple[str, list[Row]]]:
    """(first cell of the head, rows) of every table."""
    for block in re.findall(r"(?:^\|.*\n)+", text + "\n", re.MULTILINE):
        rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in block.splitlines()]
        assert all(len(row) == len(rows[0]) for row in rows), rows[0]
        yield rows[0][0], rows[2:]


def rows(text: str, head: str) -> list[Row]:
    """The rows of all tables whose head begins with this cell; at least one."""
    found = [row for first, body in tables(text) for row in body if first == head]
    assert found, head
    return found


def quoted(cell: str) -> list[str]:
    """The names in a cell."""
    return re.findall(r"`([^`]+)`", cell)


def names(text: str, head: str) -> list[str]:
    """Every name in the first column; none twice."""
    found = [name for row in rows(text, head) for name in quoted(row[0])]
    assert len(found) == len(set(found)), sorted(found)
    return found


# The file -------------------------------------------------------------------------------------------------------------

KEY = "key"


def paths(node: dict[str, Any], schema: dict[str, Any], at: str = "") -> Iterator[tuple[str, dict[str, Any], bool]]:
    """(path, its schema, whether nothing stands below) of every key, in the spelling of the page.

    Lists are ``[]`` and named maps ``.*``; the keys of a policy, which stands in three places, are given once, bare.
    """
    for branch in (node, *node.get("anyOf", ())):
        if "$ref" in branch:
            name = branch["$ref"].rsplit("/", 1)[1]
            inside = schema["$defs"][name]
            if name != "Policy":
                yield from paths(inside, schema, at)
        for key, value in branch.get("properties", {}).items():
            path = f"{at}.{key}".lstrip(".")
            below = list(paths(value, schema, path))
            yield path, value, not below and not value.get("$ref", "").endswith("/Policy")
            yield from below
        if isinstance(branch.get("items"), dict):
            yield from paths(branch["items"], schema, f"{at}[]")
        for value in branch.get("patternProperties", {}).values():
            yield from paths(value, schema, f"{at}.*")


SCHEMA = json_schema()
KEYS = {
    path: (value, is_leaf)
    for root in (SCHEMA, SCHEMA["$defs"]["Policy"])
    for path, value, is_leaf in paths(root, SCHEMA)
    if path not in ("defaults", "policies")
}


def shown(value: Any) -> str:
    """A default as the page writes it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, list):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value if value != '' else '(empty)'}`"


def is_list(value: dict[str, Any]) -> bool:
    return any(branch.get("type") == "array" for branch in (value, *value.get("anyOf", ())))


def test_every_key_of_the_file_is_documented() -> None:
    told = set(names(text_of("config.md"), KEY))
    missing = {path for path, (value, is_leaf) in KEYS.items() if is_leaf or is_list(value)} - told
    assert missing == set()


def test_every_documented_key_exists() -> None:
    assert set(names(text_of("config.md"), KEY)) - set(KEYS) == set()


def test_defaults_of_the_page_are_those_of_the_schema() -> None:
    wrong = {}
    for name, _, default, _ in rows(text_of("config.md"), KEY):
        (path,) = quoted(name)
        expected = shown(KEYS[path][0]["default"]) if "default" in KEYS[path][0] else "required"
        if default != expected and not (default == "none" and expected in ("required", "`{}`")):
            wrong[path] = (default, expected)
    assert wrong == {}


def test_the_walk_sees_every_setting() -> None:
    # The walk through the JSON Schema against the list by which variables and flags are read.
    known = set(KEYS) | {f"defaults.{path}" for path in KEYS}
    assert {".".join(path) for path, _ in scalars()} <= known
    assert len(KEYS) > 150


def test_flags_and_variables_follow_the_documented_rule() -> None:
    text = text_of("operate.md")
    for path, flag, variable in re.findall(r"`([a-z.]+)` is `--([a-z-]+)` and `(OUTRIDER_[A-Z_]+)`", text):
        assert flag == path.replace(".", "-")
        for flags, env in (({flag: "4711"}, {}), ({}, {variable: "4711"})):
            loaded = load_text("providers: {a: {dialect: openai, base_url: http://127.0.0.1:1}}", "f", env, flags=flags)
            assert loaded.config is not None
            assert loaded.config.listen.data_port == 4711
    both = load_text(
        "providers: {a: {dialect: openai, base_url: http://127.0.0.1:1}}\nlisten: {data: {port: 3}}",
        "f",
        {"OUTRIDER_LISTEN_DATA_PORT": "2"},
        flags={"listen-data-port": "1"},
    )
    assert both.config is not None
    assert both.config.listen.data_port == 1


@pytest.mark.parametrize("env", [{}, {"OPENAI_API_KEY": "k1", "ANTHROPIC_API_KEY": "k2", "DEEPINFRA_API_KEY": "k3"}])
def test_the_example_file_loads(env: dict[str, str]) -> None:
    loaded = load_file(str(ROOT / "config.example.yaml"), env)
    assert loaded.errors == ()
    assert loaded.config is not None
    disabled = [provider for provider in loaded.config.providers.values() if provider.disabled]
    assert len(disabled) == (0 if env else len(loaded.config.providers))
    if env:
        assert loaded.warnings == ()


@pytest.mark.parametrize(
    "page",
    [
        "config.md", "failover.md", "operate.md", "http.md", "headers.md", "install.md", "troubleshoot.md",
        "security.md", "upgrade.md", "translation.md", "streams.md", "operations.md", "telemetry.md", "incidents.md",
        "health.md",
    ],
)  # fmt: skip
def test_settings_named_in_the_text_exist(page: str) -> None:
    sections = [key for key, value in SCHEMA["properties"].items() if key not in ("version", "policies")]
    policy = [key for key in SCHEMA["$defs"]["Policy"]["properties"] if "." not in key]
    dotted = re.compile(rf"`((?:{'|'.join([*sections, *policy])})(?:\.[a-z_]+)+)(?::[^`]*)?`")
    fields = set(status_fields()) if page in ("operate.md", "troubleshoot.md") else set()
    found = {name.removeprefix("defaults.") for name in dotted.findall(text_of(page))}
    classes = {cls.value for cls in Class}
    assert {name for name in found if name.split(".")[0] not in classes} - set(KEYS) - fields == set()


# Headers --------------------------------------------------------------------------------------------------------------


def test_every_header_is_documented() -> None:
    text = text_of("headers.md")
    told = {name.lower() for name in names(text, "header")}
    told |= {
        name.lower() for name in re.findall(r"^## .*\n\n`([\w-]+): \w+`", text, re.MULTILINE)
    }  # alone in its section
    assert OUR_ANSWERS - told == set()
    assert CONTROL - told == set()


@pytest.mark.parametrize(
    "page", ["headers.md", "operate.md", "failover.md", "../README.md", "troubleshoot.md", "upgrade.md"]
)
def test_every_documented_header_exists(page: str) -> None:
    text = text_of(page)
    named = {name.lower() for name in re.findall(r"`(X-[A-Za-z-]+[a-z])`", text)}
    named |= {
        name.lower() for first, body in tables(text) for row in body for name in quoted(row[0]) if first == "header"
    }
    named = {name.partition(":")[0] for name in named if "<" not in name}
    assert named
    assert named - CONTROL - OUR_ANSWERS == set()


def test_a_key_header_is_named_after_its_provider() -> None:
    assert "`X-Provider-Key-<provider>`" in text_of("headers.md")
    assert fate("x-provider-key-openai") is Fate.CONTROL


# Numbers --------------------------------------------------------------------------------------------------------------

FILE = """
listen: {data: {host: 127.0.0.1, port: 0}, admin: {host: 127.0.0.1, port: 0}}
providers:
  a: {dialect: openai, base_url: "http://127.0.0.1:1/v1", models: {m: {name: m, price: {input: 1, output: 2}}}}
  b: {dialect: openai, base_url: "http://127.0.0.1:1/v1", models: {m: m}}
routes: [{name: r, targets: [{provider: a}]}]
chaos: {enabled: true}
canary: {r: {targets: b, percent: 5}}
"""


def configuration(more: str = "") -> Config:
    loaded = load_text(FILE + more, "f", {})
    assert loaded.config is not None, loaded.errors
    return loaded.config


def busy_app() -> App:
    """An app in which everything that is counted has happened once; nothing is bound and nothing is called."""
    app = App(configuration(), clock=lambda: 100.0, log=Log("json", "error"))
    target = Target("a", "m")
    app.cluster.state(Candidate(target=target), 100.0)
    assert app.upstreams["a"] is app.upstreams.built()[0]
    app._refused("unknown_path")
    app.bus.publish(
        Moved(target, Change(from_=State.CLOSED, to=State.OPEN, reason="errors", at=100.0, open_until=105.0))
    )
    attempt = AttemptRecord(
        provider="a", model="m", region="", kind="hedge", outcome="ok", detail="ok", status=200,
        start_ms=0.0, end_ms=20.0, first_content_ms=10.0, won=True,
    )  # fmt: skip
    app.bus.publish(
        RequestRecord(
            request_id="req_1", route="r", endpoint="chat", stream=True, result="ok", status=200, total_ms=30.0,
            first_content_ms=20.0, attempts=(attempt,), served_by="a", served_model="m", failover_reason="timeout",
            hedges=1, input_tokens=3, output_tokens=4, continuations=1, left_out=1, translated="messages",
        )
    )  # fmt: skip
    routes = app.operations.routes()
    for path, query in (
        ("/canary/r/withdraw", ""),
        ("/targets/a/drain", ""),
        ("/maintenance", "provider=a&for_s=60"),
        ("/chaos", "fault=primary:error=503"),
    ):
        route = routes.get(path) or routes[path[: path.index("/", 1) + 1]]
        assert asyncio.run(_status(route(Inbound("req_2", "POST", path, query, (), b"", 100.0)))) == 200
    app.operations.injected("r", "a")
    app.eyes.vitals._prober.results["a", "passed"] += 1
    assert app.bus.failures == 0, app.bus.last_failure
    return app


async def _status(answer: Awaitable[tuple[int, Any, bytes]]) -> int:
    return (await answer)[0]


def test_every_metric_is_documented_with_kind_and_labels() -> None:
    metrics = busy_app().metrics
    text, _ = exposition.render(metrics, asyncio.run(metrics.gauges()))
    exposed = {}
    for family in text_string_to_metric_families(text.decode()):
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        assert family.samples, family.name
        exposed[family.name + "_total" * (family.type == "counter")] = (family.type, labels)
    told = {}
    for name, kind, labels, meaning in rows(text_of("operate.md"), "metric"):
        assert meaning
        told[quoted(name)[0]] = (kind, set(quoted(labels)))
    assert told == exposed


@pytest.mark.parametrize(
    "page",
    [
        "operate.md", "failover.md", "config.md", "headers.md", "http.md", "install.md", "../README.md",
        "troubleshoot.md", "security.md", "upgrade.md", "operations.md", "telemetry.md", "incidents.md",
        "health.md",
    ],
)  # fmt: skip
def test_metrics_named_in_the_text_exist(page: str) -> None:
    known = set(names(text_of("operate.md"), "metric"))
    assert set(re.findall(r"`(outrider_[a-z_]+)", text_of(page))) - known == set()


def test_outcomes_are_documented() -> None:
    assert set(names(text_of("operate.md"), "outcome")) == set(OUTCOMES)


# Ports ----------------------------------------------------------------------------------------------------------------


def fields(value: Any, at: str = "") -> Iterator[str]:
    """The paths of a tree of plain values; what is keyed by providers' names is ``.*``."""
    if isinstance(value, dict) and value and at not in ("targets[].circuit.counts",):
        for key, inner in value.items():
            yield from fields(inner, f"{at}.{'*' if at == 'connections' else key}".lstrip("."))
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        yield from fields(value[0], f"{at}[]")
    else:
        yield at


def status_fields() -> list[str]:
    return [*fields(asyncio.run(busy_app().status()))]


def test_every_field_of_status_is_documented() -> None:
    assert set(names(text_of("operate.md"), "field")) == set(status_fields())


async def _nothing(*_: object) -> Any:
    raise AssertionError("nobody asks")


def admin(config: Config) -> Admin:
    app = App(config, log=Log("json", "error"))
    state = AdminState(
        started=lambda: True, unready=lambda: "", unlive=lambda: "",
        metrics=_nothing if app.config.metrics else None,
        config=dict, status=_nothing, quit=lambda: None, drain=lambda: None,
    )  # fmt: skip
    return Admin(state, dangerous=app.operations.routes())


def test_every_admin_route_is_documented() -> None:
    server = admin(configuration())
    exist = {f"GET {path}" for path in server._read} | {f"POST {path}" for path in server._dangerous}
    assert set(names(text_of("operate.md"), "route")) == exist


async def test_metrics_can_be_switched_off_as_documented() -> None:
    assert "404 with `telemetry.metrics: false`" in text_of("operate.md")
    app = App(configuration("telemetry: {metrics: false}"), log=Log("json", "error"))
    await app.start()
    try:
        assert app.listeners is not None
        async with asyncio.timeout(5):
            reader, writer = await asyncio.open_connection("127.0.0.1", app.listeners.admin_port)
            writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = await reader.read()
            writer.close()
    finally:
        await app.close()
    assert answer.startswith(b"HTTP/1.1 404 ")


def test_every_status_route_is_documented() -> None:
    assert set(names(text_of("operate.md"), "status route")) == set(busy_app()._status_routes("127.0.0.1").paths)


def health_fields(value: Any, at: str = "") -> Iterator[str]:
    """The paths of a health report; models have the fields of their providers."""
    if isinstance(value, dict) and at not in ("providers[].errors", "providers[].rate_limit"):
        for key, inner in value.items():
            yield from health_fields(inner, f"{at}.{key}".lstrip("."))
    elif isinstance(value, list) and at != "providers[].models":
        yield from health_fields(value[0], f"{at}[]")
    else:
        yield at


def test_every_field_of_health_is_documented() -> None:
    told = set(names(text_of("health.md"), "health field"))
    assert told == set(health_fields(asyncio.run(busy_app().eyes.vitals.snapshot())))


def test_every_event_of_the_stream_is_documented() -> None:
    told = set(names(text_of("health.md"), "event"))
    assert told == {"snapshot", "heartbeat", *NAMES.values()}


OWN_PATHS = {"/v1/models", "/v1/models/{id}", "/{provider}/…", "/v1/…"}
"""What `locate` serves beside its table of endpoints."""


def where(path: str) -> Where | None:
    for method in ("POST", "GET"):
        try:
            return locate(method, path, {"a": None})
        except Refusal:
            continue
    return None


def test_every_path_of_the_data_port_is_documented() -> None:
    from proxy.dispatch.intake import _PATHS

    told = names(text_of("operate.md"), "path")
    assert {"/v1" + path for path in _PATHS} | OWN_PATHS == set(told)
    for path in told:
        found = where(path.replace("{id}", "m").replace("{provider}", "a").replace("…", "batches"))
        assert found is not None, path
        assert (found.endpoint is Endpoint.RAW) == ("…" in path or "models" in path), path
    assert where("/nothing") is None


# The command line -----------------------------------------------------------------------------------------------------


def test_every_command_is_documented() -> None:
    (commands,) = [a for a in cli._parser()._actions if isinstance(a, argparse._SubParsersAction)]
    assert set(names(text_of("operate.md"), "command")) == {f"outrider {name}" for name in commands.choices}


def test_exit_codes_are_documented() -> None:
    told = {int(row[0]) for row in rows(text_of("operate.md"), "code")}
    constants = {cli.DONE, cli.FAILED, cli.USAGE, cli.BAD_CONFIG}
    returned = {
        node.value.value
        for node in ast.walk(ast.parse(Path(cli.__file__).read_text()))
        if isinstance(node, ast.Return) and isinstance(node.value, ast.Constant) and type(node.value.value) is int
    }
    assert told == constants | returned


def test_exit_codes_are_as_documented(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text("providers: {a: {dialect: openai, base_url: http://127.0.0.1:1}}")
    bad.write_text("providers: {a: {dialect: openai, base_url: http://127.0.0.1:1}}\nspeed: 9\nheat: 1\n")
    assert cli.main(["check", str(good)]) == 0
    capsys.readouterr()
    assert cli.main(["run", "--config", str(bad)]) == 78
    assert capsys.readouterr().err.count("unknown key") == 2  # all at once, on standard error
    assert cli.main(["shutdown", "--admin", "http://127.0.0.1:1"]) == 1
    assert cli.main(["explain", "--config", str(good), "-H", "X-Max-Retries: many"]) == 1
    assert cli.main(["explain", "--config", str(good), "--request", str(tmp_path / "none")]) == 2
    assert cli.main(["check", "--speed", "9"]) == 2
    with pytest.raises(SystemExit) as left:
        cli.main(["fly"])
    assert left.value.code == 2
    capsys.readouterr()


@functools.cache
def calls() -> list[tuple[str, ast.Call]]:
    """Every call in the product with the dotted name of what is called, after a dot."""
    return [
        (f".{ast.unparse(node.func)}", node) for file in sources() for node in file.nodes if isinstance(node, ast.Call)
    ]


def calls_of(name: str) -> Iterator[ast.Call]:
    """Calls that end in this dotted name."""
    return (call for called, call in calls() if called.endswith(f".{name}"))


def test_variables_are_documented() -> None:
    read = {call.args[0].value for call in calls_of("environ.get") if isinstance(call.args[0], ast.Constant)}
    assert {name for name in read if str(name).startswith("OUTRIDER_")} == set(names(text_of("operate.md"), "variable"))
    assert read


# Log lines ------------------------------------------------------------------------------------------------------------


def test_log_lines_are_documented_with_their_fields() -> None:
    written: dict[str, set[str]] = {}
    for call in (*calls_of("log.write"), *(c for c in calls_of("self.write") if len(c.args) == 2)):
        message = call.args[1]
        if isinstance(message, ast.Constant):
            written[str(message.value)] = {str(keyword.arg) for keyword in call.keywords}
    told = {quoted(msg)[0]: set(quoted(given)) for msg, _, given in rows(text_of("operate.md"), "msg") if quoted(msg)}
    assert told == written
    assert len(told) >= 5


# Links ----------------------------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """The fragments that a page's headings make, as the usual renderers spell them."""
    heads = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        target, _, fragment = link.partition("#")
        if "://" in target:
            continue
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), link
        assert not fragment or fragment in anchors(path), link


def test_every_page_is_reached_from_the_index() -> None:
    linked = {(DOCS / link).resolve() for link in re.findall(r"\]\(([^)#\s]+)", text_of("index.md"))}
    assert {page.resolve() for page in DOCS.rglob("*.md")} - linked - {(DOCS / "index.md").resolve()} == set()
