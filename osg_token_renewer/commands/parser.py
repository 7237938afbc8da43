"""How both programs read their command lines."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn

from osg_token_renewer.errors import Exit
from osg_token_renewer.text import escaped


class Parser(argparse.ArgumentParser):
    """No abbreviated options: what a unit file or a cron line says must not change its meaning with a later option."""

    def __init__(self, **settings: object) -> None:
        super().__init__(allow_abbrev=False, **settings)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(Exit.USAGE, f"{self.prog}: {escaped(message)}\n")
