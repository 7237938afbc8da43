"""What fails, fails alone, says why and what to do, and leaves every good token as it was."""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed import Client, Issuer
from tests.faults import apart
from tests.host import LONGEST, Host, closed_port, without_roots_privileges

# With half an hour more, so that it is still said to be a day when some time has passed.
DAY = 86400 + 1800

# Nothing of this is a token that this program would publish: whatever replaced it would be seen.
OLD = b"an old token, with no line break at its end"


def test_a_run_ends_at_its_time_limit_when_an_issuer_never_answers(
    host: Host, issuer: Issuer, registry: Host
) -> None:
    host.configure(
        host.adopt(registry, "robot")
        + host.credentials_account(issuer, "probe", issuer.add_client())
        + host.token("ce", "robot")
        + host.token("monitoring", "probe")
        + f"[renewer]\nstate_dir = {host.state}\nruntime_dir = {host.runtime}\nrun_timeout = 4\n"
    )
    issuer.fault(endpoint="*", hang=True)
    done = host.run()
    assert done.status == 1
    # Where a program takes seconds to start, too little is left to ask at all.
    late = (
        "only [0-2] s of the run were left, too little for a request that must not be cut off"
        "|the 4 s of the run were over before .*"
    )
    for name, who in (("ce", "the issuer of account robot"), ("monitoring", issuer.url[8:])):
        line = done.line(f"token {name}: ")
        assert re.match(
            rf"token {name}: failed \(unavailable\): ({who} had not answered after [0-4](\.\d)? s|{late}): ",
            line,
        )
    assert {name: token["last_failure"]["reason"] for name, token in host.status().items()} == {
        "ce": "unavailable",
        "monitoring": "unavailable",
    }
    assert host.leftovers() == []


def test_a_name_server_that_never_answers_takes_two_timeouts_of_a_run_however_many_accounts_there_are(
    host: Host, issuer: Issuer
) -> None:
    names = [f"far{number}" for number in range(5)]
    client, url = issuer.add_client(), "https://issuer.example.org/token"
    accounts = [
        host.credentials_account(issuer, name, client, token_request_url=url, timeout="1") for name in names
    ]
    host.configure("".join([*accounts, *(host.token(name, name) for name in names)]), workers=1)

    def body() -> None:
        done = host.run()
        assert done.status == 1
        silence = "the name issuer.example.org was not resolved after 1 s"
        hint = "see that this host's name servers answer: /etc/resolv.conf"
        for name in names[:2]:
            assert (
                done.line(f"token {name}: ")
                == f"token {name}: failed (unavailable): {silence}: no token is published; {hint}"
            )
        for name in names[2:]:
            assert (
                f"issuer.example.org was not asked any more, after 2 failures in a row ({silence})"
                in done.line(f"token {name}: ")
            )

    # It would take the resolver longer to give up.
    apart(body, silent_names=True, longest=LONGEST)


@pytest.fixture
def port() -> Iterator[int]:
    with closed_port() as closed:
        yield closed


def with_old_token(host: Host, *names: str) -> None:
    for name in names:
        path = host.tokens / name
        path.write_bytes(OLD)
        path.chmod(0o600)


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_four_failures_of_four_kinds_among_ten_good_tokens(
    host: Host, issuer: Issuer, registry_of_two: Host, port: int
) -> None:
    shut = host.root / "shut"
    shut.mkdir()
    (shut / "unwritable").write_bytes(OLD)
    with_old_token(host, "locked", "dead", "unreachable")
    good = [host.token(f"robot{number}", "robot", audience=f"ce{number}.example.org") for number in range(4)]
    good += [
        host.token(f"{name}{number}", name, scope="compute.read")
        for name in ("probe", "pilot")
        for number in range(3)
    ]
    host.configure(
        host.adopt(registry_of_two, "robot")
        + host.adopt(registry_of_two, "drone")
        + host.register(issuer, "mortal")
        + host.credentials_account(issuer, "probe", issuer.add_client())
        + host.credentials_account(issuer, "pilot", issuer.add_client())
        + host.credentials_account(
            issuer, "far", issuer.add_client(), token_request_url=f"https://localhost:{port}/token"
        )
        + "".join(good)
        + host.token("locked", "drone")
        + host.token("dead", "mortal")
        + host.token("unreachable", "far")
        + host.token("unwritable", "probe", token_path=shut / "unwritable")
    )
    (host.root / "drone.pw").write_text("not its password\n")
    issuer.revoke(host.client_ids["mortal"])
    shut.chmod(0o555)
    host.prefix = without_roots_privileges()

    done = host.run()

    assert done.status == 1
    assert done.line("14 tokens:").startswith("14 tokens: 10 renewed, 0 fresh, 4 failed (")
    for name in [f"robot{number}" for number in range(4)] + [
        f"{name}{number}" for name in ("probe", "pilot") for number in range(3)
    ]:
        issuer.verify(host.read(name).strip())
    locked, dead, unreachable, unwritable = (
        done.line(f"token {name}: ") for name in ("locked", "dead", "unreachable", "unwritable")
    )
    assert "the password does not open the account file" in locked
    assert locked.endswith("; correct the first line of the password_file of [account drone]")
    assert "the issuer refused the refresh token" in dead
    assert dead.endswith("; run: osg-token-renewer-setup --reauthenticate mortal")
    assert "cannot be reached: Connection refused" in unreachable
    assert unreachable.endswith(
        "; the next run tries again; if this lasts, check the network and ask the issuer's operators"
    )
    assert f"no file can be made in {shut}: Permission denied" in unwritable
    assert f"; let this user write to {shut}" in unwritable
    assert {name: content for name, content in files(host.tokens).items() if content == OLD} == dict.fromkeys(
        ("locked", "dead", "unreachable"), OLD
    )
    assert len(files(host.tokens)) == 13
    assert files(shut) == {"unwritable": OLD}
    assert host.leftovers() == []
    reasons = {
        name: one["last_failure"]["reason"] for name, one in host.status().items() if one["last_failure"]
    }
    assert reasons == {
        "locked": "refused",
        "dead": "refused",
        "unreachable": "unavailable",
        "unwritable": "local",
    }


def test_a_limit_on_the_size_of_files_costs_no_token(host: Host, issuer: Issuer) -> None:
    """A quota acts like this: what the program writes before the limit stays written."""
    host.configure(host.credentials_account(issuer, "probe", issuer.add_client()) + host.token("t", "probe"))
    with_old_token(host, "t")
    host.prefix = ["prlimit", f"--fsize={len(OLD)}"]

    done = host.run()

    assert done.status == 1
    assert f"failed (local): {host.tokens}/t cannot be written: File too large: " in done.line("token t: ")
    assert files(host.tokens) == {"t": OLD}
    assert "the history cannot be written" in done.stderr


def test_no_token_is_requested_or_published_where_others_could_replace_it(host: Host, issuer: Issuer) -> None:
    shared = host.root / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    tokens = host.token("safe", "probe", scope="compute.read") + host.token(
        "unsafe", "probe", token_path=shared / "x"
    )
    host.configure(host.credentials_account(issuer, "probe", issuer.add_client()) + tokens)

    done = host.run()

    assert done.status == 1
    assert done.line("token unsafe: ") == (
        f"token unsafe: failed (local): others can write to the directory {shared}: no token is published; "
        f"chmod o-w {shared}, or chmod +t {shared}"
    )
    assert files(shared) == {}
    assert issuer.verify(host.read("safe").strip())["scope"] == "compute.read"
    assert issuer.counts().token == 1


BAD_ANSWERS: dict[str, tuple[dict[str, object], str]] = {
    "garbage": ({"status": 200, "body": "\x01\x02 garbage"}, "the issuer's answer is not JSON"),
    "html": (
        {"status": 200, "body": "<html>Welcome</html>", "headers": {"Content-Type": "text/html"}},
        "is not JSON (text/html)",
    ),
    "empty": ({"status": 200, "body": ""}, "the issuer's answer is not JSON"),
    "broken": ({"status": 500, "body": "<h1>Oops</h1>"}, "the issuer answered with HTTP status 500"),
    "moved": (
        {"status": 302, "body": "", "headers": {"Location": "https://localhost:1/"}},
        "the issuer answered with a redirect",
    ),
    "silent": ({"hang": True}, "had not answered after 2 s"),
    "no-token": (
        {"status": 200, "body": '{"access_token": "two\\nlines"}'},
        "what the issuer sent is not a token",
    ),
}


def test_an_issuer_that_answers_badly_fails_that_token_and_keeps_the_old_one(
    host: Host, issuer: Issuer, registry: Host
) -> None:
    clients: dict[str, Client] = {name: issuer.add_client() for name in BAD_ANSWERS}
    # Who is answered has as long as it takes.
    limits = {"silent": {"timeout": "2"}}
    accounts = [
        host.credentials_account(issuer, name, client, **limits.get(name, {}))
        for name, client in clients.items()
    ]
    tokens = [host.token(name, name) for name in BAD_ANSWERS]
    # With oidc-agent, all that is known is what it makes of the answer.
    host.configure(
        "".join(
            [
                *accounts,
                *tokens,
                host.adopt(registry, "robot") + "timeout = 3\n",
                host.token("agent", "robot"),
            ]
        )
    )
    with_old_token(host, *BAD_ANSWERS, "agent")
    for name, (fault, _) in BAD_ANSWERS.items():
        issuer.fault(endpoint="token", client_id=clients[name].client_id, **fault)
    issuer.fault(endpoint="token", client_id=host.client_ids["robot"], hang=True)

    done = host.run()

    assert done.status == 1
    for name, (_, message) in BAD_ANSWERS.items():
        assert message in done.line(f"token {name}: ")
    assert "had not answered after 3 s" in done.line("token agent: ")
    assert files(host.tokens) == dict.fromkeys([*BAD_ANSWERS, "agent"], OLD)
    assert host.leftovers() == []


def test_without_oidc_agent_its_accounts_name_the_package_and_the_others_work(
    host: Host, issuer: Issuer, registry: Host
) -> None:
    host.configure(
        host.adopt(registry, "robot")
        + host.credentials_account(issuer, "probe", issuer.add_client())
        + host.token("ce", "robot")
        + host.token("monitoring", "probe")
    )

    done = host.run(env={"PATH": "/nonexistent"})

    assert done.status == 1
    assert done.line("token ce: ") == (
        "token ce: failed (local): oidc-agent is not installed: no token is published; "
        "install the package oidc-agent-cli"
    )
    assert issuer.verify(host.read("monitoring").strip())


def test_a_failure_says_how_long_the_published_token_is_still_good(host: Host, issuer: Issuer) -> None:
    account = host.credentials_account(issuer, "probe", issuer.add_client())
    tokens = [host.token(name, "probe") for name in ("valid", "expired", "closed")]
    host.configure("".join([account, *tokens, host.token("opaque", "probe", audience="dark")]))
    issuer.settings(opaque_audiences=["dark"], access_token_ttl=DAY)
    assert host.run("renew", "valid", "opaque").status == 0
    claims = base64.urlsafe_b64encode(json.dumps({"exp": time.time() - DAY}).encode()).decode().rstrip("=")
    (host.tokens / "expired").write_text(f"e30.{claims}.e30\n")
    (host.tokens / "closed").touch(mode=0)
    host.prefix = without_roots_privileges()
    issuer.fault(endpoint="token", status=500)

    done = host.run()

    assert "HTTP status 500: the published token cannot be read; " in done.line("token closed: ")
    assert "HTTP status 500: the published token is valid for 1 d more; " in done.line("token valid: ")
    assert "HTTP status 500: the published token is valid for 1 d more; " in done.line("token opaque: ")
    assert "HTTP status 500: the published token expired 1 d ago; " in done.line("token expired: ")
    states = {name: (one["state"], one["failures_in_row"]) for name, one in host.status().items()}
    assert states == {
        "valid": ("failed", 1),
        "opaque": ("failed", 1),
        "expired": ("expired", 1),
        "closed": ("failed", 1),
    }
    assert host.run().status == 1
    assert host.status()["valid"]["failures_in_row"] == 2
