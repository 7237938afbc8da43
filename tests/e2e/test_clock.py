"""A host whose clock is wrong (faketime), and an issuer whose clock is right."""

from __future__ import annotations

import re

from testbed import Issuer
from tests.host import Host


def run_at(host: Host, offset: int) -> tuple[int, str]:
    """Exit status and messages of a run on a host whose clock is so many seconds ahead. Its agents and the
    issuer have the right time."""
    host.prefix = ["faketime", "--exclude-monotonic", "-f", f"{offset:+d}s"]
    done = host.run()
    assert done.stdout == ""
    return done.status, done.stderr


def test_a_wrong_clock_is_named_in_seconds_with_its_consequences(host: Host, issuer: Issuer) -> None:
    host.configure(host.credentials_account(issuer, "probe", issuer.add_client()) + host.token("t", "probe"))
    name = re.escape(issuer.url[8:])

    status, said = run_at(host, 300)
    assert status == 0, said
    assert re.search(
        rf"^warning: {name}: the issuer's clock is (300|2\d\d) s behind this host's: ", said, re.MULTILINE
    )
    published = host.read("t")

    status, said = run_at(host, -300)
    assert status == 1, said
    assert re.search(
        rf"^warning: {name}: the issuer's clock is (300|2\d\d) s ahead of this host's: ", said, re.MULTILINE
    )
    assert re.search(
        r"^token t: failed \(unsuitable\): the token that came is not valid for [45] min yet: ",
        said,
        re.MULTILINE,
    )
    assert host.read("t") == published

    status, said = run_at(host, 7200)
    assert status == 1, said
    assert "the token that came expired " in said
    assert host.read("t") == published

    status, said = run_at(host, 0)
    assert (status, "clock" in said) == (0, False)


def test_if_no_certificate_is_valid_by_the_clock_the_message_says_to_check_the_clock(
    host: Host, issuer: Issuer
) -> None:
    """Like the clock of a machine whose battery is empty. A library warns of it in its own words."""
    host.configure(host.credentials_account(issuer, "probe", issuer.add_client()) + host.token("t", "probe"))
    host.prefix = ["faketime", "--exclude-monotonic", "-f", "@1999-01-01 00:00:00"]

    done = host.run()

    assert done.status == 1
    failed = done.line("token t: ")
    assert (
        f"no TLS connection to {issuer.url[8:]}: certificate verify failed: certificate is not yet valid"
        in failed
    )
    assert failed.endswith(
        "; see that this host's clock is right: timedatectl; if it is, tell the issuer's operators"
    )
    assert [line for line in done.stderr.splitlines() if "Warning" in line] == []
    assert "\nSystemTimeWarning: " in host.run("-v", "renew").stderr
