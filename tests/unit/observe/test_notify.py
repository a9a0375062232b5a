"""The outbox: everything is delivered once or more often, under one id, however the places behave."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count, pairwise
from typing import Any

import pytest

from proxy.observe import notify as module
from proxy.observe.entry import Entry
from proxy.observe.notify import LETTERS_MAX, NOTICES_MAX, SUBSCRIPTIONS_MAX, Notifier
from proxy.policy.incident import Change, Family, Incident, Severity, Type
from proxy.policy.notice import GIVE_UP_S, Letter, Sent, Subscription

OK, FAILED, REFUSED, NEVER = (Sent(result=each) for each in ("delivered", "failed", "refused", "never"))


class World:
    """A notifier with one way out, a clock and a disk."""

    def __init__(self, disk: dict[tuple[str, str], Any] | None = None) -> None:
        self.now = 1_800_000_000.0
        self.disk: dict[tuple[str, str], Any] = {} if disk is None else disk
        self.sent: list[tuple[float, Letter]] = []
        self.entries: list[Entry] = []
        self.answer: Callable[[Letter], Sent] = lambda letter: OK
        self.gate = asyncio.Event()
        self.gate.set()
        self.is_saved = True
        self.notifier = self.made()

    def made(self) -> Notifier:
        numbers = count(len(self.disk))
        return Notifier(
            senders={"webhook": self.send, "email": self.send},  # type: ignore[dict-item]
            later_s=lambda attempts: float(2**attempts),
            ids=lambda: f"n{next(numbers)}",
            wall=lambda: self.now,
            publish=self.entries.append,
            put=self.put,
            saved=self.saved,
        )

    def put(self, kind: str, id: str, document: Any) -> None:
        if document is None:
            self.disk.pop((kind, id), None)
        else:
            self.disk[kind, id] = document

    async def saved(self) -> bool:
        return self.is_saved

    async def send(self, letter: Letter, to: Subscription, now: float) -> Sent:
        assert ("letter", letter.id) in self.disk, "written before it is sent"
        await self.gate.wait()
        self.sent.append((self.now, letter))
        return self.answer(letter)

    def subscribe(self, id: str = "s", **over: Any) -> None:
        stated: dict[str, Any] = {"channels": ("webhook",), "threshold": Severity.LOW, "webhook_url": "https://x/"}
        assert self.notifier.subscribe(Subscription(id=id, **{**stated, **over}))

    @property
    def counted(self) -> dict[tuple[str, str], int]:
        return {key: count for key, count in self.notifier.counts.items() if count}

    async def pass_time(self, seconds: float) -> None:
        """Time goes by, in steps of a second."""
        for _ in range(int(seconds)):
            self.now += 1
            await self.settle()

    async def written(self) -> None:
        """All letters are made of what was told."""
        while self.notifier._round.is_on:
            await asyncio.sleep(0)

    async def settle(self) -> None:
        self.notifier.tick()
        for _ in range(20):
            await asyncio.sleep(0)


def change(kind: str = "opened", severity: Severity = Severity.HIGH, id: str = "inc") -> Change:
    incident = Incident(
        id=id,
        provider="a",
        region="",
        family=Family.AVAILABILITY,
        type=Type.OUTAGE,
        types=(Type.OUTAGE,),
        severity=severity,
        started_at=1.0,
        opened_at=1.0,
    )
    return Change(kind=kind, at=1.0, incident=incident)


async def test_a_change_is_told_once_through_every_channel() -> None:
    world = World()
    world.subscribe(channels=("webhook", "email"))
    world.notifier.told(change())
    await world.settle()
    assert sorted(letter.channel for _, letter in world.sent) == ["email", "webhook"]
    assert [key for key in world.disk if key[0] == "letter"] == []
    await world.pass_time(10)
    assert len(world.sent) == 2
    assert world.counted == {("webhook", "delivered"): 1, ("email", "delivered"): 1}


async def test_a_place_that_is_away_is_asked_less_and_less_often_and_gets_everything() -> None:
    world = World()
    world.subscribe()
    world.answer = lambda letter: FAILED
    world.notifier.told(change("opened"))
    await world.settle()
    world.notifier.told(change("escalated"))
    await world.pass_time(100)
    times = [at for at, _ in world.sent]
    assert [later - at for at, later in pairwise(times)] == [2, 4, 8, 16, 32]
    world.answer = lambda letter: OK
    await world.pass_time(100)
    delivered = [letter.notices[0]["kind"] for _, letter in world.sent[6:]]
    assert sorted(delivered) == ["escalated", "opened"]
    assert len({letter.id for _, letter in world.sent}) == 2
    assert world.notifier.waiting == 0


async def test_a_refused_letter_does_not_hold_up_the_others() -> None:
    world = World()
    world.subscribe()
    world.answer = lambda letter: REFUSED if letter.notices[0]["kind"] == "opened" else OK
    world.notifier.told(change("opened"))
    world.notifier.told(change("resolved"))
    await world.settle()
    assert [letter.notices[0]["kind"] for _, letter in world.sent] == ["opened", "resolved"]
    await world.pass_time(20)
    assert [letter.attempts for _, letter in world.sent if letter.notices[0]["kind"] == "opened"] == [1, 2, 3, 4]


async def test_after_a_day_it_is_given_up_and_told() -> None:
    world = World()
    world.subscribe()
    world.answer = lambda letter: FAILED
    world.notifier.told(change())
    await world.settle()
    world.now += GIVE_UP_S - 1
    await world.settle()
    assert world.notifier.waiting == 1
    await world.pass_time(10)
    assert world.notifier.waiting == 0
    assert world.disk.keys() == {("subscription", "s")}
    assert [entry.detail["given_up"] for entry in world.entries] == [False, True]
    assert world.notifier.counts["webhook", "expired"] == 1


async def test_what_must_not_be_tried_again_is_not() -> None:
    world = World()
    world.subscribe()
    world.answer = lambda letter: NEVER
    world.notifier.told(change())
    await world.pass_time(100)
    assert len(world.sent) == 1
    (entry,) = world.entries
    assert (entry.kind, entry.error, entry.detail["given_up"]) == ("notification_failed", "never", True)


async def test_a_kill_at_any_point_loses_nothing() -> None:
    world = World()
    world.subscribe()
    world.gate.clear()
    world.notifier.told(change("opened"))
    await world.settle()
    world.notifier.told(change("resolved"))
    await world.notifier.close()
    assert world.sent == []
    after = World(world.disk)
    after.notifier.loaded(dict(world.disk))
    await after.settle()
    assert [letter.notices[0]["kind"] for _, letter in after.sent] == ["resolved", "opened"], "least tried first"
    assert after.notifier.waiting == 0
    assert [each.id for each in after.notifier.subscriptions()] == ["s"]


async def test_letters_go_out_while_the_disk_is_away() -> None:
    world = World()
    world.is_saved = False
    world.subscribe()
    world.notifier.told(change())
    await world.settle()
    assert len(world.sent) == 1


async def test_much_is_told_in_a_digest() -> None:
    world = World()
    world.subscribe()
    world.notifier.adopt([], digest_after=3, digest_s=60.0)
    for n in range(10):
        world.notifier.told(change(id=f"i{n}"))
        await world.settle()
    assert [len(letter.notices) for _, letter in world.sent] == [1, 1, 1]
    await world.pass_time(61)
    assert [len(letter.notices) for _, letter in world.sent] == [1, 1, 1, 7]
    told = [notice["incident"]["id"] for _, letter in world.sent for notice in letter.notices]
    assert told == [f"i{n}" for n in range(10)]


async def test_a_digest_that_was_sent_once_takes_nothing_in_any_more() -> None:
    world = World()
    world.subscribe()
    world.notifier.adopt([], digest_after=1, digest_s=10.0)
    for n in range(3):
        world.notifier.told(change(id=f"i{n}"))
    world.answer = lambda letter: FAILED if len(letter.notices) > 1 else OK
    await world.pass_time(11)
    world.notifier.told(change(id="late"))
    await world.pass_time(60)
    digests = [letter for _, letter in world.sent if len(letter.notices) > 1]
    assert len(digests) >= 2
    assert len({letter.id for letter in digests}) == 1
    assert {len(letter.notices) for letter in digests} == {2}


async def test_a_critical_one_goes_out_at_once_however_noisy_it_is() -> None:
    world = World()
    world.subscribe()
    world.notifier.adopt([], digest_after=1, digest_s=60.0)
    for n in range(3):
        world.notifier.told(change(id=f"i{n}"))
    world.notifier.told(change(severity=Severity.CRITICAL, id="fire"))
    await world.settle()
    assert [letter.notices[0]["incident"]["id"] for _, letter in world.sent] == ["i0", "fire"]


async def test_who_unsubscribes_is_told_nothing_more() -> None:
    world = World()
    world.subscribe()
    world.answer = lambda letter: FAILED
    world.notifier.told(change())
    await world.settle()
    assert world.notifier.unsubscribe("s") is not None
    assert world.notifier.unsubscribe("s") is None
    await world.pass_time(30)
    assert len(world.sent) == 1
    assert world.disk == {}


async def test_who_unsubscribes_while_a_letter_is_under_way_leaves_nothing_behind() -> None:
    world = World()
    world.subscribe()
    world.answer = lambda letter: FAILED
    world.gate.clear()
    world.notifier.told(change())
    await world.settle()
    world.notifier.unsubscribe("s")
    world.gate.set()
    await world.pass_time(10)
    assert (world.disk, world.notifier.waiting, len(world.sent)) == ({}, 0, 1)


async def test_subscriptions_of_the_file_come_and_go_with_it() -> None:
    world = World()
    world.subscribe("own")
    stated = Subscription(id="file-1", channels=("webhook",), threshold=Severity.LOW, from_file=True)
    world.notifier.adopt([stated], 5, 600.0)
    assert [each.id for each in world.notifier.subscriptions()] == ["file-1", "own"]
    assert world.notifier.unsubscribe("file-1") is None
    world.answer = lambda letter: FAILED
    world.notifier.told(change())
    await world.settle()
    assert world.notifier.waiting == 2
    world.notifier.adopt([], 5, 600.0)
    assert [each.id for each in world.notifier.subscriptions()] == ["own"]
    assert world.notifier.waiting == 1
    assert {key[1] for key, _ in world.notifier.everything() if key[0] == "subscription"} == {"own"}


async def test_limits_hold_and_are_counted() -> None:
    world = World()
    for n in range(SUBSCRIPTIONS_MAX):
        world.subscribe(f"s{n}")
    assert not world.notifier.subscribe(Subscription(id="more", channels=("webhook",)))
    world.answer = lambda letter: FAILED
    world.gate.clear()
    for n in range(LETTERS_MAX // SUBSCRIPTIONS_MAX + 1):
        world.notifier.told(change("escalated", Severity.CRITICAL, id=f"i{n}"))
    await world.written()
    assert world.notifier.waiting == LETTERS_MAX
    dropped = (LETTERS_MAX // SUBSCRIPTIONS_MAX + 1) * SUBSCRIPTIONS_MAX - LETTERS_MAX
    assert world.counted == {("webhook", "dropped"): dropped}
    await world.notifier.close()


async def test_a_digest_has_an_end() -> None:
    world = World()
    world.subscribe()
    world.notifier.adopt([], digest_after=1, digest_s=600.0)
    for n in range(NOTICES_MAX + 11):
        world.notifier.told(change(id=f"i{n}"))
    await world.pass_time(601)
    assert sorted(len(letter.notices) for _, letter in world.sent) == [1, 10, NOTICES_MAX]


@pytest.mark.parametrize("document", [{}, {"id": 1}, {"channels": ["webhook"]}])
async def test_a_document_of_another_version_is_passed_over(document: Any) -> None:
    world = World()
    world.notifier.loaded({("subscription", "x"): document, ("letter", "y"): document})
    assert world.notifier.subscriptions() == []
    assert world.notifier.waiting == 0


async def test_what_hundreds_are_told_of_is_put_into_words_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the loop that serves requests, words for each of them cost a second and more (measured: 2.1 s)."""
    made: list[str] = []
    shown = module.shown
    monkeypatch.setattr(module, "shown", lambda incident, now: made.append(incident.id) or shown(incident, now))
    world = World()
    world.notifier.adopt([], 1, 600.0)
    world.gate.clear()
    for n in range(SUBSCRIPTIONS_MAX):
        world.subscribe(f"s{n}")
    for n in range(4):
        world.notifier.told(change(id=f"inc{n}"))
    await world.written()
    assert made == [f"inc{n}" for n in range(4)]
    assert world.notifier.waiting == 2 * SUBSCRIPTIONS_MAX
    world.gate.set()
    await world.settle()
    notices = [letter.notices for _, letter in world.sent]
    assert all(each == notices[0] for each in notices)
    await world.notifier.close()


async def test_letters_to_hundreds_are_written_between_requests() -> None:
    world = World()
    world.gate.clear()
    for n in range(SUBSCRIPTIONS_MAX):
        world.subscribe(f"s{n}")
    world.notifier.told(change())
    assert world.notifier.waiting == module.STEP
    turns = 0
    while world.notifier._round.is_on:
        await asyncio.sleep(0)
        turns += 1
        assert world.notifier.waiting <= module.STEP * (turns + 1)
    assert world.notifier.waiting == SUBSCRIPTIONS_MAX
    assert turns >= SUBSCRIPTIONS_MAX // module.STEP - 1
    await world.notifier.close()


async def test_whoever_leaves_while_letters_are_written_gets_none() -> None:
    world = World()
    world.gate.clear()
    for n in range(2 * module.STEP):
        world.subscribe(f"s{n}")
    world.notifier.told(change())
    assert world.notifier.unsubscribe(f"s{2 * module.STEP - 1}") is not None
    await world.written()
    assert world.notifier.waiting == 2 * module.STEP - 1
    await world.notifier.close()


async def test_what_is_told_last_is_written_before_the_end() -> None:
    world = World()
    for n in range(SUBSCRIPTIONS_MAX):
        world.subscribe(f"s{n}")
    world.notifier.told(change("opened"))
    world.notifier.told(change("resolved"))
    await world.notifier.close()
    assert len([key for key in world.disk if key[0] == "letter"]) == 2 * SUBSCRIPTIONS_MAX


async def test_changes_whose_letters_wait_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "UNTOLD_MAX", 2)
    world = World()
    world.gate.clear()
    for n in range(2 * module.STEP):
        world.subscribe(f"s{n}")
    for n in range(4):
        world.notifier.told(change("escalated", Severity.CRITICAL, id=f"i{n}"))
    await world.written()
    assert world.counted == {("webhook", "dropped"): 2 * module.STEP}
    assert world.notifier.waiting == 3 * 2 * module.STEP  # one was being written, two waited
    await world.notifier.close()


async def test_digests_are_written_a_few_at_a_time_and_all_at_the_end() -> None:
    world = World()
    world.gate.clear()
    world.notifier.adopt([], digest_after=1, digest_s=600.0)
    many = 2 * module.SAVED_MAX + 3
    for n in range(many):
        world.subscribe(f"s{n}")
    for n in range(3):
        world.notifier.told(change(id=f"i{n}"))
        await world.written()
    written: list[str] = []
    put = world.notifier._put
    world.notifier._put = lambda kind, id, document: written.append(id) or put(kind, id, document)  # type: ignore[func-returns-value]

    def sizes() -> list[int]:
        return sorted(len(document["notices"]) for key, document in world.disk.items() if key[0] == "letter")

    first = module.SAVED_MAX
    assert sizes() == [1] * (2 * many - first) + [2] * first, "the second change made a digest, the third is in memory"
    world.notifier.tick()
    assert sizes() == [1] * (2 * many - 2 * first) + [2] * 2 * first
    assert len(written) == first
    await world.notifier.close()
    assert sizes() == [1] * many + [2] * many
    assert len(written) == len(set(written)) == many - first


async def test_a_digest_of_few_subscribers_is_written_at_each_change() -> None:
    """A killed process loses nothing of it."""
    world = World()
    world.gate.clear()
    world.notifier.adopt([], digest_after=1, digest_s=600.0)
    for n in range(3):
        world.subscribe(f"s{n}")
    for n in range(1 + module.SAVED_MAX // 3):
        world.notifier.told(change(id=f"i{n}"))
        await world.written()
        kept = [document["notices"] for key, document in world.disk.items() if key[0] == "letter"]
        assert sum(map(len, kept)) == 3 * (n + 1)
        world.notifier.tick()
