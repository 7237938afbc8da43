"""Servers for tests, and an environment without settings for TLS and proxies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Optional

import pytest
import trustme

from tests.net.server import Server, Start


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def certificate(authority: trustme.CA) -> trustme.LeafCert:
    return authority.issue_cert("localhost")


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> str:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return str(tmp_path / "ca.pem")


@pytest.fixture
def serving() -> Iterator[Start]:
    servers: list[Server] = []

    def start(certificate: Optional[trustme.LeafCert]) -> Server:
        servers.append(Server(certificate))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def server(serving: Start, certificate: trustme.LeafCert) -> Server:
    return serving(certificate)


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "SSL_CERT_FILE",
        "REQUESTS_CA_BUNDLE",
        "CURL_CA_BUNDLE",
        "https_proxy",
        "HTTPS_PROXY",
        "all_proxy",
        "ALL_PROXY",
    ):
        monkeypatch.delenv(name, raising=False)
