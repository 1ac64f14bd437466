"""The exit codes of all commands."""

DONE = 0
"""The command succeeded, even if some runs of a study failed or a verdict is undetermined."""
FAULT = 2
"""A mistake of the user or a fault of the machine, explained on standard error; or a study without a trained run."""
STOPPED = 130
"""Stopped by Ctrl-C, SIGTERM or SIGHUP; stored data are intact."""
