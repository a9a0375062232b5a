"""One request in the words of every target that speaks another dialect.

Which of them can take the request is judged before the first attempt (`providers.md` 2.0), so that neither failover nor
a hedge starts an attempt that must end in 400. Most requests are plain words: for them the judgement is a look at their
keys, and nothing is translated before a foreign target is really called. All others are written once per target, from
the caller's own body, and what was written is what is sent.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import orjson

from proxy.config.planner import Planned
from proxy.dialects import registry
from proxy.dialects.chat import Asked, Encoded, Malformed, ModelFacts, NotPortable, Request
from proxy.dialects.hearing import STUMBLES
from proxy.dialects.translation import Converter, Translator
from proxy.engine.plan import Candidate, Endpoint, Plan

CONVERSATIONS: Final = frozenset({Endpoint.CHAT, Endpoint.MESSAGES, Endpoint.RESPONSES})
PLAIN_KEYS: Final = {
    Endpoint.CHAT: frozenset(
        {"model", "messages", "stream", "stream_options", "temperature", "max_tokens", "max_completion_tokens"}
    ),
    Endpoint.MESSAGES: frozenset({"model", "messages", "stream", "temperature", "max_tokens", "system"}),
    Endpoint.RESPONSES: frozenset({"model", "input", "stream", "temperature", "max_output_tokens", "instructions"}),
}
"""Members of a body that no dialect refuses."""
PLAIN_MESSAGE: Final = frozenset({"role", "content"})
OWN_WORDS: Final = Encoded(body={})
SIGNATURES_MAX_CHARS: Final = 4 * 1024 * 1024


class Signatures:
    """Gemini's thought signatures by call id, for callers whose dialect cannot carry them; the oldest make room.

    They are lost with the process; a call without one is sent with the placeholder that Gemini documents.
    """

    __slots__ = ("_chars", "held")

    def __init__(self) -> None:
        self.held: OrderedDict[str, str] = OrderedDict()
        self._chars = 0

    def remember(self, found: Mapping[str, str]) -> None:
        for call_id, signature in found.items():
            self._chars += len(signature) - len(self.held.pop(call_id, ""))
            self.held[call_id] = signature
        while self._chars > SIGNATURES_MAX_CHARS:
            self._chars -= len(self.held.popitem(last=False)[1])


class Translations:
    """The translations of one request. `parsed` is the caller's body, or the members of it that were looked up."""

    __slots__ = (
        "_body",
        "_created",
        "_endpoint",
        "_parsed",
        "_planned",
        "_request",
        "_request_id",
        "_signatures",
        "_written",
        "assemble",
    )

    def __init__(
        self,
        endpoint: Endpoint,
        body: bytes,
        parsed: Mapping[str, Any],
        planned: Planned,
        signatures: Signatures,
        created: int,
        request_id: str,
        assemble: bool = False,
    ) -> None:
        """`created`: unix seconds; `request_id`: unique, ids that an answer needs are made of it. `assemble`: the
        caller wants one body, the targets are asked for streams."""
        self._endpoint = endpoint
        self._body = body
        self._parsed = parsed
        self._planned = planned
        self._signatures = signatures
        self._created = created
        self._request_id = request_id
        self._request: Request | None = None
        self._written: dict[int, Encoded] = {}
        self.assemble = assemble

    # Judging ----------------------------------------------------------------------------------------------------------

    def barred(self) -> dict[int, str]:
        """Candidates that cannot take the request: index -> the word for ``X-Failover-Skipped``."""
        if self._is_plain():
            return {}
        out: dict[int, str] = {}
        for index, candidate in enumerate(self._planned.plan.candidates):
            if candidate.foreign and (reason := self._obstacle(index)):
                out[index] = reason
        return out

    def _obstacle(self, index: int) -> str:
        try:
            self.encoded(index)
        except NotPortable as obstacle:
            return obstacle.reason
        except Malformed:
            return "malformed"
        except STUMBLES:  # a shape that no reader expected: the caller's own provider may take it, nobody else can
            return "malformed"
        return ""

    def _is_plain(self) -> bool:
        """Whether every dialect can take the request for certain, told without reading it closely."""
        parsed = self._parsed
        known = PLAIN_KEYS.get(self._endpoint)
        if known is None or not known.issuperset(parsed):
            return False
        messages = parsed.get("input" if self._endpoint is Endpoint.RESPONSES else "messages")
        if self._endpoint is Endpoint.RESPONSES and isinstance(messages, str):
            return bool(messages)
        if not isinstance(messages, list) or not messages or not isinstance(messages[-1], dict):
            return False
        if messages[-1].get("role") != "user" or not isinstance(parsed.get("system", ""), str):
            return False
        return all(
            isinstance(message, dict)
            and PLAIN_MESSAGE.issuperset(message)
            and isinstance(message.get("content"), str)
            and message.get("role") in ("user", "assistant", "system", "developer")
            for message in messages
        )

    # Writing ----------------------------------------------------------------------------------------------------------

    def request(self) -> Request:
        """The request in canonical form. Raises `Malformed`."""
        if self._request is None:
            parsed = self._parsed
            if "messages" not in parsed and "input" not in parsed:
                parsed = self._parsed = orjson.loads(self._body)  # a large body of which members were looked up only
            request = registry.speaker(self._caller()).read_request(parsed)
            self._request = replace(request, stream=True, include_usage=True) if self.assemble else request
        return self._request

    def _caller(self) -> str:
        return "messages" if self._endpoint is Endpoint.COUNT else self._endpoint.value

    def encoded(self, index: int) -> Encoded:
        """The request as candidate `index` gets it. Raises `NotPortable`, `Malformed`."""
        found = self._written.get(index)
        if found is None:
            found = self._written[index] = self._write(index)
        return found

    def _write(self, index: int) -> Encoded:
        candidate = self._planned.plan.candidates[index]
        facts = self._facts(index, candidate)
        if self._endpoint is Endpoint.EMBEDDINGS:
            from proxy.dialects import gemini

            return gemini.write_embeddings(self._parsed, facts)
        request = self.request()
        if candidate.output_share is not None:
            request = replace(request, limit=_reduced(request.limit, candidate))
        if self._endpoint is Endpoint.COUNT:
            return registry.counted(candidate.api, request, facts)
        return registry.written(candidate.api, request, facts)

    def _facts(self, index: int, candidate: Candidate) -> ModelFacts:
        facts = self._planned.facts[index]
        assert facts is not None
        if candidate.api == "generate" and self._signatures.held:
            return replace(facts, signatures=self._signatures.held)
        return facts

    # The way back -----------------------------------------------------------------------------------------------------

    def translator(self, index: int, stream: bool) -> Translator | Converter:
        """What turns the answer of candidate `index` into the caller's words."""
        candidate = self._planned.plan.candidates[index]
        if not candidate.foreign:
            return registry.translator(candidate.api, candidate.api, OWN_WORDS, self.asked(index), False)
        if self._endpoint is Endpoint.COUNT:
            return registry.count_converter(candidate.api)
        if self._endpoint is Endpoint.EMBEDDINGS:
            return registry.embeddings_converter(self._parsed, candidate.target.model)
        return registry.translator(candidate.api, self._caller(), self.encoded(index), self.asked(index), stream)

    def asked(self, index: int) -> Asked:
        """What a writer of the answer must know."""
        model = self._planned.plan.candidates[index].target.model
        asked = asked_of(self._parsed, self._created, self._request_id, model)
        if self._endpoint is Endpoint.RESPONSES and not all(c.foreign for c in self._planned.plan.candidates):
            # A reasoning item of our making, sent back to a target that has the API, would be looked up there and not
            # be found.
            return replace(asked, shows_thinking=False)
        return asked


def asked_of(body: Mapping[str, Any], created: int, request_id: str, model: str) -> Asked:
    """What a writer of the answer must know; ids that the answer needs are made of the request's."""
    options = body.get("stream_options")
    return Asked(
        body=body,
        created=created,
        seed=hashlib.sha256(request_id.encode()).hexdigest()[:32],
        model=model,
        include_usage=isinstance(options, Mapping) and options.get("include_usage") is True,
    )


def _reduced(limit: int | None, candidate: Candidate) -> int | None:
    """The output limit cut to the candidate's share of the request's own, else of the target's; none known: none."""
    own = limit if limit is not None else candidate.max_output_tokens
    return None if own is None else max(1, int(own * (candidate.output_share or 1.0)))


def streams_upstream(plan: Plan, endpoint: Endpoint, body: Mapping[str, Any]) -> bool:
    """Whether a unary request is sent as a stream, so that time to first content, hedging and cheap cancellation work
    for it too. What an answer put together from events would lose is left alone."""
    wish = plan.stream.upstream_stream
    if wish == "never" or endpoint not in CONVERSATIONS:
        return False
    if wish == "auto" and not (plan.hedge.enabled or plan.timers.first_byte_stated):
        return False
    return not (
        body.get("n") not in (None, 1)
        or any(body.get(key) for key in ("logprobs", "top_logprobs", "audio", "background", "web_search_options"))
        or ("messages" not in body and "input" not in body)
    )
