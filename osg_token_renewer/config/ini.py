"""Reads INI files into sections, with the place of each value, and goes on after an error.

Whatever the standard `ConfigParser` with its BasicInterpolation accepts is read as the same values. In
addition there are drop-in files, the file and line of each section and option, and `%` may stand for itself.
"""

from __future__ import annotations

import configparser
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Optional, TextIO

from osg_token_renewer.model import Place, Problem
from osg_token_renewer.system.trusted_files import find_flaws, open_regular

DEFAULT = configparser.DEFAULTSECT
_HEADER = configparser.ConfigParser.SECTCRE
# A `%`, alone or at the start of what BasicInterpolation replaces; the group is the option referred to.
_PERCENT = re.compile(r"%(?:%|\(([^)]+)\)s)?")
# What a message may show as an option's name. Anything else may be a part of a misplaced secret.
SHOWABLE = re.compile(r"[a-z][a-z_-]{0,39}")


class Value(NamedTuple):
    """An option's text, and where it is written."""

    text: str
    place: Place


@dataclass
class Section:
    """One section of all files together; `options` includes those of [DEFAULT]."""

    name: str
    place: Place
    options: dict[str, Value] = field(default_factory=dict)
    # The options that the section has itself, without those to which another option of it refers.
    own: frozenset[str] = frozenset()
    # The options with a reference to nothing. This matters only if the option is used, as with the standard
    # parser: a section without an account may inherit `%(account)s` from [DEFAULT].
    broken: dict[str, Problem] = field(default_factory=dict)

    def get_text(self, option: str) -> str:
        """The option's text; empty if it is absent or broken."""
        return self.options[option].text if option in self.options else ""

    def is_given(self, option: str) -> bool:
        """Whether the option has a text, even a broken one."""
        return option in self.broken or bool(self.get_text(option))

    def find_place(self, option: str) -> Place:
        """Where the option is written, or the section if it is absent."""
        return (self.broken.get(option) or self.options.get(option) or self).place


def read(files: list[str]) -> tuple[list[Section], list[Problem]]:
    """The sections of all files, in the order of their first appearance, and all problems with the text.

    A later file adds to sections, and overrides options. If the first file cannot be read, no other is.
    """
    recorder = _Recorder()
    problems: list[Problem] = []
    for file in files:
        try:
            # UTF-8, because a service manager's locale is often ASCII; a comment may hold any byte.
            with open(file, encoding="utf-8-sig", errors="surrogateescape", opener=open_regular) as stream:
                flaws = find_flaws(file, descriptor=stream.fileno())
                problems += [Problem(Place(file), flaw) for flaw in flaws]
                recorder.read(stream, file)
        except OSError as error:
            problems.append(Problem(Place(file), f"cannot be read: {error.strerror}"))
            if file == files[0]:
                return [], problems
    return recorder.sections(), problems + recorder.problems


class _Recorder:
    """Watches a configparser read, and notes the place of each section and option, and what appears twice."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self._parser = configparser.ConfigParser(strict=False, interpolation=_LenientInterpolation())
        # Two documented ways to customise the parser: it matches each header line against SECTCRE, and passes
        # the name of each option that it reads to optionxform, in the order of the lines.
        self._parser.SECTCRE = self  # type: ignore[assignment]
        self._parser.optionxform = self._record_option  # type: ignore[method-assign,assignment]
        self._file = ""
        self._line = 0
        # None before the first section of a file, and while no file is read.
        self._section: Optional[str] = None
        # The line of each section and option of the file.
        self._seen: dict[object, int] = {}
        self._places: dict[tuple[str, Optional[str]], Place] = {}
        # The title of each section as it was first written, by its words.
        self._titles: dict[str, str] = {}

    def read(self, stream: TextIO, file: str) -> None:
        """Adds a file's sections and options."""
        self._file, self._seen = file, {}
        try:
            self._parser.read_file(self._read_lines(stream), file)
        except configparser.ParsingError as error:
            for self._line, _content in error.errors:
                self._report("is neither a section, an option, nor a comment")
        except configparser.Error:
            # A later Python may add such an error. Its text may show the line, so only the place is reported.
            self._report("cannot be parsed")
        finally:
            self._section = None

    def sections(self) -> list[Section]:
        """All sections, with references resolved."""
        return [self._resolve(name) for name in self._parser.sections()]

    def match(self, text: str) -> Optional[re.Match[str]]:
        """Stands in for SECTCRE.match."""
        found = _HEADER.match(text) if text.startswith("[") else None
        if found:
            name = title = found["header"]
            words = " ".join(name.split())
            if DEFAULT not in (name, words):
                # A drop-in may write other blanks in the title of a section that it adds to.
                name = self._titles.setdefault(words, name)
                found = _HEADER.match(f"[{name}]")
            self._section = name
            # The standard parser allows a second [DEFAULT], unless an option appears in both.
            first = self._line if name == DEFAULT else self._seen.setdefault(words, self._line)
            if first != self._line:
                self._report(f"appears twice in this file, first in line {first}", title)
            self._places.setdefault((name, None), self._here())
        return found

    def _read_lines(self, stream: TextIO) -> Iterator[str]:
        for self._line, text in enumerate(stream, 1):
            stripped = text.strip()
            if self._section is None and stripped and stripped[0] not in "#;" and not _HEADER.match(stripped):
                # configparser would stop at this line.
                self._report("comes before any section")
                yield "\n"
            else:
                yield text

    def _record_option(self, name: str) -> str:
        """Stands in for optionxform, which configparser also calls at each look-up."""
        name = name.lower()
        if self._section is not None:
            key = self._section, name
            first = self._seen.setdefault(key, self._line)
            if first != self._line:
                shown = name if SHOWABLE.fullmatch(name) else "an option"
                self._report(f"appears twice in this section, first in line {first}", self._section, shown)
            self._places[key] = self._here()
        return name

    def _resolve(self, name: str) -> Section:
        section = Section(name, self._places[name, None])
        raw = dict(self._parser.items(name, raw=True))
        for option in self._parser.options(name):
            place = self._places.get((name, option)) or self._places[DEFAULT, option]
            if "%" in raw[option]:
                self._expand(section, option, place)
            else:
                section.options[option] = Value(raw[option], place)
        references = _PERCENT.findall("\n".join(raw.values()))
        own = {option for option in raw if (name, option) in self._places}
        section.own = frozenset(own.difference(map(self._parser.optionxform, references)))
        return section

    def _expand(self, section: Section, option: str, place: Place) -> None:
        try:
            section.options[option] = Value(self._parser.get(section.name, option), place)
            return
        except configparser.InterpolationMissingOptionError:
            what = (
                "refers with %(…)s to an option that does not exist; "
                "write %% for a percent sign before a parenthesis"
            )
        except configparser.InterpolationError:
            what = "refers to itself, through other options"
        section.broken[option] = Problem(place, what, section.name, option)

    def _here(self) -> Place:
        return Place(self._file, self._line)

    def _report(self, what: str, section: Optional[str] = None, option: Optional[str] = None) -> None:
        self.problems.append(Problem(self._here(), what, section, option))


class _LenientInterpolation(configparser.BasicInterpolation):
    """BasicInterpolation, except that a `%` stands for itself unless it begins `%%` or `%(option)s`."""

    def before_read(self, parser: Any, section: str, option: str, value: str) -> str:  # noqa: ARG002
        """Doubles each other `%`; configparser calls this again for the same value with each later file."""
        return _PERCENT.sub(lambda found: "%%" if found[0] == "%" else found[0], value)
