"""`check`: is the configuration right? Touches no network."""

from __future__ import annotations

import argparse
from typing import Any

from osg_token_renewer import config
from osg_token_renewer.errors import ConfigError, Exit
from osg_token_renewer.text import plural


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "check", help="check the configuration", description="Check the configuration; touches no network."
    )
    parser.add_argument("--strict", action="store_true", help="take warnings as errors")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    try:
        found = config.load(args.config)
    except ConfigError as error:
        print(*error.problems, sep="\n")
        return Exit.CONFIG
    for warning in found.warnings:
        print(warning)
    warnings = plural(len(found.warnings), "warning")
    if found.warnings and args.strict:
        errors = "an error" if len(found.warnings) == 1 else "errors"
        print(f"{warnings}, which --strict takes as {errors}")
        return Exit.CONFIG
    counts = [plural(len(found.accounts), "account"), plural(len(found.tokens), "token")]
    print(f"{found.files[0]}: {', '.join(counts + ([warnings] if found.warnings else []))}")
    return Exit.WELL
