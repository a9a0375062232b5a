"""Headless Chromium, driven through ChromeDriver's W3C WebDriver interface: as much of it as the page's tests need."""

from __future__ import annotations

import asyncio
import contextlib
import re
import tempfile
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self

import aiohttp

from tests.unit.k8s.rendering import needed

ARGUMENTS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
    "--no-default-browser-check", "--proxy-server=direct://", "--force-color-profile=srgb", "--window-size=1200,1000",
)  # fmt: skip
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
"""The name under which WebDriver tells a reference to an element."""


class Browser:
    """One window; ``async with Browser() as browser``."""

    def __init__(self) -> None:
        self._folder: tempfile.TemporaryDirectory[str]
        self._driver: asyncio.subprocess.Process
        self._http: aiohttp.ClientSession
        self._session = ""

    async def __aenter__(self) -> Self:
        chromium, driver = needed("chromium"), needed("chromedriver")
        self._folder = tempfile.TemporaryDirectory(prefix="outrider-chromium-", ignore_cleanup_errors=True)
        self._driver = await asyncio.create_subprocess_exec(
            driver, "--port=0", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self._end)
            async with asyncio.timeout(20):
                base = f"http://127.0.0.1:{await self._port()}"
            self._http = aiohttp.ClientSession(base, timeout=aiohttp.ClientTimeout(total=30))
            stack.push_async_callback(self._http.close)
            options = {"binary": chromium, "args": [*ARGUMENTS, f"--user-data-dir={self._folder.name}"]}
            wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
            made = await self._call("POST", "", capabilities={"alwaysMatch": wanted})
            self._session = f"/{made['sessionId']}"
            stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._call("DELETE", "")
        finally:
            await self._http.close()
            await self._end()

    async def _port(self) -> int:
        assert self._driver.stdout is not None
        async for line in self._driver.stdout:
            if found := re.search(rb"started successfully on port (\d+)", line):
                return int(found[1])
        raise AssertionError("chromedriver ended before it listened")

    async def _end(self) -> None:
        if self._driver.returncode is None:
            self._driver.terminate()
        await self._driver.communicate()
        self._folder.cleanup()

    async def _call(self, method: str, path: str, **body: Any) -> Any:
        sent = {"json": body} if method == "POST" else {}
        async with self._http.request(method, f"/session{self._session}{path}", **sent) as response:
            value = (await response.json(content_type=None))["value"]
        assert response.status == 200, value
        return value

    async def _devtools(self, command: str, **params: Any) -> Any:
        return await self._call("POST", "/goog/cdp/execute", cmd=command, params=params)

    # What a person does -----------------------------------------------------------------------------------------------

    async def open(self, url: str) -> None:
        await self._call("POST", "/url", url=url)

    async def run(self, script: str, *arguments: Any) -> Any:
        """What a function body returns. It is the test that runs it: the page's own policy does not hold for it."""
        return await self._call("POST", "/execute/sync", script=script, args=list(arguments))

    async def text(self, selector: str) -> str:
        """What can be read of the first match; empty when there is none."""
        return str(await self.run("return document.querySelector(arguments[0])?.innerText ?? ''", selector))

    async def texts(self, selector: str) -> list[str]:
        return list(
            await self.run("return [...document.querySelectorAll(arguments[0])].map((e) => e.innerText)", selector)
        )

    async def click(self, selector: str) -> None:
        found = await self._call("POST", "/element", using="css selector", value=selector)
        await self._call("POST", f"/element/{found[ELEMENT]}/click")

    async def type(self, keys: str) -> None:
        """Press keys where the focus is."""
        active = await self._call("GET", "/element/active")
        await self._call("POST", f"/element/{active[ELEMENT]}/value", text=keys)

    async def size(self, width: int, height: int) -> None:
        """A screen of this size, in CSS pixels."""
        await self._devtools(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    async def prefer(self, **features: str) -> None:
        """Media features, with ``_`` for ``-``: ``color_scheme="dark"``."""
        told = [{"name": f"prefers-{name.replace('_', '-')}", "value": value} for name, value in features.items()]
        await self._devtools("Emulation.setEmulatedMedia", features=told)

    async def complaints(self) -> list[str]:
        """What stands in the console since the last call: errors, warnings, breaches of the policy."""
        told = await self._call("POST", "/se/log", type="browser")
        return [f"{entry['level']}: {entry['message']}" for entry in told]

    async def until(self, seen: Callable[[], Awaitable[Any]], within_s: float = 10.0) -> Any:
        """The first true value of `seen`, asked every 50 ms. Fails with its last value when there is none in time."""
        loop = asyncio.get_running_loop()
        until = loop.time() + within_s
        while not (value := await seen()):
            assert loop.time() < until, f"not seen within {within_s} s: {value!r}; console: {await self.complaints()}"
            await asyncio.sleep(0.05)
        return value

    async def until_text(self, selector: str, part: str, within_s: float = 10.0) -> str:
        """The text of the first match, once it holds `part`."""

        async def told() -> str | None:
            text = await self.text(selector)
            return text if part in text else None

        return str(await self.until(told, within_s))
