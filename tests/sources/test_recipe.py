"""The recipe "Adding a source" in CONTRIBUTING.md, followed to the letter: the source that it adds works."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from testbed import Issuer
from tests.host import LONGEST, ROOT, Host, section, until


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """The renewal program in a copy of the package that has the recipe's source."""
    checkout = tmp_path / "checkout"
    shutil.copytree(ROOT / "osg_token_renewer", checkout / "osg_token_renewer")
    shutil.copytree(ROOT / "libexec", checkout / "libexec")
    add_source(checkout / "osg_token_renewer" / "sources")
    return checkout / "libexec" / "osg-token-renewer"


def add_source(sources: Path) -> None:
    """Does what the recipe says."""
    recipe = (ROOT / "CONTRIBUTING.md").read_text()
    recipe = recipe[recipe.index("## Adding a source") : recipe.index("## Adding a sink")]
    module, entry = re.findall(r"```python\n(.*?)```", recipe, re.DOTALL)
    (name,) = re.findall(r"Write `osg_token_renewer/sources/(\w+\.py)`", recipe)
    (sources / name).write_text(textwrap.dedent(module))
    assert len(textwrap.dedent(module).splitlines()) <= 50

    registry = (sources / "registry.py").read_text()
    new_import, new_line = textwrap.dedent(entry).splitlines()
    registry = registry.replace("\n\nSOURCES", f"\n{new_import}\n\nSOURCES")
    (sources / "registry.py").write_text(registry.replace("\n    )\n", f"\n{new_line}\n    )\n"))


def renew(program: Path, host: Host) -> subprocess.Popen[str]:
    """A run of the program; the test waits for it or kills it."""
    return host.popen([sys.executable, str(program), "--config", str(host.config), "renew"], {})


def configure(host: Host, issuer: Issuer) -> str:
    """One account of the new source, with one token; returns the client's id."""
    client = issuer.add_client()
    options = {
        "client_issuer": issuer.url,
        "client_id": client.client_id,
        "client_secret": client.client_secret,
        "ca_file": issuer.ca_file,
    }
    host.configure(section("account probe", options) + host.token("x", "probe", audience="ce"))
    return client.client_id


def test_a_run_publishes_a_token_from_the_new_source(program: Path, host: Host, issuer: Issuer) -> None:
    client_id = configure(host, issuer)
    run = renew(program, host)
    _, said = run.communicate(timeout=LONGEST)
    assert run.returncode == 0, said
    claims = issuer.verify(host.read("x").strip())
    assert (claims["client_id"], claims["aud"]) == (client_id, "ce")
    assert issuer.counts().discovery == 1


def test_a_run_after_a_killed_one_publishes_a_token(program: Path, host: Host, issuer: Issuer) -> None:
    configure(host, issuer)
    issuer.fault(endpoint="token", hold=True)
    killed = renew(program, host)
    until(lambda: issuer.counts().token == 1)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    issuer.clear_faults()

    run = renew(program, host)
    _, said = run.communicate(timeout=LONGEST)

    assert run.returncode == 0, said
    assert issuer.verify(host.read("x").strip())


def test_a_failure_of_the_new_source_names_its_section(program: Path, host: Host, issuer: Issuer) -> None:
    configure(host, issuer)
    issuer.fault(endpoint="discovery", status=200, body='{"token_endpoint": "http://example.org/"}')
    run = renew(program, host)
    _, said = run.communicate(timeout=LONGEST)
    assert run.returncode == 1
    assert "the token endpoint in the issuer's metadata must be https" in said
