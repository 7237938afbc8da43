"""INI text to sections: the standard configparser, which also tells where each value stands, and goes on
after an error.

What the standard `ConfigParser` with its BasicInterpolation reads, this reads as the same values. It adds
drop-in files, the place (file and line) of each section and option, and an interpolation in which a lone `%`
is a `%`."""

from __future__ import annotations

import configparser
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Optional, TextIO

from osg_token_renewer.model import Place, Problem
from osg_token_renewer.system import trusted_files

DEFAULT = configparser.DEFAULTSECT
_HEADER = configparser.ConfigParser.SECTCRE
_REFERENCE = re.compile(r"%(?:%|\(([^)]+)\)s)")
# What may be somebody's idea of an option. Anything else may be a line of a secret, wrapped by hand, and is
# not shown.
_SHOWABLE = re.compile(r"[a-z][a-z_-]{0,39}")


class Value(NamedTuple):
    text: str
    place: Place


@dataclass
class Section:
    """One section of all files together: `options` has its own values and those of [DEFAULT]."""

    name: str
    place: Place
    options: dict[str, Value] = field(default_factory=dict)
    # Options that stand in the section itself and that no other option of it refers to.
    own: frozenset[str] = frozenset()
    # Options with a reference that leads nowhere. As with the standard parser this matters only where the
    # option is asked for: what [DEFAULT] says of `%(account)s` is no problem of a section without an account.
    broken: dict[str, Problem] = field(default_factory=dict)


def read(files: list[str]) -> tuple[list[Section], list[Problem]]:
    """The sections of all files, in the order of their first appearance, and everything that is wrong with
    the text.

    A later file adds sections and options, and overrides single options. A file that cannot be read is a
    problem, and the only one if it is the first: without that, what the others lack is not worth telling. So
    is one that cannot be believed: what was read is what is judged."""
    recorder = _Recorder()
    problems: list[Problem] = []
    for file in files:
        try:
            # Not the locale's encoding, which under a service manager is often ASCII; any byte may stand in a
            # comment.
            with open(
                file, encoding="utf-8-sig", errors="surrogateescape", opener=trusted_files.open_regular
            ) as stream:
                problems += [
                    Problem(Place(file), flaw)
                    for flaw in trusted_files.find_flaws(file, descriptor=stream.fileno())
                ]
                recorder.read(stream, file)
        except OSError as error:
            problems.append(Problem(Place(file), f"cannot be read: {error.strerror}"))
            if file == files[0]:
                return [], problems
    return list(recorder.sections()), problems + recorder.problems


def showable(option: str) -> bool:
    """Whether a message may show this name of an option: it looks like a name, and not like a secret in the
    wrong place."""
    return bool(_SHOWABLE.fullmatch(option))


class _Recorder:
    """Follows a configparser while it reads: which line is at hand, which section it is in, what it sees a
    second time."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self._interpolation = _Lenient()
        self._parser = configparser.ConfigParser(strict=False, interpolation=self._interpolation)
        # Both are documented ways to customise the parser: it matches each header line against SECTCRE and
        # passes the name of each option that it reads to optionxform, in the order of the lines.
        self._parser.SECTCRE = self  # type: ignore[assignment]
        self._parser.optionxform = self._option  # type: ignore[method-assign,assignment]
        self._reading = False
        self._file = ""
        self._line = 0
        self._section: Optional[str] = None
        self._seen: dict[object, int] = {}
        self._places: dict[tuple[str, Optional[str]], Place] = {}
        # How a section's title was written first.
        self._spelling: dict[str, str] = {}

    def read(self, stream: TextIO, file: str) -> None:
        self._file, self._line, self._section, self._seen = file, 0, None, {}
        self._reading = True
        try:
            self._parser.read_file(self._lines(stream), file)
        except configparser.ParsingError as error:
            for line, _content in error.errors:
                self._problem(line, "is neither a section, an option, nor a comment")
        except configparser.Error:
            # A way to fail that a later Python may add: its message may show the line, so only the place is
            # told.
            self._problem(self._line, "cannot be parsed")
        finally:
            self._reading = False

    def sections(self) -> Iterator[Section]:
        for name in self._parser.sections():
            yield self._resolved(name)

    def match(self, text: str) -> Optional[re.Match[str]]:
        """Stands in for SECTCRE.match."""
        # Nearly every line is an option.
        found = _HEADER.match(text) if text.startswith("[") else None
        if found:
            name = title = found["header"]
            normal = " ".join(name.split())
            if DEFAULT not in (name, normal):
                # A drop-in may have other blanks in the title of a section that it adds to.
                name = self._spelling.setdefault(normal, name)
                found = _HEADER.match(f"[{name}]")
            self._section = name
            # The standard parser minds a second [DEFAULT] only for an option that stands in both.
            first = self._line if name == DEFAULT else self._seen.setdefault(normal, self._line)
            if first != self._line:
                self._problem(self._line, f"stands twice in this file, first in line {first}", title)
            self._places.setdefault((name, None), self._here())
        return found

    def _lines(self, stream: TextIO) -> Iterator[str]:
        for self._line, text in enumerate(stream, 1):
            if self._section is None and not self._may_come_first(text.strip()):
                # configparser would stop at this line.
                self._problem(self._line, "stands before any section")
                yield "\n"
            else:
                yield text

    @staticmethod
    def _may_come_first(text: str) -> bool:
        return not text or text[0] in "#;" or _HEADER.match(text) is not None

    def _option(self, name: str) -> str:
        """Stands in for optionxform, which configparser also calls at each look-up."""
        name = name.lower()
        if self._reading and self._section is not None:
            key = self._section, name
            first = self._seen.setdefault(key, self._line)
            if first != self._line:
                shown = name if showable(name) else "an option"
                self._problem(
                    self._line, f"stands twice in this section, first in line {first}", self._section, shown
                )
            self._places[key] = self._here()
        return name

    def _resolved(self, name: str) -> Section:
        section = Section(name, self._places[name, None])
        raw = dict(self._parser.items(name, raw=True))
        referenced: set[str] = set()
        for option in self._parser.options(name):
            text = raw[option]
            place = self._places.get((name, option)) or self._places[DEFAULT, option]
            if text and "%" in text:
                self._expand(section, option, place, referenced)
            else:
                section.options[option] = Value(text or "", place)
        section.own = frozenset(
            option for option in raw if (name, option) in self._places and option not in referenced
        )
        return section

    def _expand(self, section: Section, option: str, place: Place, referenced: set[str]) -> None:
        self._interpolation.referenced = referenced
        try:
            section.options[option] = Value(self._parser.get(section.name, option), place)
        except configparser.InterpolationMissingOptionError:
            what = "refers with %(…)s to an option that is not there; a percent sign before a parenthesis is written %%"
            section.broken[option] = Problem(place, what, section.name, option)
        except configparser.InterpolationError:
            section.broken[option] = Problem(
                place, "refers to itself, through other options", section.name, option
            )

    def _here(self) -> Place:
        return Place(self._file, self._line)

    def _problem(
        self, line: int, what: str, section: Optional[str] = None, option: Optional[str] = None
    ) -> None:
        self.problems.append(Problem(Place(self._file, line), what, section, option))


class _Lenient(configparser.Interpolation):
    """BasicInterpolation, but for a `%` that is neither `%%` nor `%(option)s`: it means itself."""

    def __init__(self) -> None:
        self.referenced: set[str] = set()

    def before_get(
        self,
        parser: Any,
        section: str,
        option: str,
        value: str,
        defaults: Mapping[str, str],
    ) -> str:
        return self._expand(parser, section, option, value, defaults, 1)

    def _expand(
        self, parser: Any, section: str, option: str, value: str, known: Mapping[str, str], depth: int
    ) -> str:
        if depth > configparser.MAX_INTERPOLATION_DEPTH:
            raise configparser.InterpolationDepthError(option, section, "")

        def replacement(found: re.Match[str]) -> str:
            if found[1] is None:
                return "%"
            name = parser.optionxform(found[1])
            if name not in known:
                raise configparser.InterpolationMissingOptionError(option, section, "", name)
            self.referenced.add(name)
            text = known[name] or ""
            return self._expand(parser, section, option, text, known, depth + 1) if "%" in text else text

        return _REFERENCE.sub(replacement, value)
