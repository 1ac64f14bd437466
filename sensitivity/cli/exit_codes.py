"""The exit codes of every command; no command has another."""

DONE = 0
"""The command has done its work; a study with some failed runs, or a verdict that is undetermined, is its work too."""
FAULT = 2
"""A mistake of the user's or a fault of the machine, explained on standard error; or a study with no trained run."""
STOPPED = 130
"""Stopped by Ctrl-C, SIGTERM or SIGHUP; what is stored is whole."""
