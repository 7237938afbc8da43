"""The configuration: reads its files into the model, or reports every problem at once."""

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
    """The path of the main file: the given one, else the environment's, else the usual one."""
    return given or os.environ.get(VARIABLE) or MAIN


def files(main: Optional[str] = None) -> list[str]:
    """The main file, then its drop-ins in name order; raises ConfigError if they cannot be listed."""
    main = main_file(main)
    directory = os.path.join(os.path.dirname(main), "config.d")
    try:
        names = os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        names = []
    except OSError as error:
        raise ConfigError([Problem(Place(directory), f"cannot be listed: {error.strerror}")]) from error
    # A hidden file may be an editor's backup.
    found = sorted(name for name in names if name.endswith(".ini") and not name.startswith("."))
    return [main, *(os.path.join(directory, name) for name in found)]


def load(main: Optional[str] = None) -> Config:
    """The configuration with its warnings; raises ConfigError with all problems if one is no warning."""
    paths = files(main)
    sections, problems = ini.read(paths)
    config, more = schema.build(sections, paths)
    problems = sorted([*problems, *more], key=lambda problem: (problem.place.file, problem.place.line or 0))
    if any(not problem.warning for problem in problems):
        raise ConfigError(problems)
    return replace(config, warnings=tuple(problems))
