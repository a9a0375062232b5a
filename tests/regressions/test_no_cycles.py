"""A finished request is freed at once: its bodies may be megabytes and must not wait for the cycle collector.

Drive, pumps and calls point at each other while a request runs. With the collector off, nothing of theirs may be left
once the answers have been read, however the requests ended.
"""

from __future__ import annotations

import gc
from collections import Counter

import aiohttp
import pytest

from proxy.app import App
from proxy.config.load import load_text
from proxy.demo.provider import FakeProvider
from proxy.demo.script import Fault

FILE = """
version: 1
listen: {{data: {{host: 127.0.0.1, port: 0}}, admin: {{host: 127.0.0.1, port: 0}}}}
providers:
  p: {{dialect: openai, base_url: "{p}/v1"}}
  f: {{dialect: openai, base_url: "{f}/v1"}}
telemetry: {{log: {{level: error}}}}
"""
HEADERS = {"X-Max-Retries": "1", "X-Retry-Delay-Ms": "0"}
FAULTS = [None, Fault(status=503), Fault(cut_after_words=20), Fault(status=400), Fault(error_after_words=0)]
HELD = {"Drive", "Pump", "Call", "Attempts", "Chooser", "Inbound"}


@pytest.mark.parametrize("stream", [False, True])
async def test_nothing_of_a_finished_request_is_left(stream: bool) -> None:
    async with FakeProvider(name="p", pause_s=0) as p, FakeProvider(name="f", pause_s=0) as f:
        config = load_text(FILE.format(p=p.url, f=f.url), "cycles.yaml", {}).config
        assert config is not None
        app = App(config)
        await app.start()
        assert app.listeners is not None
        url = f"http://127.0.0.1:{app.listeners.data_port}/v1/chat/completions"
        body = {"model": "m", "stream": stream, "messages": [{"role": "user", "content": "x"}]}
        gc.collect()
        gc.disable()
        try:
            async with aiohttp.ClientSession() as session:
                for n in range(20):
                    p.default = FAULTS[n % len(FAULTS)]
                    try:
                        async with session.post(url, json=body, headers=HEADERS) as response:
                            await response.read()
                    except aiohttp.ClientPayloadError:
                        assert FAULTS[n % len(FAULTS)] == Fault(cut_after_words=20)
            await app.close()
            ours = (o for o in gc.get_objects() if type(o).__module__.startswith("proxy."))
            left = Counter(type(o).__name__ for o in ours)
        finally:
            gc.enable()
            gc.unfreeze()
        # The last exchange of each kept-alive connection may still be referred to by the frame that read it.
        assert {name: count for name, count in left.items() if name in HELD and count > 1} == {}
