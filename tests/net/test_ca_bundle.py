"""Which CA bundle is found, and that it is loaded once."""

from __future__ import annotations

import os
import ssl
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import trustme

from osg_token_renewer.errors import Local, Unavailable
from osg_token_renewer.net.ca_bundle import CaBundleCache
from tests.faults import apart
from tests.net.server import BOUND, Server, post


def test_ca_file_comes_first_then_ssl_cert_file_then_requests_ca_bundle_then_the_system(
    server: Server, ca_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = tmp_path / "wrong.pem"
    trustme.CA().cert_pem.write_to_path(str(wrong))
    tried = []
    for given, ssl_cert_file, requests_ca_bundle in (
        (ca_file, wrong, wrong),
        (None, ca_file, wrong),
        (None, "", ca_file),
        (None, wrong, ca_file),
        (None, "", ""),
    ):
        monkeypatch.setenv("SSL_CERT_FILE", str(ssl_cert_file))
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(requests_ca_bundle))
        try:
            tried.append(post(server, given).status)
        except Unavailable as failure:
            tried.append("certificate verify failed: " in failure.message)
    assert tried == [200, 200, 200, True, True]


def test_a_ca_bundle_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(Local) as failure:
        CaBundleCache().find(f"{tmp_path}/none.pem")
    assert (
        failure.value.message
        == f"the CA bundle {tmp_path}/none.pem cannot be read: No such file or directory"
    )
    assert failure.value.hint == "let this user read it, or name another one: ca_file"


def test_a_ca_bundle_that_may_not_be_read_is_named() -> None:
    # Another user cannot reach tmp_path.
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        (Path(place) / "file").touch(0)
        (Path(place) / "directory").mkdir(0)

        def body() -> None:
            for name in ("file", "directory"):
                with pytest.raises(
                    Local, match=rf"^the CA bundle .*/{name} cannot be read: Permission denied$"
                ):
                    CaBundleCache().find(f"{place}/{name}")

        apart(body, unprivileged=True)


@pytest.mark.parametrize(
    "content", ["", "no certificate\n", "-----BEGIN CERTIFICATE-----\nbm9uZQ==\n-----END CERTIFICATE-----\n"]
)
def test_a_ca_bundle_without_a_certificate_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "garbage.pem").write_text(content)
    with pytest.raises(
        Local, match=f"^the CA bundle {tmp_path}/garbage.pem holds no certificate that can be read$"
    ):
        CaBundleCache().find(f"{tmp_path}/garbage.pem")


def test_a_system_store_that_cannot_be_used_is_named(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "store.pem").touch()
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    paths = ssl.get_default_verify_paths()._replace(cafile=str(tmp_path / "store.pem"))
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: paths)
    with pytest.raises(Local, match=f"^the CA bundle {tmp_path}/store.pem holds no certificate"):
        post(server, None)


def test_all_threads_of_a_run_get_a_bundle_that_is_loaded_once(ca_file: str) -> None:
    """A system's bundle costs more to load than all the rest of a request."""
    together = threading.Barrier(8)

    def load(bundles: CaBundleCache) -> ssl.SSLContext:
        together.wait(BOUND)
        return bundles.find(ca_file).context()

    with CaBundleCache() as bundles, ThreadPoolExecutor(8) as threads:
        contexts = set(threads.map(load, [bundles] * 8))
        Path(ca_file).write_text("no certificate any more\n")
        contexts.add(bundles.find(ca_file).context())
    assert len(contexts) == 1


def test_the_next_run_loads_a_bundle_again(ca_file: str) -> None:
    first = CaBundleCache().find(ca_file).context()
    trustme.CA().cert_pem.write_to_path(ca_file)
    second = CaBundleCache().find(ca_file).context()
    assert first.get_ca_certs() != second.get_ca_certs()


def test_a_bundle_on_a_file_system_that_does_not_answer_delays_no_other(ca_file: str, tmp_path: Path) -> None:
    """A named pipe without a writer stands for a file system that does not answer."""
    os.mkfifo(tmp_path / "pipe")
    with CaBundleCache() as bundles, ThreadPoolExecutor(1) as threads:
        stuck = threads.submit(bundles.find, str(tmp_path / "pipe"))
        assert bundles.find(ca_file).context().get_ca_certs()
        assert not stuck.done()
        (tmp_path / "pipe").write_text("no certificate\n")
        with pytest.raises(Local, match="holds no certificate"):
            stuck.result(BOUND)
