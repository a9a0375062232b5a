"""`outrider demo`: the fake providers of the first minute, the file that routes to them and the words printed.

The primary is ill from the start, so that the very first call shows a failover; the printed lines tell how to heal it
and how to break the others.
"""

from __future__ import annotations

from types import TracebackType
from typing import Final, Self

from proxy.demo.provider import FakeProvider
from proxy.demo.script import Fault

CONFIG: Final = """
version: 1
listen:
  data: {{host: 127.0.0.1, port: {data_port}}}
  admin: {{host: 127.0.0.1, port: {admin_port}}}
providers:
  openai:
    dialect: openai
    base_url: "{openai}/v1"
    api_key: demo-openai
    region: us-east
    models: {{"*": passthrough}}
  backup:
    dialect: openai
    base_url: "{backup}/v1"
    api_key: demo-backup
    region: eu-west
    models: {{gpt-4o: demo-large, "*": passthrough}}
  anthropic:
    dialect: anthropic
    base_url: "{anthropic}"
    api_key: demo-anthropic
    models: {{gpt-4o: claude-sonnet-5, "*": passthrough}}
  google:
    dialect: gemini
    base_url: "{google}"
    api_key: demo-google
    models: {{gpt-4o: gemini-3-pro, "*": passthrough}}
routes:
  - name: messages
    match: {{paths: [/v1/messages]}}
    targets: [{{provider: anthropic}}, {{provider: backup}}]
  - name: demo
    targets: [{{provider: openai}}, {{provider: backup}}, {{provider: anthropic}}, {{provider: google}}]
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
                   (ask with "stream": true: `backup` finishes the answer; look for ": continued-by")
  break backup:    curl -X POST {backup}/_demo/fault -d '{{"status": 503}}'
                   (then `anthropic` answers, in its own language; you see OpenAI's)
  what it knows:   curl http://127.0.0.1:{admin_port}/status
  watch it:        http://127.0.0.1:{admin_port}/ in a browser

Ctrl-C ends it.
"""


class World:
    """Four fake providers, running while the context lasts."""

    def __init__(self) -> None:
        self._providers = {
            "openai": FakeProvider(name="openai", dialect="openai", keep_log=False),
            "backup": FakeProvider(name="backup", dialect="openai", keep_log=False),
            "anthropic": FakeProvider(name="anthropic", dialect="anthropic", keep_log=False),
            "google": FakeProvider(name="google", dialect="gemini", keep_log=False),
        }
        self._providers["openai"].default = Fault(status=503)

    async def __aenter__(self) -> Self:
        try:
            for provider in self._providers.values():
                await provider.start()
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop()

    async def _stop(self) -> None:
        for provider in self._providers.values():
            await provider.stop()

    @property
    def _urls(self) -> dict[str, str]:
        return {name: provider.url for name, provider in self._providers.items()}

    def config(self, data_port: int, admin_port: int) -> str:
        """The YAML that routes to the providers; a port of 0 takes a free one."""
        return CONFIG.format(data_port=data_port, admin_port=admin_port, **self._urls)

    def said(self, version: str, data_port: int, admin_port: int) -> str:
        """What a newcomer is told once the ports are bound."""
        return SAID.format(version=version, data_port=data_port, admin_port=admin_port, **self._urls)
