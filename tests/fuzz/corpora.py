"""The HTTP corpora as cases for a lane: public ones outside the repository (tests/data.py), and our own.

A case is pointed at its lane by its first request line only, so that framing stays as it was: a second request within
the same bytes is answered by ourselves and must never be seen upstream.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator

from tests.data import rows
from tests.fuzz.verdict import Case

REPAIRED = {
    "MAL-URL-OVERLONG-UTF8": (b"/??", b"/\xc0\xaf"),
    "MAL-NON-ASCII-HEADER-NAME": (b"X-T??st", b"X-T\xc3\xa9st"),
    "MAL-CONTROL-CHARS-HEADER": (b"?f", b"\x7ff"),
    "NORM-TAB-IN-NAME": (b"[TAB]", b"\t"),
    "COOK-OVERSIZED": (b"AAAA...AAAA", b"A" * 65_536),
}
"""Cases whose bytes were lost on the way into the corpus, and what their title says they were."""


def aimed(raw: bytes, lane: str) -> bytes:
    """The case with its first request pointed at a lane's upstream."""
    way = rb"\g<1>/" + lane.encode()
    return re.sub(rb"\A([\r\n]*[^ \r\n]+[ \t]+(?:https?://[^/ \r\n]*)?)(?=/)", way, raw, count=1)


def public(name: str) -> Iterator[Case]:
    """The cases of one of ``http11probe``, ``gunicorn``, ``llhttp``; skips the test when the file is not there."""
    yield from {"http11probe": _http11probe, "gunicorn": _gunicorn, "llhttp": _llhttp}[name]()


def _http11probe() -> Iterator[Case]:
    for row in rows("http/http11probe_cases.jsonl"):
        raw = base64.b64decode(row.get("raw_b64") or "")
        if row["id"] in REPAIRED:
            lost, really = REPAIRED[row["id"]]
            raw = raw.replace(lost, really)
        wants = str(row["expected"]).replace("`", "")
        strictly = wants.startswith("400") and not re.search("2xx|preferred|pass-through", wants)
        served = wants.lower() in ("2xx", "2xx or close", "2xx with date header")
        yield Case(corpus="http11probe", name=row["id"], raw=raw, wants=wants, refused=strictly, served=served)


def _gunicorn() -> Iterator[Case]:
    for row in rows("http/gunicorn_requests.jsonl"):
        wants = "valid" if row["kind"] == "valid" else str(row["reason"])
        yield Case(
            corpus="gunicorn",
            name=f"{row['kind']}/{row['id']}",
            raw=base64.b64decode(row["raw_b64"]),
            wants=wants + (" (under a setting)" if row["needs_config"] else ""),
            answered=row["kind"] == "valid" and row["needs_config"] is None,
            refused=row["kind"] == "invalid"
            and row["reason"] in FRAMING
            and row["needs_config"] is None
            and row["id"] not in DISPUTED,
        )


FRAMING = {
    "InvalidHeader",
    "InvalidHeaderName",
    "InvalidChunkSize",
    "InvalidChunkExtension",
    "InvalidRequestLine",
    "ObsoleteFolding",
}
"""Reasons of gunicorn's that are breaches of framing or grammar."""
DISPUTED = {"041": "RFC 9110 §5.3: two Content-Types are the sender's fault and framing does not depend on them"}
"""Cases of a corpus whose expectation is not the RFC's."""


def _llhttp() -> Iterator[Case]:
    for n, row in enumerate(rows("http/llhttp_cases.jsonl")):
        kind = str(row["meta"].get("type", ""))
        if kind.startswith("request"):
            raw = base64.b64decode(row["raw_b64"])
            wants = row["error"] or ("parses" if "lenient" not in kind else "parses when lenient")
            yield Case(corpus="llhttp", name=f"{n} {row['title']}", raw=raw, wants=wants)


# Our own --------------------------------------------------------------------------------------------------------------

_POST = b"POST /u HTTP/1.1\r\nHost: x\r\n"
_CODED = _POST + b"Transfer-Encoding: chunked\r\n"
_GET = b"GET /u HTTP/1.1\r\nHost: x\r\n"
_NEXT = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
_HELLO = b"5\r\nhello\r\n0\r\n\r\n"

OWN: dict[str, bytes] = {
    # One framing, and only one
    "coding beside a length, coded body": _CODED + b"Content-Length: 4\r\n\r\n" + b"0\r\n\r\n" + _NEXT,
    "length before a coding": _POST + b"Content-Length: 50\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + _NEXT,
    "two equal lengths": _POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "two lengths in one line": _POST + b"Content-Length: 5, 6\r\n\r\nhello!",
    "length in hexadecimal": _POST + b"Content-Length: 0x5\r\n\r\nhello",
    "length with a plus": _POST + b"Content-Length: +5\r\n\r\nhello",
    "length with an exponent": _POST + b"Content-Length: 5e0\r\n\r\nhello",
    "length in other digits": _POST + "Content-Length: ٥\r\n\r\nhello".encode(),
    "length of zeros": _POST + b"Content-Length: 005\r\n\r\nhello",
    "length of 10^30": _POST + b"Content-Length: 1" + b"0" * 30 + b"\r\n\r\n",
    "length beyond the limit": _POST + b"Content-Length: 99999999\r\n\r\n",
    "length with a trailing tab": _POST + b"Content-Length: 5\t\r\n\r\nhello",
    "coding with a trailing space": _POST + b"Transfer-Encoding: chunked \r\n\r\n" + _HELLO,
    "coding in capitals": _POST + b"Transfer-Encoding: CHUNKED\r\n\r\n" + _HELLO,
    "coding with a quote": _POST + b'Transfer-Encoding: "chunked"\r\n\r\n' + _HELLO,
    "coding twice": _CODED + b"Transfer-Encoding: chunked\r\n\r\n" + _HELLO,
    "coding twice in one line": _POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n" + _HELLO,
    "coding that is empty": _POST + b"Transfer-Encoding: \r\n\r\n" + _HELLO,
    "coding identity": _POST + b"Transfer-Encoding: identity\r\n\r\n" + _HELLO,
    "coding with a parameter": _POST + b"Transfer-Encoding: chunked;q=1\r\n\r\n" + _HELLO,
    "coding with a form feed": _POST + b"Transfer-Encoding: \x0cchunked\r\n\r\n" + _HELLO,
    "coding in HTTP/1.0": _CODED.replace(b"1.1", b"1.0") + b"\r\n" + _HELLO,
    "coding with an underscore": _POST + b"Transfer_Encoding: chunked\r\nContent-Length: 5\r\n\r\nhello",
    "host with an underscore name": _GET + b"Connection_: close\r\nCONNECTION: close\r\n\r\n",
    "coding with a leading comma": _POST + b"Transfer-Encoding: , chunked\r\n\r\n" + _HELLO,
    "coding gzip, chunked": _POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + _HELLO,
    # Chunks
    "chunk size with a space": _CODED + b"\r\n5 ;a=b\r\nhello\r\n0\r\n\r\n",
    "chunk size with a tail": _CODED + b"\r\n5 hello\r\nhello\r\n0\r\n\r\n",
    "chunk after a good one is bad": _CODED + b"\r\n5\r\nhello\r\nzz\r\n0\r\n\r\n" + _NEXT,
    "chunk size of 17 digits": _CODED + b"\r\n" + b"0" * 16 + b"5\r\nhello\r\n0\r\n\r\n",
    "chunk size overflows": _CODED + b"\r\nfffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    "chunk size of 64 bits": _CODED + b"\r\nffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    "chunk size is negative": _CODED + b"\r\n-5\r\nhello\r\n0\r\n\r\n",
    "chunk line ends in LF": _CODED + b"\r\n5\nhello\r\n0\r\n\r\n",
    "chunk ends in LF": _CODED + b"\r\n5\r\nhello\n0\r\n\r\n",
    "chunk extension": _CODED + b'\r\n5;a=b;c="d;e"\r\nhello\r\n0\r\n\r\n',
    "chunk extension with CR": _CODED + b"\r\n5;a=\rb\r\nhello\r\n0\r\n\r\n",
    "chunk extension with NUL": _CODED + b"\r\n5;a=\x00\r\nhello\r\n0\r\n\r\n",
    "last chunk with an extension": _CODED + b"\r\n5\r\nhello\r\n0;x=y\r\n\r\n",
    "last chunk is missing": _CODED + b"\r\n5\r\nhello\r\n",
    "trailer": _CODED + b"\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n",
    "trailer that frames": _CODED + b"\r\n5\r\nhello\r\n0\r\nContent-Length: 3\r\n\r\n" + _NEXT,
    "trailer before another request": _CODED + b"\r\n0\r\nHost: evil\r\n\r\n" + _NEXT,
    "trailer that repeats a field of the head": _POST + b"Content-Type: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"0\r\nContent-Type: b\r\nX: y\r\n\r\n" + _NEXT,
    "trailer with two hosts": _CODED + b"\r\n0\r\nHost: a\r\nHost: b\r\n\r\n" + _NEXT,
    "trailer with a space": _CODED + b"\r\n0\r\nX Sum: 1\r\n\r\n",
    # Field lines
    "space before a colon": _POST + b"Content-Length : 5\r\n\r\nhello",
    "tab before a colon": _POST + b"Content-Length\t: 5\r\n\r\nhello",
    "folded coding": _POST + b"X: a\r\n Transfer-Encoding: chunked\r\n\r\n" + _HELLO,
    "lone LF between fields": _GET + b"X: a\nTransfer-Encoding: chunked\r\n\r\n",
    "lone CR in a value": _GET + b"X: a\rTransfer-Encoding: chunked\r\n\r\n",
    "NUL in a value": _GET + b"X: a\x00b\r\n\r\n",
    "DEL in a value": _GET + b"X: a\x7fb\r\n\r\n",
    "UTF-8 in a value": _GET + "X: é\r\n\r\n".encode(),
    "Latin-1 in a value": _GET + b"X: caf\xe9\r\n\r\n",
    "NUL in a name": _GET + b"X\x00Y: a\r\n\r\n",
    "name with a quote": _GET + b'X"Y: a\r\n\r\n',
    "line without a colon": _GET + b"nonsense\r\n\r\n",
    "empty name": _GET + b": a\r\n\r\n",
    "empty value": _GET + b"X:\r\n\r\n",
    "all token characters in a name": _GET + b"!#$%&'*+.^`|~: a\r\n\r\n",
    "white space before the first field": b"GET /u HTTP/1.1\r\n Host: x\r\n\r\n",
    "key twice": _GET + b"Authorization: Bearer a\r\nauthorization: Bearer b\r\n\r\n",
    # Connection and its friends
    "connection names a key": _GET + b"Authorization: Bearer a\r\nConnection: close, Authorization\r\n\r\n",
    "connection names the length": _POST + b"Content-Length: 5\r\nConnection: content-length\r\n\r\nhello",
    "connection names a field": _GET + b"X-Hop: a\r\nConnection: X-Hop, close\r\n\r\n",
    "all hop-by-hop fields": _GET + b"Keep-Alive: 5\r\nProxy-Connection: close\r\nTE: trailers\r\nTrailer: X\r\n"
    b"Proxy-Authorization: Basic a\r\nHTTP2-Settings: AA\r\nConnection: close\r\n\r\n",
    "handshake of an old WebSocket": _GET + b"Sec-WebSocket-Key1: 1 2\r\n\r\n",
    "upgrade to h2c": _GET + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n",
    "upgrade with another request behind": _GET + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n" + _NEXT,
    "expect nothing known": _POST + b"Expect: miracles\r\nContent-Length: 5\r\n\r\nhello",
    "expect 100-continue": _POST + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\nhello",
    "expect nothing at all": _POST + b"Expect:\r\nContent-Length: 5\r\n\r\nhello",
    "expect 100-continue twice": _POST + b"Expect: 100-continue, 100-continue\r\nContent-Length: 5\r\n\r\nhello",
    "expect 100-continue, coded": _CODED + b"Expect: 100-continue\r\n\r\n" + _HELLO,
    "expect 100-continue, HTTP/1.0": b"POST /u HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello",
    "expect 100-continue, body stops": _POST + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\nhell",
    # Request lines
    "no version, CONNECT": b"CONNECT x:443\r\nHost: x:443\r\n\r\n",
    "no version, no slash": b"GET u\r\n\r\n",
    "no version, absolute target": b"GET http://x/u\r\n\r\n",
    "no version": b"GET /u\r\n\r\n",
    "method with a comma": _GET.replace(b"GET", b"GE,T") + b"\r\n",
    "method that is unknown": _GET.replace(b"GET", b"FETCH") + b"\r\n",
    "target with a space": _GET.replace(b"/u", b"/u v") + b"\r\n",
    "target without a slash": _GET.replace(b"/u", b"u") + b"\r\n",
    "host that is empty": b"GET /u HTTP/1.1\r\nHost:\r\n\r\n",
    "host twice": _GET + b"Host: y\r\n\r\n",
    "host missing": b"GET /u HTTP/1.1\r\n\r\n",
    "host with a user": b"GET /u HTTP/1.1\r\nHost: a@b\r\n\r\n",
    "host with a space": b"GET /u HTTP/1.1\r\nHost: a b\r\n\r\n",
    "host with a port of eight digits": b"GET /u HTTP/1.1\r\nHost: a:80808080\r\n\r\n",
    "host with a long port": b"GET /u HTTP/1.1\r\nHost: a:8080\r\n\r\n",
    "absolute target of another host": b"GET http://y/u HTTP/1.1\r\nHost: x\r\n\r\n",
    "absolute target of this host": b"GET http://x/u?q=1 HTTP/1.1\r\nHost: x\r\n\r\n",
    "absolute target in capitals": b"GET HTTP://x/u HTTP/1.1\r\nHost: x\r\n\r\n",
    "absolute target of another scheme": b"GET ftp://x/u HTTP/1.1\r\nHost: x\r\n\r\n",
    "target with dots": _GET.replace(b"/u", b"/u/../v") + b"\r\n",
    "target with encoded dots": _GET.replace(b"/u", b"/u/%2e%2E/v") + b"\r\n",
    "target with dots in the query": _GET.replace(b"/u", b"/u?a=/../b") + b"\r\n",
    "target with a fragment": _GET.replace(b"/u", b"/u#a") + b"\r\n",
    "target with a backslash": _GET.replace(b"/u", b"/u\\v") + b"\r\n",
    "target with a NUL": _GET.replace(b"/u", b"/u\x00v") + b"\r\n",
    "target in UTF-8": _GET.replace(b"/u", "/ü".encode()) + b"\r\n",
    "target with a tab": _GET.replace(b"/u", b"/u\tv") + b"\r\n",
    "target with an encoded CRLF": _GET.replace(b"/u", b"/u%0d%0aX:%20y") + b"\r\n",
    "target of 17 KiB": _GET.replace(b"/u", b"/" + b"u" * 17 * 1024) + b"\r\n",
    "method in small letters": _GET.replace(b"GET", b"get") + b"\r\n",
    "method TRACE, host malformed": _GET.replace(b"GET", b"TRACE").replace(b": x", b":: x") + b"\r\n",
    "method TRACE, type twice": _GET.replace(b"GET", b"TRACE") + b"Content-Type: a\r\nContent-Type: b\r\n\r\n",
    "method TRACE, fragment": b"TRACE /u#a HTTP/1.1\r\nHost: x\r\n\r\n",
    "method TRACE": _GET.replace(b"GET", b"TRACE") + b"\r\n",
    "method CONNECT with bytes behind": b"CONNECT x:443 HTTP/1.1\r\nHost: x:443\r\n\r\n" + _NEXT,
    "method from WebDAV": _GET.replace(b"GET", b"PROPFIND") + b"\r\n",
    "version 0.9": b"GET /u HTTP/0.9\r\nHost: x\r\n\r\n",
    "version 1.2": b"GET /u HTTP/1.2\r\nHost: x\r\n\r\n",
    "version 2.0": b"GET /u HTTP/2.0\r\nHost: x\r\n\r\n",
    "version in small letters": b"GET /u http/1.1\r\nHost: x\r\n\r\n",
    "space at the end of the request line": b"GET /u HTTP/1.1 \r\nHost: x\r\n\r\n",
    "two spaces in the request line": b"GET /u  HTTP/1.1\r\nHost: x\r\n\r\n",
    "request line ends in LF": b"GET /u HTTP/1.1\nHost: x\r\n\r\n",
    "request line without a version ends in LF": b"GET /u\nHost: x\r\n\r\n",
    "request line without a version ends in CR": b"GET /u\rHost: x\r\n\r\n",
    "request line with an unknown method ends in LF": b"FETCH /u HTTP/1.1\nHost: x\r\n\r\n",
    "request line of version 2.0 ends in LF": b"GET /u HTTP/2.0\nHost: x\r\n\r\n",
    "space before the method": b" " + _GET + b"\r\n",
    "space before the method of the second": _GET + b"\r\n " + _NEXT,
    "tab before a request without a version": b"\tGET /u\r\n\r\n",
    # Size and time
    "129 fields": _GET + b"X: y\r\n" * 128 + b"\r\n",
    "a field of 40 KiB": _GET + b"X: " + b"y" * 40 * 1024 + b"\r\n\r\n",
    "40 KiB of fields": _GET + b"".join(b"X-%d: %b\r\n" % (n, b"y" * 1020) for n in range(40)) + b"\r\n",
    "an endless head": _GET + b"X: " + b"y" * 200 * 1024,
    "a head that stops": _GET + b"X: y",
    "a head of version 2.0 that stops": b"GET /u HTTP/2.0\r\nHost: x\r\n",
    "a head of CONNECT that stops": b"CONNECT x:443 HTTP/1.1\r\nHost:",
    "a head with a fragment that stops": b"GET /u#a HTTP/1.1\r\nHost:",
    "a request line that stops": b"GET /u HTT",
    "a body that stops": _POST + b"Content-Length: 50\r\n\r\nhello",
    "nothing at all": b"",
    "only line ends": b"\r\n\r\n\r\n",
    "only lone line ends": b"\n\r\r\n\n",
    "a TLS hello": bytes.fromhex("16030100a5010000a10303") + bytes(range(40)),
    # Several in one segment
    "two good ones": _GET + b"\r\n" + _NEXT,
    "a good one, a head that stops": _GET + b"\r\nGET /s",
    "a good one, LF and a head that stops": _GET + b"\r\n\nGET /s",
    "a good one, LF and a line without a version": _GET + b"\r\n\nGET /5\r\n",
    "a good one, a bad one": _GET + b"\r\n" + b"BAD\r\n\r\n",
    "a good one with a body, a bad one": _POST + b"Content-Length: 5\r\n\r\nhello" + b"GET / HTTP/1.1\r\n\r\n",
    "two good ones, LF between": _GET + b"\r\n\n" + _NEXT,
    "two good ones, CR between": _GET + b"\r\n\r" + _NEXT,
    "two good ones, CRLF and LF between": _GET + b"\r\n\r\n\n" + _NEXT,
    "a good one with a body, LF behind": _POST + b"Content-Length: 5\r\n\r\nhello\n",
    "a good one with a body, CR and a bad one behind": _POST + b"Content-Length: 5\r\n\r\nhello\rBAD\r\n\r\n",
    "LF before the first": b"\n" + _GET + b"\r\n",
    "CR before the first": b"\r" + _GET + b"\r\n",
    "Proxy-Connection: close, a bad one behind": _GET + b"Proxy-Connection: close\r\n\r\nP: X\r\r\n",
    "close, another one behind": _GET + b"Connection: close\r\n\r\n" + _NEXT,
    "HTTP/1.0, another one behind": b"GET /u HTTP/1.0\r\n\r\n" + _NEXT,
    "body of the next request": _POST + b"Content-Length: %d\r\n\r\n" % len(_NEXT) + _NEXT,
    "GET with a body that is a request": _GET + b"Content-Length: %d\r\n\r\n" % len(_NEXT) + _NEXT,
}


def own() -> Iterator[Case]:
    for name, raw in OWN.items():
        yield Case(corpus="own", name=name, raw=raw)
