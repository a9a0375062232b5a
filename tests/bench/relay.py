"""The bare relay: the least that an aiohttp proxy can be, and therefore the unit in which ours is measured.

`aiohttp.web.Server` and one `ClientSession`, nothing else: method, path, headers and body go up, status, headers and
body come back as they arrive (`iter_any`). It has no router, no middleware, no retry, no limit, no log, and it is *not*
a safe proxy: `Content-Length` is its only opinion about framing. What outrider costs beyond it is the price of
reliability.

    python -m tests.bench.relay --port 9101 --upstream http://127.0.0.1:9100 --loop uvloop
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib

import uvloop
import yarl
from aiohttp import ClientSession, ClientTimeout, DummyCookieJar, TCPConnector, web
from multidict import CIMultiDict, CIMultiDictProxy

DROPPED = frozenset({"host", "connection", "content-length", "transfer-encoding"})
"""Named by the next hop anew; an answer keeps its `Content-Length`, because its body is not changed."""
BODY_MAX = 32 * 1024 * 1024
KEEPALIVE_S = 75.0


def kept(headers: CIMultiDictProxy[str], but: frozenset[str]) -> CIMultiDict[str]:
    return CIMultiDict([(name, value) for name, value in headers.items() if name.lower() not in but])


async def relay(port: int, upstream: str) -> None:
    """Serve on 127.0.0.1:`port` until cancelled."""
    session = ClientSession(
        auto_decompress=False,
        cookie_jar=DummyCookieJar(),
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        timeout=ClientTimeout(total=None, sock_connect=2),
        connector=TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_S),
    )

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        url = yarl.URL(upstream + request.raw_path, encoded=True)
        headers = kept(request.headers, DROPPED)
        async with session.request(request.method, url, headers=headers, data=body, allow_redirects=False) as answer:
            reply = web.StreamResponse(
                status=answer.status, reason=answer.reason, headers=kept(answer.headers, DROPPED - {"content-length"})
            )
            if "Content-Length" not in answer.headers:
                reply.enable_chunked_encoding()
            await reply.prepare(request)
            async for chunk in answer.content.iter_any():
                await reply.write(chunk)
            await reply.write_eof()
            return reply

    loop = asyncio.get_running_loop()
    server = web.Server(
        handle,
        handler_cancellation=True,
        access_log=None,
        auto_decompress=False,
        keepalive_timeout=KEEPALIVE_S,
        request_factory=lambda message, payload, protocol, writer, task: web.BaseRequest(
            message, payload, protocol, writer, task, loop, client_max_size=BODY_MAX
        ),
    )
    runner = web.ServerRunner(server, handle_signals=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=4096).start()
    try:
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()
        await session.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--upstream", required=True, help="origin without a path, e.g. http://127.0.0.1:9100")
    parser.add_argument("--loop", choices=("uvloop", "asyncio"), default="uvloop")
    asked = parser.parse_args()
    factory = uvloop.new_event_loop if asked.loop == "uvloop" else asyncio.new_event_loop
    with contextlib.suppress(web.GracefulExit, KeyboardInterrupt), asyncio.Runner(loop_factory=factory) as runner:
        runner.run(relay(asked.port, asked.upstream))


if __name__ == "__main__":
    main()
