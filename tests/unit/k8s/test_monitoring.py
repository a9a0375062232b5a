"""Alerts, dashboard and monitor: their shapes, the numbers they ask for, and what promtool makes of them."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
import yaml

from proxy.app import App
from proxy.config.load import load_text
from proxy.observe import exposition
from proxy.observe.logs import Log
from tests.unit.k8s.rendering import K8S, ROOT, Json, needed, the

HERE = Path(__file__).parent
TESTS = sorted(HERE.glob("rules*_test.yaml"))

FILE = "providers: {a: {dialect: openai, base_url: 'http://127.0.0.1:1/v1', models: {m: m}}}"

BY_PROMETHEUS = {"namespace", "pod", "le"}
"""Labels that are not ours: the scrape adds the pod's, a histogram has its bounds."""

TEXT = {"type": "string", "minLength": 1}
SECONDS = {"type": "string", "pattern": r"^\d+(s|m|h)$"}


def strict(required: dict[str, object], **optional: object) -> Json:
    """A JSON schema of an object with these keys and no others."""
    return {
        "type": "object",
        "properties": {**required, **optional},
        "required": list(required),
        "additionalProperties": False,
    }


SELECTOR = strict({"matchLabels": {"type": "object", "additionalProperties": TEXT}})
METADATA = strict({"name": TEXT, "labels": {"type": "object", "additionalProperties": TEXT}})
RULE = {
    "oneOf": [
        strict({"record": {"type": "string", "pattern": "^[a-z_:0-9]+$"}, "expr": TEXT}),
        strict(
            {
                "alert": {"type": "string", "pattern": "^Outrider[A-Za-z]+$"},
                "expr": TEXT,
                "labels": strict({"severity": {"enum": ["page", "ticket"]}}),
                "annotations": strict({"summary": TEXT, "description": TEXT}),
            },
            **{"for": SECONDS},
        ),
    ]
}
# Those parts of the operator's custom resources that we use; a field that is none of them is a misspelling.
SHAPES = {
    "PodMonitor": strict(
        {
            "selector": SELECTOR,
            "podMetricsEndpoints": {
                "type": "array",
                "minItems": 1,
                "items": strict({"port": TEXT, "path": TEXT, "scheme": {"enum": ["http"]}, "interval": SECONDS},
                                scrapeTimeout=SECONDS),
            },
        },
        namespaceSelector=strict({"any": {"type": "boolean"}}),
    ),
    "PrometheusRule": strict(
        {"groups": {"type": "array", "items": strict({"name": TEXT, "rules": {"type": "array", "items": RULE}})}}
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", SHAPES)
def test_custom_resources_have_their_shape(kind: str) -> None:
    document = the("monitoring", kind)
    shape = strict(
        {
            "apiVersion": {"const": "monitoring.coreos.com/v1"},
            "kind": {"const": kind},
            "metadata": METADATA,
            "spec": SHAPES[kind],
        }
    )
    jsonschema.validate(document, shape)


def rules() -> list[Json]:
    return [rule for group in the("monitoring", "PrometheusRule")["spec"]["groups"] for rule in group["rules"]]


def dashboard() -> Json:
    board: Json = json.loads(the("monitoring", "ConfigMap")["data"]["outrider.json"])
    return board


def panels() -> list[Json]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


# Numbers --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exposed() -> dict[str, str]:
    """Every family that the code exposes, and its type: those without a value yet too."""
    loaded = load_text(FILE, "f", {})
    assert loaded.config is not None, loaded.errors
    metrics = App(loaded.config, clock=lambda: 0.0, log=Log("json", "error")).metrics
    text, _ = exposition.render(metrics, asyncio.run(metrics.gauges()))
    return dict(re.findall(r"^# TYPE (\S+) (\S+)$", text.decode(), re.MULTILINE))


def labels_of(family: str) -> set[str]:
    """Labels by docs/operate.md, whose table tests/test_docs.py holds to the code."""
    row = re.search(rf"^\| `{family}` \| \w+ \|([^|]*)\|", (ROOT / "docs/operate.md").read_text(), re.MULTILINE)
    assert row is not None, family
    return set(re.findall(r"`(\w+)`", row[1]))


def family_of(name: str, exposed: dict[str, str]) -> str:
    """The family of a sample's name. Fails when the code exposes none such."""
    if name in exposed and exposed[name] != "histogram":
        return name
    base = re.sub(r"_(bucket|count|sum)$", "", name)
    assert base != name, f"{name} does not exist, or is a histogram"
    assert exposed.get(base) == "histogram", f"{name} does not exist"
    return base


def asked(expression: str) -> Iterator[tuple[str, set[str]]]:
    """(name, labels matched) of every series that an expression reads; records of our own left out."""
    for name, matchers in re.findall(
        r"\b((?:outrider|gen_ai|http_client)_[a-z_0-9]+)(?![\w:])(?:\{([^}]*)\})?", expression
    ):
        if not re.search(rf"\bby \([^)]*\b{name}\b", expression):
            yield name, set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers))


def grouped(expression: str) -> set[str]:
    """The labels that an expression groups by."""
    return {label for names in re.findall(r"\bby \(([^)]*)\)", expression) for label in re.findall(r"\w+", names)}


def check(expression: str, exposed: dict[str, str]) -> None:
    read = list(asked(expression))
    assert read or re.search(r"outrider_\w+:\w+", expression), expression
    known: set[str] = set(BY_PROMETHEUS)
    for name, matched in read:
        labels = labels_of(family_of(name, exposed)) | BY_PROMETHEUS
        assert matched <= labels, f"{name} has no {matched - labels}"
        known |= labels
    assert grouped(expression) <= known, expression


def test_every_number_that_an_alert_asks_for_exists(exposed: dict[str, str]) -> None:
    for rule in rules():
        check(rule["expr"], exposed)


def test_every_number_that_the_dashboard_asks_for_exists(exposed: dict[str, str]) -> None:
    expressions = [target["expr"] for panel in panels() for target in panel["targets"]]
    expressions += [one["expr"] for one in dashboard()["annotations"]["list"]]
    for expression in expressions:
        check(expression, exposed)
    for one in dashboard()["templating"]["list"]:
        if one["type"] == "query":
            found = re.fullmatch(r"label_values\((\w+), (\w+)\)", one["definition"])
            assert found is not None
            assert found[2] in labels_of(family_of(found[1], exposed)) | BY_PROMETHEUS


@pytest.mark.parametrize(
    "expression",
    [
        "rate(outrider_request_total[5m])",
        'rate(outrider_requests_total{outcom="ok"}[5m])',
        "sum by (model) (rate(outrider_requests_total[5m]))",
        "outrider_request_duration_seconds",
        "outrider_requests_total_count",
    ],
)
def test_the_check_has_teeth(exposed: dict[str, str], expression: str) -> None:
    with pytest.raises(AssertionError):
        check(expression, exposed)


def test_the_memory_alert_knows_the_limit_of_the_manifests() -> None:
    [rule] = [rule for rule in rules() if rule.get("alert") == "OutriderMemoryNearLimit"]
    spec = the("base", "Deployment")["spec"]["template"]["spec"]
    limit = spec["initContainers"][0]["resources"]["limits"]["memory"]
    assert limit.endswith("Mi")
    assert f"{limit[:-2]} * 1024 * 1024" in rule["expr"]


SOURCE = {"const": {"type": "prometheus", "uid": "${datasource}"}}
WHOLE = {"type": "integer", "minimum": 0}
QUERY = strict(
    {"refId": {"type": "string", "pattern": "^[A-Z]$"}, "datasource": SOURCE, "expr": TEXT,
     "legendFormat": {"type": "string"}},
    instant={"type": "boolean"}, format={"enum": ["table"]},
)  # fmt: skip
GRID = strict({"h": WHOLE, "w": WHOLE, "x": WHOLE, "y": WHOLE})
# What of Grafana's panel model we use. Grafana ignores what it does not know, so that a misspelt key would be silent.
PANEL = {
    "oneOf": [
        strict(
            {"id": WHOLE, "type": {"const": "row"}, "title": TEXT, "collapsed": {"type": "boolean"}, "gridPos": GRID,
             "panels": {"type": "array", "maxItems": 0}}
        ),
        strict(
            {
                "id": WHOLE,
                "type": {"enum": ["stat", "timeseries", "bargauge", "state-timeline", "table"]},
                "title": TEXT,
                "datasource": SOURCE,
                "gridPos": GRID,
                "fieldConfig": strict(
                    {
                        "defaults": strict(
                            {"unit": {"enum": ["short", "percentunit", "reqps", "s", "bytes", "currencyUSD"]}},
                            decimals=WHOLE, min={"type": "number"}, max={"type": "number"},
                            thresholds={"type": "object"}, mappings={"type": "array"}, custom={"type": "object"},
                        ),
                        "overrides": {"type": "array"},
                    }
                ),
                "options": {"type": "object"},
                "targets": {"type": "array", "minItems": 1, "items": QUERY},
            },
            description=TEXT,
            transformations={"type": "array"},
        ),
    ]
}  # fmt: skip


# Dashboard ------------------------------------------------------------------------------------------------------------


def test_the_dashboard_loads() -> None:
    board = dashboard()
    assert {"title", "uid", "schemaVersion", "panels", "templating", "time"} <= board.keys()
    jsonschema.validate(board["panels"], {"type": "array", "items": PANEL})
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))
    variables = {one["name"] for one in board["templating"]["list"]}
    for panel in panels():
        queries = [target["refId"] for target in panel["targets"]]
        assert len(queries) == len(set(queries))
        for target in panel["targets"]:
            assert set(re.findall(r"\$(?!__)(\w+)", target["expr"])) <= variables
            assert "namespace=~" in target["expr"]
    assert the("monitoring", "ConfigMap")["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_panels_do_not_overlap() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in dashboard()["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        for x in range(at["x"], at["x"] + at["w"]):
            for y in range(at["y"], at["y"] + at["h"]):
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]


def test_the_dashboard_answers_the_questions() -> None:
    text = json.dumps(panels())
    for metric in ("outrider_failovers_total", "outrider_hedges_total", "outrider_circuit_state", "[30d]",
                   "gen_ai_client_token_usage_sum", "outrider_attempts_total", "outrider_cost_usd_total",
                   "outrider_provider_health", "outrider_slo_errors_per_request:ratio_rate1h"):  # fmt: skip
        assert metric in text


# promtool -------------------------------------------------------------------------------------------------------------


def promtool(directory: Path, *arguments: str) -> None:
    (directory / "rules.yaml").write_text(yaml.safe_dump(the("monitoring", "PrometheusRule")["spec"]))
    done = subprocess.run(
        [needed("promtool"), *arguments], cwd=directory, capture_output=True, text=True, timeout=120
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_accepts_the_rules(tmp_path: Path) -> None:
    promtool(tmp_path, "check", "rules", "--lint-fatal", "rules.yaml")


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_alerts_fire_when_they_should(tmp_path: Path, path: Path) -> None:
    (tmp_path / path.name).write_text(path.read_text())
    promtool(tmp_path, "test", "rules", path.name)


def test_promtool_accepts_the_expressions_of_the_dashboard(tmp_path: Path) -> None:
    expressions = [target["expr"] for panel in panels() for target in panel["targets"]]
    expressions += [one["expr"] for one in dashboard()["annotations"]["list"]]
    plain = [re.sub(r"\$__(rate_interval|range)\b", "5m", expression) for expression in expressions]
    made = [{"record": f"panel_{number}", "expr": expression} for number, expression in enumerate(plain)]
    (tmp_path / "panels.yaml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": made}]}))
    promtool(tmp_path, "check", "rules", "panels.yaml")


def test_every_alert_is_tested_both_ways() -> None:
    fires, silent = set(), set()
    for path in TESTS:
        for one in yaml.safe_load(path.read_text())["tests"]:
            for expected in one["alert_rule_test"]:
                (fires if expected["exp_alerts"] else silent).add(expected["alertname"])
    alerts = {rule["alert"] for rule in rules() if "alert" in rule}
    assert fires == alerts
    # The others are silent by a neighbour in the same test: its alert would make the list longer.
    assert silent <= alerts


def test_every_alert_is_explained() -> None:
    page = (ROOT / "docs/install.md").read_text()
    told = set(re.findall(r"^\| `(Outrider\w+)` \|", page, re.MULTILINE))
    assert told == {rule["alert"] for rule in rules() if "alert" in rule}
    assert (K8S / "monitoring/dashboard.json").exists()
