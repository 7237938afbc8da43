"""The scripted user: logs in at the issuer's pages and answers a device's request, as a person with a browser
would."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from html.parser import HTMLParser
from urllib.parse import urljoin

import requests

TIMEOUT = 60.0
MOST_PAGES = 12  # a login takes six; the user gives up on a loop


class UnexpectedPage(Exception):
    """The issuer showed a page that the scripted user cannot answer."""


@dataclass
class Form:
    """A form of a page: its target, its named fields with their values, and its named buttons."""

    identity: str
    action: str
    fields: dict[str, str] = field(default_factory=dict)
    buttons: dict[str, str] = field(default_factory=dict)


class _Page(HTMLParser):
    """Collects the visible text and the forms of a page. A field may stand elsewhere and name its form by
    id."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.forms: list[Form] = []
        self.text = ""
        self._hidden = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.forms.append(Form(given.get("id", ""), given.get("action", "")))
        elif tag in ("input", "button") and given.get("name"):
            owner = self._owner(given.get("form"))
            if owner is not None:
                (owner.buttons if tag == "button" else owner.fields)[given["name"]] = given.get("value", "")
        self._hidden = tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:  # noqa: ARG002
        self._hidden = False

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.text = " ".join((self.text + " " + data).split())

    def _owner(self, identity: str | None) -> Form | None:
        if identity is None:
            return self.forms[-1] if self.forms else None
        return next((form for form in self.forms if form.identity == identity), None)


def approve(
    verification_uri: str,
    user_code: str | None = None,
    *,
    ca_file: str | os.PathLike[str],
    login: str = "alice",
) -> None:
    """Approves a device's request as the user `login`: at a complete verification URI, or with a user code.

    Returns when the issuer has confirmed it; otherwise raises UnexpectedPage.
    """
    text = _walk(verification_uri, user_code, ca_file=ca_file, login=login, button="confirm")
    if "success" not in text.lower():
        raise UnexpectedPage(f"approved, but the issuer says: {text}")


def deny(
    verification_uri: str,
    user_code: str | None = None,
    *,
    ca_file: str | os.PathLike[str],
    login: str = "alice",
) -> None:
    """Like `approve`, but denies."""
    text = _walk(verification_uri, user_code, ca_file=ca_file, login=login, button="abort")
    if "interrupted" not in text.lower():
        raise UnexpectedPage(f"refused, but the issuer says: {text}")


def _walk(
    uri: str, user_code: str | None, *, ca_file: str | os.PathLike[str], login: str, button: str
) -> str:
    """Answers page after page; returns the text of the first page that asks for nothing more."""
    with requests.Session() as session:
        session.trust_env = False  # otherwise $REQUESTS_CA_BUNDLE and proxies would come first
        session.verify = os.fspath(ca_file)
        response = session.get(uri, timeout=TIMEOUT)
        answered: set[str] = set()
        for _ in range(MOST_PAGES):
            page = _Page(response.text)
            if not response.ok:
                raise UnexpectedPage(f"{response.url}: {response.status_code}: {page.text}")
            answer = _answer(page, answered, user_code=user_code, login=login, button=button)
            if answer is None:
                return page.text
            action, data = answer
            response = session.post(urljoin(response.url, action), data=data, timeout=TIMEOUT)
        raise UnexpectedPage(f"the login does not end after {MOST_PAGES} pages; the last page: {page.text}")


def _answer(  # noqa: C901
    page: _Page, answered: set[str], *, user_code: str | None, login: str, button: str
) -> tuple[str, dict[str, str]] | None:
    """The form to send and its data; None if nothing is left to answer."""
    if not page.forms:
        return None
    form = page.forms[0]
    data = dict(form.fields)
    kind = data.get("prompt") or ("decision" if "confirm" in data else "code")
    if kind in answered and kind == "decision":
        raise UnexpectedPage(f"asked to decide twice: {page.text}")
    if kind == "login":
        data.update(login=login, password="any will do")
    elif kind == "decision":
        if button == "abort":
            del data["confirm"]
            data["abort"] = form.buttons.get("abort") or "yes"
    elif kind == "code":
        if "decision" in answered or ("code given" in answered):
            return None  # the form is shown again, with the result of the last try
        if not data.get("user_code"):
            if user_code is None:
                raise UnexpectedPage("asked for a user code, and none is known")
            data["user_code"] = user_code
        answered.add("code given")
    elif kind != "consent":
        raise UnexpectedPage(f"a form of kind {kind}: {page.text}")
    answered.add(kind)
    return form.action, data
