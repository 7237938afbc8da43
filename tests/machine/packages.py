"""The packages of this checkout, and a repository with them as a site would have it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.host import ROOT
from tests.machine.machine import ENVIRONMENT

SPECS = Path(__file__).parent / "specs"
LONGEST = 3600.0


def build(directory: Path, *options: str) -> list[Path]:
    """`make rpm` into another directory; the source package, and the binary ones in the order of their
    names."""
    done = _run([str(ROOT / "tools" / "build-rpms"), str(directory), *options])
    return sorted(map(Path, done.splitlines()), key=lambda path: (path.parent.name != "SRPMS", path.name))


def build_spec(name: str, directory: Path, **definitions: str) -> None:
    """A package of the tests' own, from a spec that needs no sources."""
    given = [word for macro, value in definitions.items() for word in ("--define", f"{macro} {value}")]
    _run(
        [
            "rpmbuild",
            "-bb",
            "--quiet",
            "--nodeps",
            "--define",
            f"_topdir {directory}",
            *given,
            str(SPECS / f"{name}.spec"),
        ]
    )


def repository(directory: Path) -> None:
    """Makes what `dnf` needs of the packages in a directory."""
    _run(["createrepo_c", "--quiet", str(directory)])


def versions() -> dict[str, str]:
    """Of what Debian's packages give to the stand-in: the system's own Python and its libraries, and
    oidc-agent."""
    python = "import platform, requests, importlib.metadata as m; print(platform.python_version(), requests.__version__, m.version('rich'))"
    of_python, of_requests, of_rich = _run(["/usr/bin/python3", "-Ic", python]).split()
    of_agent = _run(["oidc-agent", "--version"]).split()[-1]
    return {
        "python_version": of_python,
        "requests_version": of_requests,
        "rich_version": of_rich,
        "oidc_agent_version": of_agent,
    }


def query(package: Path, what: str) -> str:
    return _run(["rpm", "-qp", "--nosignature", what, str(package)])


def _run(command: list[str]) -> str:
    done = subprocess.run(
        command,
        env=ENVIRONMENT,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LONGEST,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout
