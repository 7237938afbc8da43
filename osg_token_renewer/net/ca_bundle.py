"""CA bundles: which certificate authorities a connection trusts."""

from __future__ import annotations

import os
import ssl
import threading
from contextlib import AbstractContextManager
from typing import Optional

from urllib3.util.ssl_ import create_urllib3_context

from osg_token_renewer.errors import Local

# Where distributions keep the system's store, in case OpenSSL was built to look elsewhere.
_STORES = ("/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/certs/ca-certificates.crt", "/etc/ssl/cert.pem")


class CaBundle:
    """A file or directory of certificates, loaded once: a system's bundle takes 75 ms of CPU time."""

    def __init__(self, path: str) -> None:
        self.path = path
        # One for each bundle: a file system that does not answer delays only those who need a bundle on it.
        self._loading = threading.Lock()
        self._loaded: Optional[ssl.SSLContext] = None

    def context(self) -> ssl.SSLContext:
        """urllib3's TLS settings with trust in this bundle only. Raises Local."""
        what, other = f"the CA bundle {self.path}", "name another one: ca_file"
        try:
            with self._loading:
                self._loaded = self._loaded or _load(self.path)
                return self._loaded
        except ssl.SSLError as error:
            raise Local(f"{what} holds no certificate that can be read", other) from error
        except OSError as error:
            hint = f"let this user read it, or {other}"
            raise Local(f"{what} cannot be read: {error.strerror}", hint) from error


class CaBundleCache(AbstractContextManager["CaBundleCache"]):
    """The CA bundles of one run. Threads may share it."""

    def __init__(self) -> None:
        self._bundles: dict[str, CaBundle] = {}

    def __exit__(self, *error: object) -> None:
        self._bundles.clear()

    def find(self, ca_file: Optional[str]) -> CaBundle:
        """`ca_file`, else the environment's bundle, else the system's; no Python package's. Raises Local."""
        named = ca_file or os.environ.get("SSL_CERT_FILE") or os.environ.get("REQUESTS_CA_BUNDLE")
        path = named or _find_system_store()
        # setdefault() is atomic: all threads get the same bundle.
        bundle = self._bundles.setdefault(path, CaBundle(path))
        bundle.context()
        return bundle


def _find_system_store() -> str:
    paths = ssl.get_default_verify_paths()
    for candidate in (paths.cafile, *_STORES, paths.capath):
        if candidate and os.path.exists(candidate):
            return candidate
    raise Local("no system CA bundle was found", "set ca_file in the account's section")


def _load(path: str) -> ssl.SSLContext:
    context = create_urllib3_context(cert_reqs=ssl.CERT_REQUIRED)
    # urllib3 sets this for each connection. OpenSSL does not allow that while other threads use the context.
    context.set_alpn_protocols(["http/1.1"])
    context.set_alpn_protocols = lambda _protocols: None  # type: ignore[assignment,method-assign]
    if os.path.isdir(path):
        # OpenSSL would say nothing about a directory that it cannot read.
        os.listdir(path)
        context.load_verify_locations(capath=path)
    else:
        context.load_verify_locations(path)
    return context
