"""The issuer as a Python object: starts the Node.js process, administers it, and verifies its tokens."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
import requests
import trustme

from testbed.user import approve, deny

HERE = Path(__file__).resolve().parent
# The Makefile installs this one; without it, the one on PATH is used.
NODE = HERE.parent / ".venv" / "bin" / "node"
# Seconds. On the slowest machine, only an issuer that hangs takes longer to start or to answer.
PATIENCE = 120.0
STOP_DEADLINE = 5.0
DEVICE_CODE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"


class TestbedError(Exception):
    """The issuer could not start, or its administration refused a request."""

    __test__ = False  # pytest would take a class of this name for tests


@dataclass(frozen=True)
class Client:
    """A client that `add_client` added; `metadata` is all that the issuer registered (RFC 7591)."""

    client_id: str
    client_secret: str | None
    metadata: Mapping[str, Any]


@dataclass(frozen=True)
class Counts:
    """The requests since the last reset, in all, by endpoint and by grant type, without those of the
    administration."""

    total: int
    endpoints: Mapping[str, int]
    grants: Mapping[str, int]
    connections: int
    max_in_flight: int

    @property
    def token(self) -> int:
        return self.endpoints.get("token", 0)

    @property
    def discovery(self) -> int:
        return self.endpoints.get("discovery", 0)

    @property
    def registration(self) -> int:
        return self.endpoints.get("registration", 0)

    @property
    def device_authorization(self) -> int:
        return self.endpoints.get("device_authorization", 0)

    @property
    def jwks(self) -> int:
        return self.endpoints.get("jwks", 0)


class Issuer:
    """A running OpenID provider on https://localhost:PORT, with its files in `directory`.

    It ends with the context or with `stop()`. It also watches its standard input, and so ends with the
    process that started it. Raises TestbedError if it cannot start.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        settings: Mapping[str, Any] | None = None,
        clients: Iterable[Mapping[str, Any]] = (),
        scopes: Iterable[str] | None = None,
        port: int = 0,
    ) -> None:
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.ca_file = self.directory / "ca.pem"
        self._log_file = self.directory / "issuer.log"
        self._session = requests.Session()
        self._session.trust_env = False  # otherwise $REQUESTS_CA_BUNDLE and proxies would come first
        self._session.verify = str(self.ca_file)
        # Two processes cannot use one TLS connection.
        os.register_at_fork(after_in_child=self._session.close)
        self._public_keys: dict[str, Any] | None = None
        key, cert = self._make_certificates()
        self._port = _taken() if port == 0 else None
        config: dict[str, Any] = {
            "key": str(key),
            "cert": str(cert),
            "port": self._port.getsockname()[1] if self._port else port,
            "exit_with_stdin": True,
            "settings": dict(settings or {}),
            "clients": [dict(client) for client in clients],
        }
        if scopes is not None:
            config["scopes"] = list(scopes)
        self._config_file = self.directory / "issuer.json"
        write_private(self._config_file, json.dumps(config).encode())
        self.process, self.url = self._start()

    def __enter__(self) -> Issuer:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends the process. Its state is lost, because it was in memory."""
        self._session.close()
        if self.process.stdin is not None:
            self.process.stdin.close()
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_DEADLINE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        if self._port is not None:
            self._port.close()

    def pause(self) -> None:
        """Keeps all state but refuses connections until `resume()`: for a client, the issuer is down."""
        self._command("pause")

    def resume(self) -> None:
        self._command("resume")

    # administration

    def settings(self, **changes: Any) -> dict[str, Any]:
        """Changes settings (see DEFAULT_SETTINGS in state.mjs) and returns all of them."""
        answer: dict[str, Any] = (
            self._admin("PATCH", "settings", changes) if changes else self._admin("GET", "settings")
        )
        return answer

    def counts(self) -> Counts:
        return Counts(**self._admin("GET", "counts"))

    def reset_counts(self) -> None:
        self._admin("DELETE", "counts")

    def secrets(self) -> dict[str, list[str]]:
        """The secrets that clients got since the counts were reset, by the member of the answer that holds
        them, such as refresh_token."""
        answer: dict[str, list[str]] = self._admin("GET", "secrets")
        return answer

    def add_client(self, **metadata: Any) -> Client:
        """Adds a client with RFC 7591 metadata; makes up `client_id` and `client_secret` if not given."""
        number = len(self.clients()) + 1
        metadata.setdefault("client_id", f"client-{number}")
        if metadata.get("token_endpoint_auth_method") != "none":
            metadata.setdefault("client_secret", f"secret-of-client-{number}")
        registered = self._admin("POST", "clients", metadata)
        return Client(registered["client_id"], registered.get("client_secret"), registered)

    def clients(self) -> list[dict[str, Any]]:
        """The `client_id` of each client, and its `client_name` and `scope` if known."""
        answer: list[dict[str, Any]] = self._admin("GET", "clients")
        return answer

    def client_id(self, name: str) -> str:
        """The id of the newest client whose client_name contains `name` (oidc-agent registers
        "oidc-agent:NAME-HOST"). Raises TestbedError if there is none."""
        found = [client["client_id"] for client in self.clients() if name in client.get("client_name", "")]
        if not found:
            raise TestbedError(f"no client has a name with {name!r}")
        return str(found[-1])

    def revoke(self, client_id: str) -> int:
        """Forgets all grants and tokens of a client, so that its next refresh gets invalid_grant; returns
        how many."""
        return int(self._admin("POST", "revoke", {"client_id": client_id})["revoked"])

    def fault(self, **spec: Any) -> None:
        """Makes requests to `endpoint` ("*": all) fail or wait.

        `client_id` and `grant_type` choose the requests, `times` is how many of them. `status`, `headers` and
        `body` are the answer; `hang` sends none, `drop` closes the connection; with `after` the issuer first
        does its work. `delay_ms` waits, `hold` waits until the faults are cleared, `gather` until so many
        requests wait. The first fault that applies counts. A fault with none of these only shields its
        requests from the faults after it.
        """
        self._admin("POST", "faults", spec)

    def clear_faults(self) -> None:
        self._admin("DELETE", "faults")

    def pending_user_codes(self) -> list[str]:
        """The user codes (RFC 8628) that nobody has approved or denied yet."""
        return [code["user_code"] for code in self._admin("GET", "device-codes")]

    def approve_next(self, *, deadline: float = PATIENCE, login: str = "alice") -> str:
        """Waits until a device asks, and approves as the scripted user; returns the user code. Raises
        TestbedError if no device asks within `deadline` seconds."""
        code = self._next_user_code(deadline)
        approve(self.url + "/device", code, ca_file=self.ca_file, login=login)
        return code

    def deny_next(self, *, deadline: float = PATIENCE) -> str:
        """Like `approve_next`, but denies."""
        code = self._next_user_code(deadline)
        deny(self.url + "/device", code, ca_file=self.ca_file)
        return code

    # tokens

    def jwks(self) -> dict[str, Any]:
        """The public keys. The request is neither counted nor subject to faults, and made only once."""
        if self._public_keys is None:
            self._public_keys = self._admin("GET", "jwks")
        return self._public_keys

    def verify(self, token: str, *, check_times: bool = True) -> dict[str, Any]:
        """The claims of an access token; the caller compares the audience.

        Raises `jwt.InvalidTokenError` if the signature, the issuer or (with `check_times`) a time is wrong.
        """
        keys = jwt.PyJWKSet.from_dict(self.jwks())
        kid = jwt.get_unverified_header(token)["kid"]
        key = next(one for one in keys.keys if one.key_id == kid)
        times = ["exp", "nbf", "iat"]
        options: Any = {
            "verify_aud": False,
            "require": times,
            **{f"verify_{claim}": check_times for claim in times},
        }
        claims: dict[str, Any] = jwt.decode(
            token, key.key, algorithms=["RS256"], issuer=self.url, options=options
        )
        return claims

    def introspect(self, token: str, client: Client) -> dict[str, Any]:
        """The issuer's answer about an opaque token (RFC 7662). This provider introspects no JWTs."""
        response = self._session.post(
            self.url + "/token/introspection",
            data={"token": token},
            auth=(client.client_id, client.client_secret or ""),
            timeout=PATIENCE,
        )
        if not response.ok:
            raise TestbedError(f"introspection: {response.status_code} {response.text}")
        answer: dict[str, Any] = response.json()
        return answer

    # the process and its administration

    def _make_certificates(self) -> tuple[Path, Path]:
        authority = trustme.CA()
        leaf = authority.issue_cert("localhost", "127.0.0.1")
        key, cert = self.directory / "server.key", self.directory / "server.pem"
        authority.cert_pem.write_to_path(str(self.ca_file))
        leaf.cert_chain_pems[0].write_to_path(str(cert))
        write_private(key, leaf.private_key_pem.bytes())
        return key, cert

    def _start(self) -> tuple[subprocess.Popen[bytes], str]:
        if not (HERE / "node_modules").is_dir():
            raise TestbedError("node_modules is missing: run make demo, make test or make issuer")
        with open(self._log_file, "wb") as log:
            self.process = subprocess.Popen(
                [str(NODE) if NODE.exists() else "node", str(HERE / "issuer.mjs"), str(self._config_file)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # the caller handles Ctrl-C in a terminal
            )
        try:
            ready = self._read_line(PATIENCE)
        except TestbedError:
            self.stop()
            raise
        return self.process, str(ready["issuer"])

    def _read_line(self, timeout: float) -> dict[str, Any]:
        """One line of JSON from the process. It prints one line for each command and nothing else, so no line
        stays in a buffer."""
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], timeout)
        line = self.process.stdout.readline() if readable else b""
        if not line:
            why = "ended" if readable else f"said nothing for {timeout:g} s"
            raise TestbedError(f"the issuer {why}:\n{self._log_file.read_text()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _command(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(command.encode() + b"\n")
        self.process.stdin.flush()
        answer = self._read_line(PATIENCE)
        if "error" in answer:
            raise TestbedError(f"{command}: {answer['error']}")

    def _admin(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        # The session itself replaces a connection that a pause has cut.
        response = self._session.request(method, f"{self.url}/testbed/{path}", json=body, timeout=PATIENCE)
        if not response.ok:
            raise TestbedError(f"{method} {path}: {response.status_code} {response.text}")
        return response.json()

    def _next_user_code(self, deadline: float) -> str:
        end = time.monotonic() + deadline
        while time.monotonic() < end:
            codes = self.pending_user_codes()
            if codes:
                return codes[0]
            time.sleep(0.05)
        raise TestbedError(f"no device asked within {deadline:g} s")


def _taken() -> socket.socket:
    """Takes a free port of loopback. The issuer listens on it too, but nobody else can, even during a
    pause."""
    taken = socket.socket()
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    taken.bind(("127.0.0.1", 0))
    return taken


def write_private(path: Path, content: bytes) -> None:
    """Writes a file that only its owner can read."""
    path.unlink(missing_ok=True)  # an old file would keep its mode
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
