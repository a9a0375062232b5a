"""Observers cannot answer, cannot raise into us, and hear everything in order."""

from __future__ import annotations

import pytest

from proxy.observe.bus import Bus


def test_every_observer_hears_every_event_in_the_order_of_subscription() -> None:
    bus, heard = Bus(), []
    bus.subscribe(lambda event: heard.append(("first", event)))
    bus.subscribe(lambda event: heard.append(("second", event)))
    bus.publish(1)
    bus.publish(2)
    assert heard == [("first", 1), ("second", 1), ("first", 2), ("second", 2)]


def test_nobody_listening_is_fine() -> None:
    Bus().publish("event")


def test_an_observers_fault_is_counted_and_stops_nobody() -> None:
    bus, heard = Bus(), []

    def broken(event: object) -> None:
        raise ValueError("x" * 1_000)

    bus.subscribe(broken)
    bus.subscribe(heard.append)
    bus.publish(1)
    bus.publish(2)
    assert heard == [1, 2]
    assert bus.failures == 2
    assert bus.last_failure.startswith("ValueError: xxx")
    assert len(bus.last_failure) <= 200


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_process_is_not_swallowed(error: type[BaseException]) -> None:
    bus = Bus()

    def leaves(event: object) -> None:
        raise error

    bus.subscribe(leaves)
    with pytest.raises(error):
        bus.publish(1)


def test_an_observer_may_subscribe_another_while_it_is_told() -> None:
    bus, heard = Bus(), []
    bus.subscribe(lambda event: bus.subscribe(heard.append) if event == 1 else None)
    bus.publish(1)
    bus.publish(2)
    assert heard == [2]
