"""Sections to the model: every option checked, every problem with its place."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Optional

from osg_token_renewer import options
from osg_token_renewer.config.ini import Section, showable
from osg_token_renewer.errors import Local
from osg_token_renewer.model import Account, Config, Options, Place, Problem, Secret, TokenSpec
from osg_token_renewer.options import Option, SecretFile
from osg_token_renewer.sinks.base import Sink
from osg_token_renewer.sinks.registry import SINKS
from osg_token_renewer.sources.base import Source
from osg_token_renewer.sources.registry import SOURCES
from osg_token_renewer.system import secret_files

ACCOUNT = (
    Option("source", options.choice(*SOURCES)),
    Option("timeout", options.time_limit, default=60),
    Option("issuer", options.endpoint),
)
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
    Option("run_timeout", options.time_limit, default=Options.run_timeout),
    Option("spread", options.seconds, default=Options.spread),
)
_KINDS = ("account", "token", "renewer")


@dataclass
class _Reading:
    """What has been found so far."""

    problems: list[Problem] = field(default_factory=list)
    accounts: dict[str, Section] = field(default_factory=dict)
    tokens: dict[str, Section] = field(default_factory=dict)
    renewer: Optional[Section] = None

    def problem(
        self, place: Place, what: str, section: str, option: Optional[str] = None, warning: bool = False
    ) -> None:
        self.problems.append(Problem(place, what, section, option, warning))


def build(sections: Sequence[Section], files: Sequence[str]) -> tuple[Config, list[Problem]]:
    """The configuration, and everything that is wrong with it: it is of use only when no problem is an
    error."""
    reading = _Reading()
    for section in sections:
        _sort(section, reading)
    used = {value.text for section in reading.tokens.values() if (value := section.options.get("account"))}
    accounts = {
        name: _account(name, section, name in used, reading) for name, section in reading.accounts.items()
    }
    tokens = [_token(name, section, reading) for name, section in reading.tokens.items()]
    _paths_are_distinct(reading)
    renewer = _values(reading.renewer, RENEWER, known_besides=(), reading=reading) if reading.renewer else {}
    config = Config(
        {name: account for name, account in accounts.items() if account},
        tuple(token for token in tokens if token),
        Options(**(renewer or {})),
        tuple(files),
    )
    return config, reading.problems


def _sort(section: Section, reading: _Reading) -> None:
    """The original splits a section's title at white space, so `[ token  x ]` is the token x."""
    words = section.name.split()
    kind = words[0] if words else ""
    if kind == "renewer" and len(words) == 1:
        reading.renewer = section
        return
    if kind not in ("account", "token"):
        close = _close(kind, _KINDS)
        hint = f"; did you mean {close[0]}?" if close else ""
        reading.problem(section.place, f"is not a section of this program{hint}", section.name)
        return
    if len(words) != 2:
        reading.problem(section.place, f"must be [{kind} NAME], the name without white space", section.name)
        return
    bad = options.bad_name(words[1])
    if bad:
        # No token can use an account of such a name; the original does not look at what no token uses.
        reading.problem(section.place, bad, section.name, warning=kind == "account")
        return
    named = reading.accounts if kind == "account" else reading.tokens
    named[words[1]] = section


def _account(name: str, section: Section, used: bool, reading: _Reading) -> Optional[Account]:
    """None when something is wrong with it. The original looks only at accounts that a token uses: nothing
    else is an error."""
    before = len(reading.problems)
    account = _checked_account(name, section, reading)
    if not used:
        reading.problems[before:] = [replace(problem, warning=True) for problem in reading.problems[before:]]
    return account


def _checked_account(name: str, section: Section, reading: _Reading) -> Optional[Account]:
    every = [option for source in SOURCES.values() for option in source.OPTIONS]
    source = _source(section, reading)
    if source is None:
        _unknown(section, options.known([*ACCOUNT, *every]), reading)
        return None
    _not_for_this_source(section, source, reading)
    values = _values(section, [*ACCOUNT, *source.OPTIONS], options.known(every), reading)
    if values is None:
        return None
    _secrets_are_guarded(section, values, source.OPTIONS, reading)
    own = {option.name: values[option.name] for option in source.OPTIONS}
    try:
        settings = source.settings(own)
    except ValueError as error:
        reading.problem(section.place, str(error), section.name)
        return None
    return Account(name, source.NAME, settings, float(values["timeout"]), values["issuer"])


def _not_for_this_source(section: Section, source: Source, reading: _Reading) -> None:
    if len(_marked(section)) > 1:
        # Which of them counts is said already.
        return
    others = {name for other in SOURCES.values() for name in options.known(other.OPTIONS)}
    for name in sorted(section.own & others - set(options.known(source.OPTIONS))):
        reading.problem(
            _place(section, name),
            f"is not used by accounts of {source.NAME}",
            section.name,
            name,
            warning=True,
        )


def _marked(section: Section) -> list[Source]:
    """The sources whose marker the section has."""
    return [source for source in SOURCES.values() if _given(section, source.MARKER)]


def _source(section: Section, reading: _Reading) -> Optional[Source]:
    if "source" in section.broken:
        reading.problems.append(section.broken["source"])
        return None
    given = section.options.get("source")
    if given and given.text:
        if given.text not in SOURCES:
            reading.problem(given.place, f"must be one of {', '.join(SOURCES)}", section.name, "source")
        return SOURCES.get(given.text)
    marked = _marked(section)
    if not marked:
        wanted = " or ".join(source.MARKER for source in SOURCES.values())
        reading.problem(section.place, f"needs {wanted}", section.name)
        return None
    if len(marked) > 1:
        what = f"both {marked[0].MARKER} and {marked[1].MARKER} are given: {marked[0].MARKER} counts"
        reading.problem(_place(section, marked[1].MARKER), what, section.name, marked[1].MARKER, warning=True)
    return marked[0]


def _given(section: Section, option: str) -> bool:
    value = section.options.get(option)
    return option in section.broken or bool(value and value.text)


def _place(section: Section, option: str) -> Place:
    return section.options[option].place if option in section.options else section.broken[option].place


def _token(name: str, section: Section, reading: _Reading) -> Optional[TokenSpec]:
    sink = _sink(section)
    every = [option for other in SINKS.values() for option in other.OPTIONS]
    values = _values(section, [*TOKEN, *sink.OPTIONS], options.known(every), reading)
    account = section.options.get("account")
    if (
        account
        and not options.bad_name(account.text)
        and account.text
        and account.text not in reading.accounts
    ):
        reading.problem(account.place, "there is no [account] section of this name", section.name, "account")
        return None
    if values is None:
        return None
    own = {option.name: values.pop(option.name) for option in sink.OPTIONS}
    claims, on_expiry = values.pop("claims"), values.pop("on_expiry")
    return TokenSpec(
        name=name,
        sink=sink.NAME,
        destination=sink.settings(own),
        enforce_claims=claims == "enforce",
        remove_expired=on_expiry == "remove",
        **values,
    )


def _sink(section: Section) -> Sink:
    """The sink whose marker the section has; the first one if it has none."""
    marked = (sink for sink in SINKS.values() if _given(section, sink.MARKER))
    return next(marked, next(iter(SINKS.values())))


def _values(
    section: Section, wanted: Sequence[Option], known_besides: Iterable[str], reading: _Reading
) -> Optional[dict[str, Any]]:
    """The parsed options of a section; None when one is missing or malformed. An empty value is an absent
    one."""
    known = (*options.known(wanted), *known_besides)
    if not section.own.issubset(known):
        _unknown(section, known, reading)
    values: dict[str, Any] = {}
    well = True
    for option in wanted:
        if option.name in section.broken:
            well = False
            reading.problems.append(section.broken[option.name])
            continue
        value = section.options.get(option.name)
        if value is None or not value.text:
            if option.required:
                well = False
                reading.problem(section.place, "is missing", section.name, option.name)
            values[option.name] = option.default
            continue
        try:
            values[option.name] = option.parse(value.text)
        except ValueError as error:
            well = False
            reading.problem(value.place, str(error), section.name, option.name)
    return values if well else None


def _unknown(section: Section, known: Sequence[str], reading: _Reading) -> None:
    for name in sorted(section.own.difference(known)):
        close = _close(name, known)
        hint = f"; did you mean {close[0]}?" if close else ""
        shown = name if close or showable(name) else None
        reading.problem(
            _place(section, name),
            f"is not an option here and is ignored{hint}",
            section.name,
            shown,
            warning=True,
        )


def _close(name: str, known: Sequence[str]) -> list[str]:
    """The nearest known name, if one is near."""
    import difflib

    return difflib.get_close_matches(name, known, 1)


def _paths_are_distinct(reading: _Reading) -> None:
    first: dict[str, str] = {}
    for name, section in reading.tokens.items():
        value = section.options.get("token_path")
        if value is None or not value.text:
            continue
        path = os.path.normpath(value.text)
        other = first.setdefault(path, name)
        if other != name:
            reading.problem(value.place, f"is also the path of [token {other}]", section.name, "token_path")


def _secrets_are_guarded(
    section: Section, values: dict[str, Any], of_source: Iterable[Option], reading: _Reading
) -> None:
    """Refuses secret files that others can change; warns of secrets that others can read, and of secret files
    that are not there."""
    for option in of_source:
        value = values[option.name]
        if not isinstance(value, (Secret, SecretFile)):
            continue
        place = section.options[option.name].place
        if isinstance(value, Secret):
            with suppress(OSError):
                if secret_files.others_can_read(place.file):
                    what = f"others can read this secret: chmod o-rwx {place.file}"
                    reading.problem(place, what, section.name, option.name, warning=True)
        else:
            _file_is_guarded(value, place, section.name, option.name, reading)


def _file_is_guarded(file: SecretFile, place: Place, section: str, option: str, reading: _Reading) -> None:
    try:
        for flaw in secret_files.find_flaws(file):
            reading.problem(place, flaw, section, option)
        path = secret_files.find_path(file)
        if secret_files.others_can_read(path):
            reading.problem(place, f"others can read it: chmod o-rwx {path}", section, option, warning=True)
    except FileNotFoundError:
        reading.problem(place, "there is no such file", section, option, warning=True)
    except (OSError, Local):
        # What this user may not look at, others may not either, as far as can be told; or a credential of the
        # service, looked at from outside of it.
        return
