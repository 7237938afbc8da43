"""The packages that this checkout builds."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from osg_token_renewer import __version__
from tests.host import ROOT
from tests.machine.conftest import Built
from tests.machine.packages import query


def test_a_build_makes_one_source_package_and_two_binary_packages(built: Built) -> None:
    assert [package.name.split(f"-{__version__}-")[0] for package in built.first] == [
        "osg-token-renewer",
        "osg-token-renewer",
        "osg-token-renewer-client",
    ]
    assert [package.name.rsplit(".", 2)[1] for package in built.first] == ["src", "noarch", "noarch"]


def test_two_builds_have_the_same_contents(built: Built) -> None:
    for one, other in zip(built.first, built.second):
        assert one.name == other.name
        # --dump: each file with its digest, time, owner and mode.
        payload = "--qf=%{PAYLOADDIGEST} %{BUILDTIME} %{BUILDHOST}"
        for what in ("--dump", "--scripts", "--requires", "--provides", payload):
            assert query(one, what) == query(other, what), what


def test_rpmlint_finds_no_error(built: Built, tmp_path: Path) -> None:
    command = ["rpmlint", "-c", str(ROOT / "rpm" / "rpmlint.toml"), *map(str, built.first)]
    # On Debian it would create a database of packages in the home directory.
    done = subprocess.run(
        command, env={**os.environ, "HOME": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert " 0 errors" in done.stdout


def test_only_the_whole_package_requires_oidc_agent(built: Built) -> None:
    _, whole, client = built.first
    assert "oidc-agent-cli" in query(whole, "--requires").splitlines()
    assert "oidc-agent" not in query(client, "--requires")
