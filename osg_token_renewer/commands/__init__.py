"""One module a command: `add_parser` says what it takes; `run` does it and returns the exit status."""
