"""Credentials of the platforms, against a small server on this machine and with a clock of our own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from proxy.upstream import credentials
from proxy.upstream.credentials import Credential, Fetched, Wanted, credential
from proxy.upstream.grants import AZURE_CLASSIC, AwsKeys, Endpoints

START = 1_800_000_000.0
HOUR = 3600.0

STS = """\
<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
  <AssumeRoleWithWebIdentityResult>
    <Credentials>
      <AccessKeyId>ASIA{n}</AccessKeyId>
      <SecretAccessKey>hunter2-secret</SecretAccessKey>
      <SessionToken>hunter2-session</SessionToken>
      <Expiration>{ends}</Expiration>
    </Credentials>
  </AssumeRoleWithWebIdentityResult>
</AssumeRoleWithWebIdentityResponse>
"""


class Platform:
    """Answers what it is told, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, dict[str, str], dict[str, Any]]] = []
        self.answers: list[web.Response] = []
        self.gate: asyncio.Event | None = None
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        form = dict(await request.post())
        self.asked.append((request.method, request.path, dict(request.headers), form))
        if self.gate is not None:
            await self.gate.wait()
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        where = {"Location": answer.headers["Location"]} if "Location" in answer.headers else {}
        return web.Response(status=answer.status, body=answer.body, headers=where)


@pytest.fixture
async def platform() -> AsyncIterator[Platform]:
    made = Platform()
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", made.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


def ends(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def told(number: int = 1, life: float = HOUR) -> dict[str, Any]:
    return {
        "AccessKeyId": f"ASIA{number}",
        "SecretAccessKey": "hunter2-secret",
        "Token": "hunter2-session",
        "Expiration": ends(START + life),
    }


def made(
    wanted: Wanted, env: dict[str, str], clock: Callable[[], float], platform: Platform | None = None
) -> tuple[Credential, list[str]]:
    reports: list[str] = []
    url = platform.url if platform else ""
    found = credential(
        wanted,
        env,
        clock,
        lambda provider, reason: reports.append(f"{provider}: {reason}"),
        Endpoints(sts=url, azure=url, gcp=url),
        delays_s=(0.0, 0.0),
    )
    return found, reports


async def settle(found: Credential) -> None:
    """Wait for the fetch that runs, if any."""
    assert isinstance(found, Fetched)
    if found._task is not None:
        await asyncio.wait([found._task])


def agent(platform: Platform) -> dict[str, str]:
    return {"AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{platform.url}/v1/credentials"}


class Held:
    def __init__(self, value: str | None) -> None:
        self.content = value

    def read(self) -> str | None:
        return self.content


AWS = Wanted(provider="bedrock", identity="aws", region="eu-west-1")


# What each platform is asked ------------------------------------------------------------------------------------------


def test_stated_keys_are_read_when_they_are_needed() -> None:
    secret = Held(None)
    found, _ = made(Wanted(provider="b", keys=(Held("AKIA"), secret, None)), {}, Clock())
    assert (found.signs, found.ready(), found.value()) == (True, False, None)
    secret.content = "hunter2"
    assert found.ready()
    assert found.value() == AwsKeys("AKIA", "hunter2", "")
    waiting, _ = made(Wanted(provider="b", keys=(Held("AKIA"), secret, Held(None))), {}, Clock())
    assert waiting.value() is None


def test_keys_of_the_environment_come_first() -> None:
    env = {
        "AWS_ACCESS_KEY_ID": "AKIA",
        "AWS_SECRET_ACCESS_KEY": "hunter2",
        "AWS_SESSION_TOKEN": "t",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.1:1/",
    }
    found, _ = made(AWS, env, Clock())
    assert found.value() == AwsKeys("AKIA", "hunter2", "t")


async def test_a_web_identity_assumes_its_role(platform: Platform, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("hunter2.jwt\n")
    platform.answers = [web.Response(text=STS.format(n=1, ends=ends(START + HOUR)), content_type="text/xml")]
    env = {"AWS_ROLE_ARN": "arn:aws:iam::1:role/r", "AWS_WEB_IDENTITY_TOKEN_FILE": str(token)}
    found, reports = made(AWS, env, Clock(), platform)
    assert (found.signs, found.ready(), found.value()) == (True, False, None)
    await settle(found)
    assert found.value() == AwsKeys("ASIA1", "hunter2-secret", "hunter2-session")
    assert found.ready()
    method, path, headers, form = platform.asked[0]
    assert (method, path) == ("POST", "/")
    assert form == {
        "Action": "AssumeRoleWithWebIdentity",
        "Version": "2011-06-15",
        "RoleArn": "arn:aws:iam::1:role/r",
        "RoleSessionName": "outrider",
        "WebIdentityToken": "hunter2.jwt",
    }
    assert "Authorization" not in headers
    assert reports == []


async def test_the_files_role_wins_over_the_environments(platform: Platform, tmp_path: Path) -> None:
    (tmp_path / "t").write_text("jwt")
    platform.answers = [web.Response(text=STS.format(n=1, ends=ends(START + HOUR)))]
    wanted = Wanted(provider="b", identity="aws", region="eu-west-1", role_arn="own", token_file=str(tmp_path / "t"))
    env = {"AWS_ROLE_ARN": "other", "AWS_ACCESS_KEY_ID": "AKIA", "AWS_SECRET_ACCESS_KEY": "s"}
    found, _ = made(wanted, env, Clock(), platform)
    await found.refresh()
    assert platform.asked[0][3]["RoleArn"] == "own"


async def test_pod_identity_asks_the_nodes_agent_with_the_token_of_the_day(platform: Platform, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("one")
    platform.answers = [web.json_response(told())]
    env = {**agent(platform), "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(token)}
    found, _ = made(AWS, env, Clock(), platform)
    await found.refresh()
    token.write_text("two\n")
    await found.refresh()
    assert [(method, path, headers["Authorization"]) for method, path, headers, _ in platform.asked] == [
        ("GET", "/v1/credentials", "one"),
        ("GET", "/v1/credentials", "two"),
    ]
    assert found.value() == AwsKeys("ASIA1", "hunter2-secret", "hunter2-session")


async def test_azure_exchanges_the_pods_token(platform: Platform, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("federated")
    platform.answers = [web.json_response({"access_token": "hunter2-entra", "expires_in": "3599"})]
    env = {"AZURE_TENANT_ID": "ten", "AZURE_CLIENT_ID": "cli", "AZURE_FEDERATED_TOKEN_FILE": str(token)}
    found, _ = made(Wanted(provider="a", identity="azure_workload"), env, Clock(), platform)
    assert found.signs is False
    await found.refresh()
    assert found.value() == "hunter2-entra"
    method, path, _, form = platform.asked[0]
    assert (method, path) == ("POST", "/ten/oauth2/v2.0/token")
    assert form == {
        "grant_type": "client_credentials",
        "client_id": "cli",
        "scope": AZURE_CLASSIC,
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        "client_assertion": "federated",
    }


async def test_google_asks_the_metadata_server(platform: Platform) -> None:
    platform.answers = [web.json_response({"access_token": "ya29.x", "expires_in": 3599, "token_type": "Bearer"})]
    found, _ = made(Wanted(provider="v", identity="gcp_metadata"), {}, Clock(), platform)
    await found.refresh()
    assert found.value() == "ya29.x"
    method, path, headers, _ = platform.asked[0]
    assert (method, path) == ("GET", "/computeMetadata/v1/instance/service-accounts/default/token")
    assert headers["Metadata-Flavor"] == "Google"


# Its life -------------------------------------------------------------------------------------------------------------


async def test_it_is_fetched_anew_five_minutes_before_it_ends(platform: Platform) -> None:
    clock = Clock()
    platform.answers = [web.json_response(told(1)), web.json_response(told(2, 2 * HOUR))]
    found, _ = made(AWS, agent(platform), clock, platform)
    await found.refresh()
    clock.now = START + HOUR - 301
    found.poke()
    assert len(platform.asked) == 1
    clock.now = START + HOUR - 300
    value = found.value()
    assert isinstance(value, AwsKeys)
    assert value.key_id == "ASIA1"  # the old one serves while the new one is fetched
    await settle(found)
    value = found.value()
    assert isinstance(value, AwsKeys)
    assert value.key_id == "ASIA2"
    assert len(platform.asked) == 2


async def test_one_of_short_life_is_fetched_anew_at_half_of_it(platform: Platform) -> None:
    clock = Clock()
    platform.answers = [web.json_response(told(1, 400)), web.json_response(told(2, 800))]
    found, _ = made(AWS, agent(platform), clock, platform)
    await found.refresh()
    clock.now = START + 199
    found.poke()
    await settle(found)
    assert len(platform.asked) == 1
    clock.now = START + 200
    found.poke()
    await settle(found)
    assert len(platform.asked) == 2


async def test_what_ends_is_not_used_and_a_failed_fetch_does_not_end_what_holds(platform: Platform) -> None:
    clock = Clock()
    platform.answers = [web.json_response(told()), web.Response(status=403)]
    found, reports = made(AWS, agent(platform), clock, platform)
    await found.refresh()
    clock.now = START + HOUR - 300
    found.poke()
    await settle(found)
    assert reports == ["bedrock: status 403"]
    assert found.ready()
    clock.now = START + HOUR - credentials.MARGIN_S
    assert not found.ready()
    assert found.value() is None
    await settle(found)


async def test_only_one_fetch_runs_and_nobody_waits_for_it(platform: Platform) -> None:
    platform.gate = asyncio.Event()
    platform.answers = [web.json_response(told())]
    found, _ = made(AWS, agent(platform), Clock(), platform)
    assert [found.value() for _ in range(5)] == [None] * 5
    waiting = [asyncio.create_task(found.refresh()) for _ in range(3)]
    while not platform.asked:
        await asyncio.sleep(0)
    platform.gate.set()
    await asyncio.gather(*waiting)
    assert len(platform.asked) == 1
    assert found.ready()


async def test_a_fetch_tries_three_times_and_the_next_one_waits_ever_longer(platform: Platform) -> None:
    clock = Clock()
    platform.answers = [web.Response(status=503)]
    found, reports = made(AWS, agent(platform), clock, platform)
    assert isinstance(found, Fetched)
    for number, pause in enumerate((1.0, 2.0, 5.0, 15.0, 60.0, 60.0), start=1):
        found.poke()
        await settle(found)
        assert (found.failures, len(platform.asked)) == (number, 3 * number)
        clock.now += pause - 0.5
        found.poke()
        assert found._task is None
        clock.now += 0.5
    assert reports == ["bedrock: status 503"] * 6
    platform.answers = [web.Response(status=500), web.json_response(told())]
    found.poke()
    await settle(found)
    assert (found.ready(), found.last_failure, found.fetches) == (True, "", 1)


async def test_a_refused_credential_is_fetched_anew_but_not_at_every_refusal(platform: Platform) -> None:
    clock = Clock()
    platform.answers = [web.json_response(told(1)), web.json_response(told(2))]
    found, _ = made(AWS, agent(platform), clock, platform)
    found.distrust()
    await found.refresh()
    found.distrust()
    assert len(platform.asked) == 1
    clock.now += credentials.DISTRUST_PAUSE_S
    found.distrust()
    assert found.ready()
    await settle(found)
    found.distrust()
    assert len(platform.asked) == 2


async def test_it_stops_when_it_is_closed(platform: Platform) -> None:
    platform.gate = asyncio.Event()
    platform.answers = [web.json_response(told())]
    found, reports = made(AWS, agent(platform), Clock(), platform)
    found.poke()
    assert isinstance(found, Fetched)
    task = found._task
    while not platform.asked:
        await asyncio.sleep(0)
    found.close()
    assert task is not None
    await asyncio.wait([task])
    found.poke()
    assert (task.cancelled(), found._task, reports) == (True, None, [])
    platform.gate.set()


# What goes wrong ------------------------------------------------------------------------------------------------------


def grant(**changes: object) -> str:
    whole = {"AccessKeyId": "a", "SecretAccessKey": "b", "Token": "t", "Expiration": "2100-01-01T00:00:00Z"}
    return json.dumps({key: value for key, value in {**whole, **changes}.items() if value is not None})


BAD_AWS = [
    ("no JSON", "hunter2", "malformed"),
    ("no object", "[1]", "malformed"),
    ("a part is missing", grant(Token=None), "malformed"),
    ("a number", grant(AccessKeyId=1), "malformed"),
    ("no date", grant(Expiration="soon"), "malformed"),
    ("no zone", grant(Expiration="2100-01-01T00:00:00"), "malformed"),
    ("a line break", grant(AccessKeyId="a\r\nX: 1"), "malformed"),
    ("over already", grant(Expiration="2000-01-01T00:00:00Z"), "expired"),
    ("too large", "x" * 100_000, "malformed"),
]


@pytest.mark.parametrize(("body", "reason"), [case[1:] for case in BAD_AWS], ids=[case[0] for case in BAD_AWS])
async def test_an_answer_that_is_no_credential(platform: Platform, body: str, reason: str) -> None:
    platform.answers = [web.Response(text=body)]
    found, reports = made(AWS, agent(platform), Clock(), platform)
    await found.refresh()
    assert reports == [f"bedrock: {reason}"]
    assert not found.ready()


@pytest.mark.parametrize(
    "body", ["<a>", "<a/>", '<!DOCTYPE x [<!ENTITY a "b">]><x>&a;</x>', STS.format(n=1, ends="hunter2")]
)
async def test_an_answer_of_sts_that_is_none(platform: Platform, tmp_path: Path, body: str) -> None:
    (tmp_path / "t").write_text("jwt")
    platform.answers = [web.Response(text=body)]
    env = {"AWS_ROLE_ARN": "r", "AWS_WEB_IDENTITY_TOKEN_FILE": str(tmp_path / "t")}
    found, reports = made(AWS, env, Clock(), platform)
    await found.refresh()
    assert reports == ["bedrock: malformed"]


@pytest.mark.parametrize(
    "body",
    ["{}", '{"access_token": "t"}', '{"access_token": "", "expires_in": 1}',
     '{"access_token": "t", "expires_in": true}',
     '{"access_token": "t", "expires_in": "soon"}', '{"access_token": "t", "expires_in": -5}',
     '{"access_token": "t\\n", "expires_in": 3600}', '{"access_token": "t", "expires_in": 1e99}'],
)  # fmt: skip
async def test_a_token_that_is_none(platform: Platform, body: str) -> None:
    platform.answers = [web.Response(text=body)]
    found, reports = made(Wanted(provider="v", identity="gcp_metadata"), {}, Clock(), platform)
    await found.refresh()
    assert reports == ["v: malformed"]


@pytest.mark.parametrize(
    ("wanted", "env", "reason"),
    [
        (AWS, {}, "no AWS identity in the environment"),
        (AWS, {"AWS_ACCESS_KEY_ID": "AKIA"}, "no AWS identity in the environment"),
        (Wanted(provider="a", identity="azure_workload"), {}, "no Azure workload identity in the environment"),
        (AWS, {"AWS_ROLE_ARN": "r", "AWS_WEB_IDENTITY_TOKEN_FILE": "/nowhere"}, "no token file"),
        (AWS, {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://example.com/"}, "address not allowed"),
        (AWS, {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "ftp://127.0.0.1/"}, "address not allowed"),
        (AWS, {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://[x/"}, "address not allowed"),
        (AWS, {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.1:1/"}, "connect"),
        (
            AWS,
            {
                "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.1:1/",
                "AWS_CONTAINER_AUTHORIZATION_TOKEN": "a\r\nb",
            },
            "malformed",
        ),
    ],
)
async def test_what_cannot_be_asked(wanted: Wanted, env: dict[str, str], reason: str) -> None:
    found, reports = made(wanted, env, Clock())
    assert found.value() is None
    await settle(found)
    assert reports == [f"{wanted.provider}: {reason}"]


async def test_a_redirect_is_not_followed(platform: Platform) -> None:
    platform.answers = [web.Response(status=302, headers={"Location": "http://127.0.0.1:1/"})]
    found, reports = made(AWS, agent(platform), Clock(), platform)
    await found.refresh()
    assert reports == ["bedrock: status 302"]


async def test_silence_is_a_timeout(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "FETCH_TIMEOUT_S", 0.0)
    platform.answers = [web.json_response(told())]
    found, reports = made(AWS, agent(platform), Clock(), platform)
    await found.refresh()
    assert reports == ["bedrock: timeout"]


async def test_no_secret_is_ever_shown(platform: Platform, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    platform.answers = [web.Response(status=503, text="hunter2"), web.json_response(told())]
    found, reports = made(AWS, agent(platform), Clock(), platform)
    await found.refresh()
    assert isinstance(found, Fetched)
    shown = f"{found!r} {found.value()!r} {found._grant!r} {reports} {caplog.text}"
    assert found.ready()
    assert "hunter2" not in shown
    fixed, _ = made(Wanted(provider="b", keys=(Held("AKIA"), Held("hunter2"), None)), {}, Clock())
    assert "hunter2" not in f"{fixed!r} {fixed.value()!r}"
