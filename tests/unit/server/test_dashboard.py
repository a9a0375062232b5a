"""The page as it is sent: one document, and a policy that names all that may run in it."""

from __future__ import annotations

import base64
import hashlib
import re

import pytest

from proxy.base.exchange import Inbound
from proxy.observe.entry import KINDS
from proxy.server.dashboard import FOLDER, SCRIPTS, dashboard
from proxy.server.health_stream import NAMES
from proxy.server.status import PAGES, Front, Status

pytestmark = pytest.mark.asyncio


async def sent() -> tuple[dict[str, str], str]:
    status, headers, body = await dashboard(Inbound("req_1", "GET", "/", "", (), b"", 0.0))
    assert status == 200
    return dict(headers), body.decode()


def inside(page: str, name: str) -> str:
    (found,) = re.findall(rf"<{name}>(.*?)</{name}>", page, re.DOTALL)
    return str(found)


async def test_the_policy_names_script_and_style_by_their_hashes() -> None:
    headers, page = await sent()
    policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
    for name in ("script", "style"):
        digest = base64.b64encode(hashlib.sha256(inside(page, name).encode()).digest()).decode()
        assert policy.pop(f"{name}-src") == f"'sha256-{digest}'"
    assert policy == {
        "default-src": "'none'",
        "connect-src": "'self'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert headers["X-Content-Type-Options"] == "nosniff"


async def test_the_document_is_whole_and_asks_for_nothing_else() -> None:
    _, page = await sent()
    assert all((FOLDER / name).read_text() in page for name in (*SCRIPTS, "style.css"))
    assert {path.name for path in FOLDER.iterdir()} == {*SCRIPTS, "style.css", "page.html"}
    assert set(re.findall(r"""https?://[^\s"'`]+""", page)) == {"http://www.w3.org/2000/svg", "http://localhost:8712/."}
    assert re.findall(r"(?:src|href)=\"(?!#|data:,|v1/)", page) == []
    assert not re.search(r"url\(|@import", page)


async def test_no_text_is_taken_for_markup_or_code() -> None:
    script = inside((await sent())[1], "script")
    unsafe = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|DOMParser|\.srcdoc|on\w+="
    assert re.findall(unsafe, script) == []


def words(script: str, name: str) -> set[str]:
    """The texts in a list of the script."""
    (found,) = re.findall(rf"const {name} = \[(.*?)\];", script, re.DOTALL)
    return set(re.findall(r'"(\w+)"', found))


async def test_the_script_knows_every_kind_and_every_event() -> None:
    script = inside((await sent())[1], "script")
    kinds = [words(script, name) for name in ("DIALS", "REQUESTS", "CHANGES")]
    assert set.union(*kinds) == set(KINDS)
    assert words(script, "STREAMED") == set(NAMES.values())


class Heard:
    """A way back that keeps the status."""

    status = 0

    async def whole(self, status: int, headers: object, body: bytes) -> None:
        self.status = status


@pytest.mark.parametrize(("path", "status"), [*((page, 200) for page in PAGES), ("/v1/health", 401)])
async def test_the_page_itself_is_shown_without_a_token(path: str, status: int) -> None:
    shown = Status(read={**dict.fromkeys(PAGES, dashboard), "/v1/health": dashboard})
    front = Front(shown, None, refused=lambda _: (401, [], b""))  # type: ignore[arg-type]
    heard = Heard()
    await front(Inbound("req_1", "GET", path, "", (), b"", 0.0), heard)  # type: ignore[arg-type]
    assert heard.status == status
