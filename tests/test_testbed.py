"""The testbed's issuer behaves as its settings, faults and methods say."""

from __future__ import annotations

import base64
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import jwt
import pytest
import requests

from testbed import Client, Issuer, TestbedError, UnexpectedPage, approve, deny
from testbed.issuer import DEVICE_CODE_GRANT
from tests.host import LONGEST, alive, until

NASTY = "a+b%c d/&=:\"'$"


def post(
    issuer: Issuer, path: str, client: Client | None = None, timeout: float = LONGEST, **form: Any
) -> requests.Response:
    with requests.Session() as session:
        session.trust_env = False
        auth = (quote_plus(client.client_id), quote_plus(client.client_secret or "")) if client else None
        return session.post(
            issuer.url + path, data=form, auth=auth, verify=str(issuer.ca_file), timeout=timeout
        )


def client_credentials(issuer: Issuer, client: Client | None, **form: Any) -> requests.Response:
    return post(issuer, "/token", client, grant_type="client_credentials", **form)


def login(
    issuer: Issuer, client: Client, scope: str = "openid offline_access compute.read compute.create"
) -> dict[str, Any]:
    device = post(issuer, "/device/auth", client, scope=scope).json()
    approve(device["verification_uri_complete"], ca_file=issuer.ca_file)
    answer: dict[str, Any] = post(
        issuer, "/token", client, grant_type=DEVICE_CODE_GRANT, device_code=device["device_code"]
    ).json()
    return answer


def refresh(issuer: Issuer, client: Client, token: str, **form: Any) -> dict[str, Any]:
    answer: dict[str, Any] = post(
        issuer, "/token", client, grant_type="refresh_token", refresh_token=token, **form
    ).json()
    return answer


def test_a_token_has_the_claims_of_the_wlcg_profile(issuer: Issuer) -> None:
    answer = login(issuer, issuer.add_client())
    claims = issuer.verify(answer["access_token"])
    assert claims["wlcg.ver"] == "1.0"
    assert claims["sub"] == "alice"
    assert claims["aud"] == "https://wlcg.cern.ch/jwt/v1/any"
    assert claims["exp"] - claims["iat"] == answer["expires_in"] == 3600
    assert {"iss", "nbf", "jti", "scope"} <= set(claims)


def test_discovery_lists_endpoints_and_scopes(issuer: Issuer) -> None:
    metadata = requests.get(
        issuer.url + "/.well-known/openid-configuration", verify=str(issuer.ca_file), timeout=LONGEST
    ).json()
    assert metadata["issuer"] == issuer.url
    assert {
        "device_authorization_endpoint",
        "registration_endpoint",
        "revocation_endpoint",
        "jwks_uri",
    } <= set(metadata)
    assert {"openid", "offline_access", "wlcg.groups", "compute.read", "storage.read:/"} <= set(
        metadata["scopes_supported"]
    )


@pytest.mark.parametrize(
    "form", [{"audience": "ce.example.org:9619 b"}, {"resource": ["ce.example.org:9619", "b"]}]
)
def test_a_request_names_audiences_in_either_form(issuer: Issuer, form: dict[str, Any]) -> None:
    client = issuer.add_client()
    assert issuer.verify(client_credentials(issuer, client, **form).json()["access_token"])["aud"] == [
        "ce.example.org:9619",
        "b",
    ]
    token = login(issuer, client)["refresh_token"]
    assert issuer.verify(refresh(issuer, client, token, **form)["access_token"])["aud"] == [
        "ce.example.org:9619",
        "b",
    ]


def test_a_refresh_may_ask_for_fewer_scopes_but_not_for_more(issuer: Issuer) -> None:
    client = issuer.add_client()
    token = login(issuer, client)["refresh_token"]
    assert refresh(issuer, client, token, scope="compute.read")["scope"] == "compute.read"
    assert refresh(issuer, client, token, scope="storage.read:/")["error"] == "invalid_scope"
    assert (
        refresh(issuer, client, token, scope=" ")["scope"]
        == "openid offline_access compute.read compute.create"
    )


def test_a_rotated_refresh_token_works_once(issuer: Issuer) -> None:
    client = issuer.add_client()
    first = login(issuer, client)["refresh_token"]
    assert refresh(issuer, client, first)["refresh_token"] == first
    issuer.settings(rotate=True)
    token = first
    for _ in range(10):
        token = refresh(issuer, client, token)["refresh_token"]
    assert refresh(issuer, client, first)["error"] == "invalid_grant"
    assert refresh(issuer, client, token)["error"] == "invalid_grant"  # the issuer takes reuse for theft


def test_a_revoked_client_gets_invalid_grant(issuer: Issuer) -> None:
    client, other = issuer.add_client(), issuer.add_client()
    token, others = login(issuer, client)["refresh_token"], login(issuer, other)["refresh_token"]
    assert issuer.revoke(client.client_id) > 0
    assert refresh(issuer, client, token)["error"] == "invalid_grant"
    assert "access_token" in refresh(issuer, other, others)


def test_a_denied_device_gets_nothing(issuer: Issuer) -> None:
    client = issuer.add_client()
    device = post(issuer, "/device/auth", client, scope="openid").json()
    deny(device["verification_uri"], device["user_code"], ca_file=issuer.ca_file)
    answer = post(issuer, "/token", client, grant_type=DEVICE_CODE_GRANT, device_code=device["device_code"])
    assert answer.json()["error"] == "access_denied"


def test_a_device_code_waits_for_a_user(issuer: Issuer) -> None:
    client = issuer.add_client()
    device = post(issuer, "/device/auth", client, scope="openid").json()
    assert device["user_code"].replace("-", "") in issuer.pending_user_codes()
    answer = post(issuer, "/token", client, grant_type=DEVICE_CODE_GRANT, device_code=device["device_code"])
    assert answer.json()["error"] == "authorization_pending"
    # Otherwise another test's user might approve it.
    issuer.revoke(client.client_id)


def test_a_device_code_expires_if_nobody_approves_it(issuer: Issuer) -> None:
    issuer.settings(device_code_ttl=1)
    client = issuer.add_client()
    device = post(issuer, "/device/auth", client, scope="openid").json()
    form = {"grant_type": DEVICE_CODE_GRANT, "device_code": device["device_code"]}
    until(lambda: post(issuer, "/token", client, **form).json()["error"] == "expired_token")
    # A moment later: the provider counts in whole seconds.
    until(lambda: device["user_code"].replace("-", "") not in issuer.pending_user_codes())


def test_the_scripted_user_reports_an_unexpected_page(issuer: Issuer) -> None:
    with pytest.raises(UnexpectedPage, match="incorrect"):
        approve(issuer.url + "/device", "BAD-CODE", ca_file=issuer.ca_file)
    issuer.fault(endpoint="interaction", status=500, body="out of order")
    device = post(issuer, "/device/auth", issuer.add_client(), scope="openid").json()
    with pytest.raises(UnexpectedPage, match="out of order"):
        approve(device["verification_uri_complete"], ca_file=issuer.ca_file)


def test_the_issuer_form_decodes_basic_credentials_unless_raw_basic_is_set(issuer: Issuer) -> None:
    client = issuer.add_client(client_secret=NASTY)
    assert client_credentials(issuer, client).ok
    url, form, auth = issuer.url + "/token", {"grant_type": "client_credentials"}, (client.client_id, NASTY)
    assert not requests.post(url, form, auth=auth, verify=str(issuer.ca_file), timeout=LONGEST).ok
    issuer.settings(raw_basic=True)
    assert requests.post(url, form, auth=auth, verify=str(issuer.ca_file), timeout=LONGEST).ok


def test_a_client_may_send_its_credentials_in_the_form(issuer: Issuer) -> None:
    client = issuer.add_client(client_secret=NASTY, token_endpoint_auth_method="client_secret_post")
    assert client_credentials(issuer, None, client_id=client.client_id, client_secret=NASTY).ok
    assert (
        client_credentials(issuer, None, client_id=client.client_id, client_secret="wrong").status_code == 401
    )


def test_a_client_gets_only_its_registered_scopes(issuer: Issuer) -> None:
    client = issuer.add_client(scope="compute.read storage.read:/", grant_types=["client_credentials"])
    assert client_credentials(issuer, client).json()["scope"] == "compute.read storage.read:/"
    assert client_credentials(issuer, client, scope="compute.read").json()["scope"] == "compute.read"
    assert client_credentials(issuer, client, scope="compute.create").json()["error"] == "invalid_scope"


def test_opaque_tokens_can_be_introspected_and_revoked(issuer: Issuer) -> None:
    issuer.settings(opaque_audiences=["p"])
    client = issuer.add_client()
    assert issuer.verify(client_credentials(issuer, client, audience="q").json()["access_token"])
    token = client_credentials(issuer, client, audience="p q").json()["access_token"]
    assert token.count(".") == 0
    assert issuer.introspect(token, client)["aud"] == ["p", "q"]
    assert post(issuer, "/token/revocation", client, token=token).ok
    assert issuer.introspect(token, client) == {"active": False}


def test_a_revoked_refresh_token_gets_invalid_grant(issuer: Issuer) -> None:
    client = issuer.add_client()
    token = login(issuer, client)["refresh_token"]
    assert post(issuer, "/token/revocation", client, token=token).ok
    assert refresh(issuer, client, token)["error"] == "invalid_grant"


def test_a_refresh_can_revoke_earlier_access_tokens(issuer: Issuer) -> None:
    issuer.settings(opaque_audiences=["*"], revoke_previous=True)
    client = issuer.add_client()
    first = login(issuer, client)
    second = refresh(issuer, client, first["refresh_token"])
    assert not issuer.introspect(first["access_token"], client)["active"]
    assert issuer.introspect(second["access_token"], client)["active"]


@pytest.mark.parametrize("rotate", [False, True])
def test_a_refresh_can_narrow_the_refresh_token(issuer: Issuer, rotate: bool) -> None:
    issuer.settings(narrow_on_refresh=True, rotate=rotate)
    client = issuer.add_client()
    answer = refresh(issuer, client, login(issuer, client)["refresh_token"], scope="compute.read")
    assert (
        refresh(issuer, client, answer["refresh_token"], scope="compute.create")["error"] == "invalid_scope"
    )
    assert refresh(issuer, client, answer["refresh_token"])["scope"] == "compute.read"


@pytest.mark.parametrize("rotate", [False, True])
def test_a_refresh_can_bind_the_refresh_token_to_an_audience(issuer: Issuer, rotate: bool) -> None:
    issuer.settings(bind_audience=True, rotate=rotate)
    client = issuer.add_client()
    answer = refresh(issuer, client, login(issuer, client)["refresh_token"], audience="a")
    assert refresh(issuer, client, answer["refresh_token"], audience="b")["error"] == "invalid_target"
    assert "access_token" in refresh(issuer, client, answer["refresh_token"], audience="a")


def test_the_issuer_can_ignore_the_requested_scope_and_audience(issuer: Issuer) -> None:
    client = issuer.add_client(scope="openid offline_access compute.read compute.create")
    token = login(issuer, client)["refresh_token"]
    issuer.settings(ignore_scope=True, ignore_audience=True, default_audience="only me")
    claims = issuer.verify(refresh(issuer, client, token, scope="compute.read", audience="a")["access_token"])
    assert (claims["scope"], claims["aud"]) == (
        "openid offline_access compute.read compute.create",
        "only me",
    )
    claims = issuer.verify(
        client_credentials(issuer, client, scope="compute.read", audience="a").json()["access_token"]
    )
    assert (claims["scope"], claims["aud"]) == ("compute.read compute.create", "only me")


def test_the_issuer_can_refuse_a_blank_scope(issuer: Issuer) -> None:
    issuer.settings(refuse_blank_scope=True)
    client = issuer.add_client()
    token = login(issuer, client)["refresh_token"]
    assert refresh(issuer, client, token, scope=" ")["error"] == "invalid_scope"
    assert "access_token" in refresh(issuer, client, token)


def test_lifetimes_and_times_follow_the_settings(issuer: Issuer) -> None:
    issuer.settings(access_token_ttl=30, nbf_offset=100, exp_offset=-60, iat_offset=-5)
    answer = client_credentials(issuer, issuer.add_client()).json()
    assert answer["expires_in"] == 30
    claims = issuer.verify(answer["access_token"], check_times=False)
    assert (claims["nbf"] - claims["iat"], claims["exp"] - claims["iat"]) == (105, -25)
    with pytest.raises(jwt.InvalidTokenError):
        issuer.verify(answer["access_token"])
    issuer.settings(omit_expires_in=True)
    assert "expires_in" not in client_credentials(issuer, issuer.add_client()).json()


def test_verify_finds_a_forged_token(issuer: Issuer) -> None:
    token = client_credentials(issuer, issuer.add_client()).json()["access_token"]
    head, body, signature = token.split(".")
    forged = (
        base64.urlsafe_b64encode(base64.urlsafe_b64decode(body + "==").replace(b"compute", b"COMPUTE"))
        .decode()
        .rstrip("=")
    )
    with pytest.raises(jwt.InvalidSignatureError):
        issuer.verify(f"{head}.{forged}.{signature}")


def test_a_client_can_register_and_remove_itself(issuer: Issuer) -> None:
    wanted = {
        "application_type": "web",
        "client_name": "oidc-agent:someone",
        "redirect_uris": ["http://localhost:4242", "edu.kit.data.oidc-agent:/redirect"],
        "grant_types": ["refresh_token", "authorization_code", DEVICE_CODE_GRANT],
    }
    ca = str(issuer.ca_file)
    registered = requests.post(issuer.url + "/reg", json=wanted, verify=ca, timeout=LONGEST).json()
    assert "compute.read" in registered["scope"]
    assert issuer.client_id("someone") == registered["client_id"]
    bearer = {"Authorization": f"Bearer {registered['registration_access_token']}"}
    assert (
        requests.delete(
            registered["registration_client_uri"], headers=bearer, verify=ca, timeout=LONGEST
        ).status_code
        == 204
    )
    assert registered["client_id"] not in [client["client_id"] for client in issuer.clients()]
    issuer.settings(registration_without_scope=True)
    assert "scope" not in requests.post(issuer.url + "/reg", json=wanted, verify=ca, timeout=LONGEST).json()
    assert issuer.counts().registration == 2


def test_a_fault_affects_the_named_requests_as_often_as_it_says(issuer: Issuer) -> None:
    client, other = issuer.add_client(), issuer.add_client()
    issuer.fault(
        endpoint="token",
        client_id=client.client_id,
        times=2,
        status=503,
        headers={"Retry-After": "7"},
        body={"error": "busy"},
    )
    assert client_credentials(issuer, other).ok
    answer = client_credentials(issuer, client)
    assert (answer.status_code, answer.headers["Retry-After"], answer.json()) == (503, "7", {"error": "busy"})
    assert [client_credentials(issuer, client).status_code for _ in range(2)] == [503, 200]
    issuer.fault(endpoint="token", grant_type="refresh_token", status=500, body="<html>")
    assert client_credentials(issuer, client).ok
    assert issuer.counts().token == 5


def test_a_hanging_endpoint_never_answers(issuer: Issuer) -> None:
    issuer.fault(endpoint="token", hang=True)
    with pytest.raises(requests.ReadTimeout):
        post(issuer, "/token", issuer.add_client(), timeout=0.5, grant_type="client_credentials")


def test_with_after_only_the_answer_of_a_refresh_is_lost(issuer: Issuer) -> None:
    issuer.settings(rotate=True)
    client = issuer.add_client()
    token = login(issuer, client)["refresh_token"]
    issuer.fault(endpoint="token", drop=True, times=1)
    with pytest.raises(requests.ConnectionError):
        refresh(issuer, client, token)
    token = refresh(issuer, client, token)["refresh_token"]
    issuer.fault(endpoint="token", drop=True, after=True, times=1)
    with pytest.raises(requests.ConnectionError):
        refresh(issuer, client, token)
    assert refresh(issuer, client, token)["error"] == "invalid_grant"


def test_latency_delays_each_request(issuer: Issuer) -> None:
    client = issuer.add_client()
    issuer.settings(latency_ms=300)
    started = time.monotonic()
    assert client_credentials(issuer, client).ok
    assert time.monotonic() - started >= 0.3


def test_the_issuer_holds_a_request_until_the_faults_are_cleared(issuer: Issuer) -> None:
    client, other = issuer.add_client(), issuer.add_client()
    issuer.fault(endpoint="token", client_id=client.client_id, times=1)
    issuer.fault(endpoint="token", client_id=client.client_id, hold=True)
    assert client_credentials(issuer, client).ok
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(client_credentials, issuer, client)
        until(lambda: issuer.counts().token == 2)
        assert client_credentials(issuer, other).ok
        assert not held.done()
        issuer.clear_faults()
        assert held.result().ok


def test_the_issuer_answers_gathered_requests_once_all_are_there(issuer: Issuer) -> None:
    client = issuer.add_client()
    issuer.fault(endpoint="token", gather=4)
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(client_credentials, issuer, client)
        until(lambda: issuer.counts().token == 1)
        assert not first.done()
        answers = list(pool.map(lambda _: client_credentials(issuer, client).status_code, range(3)))
    assert [first.result().status_code, *answers] == [200] * 4
    counts = issuer.counts()
    assert (counts.token, counts.grants, counts.connections, counts.max_in_flight) == (
        4,
        {"client_credentials": 4},
        4,
        4,
    )


def test_a_paused_issuer_refuses_connections_and_keeps_its_state(issuer: Issuer) -> None:
    client = issuer.add_client()
    token = login(issuer, client)["refresh_token"]
    issuer.pause()
    issuer.pause()
    with pytest.raises(requests.ConnectionError, match="refused"):
        refresh(issuer, client, token)
    # Nobody else can take its port meanwhile.
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", int(issuer.url.rpartition(":")[2])))
    issuer.resume()
    assert "access_token" in refresh(issuer, client, token)


def test_a_pause_cuts_the_requests_under_way(issuer: Issuer) -> None:
    client = issuer.add_client()
    issuer.fault(endpoint="token", hang=True, times=1)
    with ThreadPoolExecutor(1) as pool:
        hanging = pool.submit(client_credentials, issuer, client)
        until(lambda: issuer.counts().token == 1)
        issuer.pause()
        assert isinstance(hanging.exception(), requests.ConnectionError)
    issuer.resume()
    assert client_credentials(issuer, client).ok


def test_the_administration_refuses_unknown_settings_and_wrong_values(issuer: Issuer) -> None:
    with pytest.raises(TestbedError, match="unknown setting latency"):
        issuer.settings(latency=5)
    with pytest.raises(TestbedError, match="of type boolean"):
        issuer.settings(rotate="yes")
    with pytest.raises(TestbedError, match="needs an endpoint"):
        issuer.fault(status=500)
    with pytest.raises(TestbedError, match="grant_types"):
        issuer.add_client(grant_types=["wishes"])


def test_an_issuer_that_cannot_start_says_why(issuer: Issuer, tmp_path: Path) -> None:
    port = int(issuer.url.rsplit(":", 1)[1])
    with pytest.raises(TestbedError, match="EADDRINUSE"):
        Issuer(tmp_path, port=port)


def test_the_issuer_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    program = (
        "import sys, time; from testbed import Issuer; "
        "print(Issuer(sys.argv[1]).process.pid, flush=True); time.sleep(1000)"
    )
    root = Path(__file__).resolve().parent.parent
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], cwd=root, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    with parent.stdout:
        pid = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    until(lambda: not alive(pid))


def test_key_and_configuration_are_private(issuer: Issuer) -> None:
    assert [os.stat(issuer.directory / name).st_mode & 0o777 for name in ("server.key", "issuer.json")] == [
        0o600
    ] * 2
