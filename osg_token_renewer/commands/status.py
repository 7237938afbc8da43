"""`status`: how is each token? It looks at files and history and touches no network."""

from __future__ import annotations

import argparse
import os
import sys
import time
from typing import Any

from osg_token_renewer import config
from osg_token_renewer.engine.run import plan_all
from osg_token_renewer.errors import Exit
from osg_token_renewer.report import json
from osg_token_renewer.report.states import find_state


def add_parser(subparsers: Any) -> None:
    shown = "each token's state, time left, what it grants, its path and its last failure"
    description = f"Show {shown}; touches no network."
    parser = subparsers.add_parser("status", help="show the tokens", description=description)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    found = config.load(args.config)
    now = time.time()
    shown = [find_state(planned, now) for planned in plan_all(found, now)]
    if args.json:
        print(json.render(shown, now))
    else:
        from osg_token_renewer.report import table

        terminal = sys.stdout.isatty()
        width = os.get_terminal_size(sys.stdout.fileno()).columns if terminal else None
        sys.stdout.write(table.render(shown, now, width, terminal and "NO_COLOR" not in os.environ))
    return Exit.WELL if all(state.well for state in shown) else Exit.FAILED
