"""A receiver of OTLP over HTTP: decodes what a collector would, and is away for as long as a test wants it."""

from __future__ import annotations

import asyncio
from typing import Any, Self

from aiohttp import web
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


def attributes(message: Any) -> dict[str, Any]:
    """The attributes of a span, a point or a resource as plain values."""
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in message.attributes}


class Receiver:
    """``async with Receiver() as receiver``; `url` is what `telemetry.otlp.endpoint` wants."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.resources: list[dict[str, Any]] = []
        self.batches: list[int] = []
        """Spans of each delivery."""
        self.metrics: dict[str, Any] = {}
        """The latest of each name."""
        self.asked = 0
        """Deliveries tried, also those without an answer."""
        self.here = asyncio.Event()
        """While it is not set, deliveries get no answer."""
        self.here.set()
        self._news = asyncio.Condition()
        self._runner: web.AppRunner
        self.url = ""

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=1 << 26)
        app.router.add_post("/v1/traces", self._traces)
        app.router.add_post("/v1/metrics", self._metrics)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.here.set()
        await self._runner.cleanup()

    async def _taken(self, request: web.Request) -> bytes:
        body = await request.read()
        self.asked += 1
        await self._tell()
        await self.here.wait()
        return body

    async def _traces(self, request: web.Request) -> web.Response:
        found = ExportTraceServiceRequest.FromString(await self._taken(request))
        count = len(self.spans)
        for resource in found.resource_spans:
            self.resources.append(attributes(resource.resource))
            for scope in resource.scope_spans:
                self.spans += scope.spans
        self.batches.append(len(self.spans) - count)
        await self._tell()
        return web.Response(content_type="application/x-protobuf")

    async def _metrics(self, request: web.Request) -> web.Response:
        for resource in ExportMetricsServiceRequest.FromString(await self._taken(request)).resource_metrics:
            for scope in resource.scope_metrics:
                self.metrics |= {metric.name: metric for metric in scope.metrics}
        await self._tell()
        return web.Response(content_type="application/x-protobuf")

    async def _tell(self) -> None:
        async with self._news:
            self._news.notify_all()

    async def until(self, is_there: Any, within_s: float = 15.0) -> None:
        """Wait until `is_there()` after a delivery."""
        async with asyncio.timeout(within_s), self._news:
            await self._news.wait_for(is_there)

    def named(self, name: str) -> list[Any]:
        """Spans by name."""
        return [span for span in self.spans if span.name == name]
