"""Who is notified: a webhook receiver that verifies signatures and can be away, and a small SMTP server."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import Message
from types import TracebackType
from typing import Any, Self

import orjson
from aiohttp import web


@dataclass(slots=True)
class Hook:
    """A webhook that came."""

    headers: dict[str, str]
    body: bytes
    status: int
    """What was answered."""

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


class Receiver:
    """A webhook receiver on one port of the loopback interface; `stop` and `start` keep the port."""

    def __init__(self, answer: Callable[[Hook], int] = lambda hook: 204) -> None:
        self.answer = answer
        self.hooks: list[Hook] = []
        self.port = 0
        self._came = asyncio.Condition()
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    async def start(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", self._take)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        assert site._server is not None
        self.port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _take(self, request: web.Request) -> web.Response:
        hook = Hook(dict(request.headers), await request.read(), 0)
        hook.status = self.answer(hook)
        async with self._came:
            self.hooks.append(hook)
            self._came.notify_all()
        headers = {"Location": "/elsewhere"} if 300 <= hook.status < 400 else {}
        return web.Response(status=hook.status, headers=headers)

    async def wait(self, condition: Callable[[list[Hook]], bool], timeout_s: float = 20.0) -> list[Hook]:
        """All hooks, once they satisfy `condition`."""
        async with asyncio.timeout(timeout_s), self._came:
            await self._came.wait_for(lambda: condition(self.hooks))
        return self.hooks

    @property
    def taken(self) -> list[Hook]:
        """Those that were answered with success."""
        return [hook for hook in self.hooks if hook.status < 300]


def verified(hook: Hook, secret: str) -> bool:
    """Whether the signature is what the contract says: an HMAC with `secret` over the time, a dot and the body."""
    found = re.fullmatch(r"t=(\d+),v1=([0-9a-f]{64})", hook.headers["X-Outrider-Signature"])
    assert found is not None
    made = hmac.new(secret.encode(), found[1].encode() + b"." + hook.body, hashlib.sha256).hexdigest()
    return hmac.compare_digest(made, found[2])


@dataclass(slots=True)
class Mail:
    """A message that was handed in."""

    sender: str
    recipients: list[str]
    content: bytes
    login: str = ""

    @property
    def message(self) -> Message:
        return message_from_bytes(self.content)


@dataclass(slots=True)
class MailServer:
    """Speaks as much SMTP as smtplib needs: EHLO, AUTH PLAIN, MAIL, RCPT, DATA, RSET, QUIT."""

    refuse: str = ""
    """A verb that is answered with 451."""
    unknown: str = ""
    """A recipient that is answered with 550."""
    mails: list[Mail] = field(default_factory=list)
    port: int = 0
    _server: asyncio.Server | None = None
    _came: asyncio.Event = field(default_factory=asyncio.Event)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._talk, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def wait(self, count: int, timeout_s: float = 20.0) -> list[Mail]:
        async with asyncio.timeout(timeout_s):
            while len(self.mails) < count:
                self._came.clear()
                await self._came.wait()
        return self.mails

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        mail, login = Mail("", [], b""), ""
        writer.write(b"220 here\r\n")
        while line := await reader.readline():
            verb, _, rest = line.decode().strip().partition(" ")
            verb = verb.upper()
            if verb == self.refuse:
                writer.write(b"451 not now\r\n")
            elif verb == "EHLO":
                writer.write(b"250-here\r\n250 AUTH PLAIN\r\n")
            elif verb == "AUTH":
                login = rest
                writer.write(b"235 welcome\r\n")
            elif verb == "MAIL":
                mail = Mail(rest, [], b"", login)
                writer.write(b"250 ok\r\n")
            elif verb == "RCPT":
                mail.recipients.append(rest)
                is_unknown = bool(self.unknown) and self.unknown in rest
                writer.write(b"550 nobody\r\n" if is_unknown else b"250 ok\r\n")
            elif verb == "DATA":
                writer.write(b"354 go on\r\n")
                mail.content = (await reader.readuntil(b"\r\n.\r\n"))[:-3]
                writer.write(b"250 taken\r\n")
                self.mails.append(mail)
                self._came.set()
            else:
                writer.write(b"221 bye\r\n" if verb == "QUIT" else b"250 ok\r\n")
                if verb == "QUIT":
                    break
        writer.close()
