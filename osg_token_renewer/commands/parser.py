"""How both programs read their command lines."""

from __future__ import annotations

import argparse
import sys
from typing import Any, NoReturn

from osg_token_renewer import config
from osg_token_renewer.errors import Exit
from osg_token_renewer.text import escaped


def _format_unseen(prog: str) -> argparse.HelpFormatter:
    """For text that argparse formats only to check it. The usual formatter would ask the terminal for its
    width, which imports compression libraries."""
    return argparse.HelpFormatter(prog, width=80)


class Parser(argparse.ArgumentParser):
    """Takes no abbreviated options: a later option must not change what a unit file or a cron line means."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=_format_unseen, **settings)

    def format_help(self) -> str:
        self.formatter_class = argparse.HelpFormatter
        return super().format_help()

    def format_usage(self) -> str:
        self.formatter_class = argparse.HelpFormatter
        return super().format_usage()

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(Exit.USAGE, f"{self.prog}: {escaped(message)}\n")


def add_config(parser: Parser) -> None:
    default = f"${config.VARIABLE}, else {config.MAIN}"
    parser.add_argument("--config", metavar="FILE", help=f"main configuration file (default: {default})")
