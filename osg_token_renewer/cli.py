"""The parser, the dispatch, and the one place where an exception becomes an exit status."""

from __future__ import annotations

import atexit
import errno
import gc
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Optional

from osg_token_renewer import __version__
from osg_token_renewer.commands import check, output, renew, status
from osg_token_renewer.commands.parser import Parser, add_config
from osg_token_renewer.errors import REPORT, ConfigError, Exit, RenewerError
from osg_token_renewer.text import escaped

COMMANDS = (renew, check, status)
# A standard output on a full disk fails with these.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
# Seconds that the message of an error may take.
LAST_WORDS = 60
_logger = logging.getLogger(__name__)


def main(argv: Optional[Sequence[str]] = None) -> int:
    """The operator's command; returns the exit status."""
    output.make_printable()
    parser = build_parser()
    arguments = list(sys.argv[1:] if argv is None else argv)
    args = parser.parse_args(arguments)
    if args.run is None:
        args = parser.parse_args([*arguments, "renew"])
    output.set_up_log(args.verbose - args.quiet)
    # Nothing is collected when the process ends: a tenth of the time of a run with nothing due.
    atexit.register(gc.freeze)
    return _bounded(lambda: int(args.run(args)))


def setup_main(argv: Optional[Sequence[str]] = None) -> int:
    """`osg-token-renewer-setup`; returns the exit status."""
    from osg_token_renewer.commands import setup

    output.make_printable()
    args = setup.build_parser().parse_args(sys.argv[1:] if argv is None else argv)
    output.set_up_log(args.verbose)
    return _bounded(lambda: int(setup.run(args)))


def build_parser() -> Parser:
    parser = Parser(
        prog="osg-token-renewer",
        description="Keeps bearer tokens in files fresh. With no command, renews the tokens that are due.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    add_config(parser)
    volume = parser.add_mutually_exclusive_group()
    volume.add_argument("-v", "--verbose", action="store_true", help="say more")
    volume.add_argument("-q", "--quiet", action="store_true", help="only warnings and errors")
    parser.set_defaults(run=None)
    subparsers = parser.add_subparsers(
        prog=parser.prog, metavar="COMMAND", title="commands", parser_class=Parser
    )
    for command in COMMANDS:
        command.add_parser(subparsers)
    return parser


def _bounded(command: Callable[[], int]) -> int:
    """The boundary: whatever happens inside becomes a message and an exit status."""
    try:
        try:
            status = command()
        except BaseException:
            # Perhaps nobody reads the message that follows: the process ends all the same, by SIGALRM.
            signal.alarm(LAST_WORDS)
            raise
        sys.stdout.flush()
    except ConfigError as error:
        for problem in error.problems:
            _logger.log(logging.WARNING if problem.warning else logging.ERROR, "%s", problem.text)
        _logger.error("the configuration is wrong: nothing was attempted; see: osg-token-renewer check")
        return error.exit_status
    except RenewerError as error:
        _logger.error("%s", "; ".join(filter(None, (escaped(error.message), error.hint))))
        return error.exit_status
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # `status | head`: the reader has seen enough. Python would complain about stdout when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            _logger.error("the output cannot be written: %s", error.strerror)
            return Exit.FAILED
        return _report_bug(error)
    finally:
        output.release()
        signal.alarm(0)
    return status


def _report_bug(error: Exception) -> int:
    # The frames, but not the exception's text: it may hold a secret.
    frames = "".join(traceback.format_tb(error.__traceback__))
    kind = type(error).__name__
    _logger.critical("a bug in osg-token-renewer %s: %s; %s\n%s", __version__, kind, REPORT, frames)
    return Exit.BUG
