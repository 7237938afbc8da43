"""A configuration of the original osg-token-renewer 1.0 gives the same tokens in the same files.

`original` is a small program with the original's rules: the standard configparser, one oidc-agent for all
accounts, and `requests` for client credentials.
"""

from __future__ import annotations

import configparser
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from testbed import Issuer
from tests.host import LONGEST, Host, pids_of, until

CONFIG = """\
# Sites have such files: tabs and blanks anywhere, capitals, both delimiters.
[DEFAULT]
directory = {host.tokens}
audience = https://default.example.org
site = grid.example.org
issuer_url = {issuer.url}

# Only the second word of this section's title is the account's name.
[account   robot ]
password_file = {host.root}/robot.pw

[account\tprobe]
client_id = {client.client_id}
Client_Secret : {secret}
token_request_url = %(issuer_url)s/token

[account drone]
; both kinds: the first one wins
password_file = {host.root}/drone.pw
token_request_url = https://localhost:1/token
client_id = x
client_secret = y

[account unused]
colour = blue

[token  ce ]
account = robot
audience = ce.%(site)s:9619
scope =   compute.read compute.create
min_lifetime = 600
token_path = %(directory)s/%(account)s.ce.token

[token defaults]
account=robot
token_path=%(directory)s/defaults.token

[token everywhere]
account = robot
audience =
token_path = %(directory)s/50%%.token

[token\tmonitoring]
account:probe
AUDIENCE = one two
  three
scope: compute.read
token_path = %(directory)s/monitoring.token

[token full]
account = probe
min_lifetime = 7200
token_path = %(directory)s/full scope.token

[token x]
account = drone
scope = storage.read:/
token_path = %(directory)s/x;y#z.token
"""
SECRET = "50%/a+b c$:;#"


def original(host: Host, ca_file: Path) -> None:
    """Obtains all tokens of the host's configuration as the original does."""
    parser = configparser.ConfigParser()
    parser.read(host.config)
    sections: dict[str, dict[str, configparser.SectionProxy]] = {"account": {}, "token": {}}
    for title in parser.sections():
        words = title.split()
        if words[0] in sections and len(words) == 2:
            sections[words[0]][words[1]] = parser[title]
    with _agent(host) as env:
        for name, account in sections["account"].items():
            if "password_file" in account:
                _call(["oidc-add", "--pw-store", f"--pw-cmd=cat '{account['password_file']}'", name], env)
        for token in sections["token"].values():
            account = sections["account"][token["account"]]
            text = (
                _from_agent(token, env)
                if "password_file" in account
                else _from_issuer(token, account, ca_file)
            )
            Path(token["token_path"]).write_text(text + "\n")


def _from_agent(token: Mapping[str, str], env: Mapping[str, str]) -> str:
    given = {"aud": "audience", "scope": "scope", "time": "min_lifetime"}
    options = [f"--{option}={token[name]}" for option, name in given.items() if token.get(name)]
    return _call(["oidc-token", *options, token["account"]], env).strip()


def _from_issuer(token: Mapping[str, str], account: Mapping[str, str], ca_file: Path) -> str:
    form = {
        "grant_type": "client_credentials",
        **{name: token[name] for name in ("audience", "scope") if token.get(name)},
    }
    answer = requests.post(
        account["token_request_url"],
        data=form,
        auth=(account["client_id"], account["client_secret"]),
        verify=str(ca_file),
        timeout=LONGEST,
    )
    answer.raise_for_status()
    return str(answer.json()["access_token"])


@contextmanager
def _agent(host: Host) -> Iterator[dict[str, str]]:
    socket = host.short / "original"
    env = {**host.environment({}), "OIDC_SOCK": str(socket)}
    agent = subprocess.Popen(
        ["oidc-agent", "--console", "--no-webserver", f"--socket-path={socket}"],
        env=env,
        stdout=subprocess.DEVNULL,
    )
    try:
        until(
            lambda: subprocess.run(
                ["oidc-agent", "--status"], env=env, stdout=subprocess.DEVNULL, check=False
            ).returncode
            == 0
        )
        yield env
    finally:
        agent.terminate()
        agent.wait()
        socket.unlink(missing_ok=True)


def _call(command: list[str], env: Mapping[str, str]) -> str:
    return subprocess.run(
        command,
        env=env,
        capture_output=True,
        text=True,
        check=True,
        timeout=LONGEST,
        stdin=subprocess.DEVNULL,
    ).stdout


def granted(issuer: Issuer, directory: Path) -> dict[str, tuple[set[str], set[str]]]:
    """The audiences and scopes of each file's token; removes the files."""
    found = {}
    for file in directory.iterdir():
        claims = issuer.verify(file.read_text().strip())
        audiences = [claims["aud"]] if isinstance(claims["aud"], str) else claims["aud"]
        found[file.name] = (set(audiences), set(claims["scope"].split()))
        file.unlink()
    return found


def test_the_same_configuration_gives_the_same_tokens_in_the_same_files(
    host: Host, issuer: Issuer, registry_of_two: Host
) -> None:
    issuer.settings(raw_basic=True)
    for account in ("robot", "drone"):
        host.adopt(registry_of_two, account)
    client = issuer.add_client(client_secret=SECRET)
    host.configure(CONFIG, issuer=issuer, client=client, secret=SECRET.replace("%", "%%"))
    with pytest.MonkeyPatch.context() as environment:
        # `requests` prefers these variables to the bundle that it is given.
        environment.delenv("REQUESTS_CA_BUNDLE", raising=False)
        environment.delenv("CURL_CA_BUNDLE", raising=False)
        original(host, issuer.ca_file)
    expected = granted(issuer, host.tokens)
    assert pids_of(host.home, "oidc") == []

    env = {"SSL_CERT_FILE": str(issuer.ca_file), "OSG_TOKEN_RENEWER_CONFIG_PATH": str(host.config)}
    done = host.run("renew", env=env)

    assert done.status == 0, done.stderr
    assert granted(issuer, host.tokens) == expected
    # The original's tokens are those that the configuration means.
    assert set(expected) == {
        "robot.ce.token",
        "defaults.token",
        "50%.token",
        "monitoring.token",
        "full scope.token",
        "x;y#z.token",
    }
    assert expected["robot.ce.token"] == ({"ce.grid.example.org:9619"}, {"compute.read", "compute.create"})
    assert expected["defaults.token"][0] == {"https://default.example.org"}
    assert expected["50%.token"][0] == {issuer.settings()["default_audience"]}
    assert expected["monitoring.token"] == ({"one", "two", "three"}, {"compute.read"})
    assert expected["x;y#z.token"] == ({"https://default.example.org"}, {"storage.read:/"})


def test_the_environment_names_the_configuration_as_in_the_original(host: Host, issuer: Issuer) -> None:
    client = issuer.add_client()
    host.configure(host.credentials_account(issuer, "probe", client) + host.token("t", "probe"))
    command = [part for part in host.renewer() if part not in ("--config", str(host.config))]
    env = {**host.environment({}), "OSG_TOKEN_RENEWER_CONFIG_PATH": str(host.config)}
    assert (
        subprocess.run(command, env=env, check=False, timeout=LONGEST, stdin=subprocess.DEVNULL).returncode
        == 0
    )
    assert issuer.verify(host.read("t").strip())
    env["OSG_TOKEN_RENEWER_CONFIG_PATH"] = os.devnull + "/missing"
    assert (
        subprocess.run(command, env=env, check=False, timeout=LONGEST, stdin=subprocess.DEVNULL).returncode
        == 78
    )
