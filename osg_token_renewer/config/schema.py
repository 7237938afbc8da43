"""Turns sections into the model: checks every option, and reports every problem with its place."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Optional, TypeVar, Union

from osg_token_renewer import options
from osg_token_renewer.config.ini import SHOWABLE, Section
from osg_token_renewer.errors import Local
from osg_token_renewer.model import Account, Config, Place, Problem, RenewerSettings, Secret, TokenSpec
from osg_token_renewer.options import Option, SecretFile
from osg_token_renewer.sinks.base import Sink
from osg_token_renewer.sinks.registry import SINKS
from osg_token_renewer.sources.base import Source
from osg_token_renewer.sources.registry import SOURCES
from osg_token_renewer.system import secret_files

SOURCE = Option("source", options.choice(*SOURCES))
ACCOUNT = (SOURCE, Option("timeout", options.time_limit, default=60), Option("issuer", options.endpoint))
TOKEN = (
    Option("account", options.name, required=True),
    Option("audience", options.words, default=()),
    Option("scope", options.words, default=()),
    Option("min_lifetime", options.seconds),
    Option("claims", options.choice("warn", "enforce"), default="warn"),
    Option("on_expiry", options.choice("keep", "remove"), default="keep"),
)
RENEWER = (
    Option("workers", options.count),
    Option("state_dir", options.absolute_path),
    Option("runtime_dir", options.absolute_path),
    Option("run_timeout", options.time_limit, default=RenewerSettings.run_timeout),
    Option("spread", options.seconds, default=RenewerSettings.spread),
)

Kind = TypeVar("Kind", bound=Union[Source, Sink])


def build(sections: Sequence[Section], files: Sequence[str]) -> tuple[Config, list[Problem]]:
    """The configuration, and everything that is wrong with it; it is usable if all problems are warnings."""
    builder = _Builder()
    for section in sections:
        builder.add(section)
    return builder.build(files), builder.problems


class _Builder:
    """Collects the sections and their problems. A method that returns None has reported why."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self._accounts: dict[str, Section] = {}
        self._tokens: dict[str, Section] = {}
        self._renewer = Section("renewer", Place(""))

    def add(self, section: Section) -> None:
        """Sorts a section by the words of its title: `[ token  x ]` is the token x, as in the original."""
        kind, *names = section.name.split() or [""]
        if kind == "renewer" and not names:
            self._renewer = section
        elif kind not in ("account", "token"):
            hint = _suggest(kind, ("account", "token", "renewer"))
            self._report(section, None, f"is not a section of this program{hint}")
        elif len(names) != 1:
            self._report(section, None, f"must be [{kind} NAME], the name without white space")
        elif flaw := options.find_name_flaw(names[0]):
            # No token can use such an account, and the original ignores accounts that no token uses.
            self._report(section, None, flaw, warning=kind == "account")
        else:
            named = self._accounts if kind == "account" else self._tokens
            named[names[0]] = section

    def build(self, files: Sequence[str]) -> Config:
        """The model of all sections that are in order."""
        used = {section.get_text("account") for section in self._tokens.values()}
        accounts = [self._build_account(name, self._accounts[name], name in used) for name in self._accounts]
        tokens = [self._build_token(name, section) for name, section in self._tokens.items()]
        self._check_paths()
        self._report_unknown(self._renewer, RENEWER)
        return Config(
            {account.name: account for account in accounts if account},
            tuple(token for token in tokens if token),
            RenewerSettings(**(self._read_values(self._renewer, RENEWER) or {})),
            tuple(files),
        )

    def _build_account(self, name: str, section: Section, used: bool) -> Optional[Account]:
        """Problems of an account that no token uses are warnings: the original ignores such accounts."""
        before = len(self.problems)
        account = self._read_account(name, section)
        if not used:
            self.problems[before:] = [replace(problem, warning=True) for problem in self.problems[before:]]
        return account

    def _read_account(self, name: str, section: Section) -> Optional[Account]:
        self._report_unknown(section, [*ACCOUNT, *_list_options(SOURCES.values())])
        source = self._choose_source(section)
        if source is None:
            return None
        self._report_unused(section, source)
        values = self._read_values(section, [*ACCOUNT, *source.OPTIONS])
        if values is None:
            return None
        for option in source.OPTIONS:
            self._check_secret(section, option.name, values[option.name])
        try:
            settings = source.settings(values)
        except ValueError as error:
            self._report(section, None, str(error))
            return None
        return Account(name, source.NAME, settings, float(values["timeout"]), values["issuer"])

    def _choose_source(self, section: Section) -> Optional[Source]:
        if section.is_given(SOURCE.name):
            values = self._read_values(section, [SOURCE])
            return SOURCES[values[SOURCE.name]] if values else None
        marked = _find_marked(section, SOURCES.values())
        if not marked:
            self._report(section, None, f"needs {' or '.join(source.MARKER for source in SOURCES.values())}")
            return None
        if len(marked) > 1:
            first, second = marked[0].MARKER, marked[1].MARKER
            what = f"both {first} and {second} are given: {first} counts"
            self._report(section, second, what, warning=True)
        return marked[0]

    def _report_unused(self, section: Section, source: Source) -> None:
        """Warns of options that other sources read; if there are two markers, a warning says enough."""
        if len(_find_marked(section, SOURCES.values())) > 1:
            return
        read = [option.name for option in source.OPTIONS]
        others = {option.name for option in _list_options(SOURCES.values())}.difference(read)
        for name in sorted(section.own & others):
            self._report(section, name, f"is not used by accounts of {source.NAME}", warning=True)

    def _build_token(self, name: str, section: Section) -> Optional[TokenSpec]:
        sink = next(iter([*_find_marked(section, SINKS.values()), *SINKS.values()]))
        self._report_unknown(section, [*TOKEN, *_list_options(SINKS.values())])
        values = self._read_values(section, [*TOKEN, *sink.OPTIONS])
        account = section.get_text("account")
        if account and not options.find_name_flaw(account) and account not in self._accounts:
            self._report(section, "account", "there is no [account] section of this name")
            return None
        if values is None:
            return None
        return TokenSpec(
            name=name,
            sink=sink.NAME,
            destination=sink.settings(values),
            enforce_claims=values["claims"] == "enforce",
            remove_expired=values["on_expiry"] == "remove",
            **{name: values[name] for name in ("account", "audience", "scope", "min_lifetime")},
        )

    def _read_values(self, section: Section, wanted: Iterable[Option]) -> Optional[dict[str, Any]]:
        """The parsed options by name; None if one is missing or malformed. An empty option is absent."""
        before = len(self.problems)
        values = {}
        for option in wanted:
            text = section.get_text(option.name)
            if option.name in section.broken:
                self.problems.append(section.broken[option.name])
            elif option.required and not text:
                self.problems.append(Problem(section.place, "is missing", section.name, option.name))
            try:
                values[option.name] = option.parse(text) if text else option.default
            except ValueError as error:
                self._report(section, option.name, str(error))
        return values if len(self.problems) == before else None

    def _report_unknown(self, section: Section, known: Iterable[Option]) -> None:
        names = [option.name for option in known]
        for name in sorted(section.own.difference(names)):
            hint = _suggest(name, names)
            shown = name if hint or SHOWABLE.fullmatch(name) else None
            what = f"is not an option here and is ignored{hint}"
            self.problems.append(Problem(section.find_place(name), what, section.name, shown, True))

    def _check_paths(self) -> None:
        """Reports tokens with the same path."""
        first: dict[str, str] = {}
        for name, section in self._tokens.items():
            path = section.get_text("token_path")
            other = first.setdefault(os.path.normpath(path), name) if path else name
            if other != name:
                self._report(section, "token_path", f"is also the path of [token {other}]")

    def _check_secret(self, section: Section, option: str, value: object) -> None:
        """Refuses a secret file that others can change; warns of a secret that others can read."""
        try:
            if isinstance(value, Secret):
                path, what = section.find_place(option).file, "this secret"
            elif isinstance(value, SecretFile):
                path, what = secret_files.find_path(value), "it"
                for flaw in secret_files.find_flaws(value):
                    self._report(section, option, flaw)
            else:
                return
            if secret_files.others_can_read(path):
                self._report(section, option, f"others can read {what}: chmod o-rwx {path}", warning=True)
        except FileNotFoundError:
            self._report(section, option, "there is no such file", warning=True)
        except (OSError, Local):
            # This user may not look at it, so others probably may not either; or it is a credential of the
            # service, which exists only there.
            return

    def _report(self, section: Section, option: Optional[str], what: str, warning: bool = False) -> None:
        place = section.find_place(option) if option else section.place
        self.problems.append(Problem(place, what, section.name, option, warning))


def _find_marked(section: Section, kinds: Iterable[Kind]) -> list[Kind]:
    """The kinds of source or sink whose marker the section has."""
    return [kind for kind in kinds if section.is_given(kind.MARKER)]


def _list_options(kinds: Iterable[Union[Source, Sink]]) -> list[Option]:
    return [option for kind in kinds for option in kind.OPTIONS]


def _suggest(name: str, known: Sequence[str]) -> str:
    """A hint at the known name that is most similar; empty if none is similar."""
    import difflib

    close = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {close[0]}?" if close else ""
