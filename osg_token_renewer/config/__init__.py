"""The configuration: files to model, or every problem at once."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Optional

from osg_token_renewer.config import ini, schema
from osg_token_renewer.errors import ConfigError
from osg_token_renewer.model import Config, Place, Problem

MAIN = "/etc/osg/token-renewer/config.ini"
VARIABLE = "OSG_TOKEN_RENEWER_CONFIG_PATH"


def main_file(given: Optional[str] = None) -> str:
    return given or os.environ.get(VARIABLE) or MAIN


def drop_ins(main: str) -> str:
    """The directory of the drop-ins to this main file."""
    return os.path.join(os.path.dirname(main), "config.d")


def files(main: Optional[str] = None) -> list[str]:
    """The main file and its drop-ins (`config.d/*.ini` beside it) in name order; raises ConfigError if those
    cannot be listed."""
    main = main_file(main)
    directory = drop_ins(main)
    try:
        names = os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        names = []
    except OSError as error:
        raise ConfigError([Problem(Place(directory), f"cannot be listed: {error.strerror}")]) from error
    # As with a shell's *.ini, a hidden file is none of them: an editor's backup, say.
    return [
        main,
        *(
            os.path.join(directory, name)
            for name in sorted(names)
            if name.endswith(".ini") and name[0] != "."
        ),
    ]


def load(main: Optional[str] = None) -> Config:
    """Reads everything, the problems of all files together.

    Raises ConfigError when one of them is more than a warning; warnings alone are in the result.
    """
    paths = files(main)
    sections, problems = ini.read(paths)
    config, more = schema.build(sections, paths)
    problems = sorted([*problems, *more], key=_order)
    if any(not problem.warning for problem in problems):
        raise ConfigError(problems)
    return replace(config, warnings=tuple(problems))


def _order(problem: Problem) -> tuple[str, int]:
    return problem.place.file, problem.place.line or 0
