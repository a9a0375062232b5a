"""`outrider simulate`: scenario, arrivals, spells, the model's fidelity to the limits of an attempt, the reports."""

from __future__ import annotations

import argparse
import gzip
import io
import itertools
import json
import os
import random
import re
import subprocess
import sys
from html.parser import HTMLParser
from math import inf
from pathlib import Path
from typing import Any

import pytest

from proxy.base.outcome import OK, Class, Outcome
from proxy.base.target import Target
from proxy.cli import BAD_CONFIG, DONE, USAGE, main
from proxy.engine.plan import Candidate, Endpoint, Plan, Timers
from proxy.policy import hedge as hedging
from proxy.sim.whatif import incidents, options, scenario, traffic
from proxy.sim.whatif.model import Call, Play, limited
from proxy.sim.whatif.outages import Down, Profile, Scripted, Spell, chain, flapping, outcome_of
from proxy.sim.whatif.tally import Latencies
from tests.simulation.figures.stage import Counted, flow, model

PRICES = "price: {input: 2.5, output: 10}"
CONFIG = f"""
providers:
  a:
    dialect: openai
    base_url: https://a.test/v1
    api_key: "${{SIM_A}}"
    models: {{gpt-4o: {{name: gpt-4o, {PRICES}}}}}
  b:
    dialect: anthropic
    api_key: "${{SIM_B}}"
    models: {{gpt-4o: {{name: claude-sonnet-5, {PRICES}}}}}
routes:
  - {{name: chat, targets: [{{provider: a}}, {{provider: b}}]}}
"""


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    return str(path)


def told(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main(["simulate", "--format", "json", *words]) == DONE
    found = capsys.readouterr()
    assert found.err == ""  # no bar where there is no terminal
    made: dict[str, Any] = json.loads(found.out)
    return made


# The command ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["error=503", "error=429", "refuse", "hang", "cut", "error=401"])
def test_an_outage_of_the_primary_reaches_nobody(config: str, capsys: pytest.CaptureFixture[str], what: str) -> None:
    report = told(
        capsys, "--config", config, "--requests", "600", "--for", "20m", "--outage", f"a:{what},from=5m,for=10m"
    )
    assert report["with_policy"]["requests"] == 600
    assert report["with_policy"]["failed"] == 0
    assert 200 < report["primary_alone"]["failed"] < 400
    minutes = report["outage_minutes"]
    assert minutes["bridged"] == minutes["felt_without_policy"] >= 9
    (outage,) = report["outages"]
    assert outage["back_after_s"] is not None


def test_the_same_seed_gives_the_same_report_in_every_process(config: str) -> None:
    words = ["simulate", "--config", config, "--rate", "2", "--for", "10m", "--format", "json"]
    words += ["--outage", "a:hang,from=2m,for=3m,share=0.5", "--outage", "b:slow=4,from=1m,for=5m"]
    seen = set()
    for seed in ("0", "1", "12345"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-m", "proxy", *words], env=environment, capture_output=True, check=True, timeout=60
        )
        report = json.loads(done.stdout)
        del report["cpu_s"]
        seen.add(json.dumps(report))
    assert len(seen) == 1


def test_another_seed_gives_another_report(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = (told(capsys, "--config", config, "--for", "5m", "--seed", seed) for seed in ("1", "2"))
    assert one["with_policy"]["first_content_ms"] != two["with_policy"]["first_content_ms"]


@pytest.mark.parametrize(("strategy", "attempts"), [("latency", 3), ("first-success", 2)])
def test_only_a_loser_whose_answer_was_kept_takes_over(strategy: str, attempts: int) -> None:
    class Broken:
        """The hedge on b answers first and breaks in the middle; a is slow and answers whole."""

        def play(self, target: Target, call: Call, streams: bool, now: float, is_own_fate: bool) -> Play:
            if target.provider == "a":
                return Play(2.0, 2.0, 9.0, OK)
            return Play(0.5, 0.5, 4.0, Outcome(cls=Class.STREAM_INTERRUPTED))

    hedge = hedging.Settings(enabled=True, delay_s=1.0, strategy=strategy, cancel_slower=False)  # type: ignore[arg-type]
    told = Counted()
    model(Broken(), told, 1).run([Call(0.0, flow("a", "b", hedge=hedge), 500, 150, 0.5, 0.5)])
    assert (told.attempts, told.failed) == (attempts, 0)  # where a's answer is gone, a is asked to go on


def test_both_sides_meet_the_same_fate_where_nothing_goes_wrong(
    config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    report = told(capsys, "--config", config, "--requests", "300", "--for", "10m", "-H", "X-Failover-Enabled: false")
    assert report["attempts"]["all"] == 300
    mine, alone = report["with_policy"], report["primary_alone"]
    assert mine == alone
    # 500 tokens in and 150 out, each at its price.
    assert mine["cost_usd"] == pytest.approx(300 * (500 * 2.5 + 150 * 10) / 1e6)


def test_headers_of_the_traffic_are_obeyed(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--config", config, "--for", "5m", "--outage", "a:error=500,from=0s,for=5m"]
    assert told(capsys, *words, "-H", "X-Failover-Enabled: false")["with_policy"]["failed"] > 200
    assert told(capsys, *words)["with_policy"]["failed"] == 0


def test_the_picture_is_one_whole_file_without_anything_from_elsewhere(config: str, tmp_path: Path) -> None:
    page = tmp_path / "picture.html"
    words = ["simulate", "--config", config, "--for", "10m", "--html", str(page), "--outage", "a:hang,from=2m,for=3m"]
    assert main(words) == DONE
    text = page.read_text()
    tags: dict[str, int] = {}

    class Parser(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            tags[tag] = tags.get(tag, 0) + 1
            assert not {"src", "href"} & {name for name, _ in attrs}

    Parser().feed(text)
    assert tags["svg"] == 3
    assert tags["rect"] > 200
    assert "script" not in tags
    assert "url(" not in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--outage", "c:hang,from=1m,for=1m"], 'no provider "c"'),
        (["--outage", "a:hung,from=1m,for=1m"], 'did you mean "hang"'),
        (["--outage", "a:hang,from=1m"], "outages.0.for: is required"),
        (["--outage", "a"], "must look like openai:error=503"),
        (["--rate", "0"], "traffic.0.rate: must be a number"),
        (["--for", "2x"], "duration: must be seconds"),
        (["--trace", "no-such-file"], "no-such-file: cannot be read"),
        (["--incidents", "no-such-file"], "no-such-file: cannot be read"),
        (["--scenario", "no-such-file"], "no-such-file: cannot be read"),
        (["-H", "X-Max-Retries: many"], "X-Max-Retries"),
        (["-H", "nonsense"], "-H wants"),
    ],
)
def test_what_is_wrong_is_named(config: str, capsys: pytest.CaptureFixture[str], words: list[str], said: str) -> None:
    assert main(["simulate", "--config", config, *words]) == USAGE
    assert said in capsys.readouterr().err


def test_a_bad_configuration_has_its_own_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.yaml").write_text("providers: {a: {dialect: opneai}}\n")
    assert main(["simulate", "--config", str(tmp_path / "bad.yaml")]) == BAD_CONFIG
    assert "bad.yaml:1:" in capsys.readouterr().err


def test_a_scenario_file_is_checked_to_the_end(tmp_path: Path, config: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(
        "trafic: []\ntargets: {a: {first_content_ms: 0}}\noutages: [{target: a, from: 1m, for: 1m, what: hag}]\n"
    )
    assert main(["simulate", "--config", config, "--scenario", str(path)]) == USAGE
    said = capsys.readouterr().err
    for place in (
        "s.yaml:1:1: trafic: unknown key",
        "s.yaml:2:15: targets.a.first_content_ms",
        "s.yaml:3:42: outages.0",
    ):
        assert place in said


def test_a_scenario_file_and_flags_go_together(tmp_path: Path, config: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(
        "duration: 10m\n"
        "traffic: [{rate: 1, stream: false}, {rate: 0.5, prompt_tokens: 4000}]\n"
        "targets: {a: {availability: 0.9, outage_mean: 1m}, '*': {first_content_ms: 100}}\n"
        "outages: [{target: b, from: 1m, for: 10s, every: 2m, what: refuse}]\n"
    )
    report = told(capsys, "--config", config, "--scenario", str(path), "--for", "5m")
    assert report["duration_s"] == 300
    assert len(report["traffic"]) == 2
    assert {outage["target"] for outage in report["outages"]} == {"a", "b"}
    assert report["with_policy"]["first_content_ms"]["p50"] < report["with_policy"]["total_ms"]["p99"]


# The limits of an attempt ---------------------------------------------------------------------------------------------

PLAN = Plan(route="r", endpoint=Endpoint.CHAT, candidates=(Candidate(target=Target("a", "m")),))
STATED = Plan(
    route="r", endpoint=Endpoint.CHAT, candidates=PLAN.candidates, timers=Timers(first_byte_s=1, first_byte_stated=True)
)
REFUSED = Outcome(cls=Class.CONNECT_ERROR)


@pytest.mark.parametrize(
    ("play", "plan", "first_byte_s", "streams", "name", "at"),
    [
        (Play(1, 1, 5, OK), PLAN, 15.0, True, "ok", 5),
        (Play(20, 20, 30, OK), PLAN, 15.0, True, "timeout.first_byte", 15),
        (Play(20, 20, 30, OK), PLAN, None, True, "ok", 30),
        (Play(inf, inf, inf, OK), PLAN, None, True, "timeout.first_content", 120),
        (Play(inf, inf, inf, OK), PLAN, None, False, "ok", inf),
        (Play(200, 200, 200, OK), PLAN, None, False, "ok", 200),
        (Play(inf, inf, inf, OK), STATED, None, False, "timeout.first_content", 120),
        (Play(1, 130, 150, OK), PLAN, 15.0, True, "timeout.first_content", 120),
        (Play(inf, inf, 0.005, REFUSED, False), PLAN, 15.0, True, "connect_error", 0.005),
        (Play(inf, inf, 9, REFUSED, False), PLAN, 15.0, True, "timeout.connect", 2),
    ],
)
def test_limits_end_an_attempt(
    play: Play, plan: Plan, first_byte_s: float | None, streams: bool, name: str, at: float
) -> None:
    found = limited(play, plan, first_byte_s, streams)
    assert (found.outcome.name, found.end_s) == (name, at)


@pytest.mark.parametrize(
    ("status", "cls"),
    [(503, Class.MODEL_OVERLOADED), (500, Class.SERVER_ERROR), (429, Class.RATE_LIMIT), (401, Class.AUTH)],
)
def test_a_status_means_what_it_means_in_the_proxy(status: int, cls: Class) -> None:
    assert outcome_of(status).cls is cls
    assert outcome_of(429, 7.0).told_wait_s == 7.0


# Spells ---------------------------------------------------------------------------------------------------------------


def test_spells_hit_whom_they_name_while_they_last() -> None:
    world = Scripted({}, [Spell(who="a/x", start=10, end=20), Spell(who="a", start=15, end=30)], random.Random(1))
    seen = [
        (at, [spell.who for spell in world.spells_now(Target("a", model), at)])
        for at, model in ((5, "x"), (10, "x"), (16, "x"), (16.5, "y"), (20, "x"), (30, "x"))
    ]
    assert [who for _, who in seen] == [[], ["a/x"], ["a/x", "a"], ["a"], ["a"], []]


def test_outages_by_chance_add_up_to_the_stated_availability() -> None:
    days = 400 * 86_400.0
    spells = list(chain("a", 0.99, 600.0, days, random.Random(3)))
    down = Down(spells, Target("a", "m"))
    # About 5,700 outages: the sum of so many exponential lengths is within 5 % of its mean.
    assert down.total_s / days == pytest.approx(0.01, rel=0.05)


def test_overlapping_spells_are_down_once() -> None:
    spells = [Spell(who="a", start=0, end=10), Spell(who="a", start=5, end=20), Spell(who="a", start=30, end=31)]
    down = Down([*spells, Spell(who="a", start=50, end=60, kind="slow")], Target("a", "m"))
    assert down.total_s == 21
    assert [down(at) for at in (0, 19.9, 20, 30.5, 55)] == [True, True, False, True, False]


def test_flapping_repeats_to_the_end() -> None:
    spells = list(flapping(Spell(who="a", start=1, end=2), 10, 35))
    assert [(spell.start, spell.end) for spell in spells] == [(1, 2), (11, 12), (21, 22), (31, 32)]


def test_profile_keeps_its_percentiles() -> None:
    profile = Profile(first_content_p50_s=0.5, first_content_p95_s=2.0)
    assert profile.first_content_s(0.5) == pytest.approx(0.5)
    assert profile.first_content_s(0.95) == pytest.approx(2.0)
    assert Profile(recorded_s=(1.0, 2.0, 3.0)).first_content_s(0.5) == 2.0


def test_incidents_become_spells(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text(
        "provider,start_timestamp,monitoring_timestamp,close_timestamp,incident_impact_level\n"
        "them,2024-01-01 00:10:00+00:00,2024-01-01 00:20:00+00:00,2024-01-01 00:30:00+00:00,1\n"
        "them,2024-01-01 01:00:00+00:00,,2024-01-01 02:00:00+00:00,3\n"
        "them,2024-01-01 03:00:00+00:00,,2024-01-01 04:00:00+00:00,4\n"
        "others,2024-01-01 03:00:00+00:00,,2024-01-01 04:00:00+00:00,2\n"
    )
    listed = incidents.read(str(path))
    begin = listed[0].start - 600
    spells = list(incidents.spells(listed, {"them": "a"}, begin, 86_400))
    assert [(s.who, s.start, s.end, s.kind, s.share) for s in spells] == [
        ("a", 600, 1200, "error", 0.3),
        ("a", 1200, 1800, "error", 0.15),
        ("a", 3600, 7200, "hang", 1.0),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1,2\n", "has no column provider"),
        ("provider,start_timestamp,close_timestamp,incident_impact_level\nx,soon,,1\n", "row 2"),
    ],
)
def test_bad_lists_are_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "l.csv").write_text(text)
    with pytest.raises(incidents.BadList, match=said):
        incidents.read(str(tmp_path / "l.csv"))


# Arrivals -------------------------------------------------------------------------------------------------------------


def test_exactly_so_many_requests_in_order() -> None:
    times = [at for at, _, _ in traffic.exactly(1247, 7200.0, random.Random(1))]
    assert len(times) == 1247
    assert times == sorted(times)
    assert 0 <= times[0] < times[-1] <= 7200
    # Half of uniform times lie in the first half, give or take four standard deviations.
    assert abs(sum(at < 3600 for at in times) - 623) < 71


@pytest.mark.parametrize(("burst", "low", "high"), [(0.0, 0.0, 0.01), (1.0, 0.9, 1.1), (3.0, 2.4, 3.6)])
def test_bursts_have_the_stated_variation(burst: float, low: float, high: float) -> None:
    times = [at for at, _, _ in traffic.at_rate(10.0, burst, 2000.0, random.Random(2))]
    assert len(times) == pytest.approx(20_000, rel=0.1)
    gaps = [b - a for a, b in itertools.pairwise(times)]
    mean = sum(gaps) / len(gaps)
    variation = (sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) ** 0.5 / mean
    assert low <= variation <= high


AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,4808,10\n2023-11-16 18:17:05.0,30,20\n"
MOONCAKE = (
    '{"timestamp": 500, "input_length": 7, "output_length": 8}\n'
    '{"timestamp": 2500, "input_length": 9, "output_length": 1}\n'
)
SERVEGEN = "client,time_s,rate_rps,cv,pattern,param1,param2\n0,600,0.5,1.0,Gamma,1,1\n1,1200,1.0,2.0,Gamma,1,1\n"


def test_traces_in_every_shape(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(AZURE)
    with gzip.open(tmp_path / "m.jsonl.gz", "wt") as file:
        file.write(MOONCAKE)
    (tmp_path / "s.csv").write_text(SERVEGEN)
    azure, mooncake, servegen = (traffic.trace(str(tmp_path / name)) for name in ("a.csv", "m.jsonl.gz", "s.csv"))
    assert list(azure.begin(random.Random(1))) == [(0.0, 4808, 10), (pytest.approx(1.02004, abs=1e-5), 30, 20)]
    assert list(mooncake.begin(random.Random(1))) == [(0.0, 7, 8), (2.0, 9, 1)]
    drawn = [at for at, _, _ in servegen.begin(random.Random(1))]
    assert servegen.length_s == 1200
    assert drawn == sorted(drawn)
    assert 200 < sum(at < 600 for at in drawn) < 400  # 300 expected, Poisson
    assert 450 < sum(at >= 600 for at in drawn) < 750


def test_a_trace_begins_again(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text(MOONCAKE)
    recorded = traffic.trace(str(tmp_path / "m.jsonl"))
    assert [at for at, _, _ in traffic.repeated(recorded, 5.0, 1.0, random.Random(1))] == [0.0, 2.0, 2.0, 4.0, 4.0]


@pytest.mark.parametrize("text", ["", "hello\n", "TIMESTAMP,ContextTokens,GeneratedTokens\n", '{"timestamp": "x"}\n'])
def test_bad_traces_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "t").write_text(text)
    with pytest.raises(traffic.BadTrace):
        traffic.trace(str(tmp_path / "t"))


# Counting and showing -------------------------------------------------------------------------------------------------


def test_percentiles_are_within_a_bucket() -> None:
    counted = Latencies()
    for n in range(1, 10_001):
        counted.add(n / 1000)
    for q in (0.5, 0.95, 0.99, 0.999):
        assert counted.quantile(q) == pytest.approx(10 * q, rel=0.011)


def test_the_bar_is_drawn_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    now = iter([0.0, 0.5, 2.0, 2.1, 4.0])
    monkeypatch.setattr(options.time, "monotonic", lambda: next(now))
    terminal = Terminal()
    draw = options.bar(terminal)
    draw(0.1)  # a run of less than a second shows nothing
    assert terminal.getvalue() == ""
    draw(0.5)
    assert "50 %" in terminal.getvalue()
    assert "2 s left" in terminal.getvalue()
    before = terminal.getvalue()
    draw(0.505)  # the same per cent
    assert terminal.getvalue() == before
    draw(1.0)
    assert terminal.getvalue().endswith("\r")
    paper = io.StringIO()
    monkeypatch.setattr(options.time, "monotonic", lambda: 9.0)
    options.bar(paper)(0.5)
    assert paper.getvalue() == ""


@pytest.mark.parametrize(
    ("said", "seconds"), [("90s", 90), ("10m", 600), ("2h", 7200), ("7d", 604_800), ("1.5h", 5400)]
)
def test_times(said: str, seconds: float) -> None:
    assert scenario.seconds(said) == seconds


@pytest.mark.parametrize("said", ["x", "10", "-1s", "10 m", True, None, 1e12, float("nan")])
def test_what_is_no_time(said: object) -> None:
    assert scenario.seconds(said) is None


def test_every_key_of_a_scenario_is_documented_and_no_other() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "simulate.md").read_text()
    table = page.split("| key | default | meaning |", 1)[1].split("\n\n", 1)[0]
    told = set(re.findall(r"(?m)^\| `([a-z0-9_.]+)` \|", table))
    sections = {
        "traffic": scenario.Traffic,
        "targets": scenario.TargetProfile,
        "outages": scenario.Outage,
        "incidents": scenario.Incidents,
    }
    keys = {"seed", "duration", "targets"} | {
        f"{name}.{field.alias or key}"
        for name, section in sections.items()
        for key, field in section.model_fields.items()
    }
    assert told == keys
    flags = argparse.ArgumentParser()
    options.of_simulate(flags)
    options.of_both(flags)
    known = {option for action in flags._actions for option in action.option_strings if option.startswith("--")}
    missing = [option for option in known - {"--help", "--header"} if f"`{option}" not in page and option not in page]
    assert not missing
