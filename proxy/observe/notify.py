"""Notifications: subscriptions and an outbox that outlives the process.

Every change that a subscription wants becomes a letter, which is written to the store before it is sent and deleted
after somebody has taken it. So it is delivered at least once, under the same id each time, and a receiver that was away
for a night gets everything afterwards. If the store does not work, letters are sent all the same: the memory is then
the only copy.

One letter at a time goes to one place. A place that does not answer is left alone for a growing while, a letter that is
refused waits by itself, and after `GIVE_UP_S` a letter is dropped. Who is told too much is told in digests.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any, Final

from proxy.observe.entry import Entry, iso
from proxy.observe.incident_json import shown
from proxy.observe.incidents import Put
from proxy.observe.senders import Send
from proxy.observe.subscriptions import (
    SUBSCRIPTION,
    letter_document,
    letter_restored,
    subscribed,
    subscription_document,
)
from proxy.observe.turns import Round
from proxy.policy.incident import Change
from proxy.policy.notice import (
    CHANNELS,
    GIVE_UP_S,
    TOLD,
    Channel,
    Letter,
    Noise,
    Sent,
    Subscription,
    is_urgent,
    recipients,
)

LETTER: Final = "letter"
"""Kind of the documents; `SUBSCRIPTION` is the other one."""
SUBSCRIPTIONS_MAX: Final = 256
LETTERS_MAX: Final = 5000
"""Letters that wait; beyond them new ones are dropped and counted."""
SENDING_MAX: Final = 16
"""Places that are sent to at the same time."""
STEP: Final = 16
"""Letters written in one go: about a quarter of a millisecond."""
SAVED_MAX: Final = 32
"""How often in a second a digest that has taken something in is written at once; others wait for the next second.
Hundreds of them at each change would be gigabytes in the outage of a hundred providers: there a killed process may lose
some seconds of what a digest tells."""
UNTOLD_MAX: Final = 1000
"""Changes whose letters are still to be written; beyond them new ones are dropped and counted."""
NOTICES_MAX: Final = 100
"""Changes in one digest; beyond them another one is begun."""

RESULTS: Final = ("delivered", "failed", "refused", "never", "expired", "dropped")
"""What becomes of a delivery: those of `Sent`, too old, or never begun since too many letters wait."""

Place = tuple[str, Channel]
"""Subscription and channel: what letters are kept in line for."""


class _Line:
    """Letters to one place, in the order of their making."""

    __slots__ = ("closed_until", "failures", "letters")

    def __init__(self) -> None:
        self.letters: dict[str, Letter] = {}
        self.failures = 0
        """Deliveries in a row that found nobody."""
        self.closed_until = 0.0

    def due(self, now: float) -> Letter | None:
        """The letter to send now: the one tried least, the oldest of them."""
        if now < self.closed_until:
            return None
        ready = (letter for letter in self.letters.values() if letter.due_at <= now)
        return min(ready, key=lambda letter: (letter.attempts, letter.created_at), default=None)


class Notifier:
    """Owns the tasks that send. Everything but `close` returns at once."""

    def __init__(
        self,
        *,
        senders: Mapping[Channel, Send],
        later_s: Callable[[int], float],
        ids: Callable[[], str],
        wall: Callable[[], float],
        publish: Callable[[Entry], None],
        put: Put,
        saved: Callable[[], Awaitable[bool]],
    ) -> None:
        """`later_s`: pause after so many attempts; `saved` waits until what was `put` is on disk, False: it cannot."""
        self._senders = senders
        self._later_s = later_s
        self._ids = ids
        self._wall = wall
        self._publish = publish
        self._put = put
        self._saved = saved
        self._subscriptions: dict[str, Subscription] = {}
        self._lines: dict[Place, _Line] = {}
        self._noise: dict[str, Noise] = {}
        self._tasks: dict[Place, asyncio.Task[None]] = {}
        self._shared: dict[tuple[str, str, str], Mapping[str, Any]] = {}
        """Notices of letters that were read within this second."""
        self._saves_left = SAVED_MAX
        self._unsaved: dict[str, Place] = {}
        """Digests by id that have taken in what is not written."""
        self._untold: deque[Change] = deque()
        self._round = Round()
        self._is_closed = False
        self.digest_after, self.digest_s = 5, 600.0
        self.counts: dict[tuple[str, str], int] = {(channel, result): 0 for channel in CHANNELS for result in RESULTS}
        """By channel and result."""

    # Subscriptions ----------------------------------------------------------------------------------------------------

    def adopt(self, stated: Iterable[Subscription], digest_after: int, digest_s: float) -> None:
        """Follow a configuration: its subscriptions take the place of those of the file before it."""
        self.digest_after, self.digest_s = digest_after, digest_s
        own = {id: each for id, each in self._subscriptions.items() if not each.from_file}
        self._subscriptions = {each.id: each for each in stated} | own
        self._noise = {id: noise for id, noise in self._noise.items() if id in self._subscriptions}
        for place in [place for place in self._lines if place[0] not in self._subscriptions]:
            self._forget(place)

    def subscribe(self, subscription: Subscription) -> bool:
        """False: there are too many."""
        if len(self._subscriptions) >= SUBSCRIPTIONS_MAX:
            return False
        self._subscriptions[subscription.id] = subscription
        self._put(SUBSCRIPTION, subscription.id, subscription_document(subscription))
        return True

    def unsubscribe(self, id: str) -> Subscription | None:
        """Take a subscription out, with the letters that wait for it; None: there is none, or it stands in the file."""
        found = self._subscriptions.get(id)
        if found is None or found.from_file:
            return None
        del self._subscriptions[id]
        self._noise.pop(id, None)
        self._put(SUBSCRIPTION, id, None)
        for place in [place for place in self._lines if place[0] == id]:
            self._forget(place)
        return found

    def subscriptions(self) -> list[Subscription]:
        """All of them, those of the file first."""
        return sorted(self._subscriptions.values(), key=lambda each: (not each.from_file, each.created_at))

    def _forget(self, place: Place) -> None:
        for id in self._lines.pop(place).letters:
            self._put(LETTER, id, None)

    # Letters ----------------------------------------------------------------------------------------------------------

    def told(self, change: Change) -> None:
        """Something has happened to an incident: write the letters, and send what is due.

        The first `STEP` letters are written at once. Where there are more, they are written between requests.
        """
        if change.kind not in TOLD or not self._subscriptions:
            return
        if len(self._untold) >= UNTOLD_MAX:
            for _, channel in recipients(change, self._subscriptions.values()):
                self._count(channel, "dropped")
            return
        self._untold.append(change)
        self._round.begin(self._tell)

    def _tell(self) -> Iterator[None]:
        """Write the letters about all that has happened."""
        written = 0
        while self._untold:
            for _ in self._tell_one(self._untold.popleft()):
                written += 1
                if written % STEP == 0:
                    yield

    def _tell_one(self, change: Change) -> Iterator[None]:
        now = self._wall()
        due: dict[str, float] = {}
        room = LETTERS_MAX - self.waiting
        # One for all letters: there may be hundreds of them.
        notice = {
            "kind": change.kind,
            "at": iso(change.at),
            "severity": change.incident.told_severity.word,
            "incident": shown(change.incident, now),
        }
        for subscription, channel in recipients(change, self._subscriptions.values()):
            if subscription.id not in self._subscriptions:
                continue  # its end came while the letters before it were written
            if subscription.id not in due:
                noise = self._noise.setdefault(subscription.id, Noise())
                when = noise.due_at(now, self.digest_after, self.digest_s)
                due[subscription.id] = now if is_urgent(change) else when
            if room <= 0:
                self._count(channel, "dropped")
            else:
                room -= self._write((subscription.id, channel), notice, due[subscription.id], now)
            yield
        if due:
            self._send()

    def _write(self, place: Place, notice: Mapping[str, Any], due_at: float, now: float) -> int:
        """A new letter, or one more notice in a digest that waits; how many letters more there are."""
        letters = self._lines.setdefault(place, _Line()).letters
        gathering = next(
            (each for each in letters.values() if due_at > now and each.due_at > now and _is_open(each)), None
        )
        if gathering is not None:
            grown = letters[gathering.id] = replace(gathering, notices=(*gathering.notices, notice))
            if self._saves_left > 0 and grown.id not in self._unsaved:
                self._saves_left -= 1
                self._keep(grown)
            else:
                self._unsaved.setdefault(grown.id, place)
        else:
            letter = Letter(
                id=self._ids(),
                subscription=place[0],
                channel=place[1],
                created_at=now,
                due_at=due_at,
                notices=(notice,),
            )
            self._keep(letter)
        return int(gathering is None)

    def _keep(self, letter: Letter) -> None:
        place = letter.subscription, letter.channel
        self._lines.setdefault(place, _Line()).letters[letter.id] = letter
        self._put(LETTER, letter.id, letter_document(letter))

    @property
    def waiting(self) -> int:
        """Letters that are not delivered."""
        return sum(len(line.letters) for line in self._lines.values())

    # Sending ----------------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Once a second: save what digests have taken in, and begin to send where something is due."""
        self._shared.clear()
        self._saves_left = max(0, SAVED_MAX - len(self._unsaved))
        self._save(SAVED_MAX)
        self._send()

    def _save(self, most: int) -> None:
        """Write at most so many digests that have changed, those first that wait longest."""
        for id in list(islice(self._unsaved, most)):
            line = self._lines.get(self._unsaved.pop(id))
            if line is not None and id in line.letters:
                self._keep(line.letters[id])

    def _send(self) -> None:
        """Also after every new letter: begin to send where something is due."""
        now = self._wall()
        for place, line in self._lines.items():
            if self._is_closed or len(self._tasks) >= SENDING_MAX:
                return
            if place not in self._tasks and line.due(now) is not None:
                task = asyncio.get_running_loop().create_task(self._send_line(place))
                self._tasks[place] = task
                task.add_done_callback(lambda _, place=place: self._tasks.pop(place, None))  # type: ignore[misc]

    async def _send_line(self, place: Place) -> None:
        """Send what is due to one place, one letter after the other."""
        while (line := self._lines.get(place)) is not None and (letter := line.due(self._wall())) is not None:
            # A digest that is being sent takes nothing in any more: what was sent under an id stays what it was.
            letter = replace(letter, attempts=letter.attempts + 1)
            self._keep(letter)
            await self._saved()
            subscription = self._subscriptions.get(place[0])
            if subscription is None or self._lines.get(place) is not line:
                return
            sent = await self._senders[letter.channel](letter, subscription, self._wall())
            if self._lines.get(place) is line:
                self._settle(line, letter, sent)

    def _settle(self, line: _Line, letter: Letter, sent: Sent) -> None:
        """What becomes of a letter after an attempt."""
        now = self._wall()
        line.failures = line.failures + 1 if sent.result == "failed" else 0
        if sent.result == "failed":
            line.closed_until = now + self._later_s(line.failures)
        is_last = sent.result == "never" or now - letter.created_at >= GIVE_UP_S
        self._count(letter.channel, "expired" if is_last and sent.result != "never" else sent.result)
        if sent.result == "delivered":
            is_last = True
        elif is_last or letter.attempts == 1:
            self._publish(_failed(letter, sent, now, is_last))
        if is_last:
            del line.letters[letter.id]
            self._put(LETTER, letter.id, None)
        else:
            due_at = now + self._later_s(letter.attempts) if sent.result == "refused" else line.closed_until
            self._keep(replace(letter, due_at=due_at, error=sent.reason))

    def _count(self, channel: str, result: str) -> None:
        self.counts[channel, result] += 1

    async def close(self) -> None:
        """Stop sending. What was not delivered is in the store."""
        self._is_closed = True
        self._round.end()
        self._save(len(self._unsaved))
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # What is kept -----------------------------------------------------------------------------------------------------

    def everything(self) -> Iterator[tuple[tuple[str, str], Mapping[str, Any]]]:
        """All documents."""
        for id, subscription in self._subscriptions.items():
            if not subscription.from_file:
                yield (SUBSCRIPTION, id), subscription_document(subscription)
        for line in self._lines.values():
            for id, letter in line.letters.items():
                yield (LETTER, id), letter_document(letter)

    def loaded(self, documents: Mapping[tuple[str, str], Mapping[str, Any]]) -> None:
        """What earlier runs have left."""
        for (kind, id), kept in documents.items():
            if kind == SUBSCRIPTION and (subscription := subscribed(kept)) is not None:
                self._subscriptions.setdefault(id, subscription)
        for (kind, id), kept in documents.items():
            if kind != LETTER:
                continue
            letter = letter_restored(kept)
            if letter is None or letter.subscription not in self._subscriptions:
                self._put(LETTER, id, None)
            else:
                letter = replace(letter, notices=tuple(map(self._same, letter.notices)))
                self._lines.setdefault((letter.subscription, letter.channel), _Line()).letters.setdefault(id, letter)
        self._send()

    def _same(self, notice: Mapping[str, Any]) -> Mapping[str, Any]:
        """The one of all equal notices that is kept: hundreds of digests may tell the same."""
        incident = notice.get("incident")
        id = incident.get("id") if isinstance(incident, Mapping) else None
        return self._shared.setdefault((str(id), str(notice.get("kind")), str(notice.get("at"))), notice)


def _is_open(letter: Letter) -> bool:
    """Whether a letter that waits may take another notice in."""
    return letter.attempts == 0 and len(letter.notices) < NOTICES_MAX


def _failed(letter: Letter, sent: Sent, now: float, is_last: bool) -> Entry:
    return Entry(
        at=now,
        kind="notification_failed",
        error=sent.result,
        message=sent.reason,
        detail={
            "notification": letter.id,
            "subscription": letter.subscription,
            "channel": letter.channel,
            "attempts": letter.attempts,
            "given_up": is_last,
            "incidents": sorted({str(notice["incident"]["id"]) for notice in letter.notices})[:10],
        },
    )
