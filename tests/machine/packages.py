"""Builds the packages of this checkout, and a repository with them as a site would have it."""

from __future__ import annotations

from pathlib import Path

from tests.host import ROOT, succeed
from tests.machine.machine import ENVIRONMENT

SPECS = Path(__file__).parent / "specs"
LONGEST = 3600.0


def build(directory: Path, *options: str) -> list[Path]:
    """Builds into a directory as `make rpm` does; returns the source package, then the binary packages by
    name."""
    done = _run([str(ROOT / "tools" / "build-rpms"), str(directory), *options])
    return sorted(map(Path, done.splitlines()), key=lambda path: (path.parent.name != "SRPMS", path.name))


def build_spec(name: str, directory: Path, **definitions: str) -> None:
    """Builds a package of the tests' own from a spec without sources; `definitions` are its macros."""
    macros = {"_topdir": directory, **definitions}
    given = [word for macro, value in macros.items() for word in ("--define", f"{macro} {value}")]
    _run(["rpmbuild", "-bb", "--quiet", "--nodeps", *given, str(SPECS / f"{name}.spec")])


def repository(directory: Path) -> None:
    """Turns a directory of packages into a repository for dnf."""
    _run(["createrepo_c", "--quiet", str(directory)])


def versions() -> dict[str, str]:
    """The versions that the stand-in for Debian's packages claims: of the system's own Python and its
    libraries, and of oidc-agent."""
    python = (
        "import platform, requests, importlib.metadata as m; "
        "print(platform.python_version(), requests.__version__, m.version('rich'))"
    )
    of_python, of_requests, of_rich = _run(["/usr/bin/python3", "-Ic", python]).split()
    of_agent = _run(["oidc-agent", "--version"]).split()[-1]
    return {
        "python_version": of_python,
        "requests_version": of_requests,
        "rich_version": of_rich,
        "oidc_agent_version": of_agent,
    }


def query(package: Path, what: str) -> str:
    """What rpm says about a package file; `what` is an option such as --requires."""
    return _run(["rpm", "-qp", "--nosignature", what, str(package)])


def _run(command: list[str]) -> str:
    return succeed(command, ROOT, ENVIRONMENT, LONGEST)
