"""Runs a Python program and writes what it did besides computing: watch.py RESULT PROGRAM [ARGUMENT ...]

Python's audit events (PEP 578) show each process that it starts and each socket that it makes.
"""

from __future__ import annotations

import json
import runpy
import sys

WATCHED = ("subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.exec", "os.system", "socket.")


def main(result: str, program: str) -> None:
    seen: list[str] = []
    sys.addaudithook(lambda event, _: seen.append(event) if event.startswith(WATCHED) else None)
    status: object = 0
    try:
        runpy.run_path(program, run_name="__main__")
    except SystemExit as end:
        status = end.code or 0
    modules = sorted(sys.modules)
    with open(result, "w") as file:
        json.dump({"status": status, "events": seen, "modules": modules}, file)


if __name__ == "__main__":
    sys.argv = sys.argv[1:]
    main(sys.argv.pop(0), sys.argv[0])
