"""What the programs of oidc-agent print, and what it means."""

from __future__ import annotations

import re
from typing import Optional

from osg_token_renewer.errors import DeadGrant, Failure, Local, Refused, Unavailable, Unreachable
from osg_token_renewer.model import Secret
from osg_token_renewer.sources.base import Fetched
from osg_token_renewer.system.process import Completed
from osg_token_renewer.text import line, outside

SETUP = "osg-token-renewer-setup {account}"
REAUTHENTICATE = "osg-token-renewer-setup --reauthenticate {account}"
AGENT_ENDED = "the next run starts another; if this lasts, see whether something ends it: journalctl -k"


def read_token(printed: str) -> Fetched:
    """What `oidc-token --all` prints: token, issuer, and expiry in seconds since 1970 (0: unknown), a line
    each."""
    token, issuer, expiry = [*printed.splitlines(), "", "", ""][:3]
    expires_at = float(expiry) if re.fullmatch(r"\s*[1-9][0-9]{0,10}\s*", expiry, re.ASCII) else None
    return Fetched(Secret(token), expires_at, line(issuer) or None)


# What the programs print when they fail (4.2.6 and 5.3.3, with several issuers): the first pattern that fits
# decides. Their exit status is always 1. The patterns are loose, since the text is not a stable interface;
# what fits none counts as temporary.
# fmt: off
_PATTERNS: tuple[tuple[str, type[Failure], str, Optional[str]], ...] = (
    # The issuer's own error codes (RFC 6749 section 5.2, RFC 8707 section 2) come first: text of the issuer
    # follows them, which may fit any other pattern.
    (r"^invalid_grant", DeadGrant,
     "the issuer refused the refresh token ({said})", f"run: {REAUTHENTICATE}"),
    (r"^(invalid_scope|invalid_target|access_denied)", Refused,
     "the issuer refused the scope or the audience ({said})",
     f"check audience and scope of this token, or run: {REAUTHENTICATE}"),
    (r"^(invalid|unauthorized)_client", Refused,
     "the issuer refused the client ({said})", f"register it anew: {SETUP}"),
    (r"^(invalid_request|received http status code 40[01])", Refused,
     "the issuer refused the request ({said})", f"run: {REAUTHENTICATE}"),
    (r"maximum number of tries|wrong password|decrypt", Refused,
     "the password does not open the account file, or that file is damaged ({said})",
     "correct the first line of the password_file of [account {account}]"),
    (r"no account config|no such account|oidc-dir does not exist", Refused,
     "oidc-agent has no account {account}", f"run: {SETUP}"),
    (r"connect to oidc-agent|not receive any response|not loaded", Local,
     "the oidc-agent of account {account} ended, or lost the account ({said})", AGENT_ENDED),
    (r"ssl|certificate", Unavailable,
     "the TLS certificate of the issuer of account {account} was not accepted ({said})",
     "register the account anew with the issuer's CA bundle: "
     "osg-token-renewer-setup --ca-file FILE {account}"),
    (r"permission denied|no space|read-only", Local,
     "oidc-agent could not use its files ({said})", "look at the home of its user"),
    # The program only guesses why, which helps nobody.
    (r"configuration endpoint|connect to url|disconnected", Unreachable,
     "the issuer of account {account} cannot be reached", None),
    (r"received http status code 50[234]", Unreachable,
     "the issuer of account {account} is out of order ({said})", None),
    (r"json", Unavailable,
     "the answer of the issuer of account {account} makes no sense ({said})", None),
)
# fmt: on

# Certain signs that the issuer did not use the refresh token: the endpoint was not known yet, its host has no
# address, or there were too many requests. "Disconnected" is none: the programs say it of a connection that
# was refused, and of an answer that was lost.
_NOT_PROCESSED = re.compile(
    r"configuration endpoint|connect to url|received http status code 429", re.IGNORECASE
)


def explain(done: Completed, account: str, what_failed: Optional[str] = None) -> Failure:
    """The Failure that a failed program means; `what_failed` is said where the program's text is unknown."""
    # The first line is the error. Advice for people at a prompt may follow, which is not ours.
    first = next((line for line in f"{done.stderr}\n{done.stdout}".splitlines() if line.strip()), "")
    said = outside(re.sub(r"^Error:\s*", "", first))
    again = 0.0 if _NOT_PROCESSED.search(said) else None
    for pattern, kind, what, hint in _PATTERNS:
        if re.search(pattern, said, re.IGNORECASE):
            message, remedy = what.format(account=account, said=said), hint and hint.format(account=account)
            return kind(message, remedy, retry_after=again if issubclass(kind, Unavailable) else None)
    what_failed = what_failed or f"the issuer of account {account} could not be asked"
    return Unavailable(f"{what_failed} ({said or f'exit status {done.status}'})", retry_after=again)
