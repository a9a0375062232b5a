"""What is exported where: the section ``telemetry`` and OpenTelemetry's own variables, which beat its defaults only.

A variable may come from whoever runs the cluster, for all containers at once. So a variable that cannot be obeyed is a
warning; what the file states and cannot be had is an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from proxy.config.validate import Finding, url_fault

if TYPE_CHECKING:
    from proxy.config import schema

ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
"""Either of them switches traces on."""
_NEEDED: Final = "the package that sends OTLP: pip install 'outrider[otlp]'"
_SAMPLERS: Final = {
    "always_on": (1.0, False),
    "always_off": (0.0, False),
    "traceidratio": (None, False),
    "parentbased_always_on": (1.0, True),
    "parentbased_always_off": (0.0, True),
    "parentbased_traceidratio": (None, True),
}
"""Words of ``OTEL_TRACES_SAMPLER``: the share (None: ``OTEL_TRACES_SAMPLER_ARG``), and whether callers decide."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Telemetry:
    """What goes out through OpenTelemetry."""

    traces: bool = False
    sample: float = 0.05
    obeys_caller: bool = True
    """Whether a caller that decided about its trace is followed."""
    metrics: bool = False
    """The numbers of `/metrics` are sent too."""
    endpoint: str = ""
    """Address of the receiver, without ``/v1/traces``; ``console``; empty: as OpenTelemetry's variables say."""

    @property
    def is_on(self) -> bool:
        """Whether anything is sent at all."""
        return self.traces or self.metrics


def telemetry_of(given: schema.Telemetry, env: Mapping[str, str]) -> Telemetry:
    """The section and the variables together."""
    if env.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return Telemetry()
    traces, otlp = given.traces, given.otlp
    enabled = traces.enabled
    if "enabled" not in traces.model_fields_set and _asked_by(env) and _can_export():
        enabled = True
    sample, obeys = traces.sample, True
    if "sample" not in traces.model_fields_set:
        sample, obeys = _sampler(env, sample)
    return Telemetry(
        traces=enabled, sample=sample, obeys_caller=obeys, metrics=otlp.metrics, endpoint=otlp.endpoint.rstrip("/")
    )


def errors(given: schema.Telemetry) -> Iterator[Finding]:
    """What the file states and cannot be had."""
    endpoint = given.otlp.endpoint
    fault = url_fault(endpoint).partition(";")[0] if endpoint not in ("", "console") else ""
    if fault:
        shown = not set("@?#") & set(endpoint)  # a password may stand there
        yield Finding(loc=("telemetry", "otlp", "endpoint"), message=fault, show=shown)
    for loc, stated in ((("traces", "enabled"), given.traces.enabled), (("otlp", "metrics"), given.otlp.metrics)):
        if stated and given.otlp.endpoint != "console" and not _can_export():
            yield Finding(loc=("telemetry", *loc), message=f"needs {_NEEDED}, or telemetry.otlp.endpoint: console")


def warnings(given: schema.Telemetry, env: Mapping[str, str]) -> Iterator[Finding]:
    """Variables without effect."""
    asked = _asked_by(env)
    if asked and "enabled" not in given.traces.model_fields_set and not _can_export():
        yield Finding(loc=("telemetry", "traces", "enabled"), message=f"stays false: {asked} needs {_NEEDED}")
    name, text = env.get("OTEL_TRACES_SAMPLER", ""), env.get("OTEL_TRACES_SAMPLER_ARG", "")
    if "sample" in given.traces.model_fields_set:
        return
    if name and name not in _SAMPLERS:
        message = f"OTEL_TRACES_SAMPLER must be one of {', '.join(_SAMPLERS)}; it is ignored"
        yield Finding(loc=("telemetry", "traces", "sample"), message=message)
    if text and _share(text) is None:
        message = "OTEL_TRACES_SAMPLER_ARG must be a number from 0 to 1; it is ignored"
        yield Finding(loc=("telemetry", "traces", "sample"), message=message)


def _asked_by(env: Mapping[str, str]) -> str:
    """The variable that switches traces on; empty: none."""
    return next((name for name in ENDPOINTS if env.get(name)), "")


def _can_export() -> bool:
    try:
        return find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    except ModuleNotFoundError:  # one of the packages around it
        return False


def _sampler(env: Mapping[str, str], default: float) -> tuple[float, bool]:
    share, obeys = _SAMPLERS.get(env.get("OTEL_TRACES_SAMPLER", ""), (None, True))
    if share is None:
        told = _share(env.get("OTEL_TRACES_SAMPLER_ARG", ""))
        share = default if told is None else told
    return share, obeys


def _share(text: str) -> float | None:
    try:
        share = float(text)
    except ValueError:
        return None
    return share if 0.0 <= share <= 1.0 else None
