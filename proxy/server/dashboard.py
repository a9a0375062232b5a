"""The page for people: one document with its script and style inside, so that nothing else is asked for.

The document holds no data: the script fetches the status routes that stand beside it. The content-security policy
allows exactly the script and the style that were read here, by their hashes, and calls to our own origin only. `self`
would not do for them: on the data port the answers of providers have the same origin (`/{provider}/…`).

Whatever the status routes tell is shown as text. The policy also demands trusted types and names none, so that a
browser that knows them refuses to take any string for markup.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import Final

from proxy.base.exchange import Inbound
from proxy.server.status import Answer

FOLDER: Final = Path(__file__).parent / "dashboard_page"
SCRIPTS: Final = ("parts.js", "charts.js", "now.js", "events.js", "request.js", "incidents.js", "month.js", "page.js")
"""In this order they are one script."""

POLICY: Final = (
    "default-src 'none'; script-src {script}; style-src {style}; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
    "trusted-types 'none'"
)


async def dashboard(_: Inbound) -> Answer:
    """Answer ``GET /`` and ``GET /dashboard`` on either port. It needs no token: the page tells nothing by itself."""
    policy, body = _document()
    headers = [
        ("Content-Type", "text/html; charset=utf-8"),
        ("Content-Security-Policy", policy),
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "no-referrer"),
        ("Cache-Control", "no-store"),
    ]
    return 200, headers, body


@cache
def _document() -> tuple[str, bytes]:
    """(policy, document). Read once: the files are part of the program."""
    script = "\n".join((FOLDER / name).read_text(encoding="utf-8") for name in SCRIPTS)
    style = (FOLDER / "style.css").read_text(encoding="utf-8")
    page = (FOLDER / "page.html").read_text(encoding="utf-8")
    page = page.replace("/* style.css */", style).replace("/* scripts */", script)
    return POLICY.format(script=_source(script), style=_source(style)), page.encode()


def _source(text: str) -> str:
    """A text as a source of the policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
