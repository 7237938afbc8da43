"""This host: processes, files, users, locks, paths, signals and the log."""
