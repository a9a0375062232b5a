"""The stage of both SDK tests: one real process, two fake providers, and a fault that the asked model names.

A breaker belongs to a target, and a target is a provider and a model, so every test asks for a model of its own and
none disturbs another. Faults that speak of the credential close a whole account; they live at providers of their own.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from proxy.demo.provider import FakeProvider
from proxy.demo.script import Attempt, Fault, headers
from tests.e2e.harness import Sidecar, config

DEAD = Fault(status=500, error="internal")
AGES = ("old", "mid")
"""Directories of older clients, each with models of its own that fail."""
FAULTS: dict[str, Fault] = {
    "status-400": Fault(error="invalid_request", message="temperature: too hot"),
    "status-401": Fault(error="auth"),
    "status-403": Fault(error="permission"),
    "status-404": Fault(error="model_not_found"),
    "status-409": Fault(status=409),
    "status-422": Fault(status=422),
    "status-429": Fault(error="rate_limit", headers=headers({"Retry-After": "40"})),
    "status-429-quota": Fault(error="quota"),
    "status-500": DEAD,
    "status-503": Fault(error="overloaded"),
    "silent": Fault(silence_s=math.inf),
    "context": Fault(error="context_length"),
    "policy": Fault(error="content_policy"),
    "both-dead": DEAD,
    "primary-dead": DEAD,
    "limited": Fault(error="rate_limit", headers=headers({"Retry-After": "15"})),
    "cut": Fault(cut_after_words=20, cut="reset"),
    "cut-plain": Fault(cut_after_words=20),
    "cut-end": Fault(cut_after_words=20, cut="end"),
    "cut-error": Fault(error_after_words=20, error="overloaded"),
    **{f"{age}-status-400": Fault(error="invalid_request") for age in AGES},
    **{f"{age}-status-404": Fault(error="model_not_found") for age in AGES},
    **{f"{age}-status-{status}": Fault(status=status) for age in AGES for status in (409, 422)},
    **{f"{age}-cut": Fault(cut_after_words=20) for age in AGES},
    **{f"{age}-dead": DEAD for age in AGES},
}
"""What the primary does to a request for this model; any other model is answered."""
SECOND_TOO = {"both-dead", "limited", *(f"{age}-dead" for age in AGES)}
"""Models for which the fallback does the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    sidecar: Sidecar
    primary: FakeProvider
    second: FakeProvider

    @property
    def base_url(self) -> str:
        return f"{self.sidecar.url}/v1"

    def calls(self, model: str) -> list[Attempt]:
        """Every request for `model` that reached a provider."""
        return [a for p in (self.primary, self.second) for a in p.attempts if a.model == model]


@asynccontextmanager
async def world(folder: Path) -> AsyncIterator[World]:
    async with (
        FakeProvider(name="primary", pause_s=0, hook=lambda a: FAULTS.get(a.model)) as primary,
        FakeProvider(
            name="second", pause_s=0, hook=lambda a: FAULTS[a.model] if a.model in SECOND_TOO else None
        ) as second,
    ):
        urls = dict.fromkeys(("primary", "alone", "keyless", "barred", "broke", "cooled"), primary.url)
        urls |= {"second": second.url, "refusing": "http://127.0.0.1:1"}
        routes = [
            {"name": "keyless", "match": {"models": ["status-401"]}, "targets": [{"provider": "keyless"}]},
            {"name": "barred", "match": {"models": ["status-403"]}, "targets": [{"provider": "barred"}]},
            {"name": "broke", "match": {"models": ["status-429-quota"]}, "targets": [{"provider": "broke"}]},
            {"name": "refusing", "match": {"models": ["refused"]}, "targets": [{"provider": "refusing"}]},
            {"name": "cooled", "match": {"models": ["limited"]}, "targets": [{"provider": "cooled"}]},
            {
                "name": "alone",
                "match": {"models": ["status-*", "silent", "context", "policy", *(f"{age}-status-*" for age in AGES)]},
                "targets": [{"provider": "alone"}],
                "policy": {"retry": {"max_retries": 0}},
            },
            {
                "name": "pair",
                "match": {"models": ["gpt-4o", "both-*", "primary-*", "cut*", "old-*", "mid-*", "text-embedding-*"]},
                "targets": [{"provider": "primary"}, {"provider": "second"}],
                "policy": {"stream_recovery": "error", "retry": {"max_retries": 1, "initial_delay_ms": 10}},
            },
        ]
        async with Sidecar(config(urls, routes=routes), folder) as sidecar:
            yield World(sidecar=sidecar, primary=primary, second=second)
