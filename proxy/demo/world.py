"""`outrider demo`: fake providers and the proxy in front of them, in one process, for the first minute.

The primary is ill from the start, so that the very first call shows a failover; the printed lines tell how to heal it
and how to break the others.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import Final

from proxy.app import App
from proxy.config.load import load_text
from proxy.demo.provider import FakeProvider
from proxy.demo.script import Fault

CONFIG: Final = """
version: 1
listen:
  data: {{host: 127.0.0.1, port: {data_port}}}
  admin: {{host: 127.0.0.1, port: {admin_port}}}
providers:
  openai: {{dialect: openai, base_url: "{openai}/v1", api_key: demo-openai, region: us-east, models: {{"*": passthrough}}}}
  backup:
    dialect: openai
    base_url: "{backup}/v1"
    api_key: demo-backup
    region: eu-west
    models: {{gpt-4o: demo-large, "*": passthrough}}
  anthropic: {{dialect: anthropic, base_url: "{anthropic}", api_key: demo-anthropic}}
  google: {{dialect: gemini, base_url: "{google}", api_key: demo-google}}
routes:
  - name: demo
    targets: [{{provider: openai}}, {{provider: backup}}]
  - name: messages
    match: {{paths: [/v1/messages]}}
    targets: [{{provider: anthropic}}]
store: {{path: ":memory:"}}
telemetry: {{log: {{format: text, level: warning}}}}
"""

SAID: Final = """
Outrider {version} listens on http://127.0.0.1:{data_port} (admin: {admin_port}).
Behind it are fake providers. `openai` is ill: it answers every call with 503. Ask it anything:

  curl -i http://127.0.0.1:{data_port}/v1/chat/completions -H 'Content-Type: application/json' \\
    -d '{{"model": "gpt-4o", "messages": [{{"role": "user", "content": "Say it in sixty words."}}]}}'

The answer comes from `backup`, and says so: X-Failover: true, X-Served-By: backup, X-Attempts: 4.
Add -H 'X-Explain: true' to see every attempt, or -H 'X-Max-Retries: 0' to leave `openai` at once.

  heal openai:     curl -X POST {openai}/_demo/fault -d '{{}}'
  break it again:  curl -X POST {openai}/_demo/fault -d '{{"status": 503}}'
  cut its stream:  curl -X POST {openai}/_demo/fault -d '{{"cut_after_words": 40}}'
  break backup:    curl -X POST {backup}/_demo/fault -d '{{"silence_s": 30}}'
  what it knows:   curl http://127.0.0.1:{admin_port}/status

Ctrl-C ends it.
"""


async def play(data_port: int, admin_port: int) -> int:
    """Run the demo until a signal; ports of 0 are chosen. Raises `BindError`."""
    providers = {
        "openai": FakeProvider(name="openai", dialect="openai", keep_log=False),
        "backup": FakeProvider(name="backup", dialect="openai", keep_log=False),
        "anthropic": FakeProvider(name="anthropic", dialect="anthropic", keep_log=False),
        "google": FakeProvider(name="google", dialect="gemini", keep_log=False),
    }
    providers["openai"].default = Fault(status=503)
    for provider in providers.values():
        await provider.start()
    urls = {name: provider.url for name, provider in providers.items()}
    loaded = load_text(CONFIG.format(data_port=data_port, admin_port=admin_port, **urls), "demo", {})
    if loaded.config is None:
        raise AssertionError("; ".join(map(str, loaded.errors)))
    app = App(loaded.config)
    try:
        for name in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(name, app.stop)
        await app.start()
        assert app.listeners is not None
        print(
            SAID.format(
                version=app.status()["version"],
                data_port=app.listeners.data_port,
                admin_port=app.listeners.admin_port,
                **urls,
            ),
            file=sys.stdout,
            flush=True,
        )
        await app.until_stopped()
    finally:
        await app.close()
        for provider in providers.values():
            await provider.stop()
    return 0
