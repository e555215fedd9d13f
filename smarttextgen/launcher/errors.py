"""What can go wrong with a stack on one machine.

LauncherError
├── PortTakenError          the port asked for is in use
├── DataDirBusyError        another stack runs on this data directory
├── ProgramMissingError     a program that a part needs is not installed
├── KeyBootstrapError       the API keys could not be made
└── PartFailedError         a part crashes again and again, or never gets ready
"""

from __future__ import annotations


class LauncherError(Exception):
    """Base of every error of the launcher; its text is a sentence for the person at the terminal."""


class PortTakenError(LauncherError):
    """The port asked for is in use."""


class DataDirBusyError(LauncherError):
    """Another stack runs on this data directory."""


class ProgramMissingError(LauncherError):
    """A program that a part needs is not installed."""


class KeyBootstrapError(LauncherError):
    """The API keys could not be made."""


class PartFailedError(LauncherError):
    """A part crashes again and again, or never gets ready; ``last_lines`` are the end of its log."""

    def __init__(self, message: str, *, part: str, last_lines: tuple[str, ...]) -> None:
        super().__init__(message)
        self.part = part
        self.last_lines = last_lines
