"""Which certificate authorities are trusted: the CA bundle of a connection."""

from __future__ import annotations

import functools
import os
import ssl
import threading
from typing import Optional

from urllib3.util.ssl_ import create_urllib3_context

from osg_token_renewer.errors import Local

# Where distributions keep the system's store, when OpenSSL was built to look elsewhere.
_SYSTEM_STORES = (
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/ssl/cert.pem",
)

_loading: dict[str, threading.Lock] = {}


def find_bundle(ca_file: Optional[str]) -> str:
    """The CA bundle (file or directory): `ca_file`, else the environment's, else the system's store, never a
    Python package's."""
    for candidate in (ca_file, os.environ.get("SSL_CERT_FILE"), os.environ.get("REQUESTS_CA_BUNDLE")):
        if candidate:
            return _usable(candidate)
    paths = ssl.get_default_verify_paths()
    for candidate in (paths.cafile, *_SYSTEM_STORES, paths.capath):
        if candidate and os.path.exists(candidate):
            return candidate
    raise Local("no system CA bundle was found", "set ca_file in the account's section")


def _usable(bundle: str) -> str:
    if not os.access(bundle, os.R_OK):
        raise Local(
            f"the CA bundle {bundle} cannot be read", "let this user read it, or name another one: ca_file"
        )
    try:
        load_context(bundle)
    except ssl.SSLError as error:
        raise Local(
            f"the CA bundle {bundle} holds no certificate that can be read", "name another one: ca_file"
        ) from error
    except OSError as error:
        raise Local(
            f"the CA bundle {bundle} cannot be read: {error.strerror}",
            "see what is the matter there, or name another one: ca_file",
        ) from error
    return bundle


def load_context(bundle: str) -> ssl.SSLContext:
    """urllib3's own settings, and trust in this bundle; the same one each time, for a system's bundle takes
    75 ms of CPU time."""
    # One of each bundle: a file system that does not answer must keep nobody waiting whose bundle is
    # elsewhere.
    with _loading.setdefault(bundle, threading.Lock()):
        return _loaded(bundle)


@functools.cache
def _loaded(bundle: str) -> ssl.SSLContext:
    context = create_urllib3_context(cert_reqs=ssl.CERT_REQUIRED)
    # urllib3 does so for each connection, and OpenSSL does not allow for that while other threads connect
    # with the same context.
    context.set_alpn_protocols(["http/1.1"])
    context.set_alpn_protocols = lambda _protocols: None  # type: ignore[assignment,method-assign]
    context.load_verify_locations(**{"capath" if os.path.isdir(bundle) else "cafile": bundle})
    return context
