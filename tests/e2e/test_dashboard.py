"""The page in a real browser: in front of canned answers first, then through an outage of the demo."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import yaml

from proxy.demo.provider import FakeProvider
from proxy.demo.script import Fault
from proxy.demo.world import World
from tests.e2e.browser import Browser
from tests.e2e.canned import Canned, canned, outage, provider
from tests.e2e.harness import Sidecar, config

pytestmark = pytest.mark.asyncio(loop_scope="module")

LOOK_AGAIN = "document.dispatchEvent(new Event('visibilitychange'))"
"""What coming back to the page does: it asks for everything at once."""


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def shared() -> AsyncIterator[Browser]:
    async with Browser() as browser:
        yield browser


@pytest_asyncio.fixture(loop_scope="module")
async def server() -> AsyncIterator[Canned]:
    async with canned(outage()) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def browser(shared: Browser, server: Canned) -> AsyncIterator[Browser]:
    """The one browser, with nothing left of the test before; in the end its console must be empty.

    It leaves the page before the server goes, so that what it says is about the page.
    """
    await shared.size(1200, 1000)
    await shared.prefer(color_scheme="light", reduced_motion="no-preference")
    await shared.complaints()
    yield shared
    await shared.open("about:blank")
    assert await shared.complaints() == []


async def ready(browser: Browser, url: str) -> None:
    """Everything that is asked for at the start has been shown."""
    await browser.open(url)
    for selector, part in (
        ("#providers", "openai"), ("#link", "Live"), ("#feed", "reload"), ("#incidents", "outage"), ("#tiles", "1,312"),
        ("#uptime", "openai"),
    ):  # fmt: skip
        await browser.until_text(selector, part)


# What is shown --------------------------------------------------------------------------------------------------------


async def test_every_section_tells_what_its_route_does(browser: Browser, server: Canned) -> None:
    await ready(browser, server.url)
    assert await browser.text("#overall") == "degraded"
    told = await browser.text("#banner")
    assert told.startswith("A fallback is in use: backup answers for the route demo.\n\nopenai is down since ")
    assert "circuit open\nanthropic is degraded since " in told
    card = await browser.text("#providers > li")
    for part in (
        "openai",
        "down",
        "9.3 s",
        "31 %",
        "server error 42, timeout 7",
        "99.41 %",
        "460 of 500 requests left",
    ):
        assert part in card
    assert "open since" in card
    labels = await browser.run("return [...document.querySelectorAll('.spark svg')].map((e) => e.ariaLabel)")
    assert len(labels) == 6
    assert labels[0].startswith("Response time over the last 1 min: now 9.3 s")
    first = await browser.text("#incidents details[open]")
    for part in ("outage of openai, severity high", "61 affected, 60 failed over, 1 seen by users", "opened: 5 of 5"):
        assert part in first
    assert await browser.texts("#tiles dd") == [
        "345,210", "99.62 %", "1,312", "0.41", "5,120 / 1,744", "0", "0.04 %", "$12.84",
    ]  # fmt: skip
    reasons = await browser.texts("#reasons tbody tr")
    assert [row.split("\t")[0] for row in reasons] == ["outage", "rate limit", "network", "predicted", "auth"]
    days = await browser.run("return [...document.querySelectorAll('.days svg')].map((e) => e.ariaLabel)")
    assert len(days) == 3
    assert ": 99.72 %, 4 min down; " in days[1]
    assert await browser.run("return document.querySelectorAll('.days svg g').length") == 90
    assert "backup, new keys" in await browser.text("#uptime")


async def test_a_line_shows_what_was_seen_and_breaks_where_nothing_was(browser: Browser, server: Canned) -> None:
    await ready(browser, server.url)
    seen = "[[now - 60, 100, 99], [now - 40, 200, 98], [now - 30, null, null], [now - 10, 400, 97]]"
    await browser.run(f"const now = Date.now() / 1000; points.set('openai', {seen}); {LOOK_AGAIN}")
    path = "return document.querySelector('.spark path').getAttribute('d')"
    await browser.until(lambda: _has(browser, path, " L "))
    drawn = await browser.run(path)
    assert drawn.count("M") == 2  # before the gap and after it
    assert drawn.count("L") == 2  # to the second point, and to the one that was asked for just now
    dots = "return document.querySelector('.spark .dot').getAttribute('d')"
    assert (await browser.run(dots)).count("M") == 1  # the latest
    await browser.run(
        f"points.set('openai', [[now0 - 60, 100, 99], [now0 - 40, null, null]]); {LOOK_AGAIN}".replace(
            "now0", "(Date.now() / 1000)"
        )
    )
    await browser.until(
        lambda: _has(browser, dots + " + document.querySelector('.spark path').getAttribute('d')", "M 0 ")
    )
    assert (await browser.run(dots)).count("M") == 2  # and the one between two breaks
    label = await browser.run("return document.querySelector('.spark svg').ariaLabel")
    assert label == "Response time over the last 1 min: now 9.3 s, between 100 ms and 9.3 s"


async def test_what_nobody_has_called_shows_no_empty_drawings(browser: Browser, server: Canned) -> None:
    unseen = dict.fromkeys(("avg_response_time_ms", "success_rate", "error_rate", "rate_limit", "last_success_at"))
    idle = provider("idle", requests=0, latency_ms={"p50": None, "p95": None, "p99": None}, models=[], **unseen)
    server.answers["/v1/health"] = {
        "status": "healthy",
        "uptime_percentage": 100.0,
        "routes": [{"name": "demo", "status": "healthy", "serving": "idle"}],
        "providers": [idle],
    }
    for path, name in (("/v1/events", "events"), ("/v1/incidents", "incidents")):
        server.answers[path] = {name: [], "next": None}
    server.answers["/v1/analytics"] = {"requests": 0, "primary_success_rate": None, "failovers": {"requests": 0}}
    server.answers["/v1/capabilities"]["history"] = {"status": "degraded", "reason": "it ends with the process"}
    await browser.open(server.url)
    await browser.until_text("#history-note", "The history is degraded: it ends with the process.")
    card = await browser.text("#providers > li")
    assert card.split("\n")[:2] == ["idle", "healthy"]
    assert "p50" not in card
    assert "Errors" not in card
    assert await browser.run("return document.querySelectorAll('.spark svg').length") == 0
    assert await browser.text("#banner") == ""
    assert await browser.text("#feed-empty") == "Nothing has happened yet."
    assert await browser.text("#incidents-empty") == "None."
    await browser.until_text("#reasons", "No failover in this time.")
    # The box of a day of which nothing is known is whole.
    drawn = "const e = document.querySelector('.days .none'); return [e.y, e.height].map((one) => one.baseVal.value)"
    await browser.until(lambda: browser.run("return document.querySelector('.days .none') !== null"))
    top, height = await browser.run(drawn)
    assert top > 0.0
    assert top + height < 20.0


async def test_of_three_hundred_providers_those_in_trouble_come_first(browser: Browser, server: Canned) -> None:
    health = server.answers["/v1/health"]
    many = [provider(f"provider-{n:03d}", requests=0) for n in range(300)]
    for n in (123, 200):
        many[n] = provider(f"provider-{n:03d}", "down", reason="timeout")
    many[77]["circuit"] = {"state": "open", "reason": "forced", "opened_at": None, "retry_after_s": 60.0}
    many[9]["requests"] = 5
    health["providers"] = many
    daily = server.answers["/v1/uptime"]["overall"]
    bad = {"uptime_percentage": 98.0, "downtime_minutes": 30.0}
    server.answers["/v1/uptime"]["providers"] = [
        {**daily, "name": each["name"], **(bad if n == 250 else {"downtime_minutes": 0.0})}
        for n, each in enumerate(many)
    ]
    await browser.size(360, 800)
    await browser.open(server.url)
    await browser.until_text("#uptime", "288 more, none with downtime")
    names = await browser.texts("#providers > .card h3")
    assert names[:5] == ["provider-123", "provider-200", "provider-077", "provider-009", "provider-000"]
    assert len(names) == 12
    assert await browser.text("#providers .rest summary") == "288 more, all healthy"
    assert (await browser.texts("#uptime h3"))[:2] == ["All together", "provider-250"]
    await browser.click("#providers .rest summary")
    assert "provider-299" in await browser.text("#providers .rest")
    assert await browser.run("return [innerWidth, document.documentElement.scrollWidth]") == [360, 360]
    assert await browser.run("return document.querySelectorAll('*').length") < 8000
    # All of them at once: the box on top, which is read out, tells of some and counts the others.
    health["providers"] = [provider(f"provider-{n:03d}", "down", reason="timeout") for n in range(300)]
    health["routes"] = [{"name": f"route-{n}", "status": "down", "serving": None} for n in range(40)]
    await browser.run(LOOK_AGAIN)
    await browser.until_text("#providers .rest summary", "288 more, 288 of them not healthy")
    assert await browser.run("return document.querySelector('.rest details').open") is True
    told = await browser.text("#banner")
    assert "… and 34 more routes." in told
    assert "… and 294 more providers." in told
    assert len(told.split("\n")) < 30


async def _has(browser: Browser, script: str, part: str) -> bool:
    return part in str(await browser.run(script))


async def test_the_feed_leads_to_the_attempts_of_a_request(browser: Browser, server: Canned) -> None:
    await ready(browser, server.url)
    rows = await browser.texts("#feed li")
    assert [row.split("\n")[1] for row in rows] == [
        "provider degraded", "incident opened", "provider down", "circuit open", "request failed over", "reload",
    ]  # fmt: skip
    assert "openai/gpt-4o · server error · The server is overloaded · answered by backup/demo-large" in rows[4]
    await browser.click("#feed a")
    await browser.until_text("#request", "hedge")
    lanes = await browser.texts(".falls tbody tr")
    assert [lane.split()[1] for lane in lanes] == ["first", "retry", "failover", "hedge"]
    assert "answered, from 1.64 s to 3.34 s, first content after 412 ms" in lanes[3]
    starts = await browser.run(
        "return [...document.querySelectorAll('.fall rect:nth-child(2)')].map((e) => +e.getAttribute('x'))"
    )
    assert starts == pytest.approx([0.06, 20.6, 25.4, 48.96], abs=0.01)
    await browser.run("document.getElementById('request-id').value = ''")
    await browser.click("#request-id")
    await browser.type("req_unknown\ue007")
    await browser.until_text("#request-note", "canned (404)")
    assert await browser.text("#request") == ""
    # The browser itself writes a line for every answer that is an error.
    assert all("404" in line for line in await browser.complaints())


# Whoever looks --------------------------------------------------------------------------------------------------------

HOSTILE = "<script>window.hit=1</script><img src=x onerror='window.hit=2'>\"'>&amp;\u202eabc"


def spoilt(value: Any, at: str = "") -> Any:
    """The same answer with a hostile text in the place of every text that somebody else may choose."""
    if isinstance(value, dict):
        return {key: spoilt(inner, key) for key, inner in value.items()}
    if isinstance(value, list):
        return [spoilt(inner, at) for inner in value]
    kept = (
        "at",
        "timestamp",
        "ended_at",
        "opened_at",
        "date",
        "from",
        "until",
        "since",
        "last_success_at",
        "kind",
        "status",
        "state",
        "request_id",
    )
    return value if not isinstance(value, str) or at in kept else HOSTILE


async def test_every_text_is_shown_as_text(browser: Browser, server: Canned) -> None:
    server.answers = {path: spoilt(answer) for path, answer in server.answers.items()}
    server.answers["/v1/analytics"]["failovers"]["reasons"] = {HOSTILE: 1}
    server.answers["/v1/health"]["providers"][0]["errors"] = {HOSTILE: 1}
    await browser.open(f"{server.url}/#request=req_7f3a")
    for section in ("banner", "providers", "feed", "request", "incidents", "reasons", "uptime"):
        await browser.until_text(f"#{section}", "<script>window.hit=1</script>")
    assert await browser.run("return document.querySelectorAll('script').length") == 1
    assert await browser.run("return [document.querySelectorAll('img').length, window.hit ?? null]") == [0, None]
    # A letter that turns the line round stays within its own name.
    assert await browser.run("return getComputedStyle(document.querySelector('.data')).unicodeBidi") == "isolate"


async def test_the_policy_lets_no_other_script_run(browser: Browser, server: Canned) -> None:
    await ready(browser, server.url)
    for unsafe in (
        "document.body.innerHTML = '<img src=x onerror=window.hit=1>'",
        "document.body.setAttribute('onclick', 'window.hit=1')",
        "document.createElement('script').text = 'window.hit=1'",
        "setTimeout('window.hit=1')",
    ):
        said = await browser.run(f"try {{ {unsafe}; return 'taken' }} catch (error) {{ return error.name }}")
        assert said in ("TypeError", "EvalError"), unsafe
    assert await browser.run("return window.hit ?? null") is None
    complaints = await browser.complaints()
    assert len(complaints) == 4, complaints


PALE = """
const channel = (c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
const parts = (text) => text.match(/[\\d.]+/g).map(Number);
const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
const ground = (e) => {
  for (; e; e = e.parentElement) {
    const [r, g, b, a = 1] = parts(getComputedStyle(e).backgroundColor);
    if (a > 0) return [r, g, b];
  }
  return [255, 255, 255];
};
const found = [];
for (const e of document.body.querySelectorAll("*")) {
  const isText = [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
  if (!isText || !e.getClientRects().length || e.closest("svg, script")) continue;
  const [a, b] = [light(parts(getComputedStyle(e).color)), light(ground(e))].sort((x, y) => y - x);
  const ratio = (a + 0.05) / (b + 0.05);
  if (ratio < 4.5) found.push(`${ratio.toFixed(2)}: ${e.tagName} ${e.className} ${e.textContent.slice(0, 30)}`);
}
return found;
"""
"""Texts whose contrast with what is behind them is below 4.5:1, the AA level of WCAG."""


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_text_can_be_read_in_either_scheme(browser: Browser, server: Canned, scheme: str) -> None:
    await browser.prefer(color_scheme=scheme, reduced_motion="reduce")
    await ready(browser, f"{server.url}/#request=req_7f3a")
    await browser.until_text("#request", "hedge")
    assert await browser.run(PALE) == []
    colour = await browser.run("return getComputedStyle(document.body).backgroundColor")
    assert colour == {"light": "rgb(245, 246, 248)", "dark": "rgb(18, 21, 26)"}[scheme]


async def test_it_fits_a_phone(browser: Browser, server: Canned) -> None:
    await browser.size(320, 640)
    server.answers["/v1/health"]["providers"].append(provider("a-provider-with-a-name-of-fifty-letters-and-some-more"))
    await ready(browser, f"{server.url}/dashboard#request=req_7f3a")
    await browser.until_text("#request", "hedge")
    assert await browser.run("return [innerWidth, document.documentElement.scrollWidth]") == [320, 320]
    tops = "return ['feed-filter', 'feed-pause'].map((id) => document.getElementById(id).getBoundingClientRect().top)"
    filtered, paused = await browser.run(tops)
    assert filtered == paused
    wide = """
    return [...document.querySelectorAll("main *")]
      .filter((e) => !e.closest("svg, .unseen") && e.getBoundingClientRect().right > 320.5)
      .map((e) => e.outerHTML.slice(0, 80));
    """
    assert await browser.run(wide) == []


async def test_keyboard_and_screen_readers_find_their_way(browser: Browser, server: Canned) -> None:
    await browser.prefer(reduced_motion="reduce")
    await ready(browser, f"{server.url}/#request=req_7f3a")
    await browser.until_text("#request", "hedge")
    assert await browser.run("return document.documentElement.lang") == "en"
    counted = "return ['h1', 'main', 'header', 'footer'].map((name) => document.querySelectorAll(name).length)"
    assert await browser.run(counted) == [1, 1, 1, 1]
    heads = await browser.run("return [...document.querySelectorAll('h1, h2, h3')].map((e) => +e.tagName[1])")
    assert all(below - above <= 1 for above, below in itertools.pairwise(heads))
    unnamed = """
    const isNamed = (e) => e.ariaLabel || e.labels?.length || e.textContent.trim() || e.ariaHidden === "true" ||
      (e.getAttribute("aria-labelledby") ?? "").split(" ").some((id) => document.getElementById(id));
    return [...document.querySelectorAll("section, button, input, select, a, svg, [tabindex='0']")]
      .filter((e) => !isNamed(e)).map((e) => e.outerHTML.slice(0, 80));
    """
    assert await browser.run(unnamed) == []
    await browser.open("about:blank")
    await ready(browser, server.url)
    reached = []
    for _ in range(8):
        await browser.type("\ue004")
        reached.append(await browser.run("const e = document.activeElement; return e.id || e.className || e.tagName"))
    assert reached == ["skip", *["SUMMARY"] * 3, "feed-filter", "feed-pause", "feed", "id data"]
    outline = await browser.run("return getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


# How fresh it is ------------------------------------------------------------------------------------------------------


async def test_events_are_shown_and_told_at_once_and_may_be_paused(browser: Browser, server: Canned) -> None:
    await browser.prefer(reduced_motion="reduce")
    await ready(browser, server.url)
    server.answers["/v1/health"]["providers"][1] = provider("backup", "down")
    told = {"id": 120, "at": outage()["/v1/events"]["events"][0]["at"], "provider": "backup", "message": "refused"}
    await server.tell("provider_down", told)
    await browser.until_text("#feed li", "backup · refused", within_s=2.0)
    assert await browser.run("return document.getElementById('said').textContent") == "provider down: backup refused"
    assert await browser.run("return getComputedStyle(document.querySelector('#feed .new')).animationName") == "none"
    await browser.until_text("#banner", "backup is down since")
    await browser.click("#feed-pause")
    await server.tell("provider_recovered", {**told, "id": 121, "message": ""})
    await browser.until_text("#feed-pause", "1 new", within_s=2.0)
    assert "provider down" in await browser.text("#feed li")
    await browser.click("#feed-pause")
    assert "provider recovered" in await browser.text("#feed li")
    await server.tell("provider_recovered", {**told, "id": 121})  # what a stream that resumes may say again
    assert len([row for row in await browser.texts("#feed li") if "provider recovered" in row]) == 1


async def test_open_details_and_focus_outlive_new_numbers(browser: Browser, server: Canned) -> None:
    await ready(browser, server.url)
    await browser.click("#incidents details:nth-of-type(2) summary")
    server.answers["/v1/incidents"]["incidents"][0]["affected_requests"] = 99
    await browser.run(LOOK_AGAIN)
    await browser.until_text("#incidents", "99 affected")
    assert await browser.run("return document.activeElement.parentElement.dataset.key") == "incident inc_0"
    assert await browser.run("return [...document.querySelectorAll('#incidents details')].map((e) => e.open)") == [
        True,
        True,
    ]


async def test_a_hidden_page_asks_nothing_and_keeps_no_connection(browser: Browser, server: Canned) -> None:
    await ready(browser, server.url)
    await browser.until(lambda: asyncio.sleep(0, server.streams == 1))
    hide = "Object.defineProperty(document, 'hidden', {value: arguments[0], configurable: true});" + LOOK_AGAIN
    await browser.run(hide, True)
    await browser.until(lambda: asyncio.sleep(0, server.streams == 0))
    asked = len(server.asked)
    await browser.run(LOOK_AGAIN)
    assert len(server.asked) == asked
    await browser.run(hide, False)
    await browser.until(lambda: asyncio.sleep(0, server.streams == 1))
    await browser.until_text("#link", "Live.")
    assert "/v1/health/stream?since=108" in server.asked[asked:]


async def test_without_the_stream_it_asks(browser: Browser, server: Canned) -> None:
    server.answers["/v1/health/stream"] = 503
    await browser.open(server.url)
    await browser.until_text("#link", "Without live events; asking every 5 s.")
    server.answers["/v1/events"]["events"] = [{"id": 130, "at": 1.8e9, "kind": "reload", "message": "asked for"}]
    await browser.run(LOOK_AGAIN)
    await browser.until_text("#feed li", "asked for")
    assert all("503" in line for line in await browser.complaints())


async def test_what_is_not_all_there_is_is_said(browser: Browser, server: Canned) -> None:
    server.answers["/v1/analytics"]["complete"] = False
    server.answers["/v1/incidents"]["next"] = "inc_0"
    await ready(browser, server.url)
    await browser.until_text("#analytics-note", "The history cannot be read at present")
    link = await browser.run("return document.querySelector('#incidents > p a').getAttribute('href')")
    assert link == "v1/incidents?days=30&cursor=inc_0"
    # Of a flood of events the newest are asked for: the page does not trail behind.
    server.answers["/v1/events"]["next"] = "109"
    server.asked.clear()
    await browser.run(LOOK_AGAIN)
    await browser.until(lambda: asyncio.sleep(0, len(asked := events_asked(server)) == 4 and asked))
    known = [path.partition("since=")[2] for path in events_asked(server)]
    assert sorted(known) == ["", "", "104", "108"]


def events_asked(server: Canned) -> list[str]:
    return [path for path in server.asked if path.startswith("/v1/events")]


async def test_a_lost_connection_is_told_with_the_age_of_the_numbers(browser: Browser, server: Canned) -> None:
    await ready(browser, server.url)
    kept = dict(server.answers)
    server.answers = dict.fromkeys([*kept, "/v1/health/stream"])
    await browser.run(LOOK_AGAIN)
    await browser.until_text("#link", "Disconnected since ")
    assert "The numbers are those of " in await browser.text("#link")
    assert "openai" in await browser.text("#providers")
    server.answers = kept
    await browser.run(LOOK_AGAIN)
    await browser.until(lambda: _is_not(browser, "#link", "Disconnected"))
    assert all("net::ERR" in line for line in await browser.complaints())


async def _is_not(browser: Browser, selector: str, part: str) -> bool:
    return part not in await browser.text(selector)


async def test_a_port_that_asks_for_a_token_is_named(browser: Browser, server: Canned) -> None:
    server.answers = dict.fromkeys([*server.answers, "/v1/health/stream"], 401)
    await browser.open(server.url)
    text = await browser.until_text("#providers-note", "token")
    assert "admin port (listen.admin, 8712 unless configured otherwise)" in text
    assert "kubectl port-forward" in text
    assert all("401" in line for line in await browser.complaints())


async def test_one_broken_route_does_not_take_the_others_with_it(browser: Browser, server: Canned) -> None:
    server.answers["/v1/analytics"] = 503
    server.answers["/v1/uptime"] = {"providers": "nonsense"}
    await browser.open(server.url)
    await browser.until_text("#analytics-note", "canned (503)")
    await browser.until_text("#uptime-note", "not a function")
    await browser.until_text("#incidents", "outage")
    assert all("503" in line for line in await browser.complaints())


# The real process -----------------------------------------------------------------------------------------------------


async def test_an_outage_of_the_demo_is_seen_from_its_beginning_to_its_end(shared: Browser, tmp_path: Path) -> None:
    async with World() as world:
        tree = yaml.safe_load(world.config(0, 0))
        tree["telemetry"] = {"log": {"format": "json", "level": "info"}}
        fault = tree["providers"]["openai"]["base_url"].removesuffix("/v1") + "/_demo/fault"
        async with Sidecar(tree, tmp_path) as sidecar:
            http = sidecar.session
            await http.post(fault, json={})  # the demo begins with an outage; here it begins well
            assert (await sidecar.chat()).status == 200
            await shared.size(1200, 1000)
            await shared.open(f"{sidecar.admin}/dashboard")
            await shared.until_text("#link", "Live.")
            assert await shared.text("#overall") == "healthy"
            assert await shared.text("#banner") == ""
            assert await shared.text("#incidents-empty") == "None."
            async with asyncio.TaskGroup() as group:
                traffic = group.create_task(_calls(sidecar))
                await http.post(fault, json={"status": 503})
                await _outage_is_seen(shared)
                await http.post(fault, json={})
                await _recovery_is_seen(shared)
                traffic.cancel()
            async with http.get(f"{sidecar.url}/") as response:
                assert response.status == 200
                assert "script-src 'sha256-" in response.headers["Content-Security-Policy"]
            await shared.open("about:blank")
        assert await shared.complaints() == []


async def test_markup_in_errors_and_model_names_stays_text_on_a_phone(shared: Browser, tmp_path: Path) -> None:
    """Through the whole process: what a provider writes into its errors, and a caller into the model's name."""
    async with FakeProvider(name="openai") as provider:
        body = json.dumps({"error": {"message": MARKUP, "type": MARKUP, "code": MARKUP}})
        provider.default = Fault(status=500, body=body)
        async with Sidecar(config({"openai": provider.url}), tmp_path) as sidecar:
            for _ in range(6):
                answer = await sidecar.chat(model=MARKUP, headers={"X-Max-Retries": "0"})
                assert answer.status in (500, 502, 503)
            await shared.size(360, 800)
            await shared.prefer(color_scheme="dark", reduced_motion="reduce")
            await shared.open(f"{sidecar.admin}/")
            await shared.until_text("#providers", "down")
            await shared.until_text("#incidents details[open]", MARKUP)
            await shared.until_text("#feed", MARKUP)
            await shared.until_text("#feed", "route default down")
            await shared.click("#feed a")  # the latest, which the open circuit refused
            assert "Error\ncircuit open" in await shared.until_text("#request", "No provider was called for it.")
            first = await shared.run("return [...document.querySelectorAll('#feed a')].at(-1).hash")
            await shared.run("location.hash = arguments[0]", first)
            await shared.until_text("#request .falls", MARKUP)
            await shared.click("#providers summary")
            assert MARKUP in await shared.text("#providers details")
            counted = "return [document.images.length, document.scripts.length, window.hit ?? null, innerWidth]"
            assert await shared.run(counted) == [0, 1, None, 360]
            assert await shared.run("return document.documentElement.scrollWidth") == 360
            assert await shared.run(PALE) == []
            await shared.open("about:blank")
        assert await shared.complaints() == []


async def _calls(sidecar: Sidecar) -> None:
    """Ten requests a second, every other one for a model whose name is markup."""
    while True:
        assert (await sidecar.chat()).status == 200
        assert (await sidecar.chat(model=MARKUP)).status == 200
        await asyncio.sleep(0.1)


MARKUP = "<script>window.hit=1</script><img src=x onerror='window.hit=1'>"


async def _outage_is_seen(browser: Browser) -> None:
    told = await browser.until_text("#banner", "openai is down since ")
    assert "A fallback is in use: backup answers for the route demo." in told
    await browser.until_text("#overall", "degraded")
    await browser.until_text("#feed", "provider down\nopenai · model overloaded · answered by backup")
    assert "outage of openai" in await browser.until_text("#incidents details[open]", "outage")
    await browser.until_text("#feed", MARKUP)
    assert await browser.run("return [document.querySelectorAll('img').length, window.hit ?? null]") == [0, None]
    await browser.until_text("#feed", "request failed over")
    await browser.click("#feed-pause")  # so that the link is not pushed away from under the pointer
    await browser.click("#feed a")
    assert "backup/" in await browser.until_text(".falls tbody", "ok (200)")
    await browser.click("#feed-pause")
    await browser.until_text("#reasons", "outage")


async def _recovery_is_seen(browser: Browser) -> None:
    # Five seconds until the circuit lets somebody try again, then ten good ones are asked for.
    await browser.until_text("#overall", "healthy", within_s=40.0)
    await browser.until(lambda: _is_not(browser, "#banner", "openai"))
    await browser.until_text("#feed", "provider recovered\nopenai · after ")
    await browser.until_text("#incidents", "the provider is healthy again")
