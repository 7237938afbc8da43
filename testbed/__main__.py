"""`python -m testbed`: runs an issuer to try things on, until Ctrl-C."""

from __future__ import annotations

import argparse
import os
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import requests

from testbed.issuer import Client, Issuer, TestbedError, write_private
from testbed.user import UnexpectedPage, approve

POLL_INTERVAL = 0.5


def main() -> int:
    args = _parser().parse_args()
    # A shell starts background jobs with SIGINT ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    settings: dict[str, Any] = {
        "latency_ms": args.latency,
        "access_token_ttl": args.ttl,
        "rotate": args.rotate,
    }
    with tempfile.TemporaryDirectory(prefix="testbed-") as temporary:
        directory = Path(args.dir or temporary).resolve()
        try:
            with Issuer(directory, port=args.port, settings=settings) as issuer:
                client = issuer.add_client(client_name="ready-made", client_secret=os.urandom(16).hex())
                print(_instructions(issuer, client, _secret_file(directory, client)), flush=True)
                _serve(issuer, approve_all=args.approve_all)
        except KeyboardInterrupt:
            return 0
        except TestbedError as error:
            print(f"testbed: {error}")
            return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m testbed", description="Runs a real OpenID provider on loopback, until Ctrl-C."
    )
    add = parser.add_argument
    add("--port", type=int, default=8443, help="0 takes a free port (default: %(default)s)")
    add("--dir", help="directory for its CA, key and secret (default: a temporary one)")
    add("--latency", type=int, default=0, metavar="MS", help="delay of each answer in milliseconds")
    lifetime = "lifetime of access tokens in seconds (default: %(default)s)"
    add("--ttl", type=int, default=3600, metavar="S", help=lifetime)
    add("--rotate", action="store_true", help="replace the refresh token at each refresh")
    add("--approve-all", action="store_true", help="approve each device's request as the user alice")
    return parser


def _secret_file(directory: Path, client: Client) -> Path:
    path = directory / "client-secret"
    write_private(path, f"{client.client_secret}\n".encode())
    return path


def _instructions(issuer: Issuer, client: Client, secret_file: Path) -> str:
    scope = "openid offline_access compute.read compute.create"
    return f"""\
issuer          {issuer.url}
CA file         {issuer.ca_file}
client id       {client.client_id}
client secret   in {secret_file}
token endpoint  {issuer.url}/token

to obtain a token by client credentials, write into /etc/osg/token-renewer/config.ini:
  [account testbed]
  client_id = {client.client_id}
  client_secret_file = {secret_file}
  issuer = {issuer.url}
  token_request_url = {issuer.url}/token
  ca_file = {issuer.ca_file}

to register an account with oidc-agent (with any login name and password):
  oidc-gen -w device --iss {issuer.url} --cp {issuer.ca_file} \\
      --scope "{scope}" --pw-file FILE --no-url-call NAME

Ctrl-C ends the issuer."""


def _serve(issuer: Issuer, *, approve_all: bool) -> None:
    while issuer.process.poll() is None:
        if approve_all:
            for code in issuer.pending_user_codes():
                _approve(issuer, code)
        time.sleep(POLL_INTERVAL)
    raise TestbedError(f"the issuer ended with status {issuer.process.returncode}")


def _approve(issuer: Issuer, code: str) -> None:
    try:
        approve(f"{issuer.url}/device", code, ca_file=issuer.ca_file)
        print(f"approved {code}", flush=True)
    except (UnexpectedPage, requests.RequestException) as error:
        print(f"could not approve {code}: {error}", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
