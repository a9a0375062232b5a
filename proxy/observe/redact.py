"""What a message may not carry into the history: keys, credentials, e-mail addresses, whatever looks like a token.

Messages come from providers, who quote what they were sent. `policy/classify` has masked the shapes of known keys when
it read them; the history is kept for weeks and shown on pages, so here goes everything that might be a secret as well.
A word too many is no loss: class, status and code tell what happened.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from proxy.observe.entry import MESSAGE_MAX
from proxy.policy.classify import SECRET

MASK: Final = "[redacted]"
_EMAIL: Final = re.compile(r"[\w.+%-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}")
_IN_URL: Final = re.compile(r"(?<=://)[^\s/@]{1,256}@")
_NAMED: Final = re.compile(
    r"(?i)\b(?P<name>(?:api[-_ ]?key|access[-_ ]?key|secret|token|password|passwd|authorization|signature|sig|key)"
    r"[\"']?\s*[=:]\s*[\"']?)(?!\[)(?=[^\s\"',;&]*\d)[^\s\"',;&]{6,}"
)
"""``token=abc123``: the value goes when it holds a digit, for "key: invalid" is prose."""
_TOKEN: Final = re.compile(r"(?<![\w+/])(?=[\w+/]*\d)(?=[\w+/]*[A-Za-z])[\w+/]{24,}={0,2}")
"""A run of 24 characters and more without a hyphen, of letters and digits: names of models have hyphens."""


REMEMBERED: Final = 256
"""Messages whose redacted form is kept: in an outage a few of them come thousands of times."""


@lru_cache(maxsize=REMEMBERED)
def redact(text: str) -> str:
    """`text` in one line without anything that looks like a secret, at most `MESSAGE_MAX` characters."""
    if not text:
        return ""
    line = SECRET.sub(MASK, " ".join(text[: 4 * MESSAGE_MAX].split()))
    if "@" in line:
        line = _IN_URL.sub(f"{MASK}@", line)
        line = _EMAIL.sub(MASK, line)
    if ":" in line or "=" in line:
        line = _NAMED.sub(lambda found: found["name"] + MASK, line)
    return _TOKEN.sub(MASK, line)[:MESSAGE_MAX]
