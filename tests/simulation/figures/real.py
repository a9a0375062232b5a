"""Real incident lists x real traffic: what one provider, two and three are worth.

Incidents: the status pages of OpenAI, Anthropic and Character.AI (the third stands for any third provider). Traffic:
the arrivals of a production service (ServeGen) and of Azure's code assistant (Azure Public Dataset, CC-BY 4.0,
Microsoft Azure), thinned and repeated over the period. Both are read from the test data and never copied.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from proxy.sim.whatif import incidents, traffic
from proxy.sim.whatif.episodes import Episodes
from proxy.sim.whatif.outages import Down, Profile, Scripted
from proxy.sim.whatif.tally import Tally
from proxy.sim.whatif.traffic import Sizes
from tests.simulation.figures.stage import Row, flow, model, row

DAY_S = 86_400.0
LIST = "incidents/icpe25_clean/incident/incident_stages.csv"
TRACES = {
    "ServeGen": "traces/servegen_language_m-small_rates.csv.gz",
    "Azure code": "traces/azure_llm_2023_code.csv",
}
PROVIDERS = ("openai", "anthropic", "character")
NAMES = {name: name for name in PROVIDERS}
SINCE = datetime(2023, 9, 1, tzinfo=UTC).timestamp()
"""From here on all three have pages."""


def year(data: Path, trace: str, days: float, rate: float) -> Iterator[Row]:
    """The same incidents and arrivals with one provider, with two and with three; `rate`: requests per second kept."""
    listed = incidents.read(str(data / LIST))
    recorded = traffic.trace(str(data / TRACES[trace]))
    duration_s = days * DAY_S
    spells = list(incidents.spells(listed, NAMES, SINCE, duration_s))
    full = sum(1 for _ in recorded.begin(random.Random(0))) / recorded.length_s
    keep = min(1.0, rate / full)
    before = 0.0
    for count in (1, 2, 3):
        of = flow(*PROVIDERS[:count])
        world = Scripted({"*": Profile()}, spells, random.Random(5))
        down = Down(spells, of.planned.plan.candidates[0].target)
        episodes = Episodes(spells)
        tally = Tally(duration_s, world, episodes, down)
        rng = random.Random(6)
        made = traffic.calls(traffic.repeated(recorded, duration_s, keep, rng), of, Sizes(), rng)
        model(world, tally, 7, episodes.moved).run(tally.begins(call) for call in made)
        bridged, felt = tally.bridged()
        mine, alone = tally.sidecar.availability, tally.alone.availability
        share = f", {100 * bridged / felt:.1f} % of {felt:,} outage minutes bridged" if felt else ""
        got = (
            f"{100 * mine:.3f} % (primary without us {100 * alone:.3f} %){share}, "
            f"{100 * tally.extra_calls:.2f} % extra calls"
        )
        what = f"{days:g} days of incidents x {trace}, {tally.sidecar.requests:,} requests, {count} provider" + "s" * (
            count > 1
        )
        # One target alone can win by retries and lose by its breaker, which refuses what an ill target might have
        # answered; with a second one nobody is refused.
        holds = mine >= (alone - 0.001 if count == 1 else max(before, alone))
        yield row("real", what, "with one about the same, then more with each", got, holds)
        before = mine
