"""What may be wrong with a request, by which section, and which answers are right for it.

`BREACHES` are of the RFCs: a message that does so is no HTTP/1.1. `HOUSE` rules refuse what an RFC allows, because
parsers in use disagree on it or because a sidecar has no use for it; each is told in docs/http.md.
"""

from __future__ import annotations

from dataclasses import dataclass

BAD = frozenset({400})


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Why a request is refused."""

    section: str
    why: str
    answers: frozenset[int] = BAD
    """Statuses that are right for it."""


def _rule(section: str, why: str, *answers: int) -> Rule:
    return Rule(section=section, why=why, answers=frozenset(answers) or BAD)


BREACHES = {
    "bare_cr": _rule("RFC 9112 §2.2", "a CR that is not followed by LF is invalid"),
    "bare_lf": _rule("RFC 9112 §2.2", "lines end with CRLF; a lone LF may be taken for an end, and need not be"),
    "space_before_headers": _rule("RFC 9112 §2.2", "white space between the start line and the first field"),
    "request_line": _rule("RFC 9112 §3", "the request line is not method SP target SP version"),
    "space_before_method": _rule("RFC 9112 §3", "white space before the method is refused or ignored", 400, 501),
    "http09": _rule("RFC 9112 §2.3", "HTTP/0.9 has no version and no fields", 400, 408, 505),
    "method": _rule("RFC 9110 §9.1", "the method is no token", 400, 501),
    "unknown_method": _rule(
        "RFC 9110 §9.1", "an unknown method gets 501; a known one that nothing serves 405", 400, 405, 501, 505
    ),
    "connect": _rule("RFC 9110 §9.3.6", "CONNECT is for proxies that tunnel", 400, 405, 501),
    "version": _rule("RFC 9112 §2.3", "the version is HTTP/ DIGIT . DIGIT", 400, 505),
    "other_version": _rule("RFC 9110 §15.6.6", "this major version is not spoken here", 400, 505),
    "target": _rule("RFC 9112 §3.2", "the target holds bytes that no URI holds"),
    "fragment": _rule("RFC 9112 §3.2.1", "a target has no fragment"),
    "target_form": _rule("RFC 9112 §3.2", "the target has none of the four forms, or not the method's"),
    "no_host": _rule("RFC 9112 §3.2", "an HTTP/1.1 request without Host"),
    "hosts": _rule("RFC 9112 §3.2", "more than one Host"),
    "host": _rule("RFC 9112 §3.2", "the Host is no host [: port]"),
    "host_empty": _rule("RFC 9110 §4.2.1", "an http URI with an empty host is invalid"),
    "obs_fold": _rule("RFC 9112 §5.2", "a folded line is refused or unfolded"),
    "no_colon": _rule("RFC 9112 §5", "a field line without a colon"),
    "space_before_colon": _rule("RFC 9112 §5.1", "no white space between name and colon"),
    "field_name": _rule("RFC 9110 §5.1", "the field name is no token"),
    "control": _rule("RFC 9110 §5.5", "a field value holds a control character"),
    "length": _rule("RFC 9112 §6.3", "the Content-Length is no number"),
    "lengths": _rule("RFC 9112 §6.3", "several Content-Lengths, or a list"),
    "length_overflow": _rule("RFC 9110 §8.6", "the length does not fit any integer", 400, 413),
    "both_framings": _rule("RFC 9112 §6.1", "Content-Length and Transfer-Encoding together"),
    "coding_http10": _rule("RFC 9112 §6.1", "Transfer-Encoding in HTTP/1.0 is faulty framing"),
    "coding_not_last": _rule("RFC 9112 §6.3", "the last transfer coding of a request is chunked, once"),
    "coding_unknown": _rule("RFC 9112 §6.1", "a transfer coding that is not understood", 400, 501),
    "chunk_size": _rule("RFC 9112 §7.1", "the chunk size is no hexadecimal number"),
    "chunk_overflow": _rule("RFC 9112 §7.1", "the chunk size does not fit any integer", 400, 413),
    "chunk_extension": _rule("RFC 9112 §7.1.1", "the chunk extension is malformed"),
    "chunk_end": _rule("RFC 9112 §7.1", "chunk data that does not end in CRLF"),
    "trailer_framing": _rule("RFC 9110 §6.5.1", "a trailer field that would change the framing"),
    "head_unfinished": _rule("RFC 9110 §15.5.9", "the head did not arrive in time", 400, 408, 501, 505),
    "body_unfinished": _rule("RFC 9110 §15.5.9", "the body did not arrive in time", 400, 408),
}

HOUSE = {
    "methods": _rule("RFC 9110 §15.5.6", "a method that nothing here serves", 405, 501),
    "minor_version": _rule("RFC 9110 §2.5", "only HTTP/1.1 and 1.0 have been defined", 400, 505),
    "dot_segment": _rule("RFC 3986 §6.2.2.3", "who resolves the path finds another one"),
    "backslash": _rule("RFC 3986 §2", "some readers take a backslash for a slash"),
    "authority": _rule("RFC 9112 §3.2.2", "the absolute target names another host than Host does"),
    "obs_text": _rule("RFC 9110 §5.5", "values should be ASCII; other bytes change on their way through servers"),
    "length_zeros": _rule("RFC 9110 §8.6", "leading zeros of a length have been read as octal"),
    "coding_plain": _rule("RFC 9110 §5.6.1", "a list with empty members where one word stands"),
    "chunk_space": _rule("RFC 9112 §7.1.1", "bad white space in a chunk line may be refused"),
    "lookalike": _rule("RFC 9110 §5.1", "a framing field spelt with underscores is that field to CGI-minded servers"),
    "singletons": _rule("RFC 9110 §5.3", "a field that stands once is sent twice"),
    "old_websocket": _rule("RFC 6455 §4.1", "a handshake from before WebSocket was a standard"),
    "connection": _rule("RFC 9110 §7.6.1", "Connection names an end-to-end field that the request is read by"),
    "expect": _rule("RFC 9110 §10.1.1", "an expectation that cannot be met", 417),
    "target_long": _rule("RFC 9112 §3", "a target longer than the server reads", 414),
    "fields_large": _rule("RFC 6585 §5", "fields larger, or more, than the server reads", 431),
    "body_large": _rule("RFC 9110 §15.5.14", "a body larger than the server reads", 413),
}

TOLERATED = {
    "spaces": _rule("RFC 9112 §3", "more than one space between the words of a request line may be read as one", 200),
}
"""Spellings that are accepted although the grammar does not hold them; what is forwarded is spelt by us."""

RULES = {**BREACHES, **HOUSE}
