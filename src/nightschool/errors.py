"""Errors a user can act on. Each class has a stable exit code; each message says what, where, and what to do."""

from __future__ import annotations


class NightschoolError(Exception):
    """Something a user can act on; the message is shown as it stands and the program ends with `exit_code`."""

    exit_code = 1


class SettingsError(NightschoolError):
    """A setting is unknown, malformed or cannot be used with another."""

    exit_code = 3


class WorkspaceError(NightschoolError):
    """The folder is no workspace, or a part of the workspace is missing."""

    exit_code = 4


class BusyError(NightschoolError):
    """Another process works on this workspace; `pid` names it where it is known."""

    exit_code = 5

    def __init__(self, message: str, pid: int | None = None) -> None:
        super().__init__(message)
        self.pid = pid


class CheckpointError(NightschoolError):
    """No checkpoint can be used, or the one asked for is damaged or belongs to another run."""

    exit_code = 6


class DataError(NightschoolError):
    """A data file or a row in it cannot be used."""

    exit_code = 7


class StorageError(NightschoolError):
    """The disk refused: full, read-only, gone, or an fsync failed. `errno` holds the system's number, if any."""

    exit_code = 8

    def __init__(self, message: str, errno: int | None = None) -> None:
        super().__init__(message)
        self.errno = errno


class ModelError(NightschoolError):
    """The base model cannot be read, or is not the one this run began with."""

    exit_code = 9


class ModelAwayError(ModelError):
    """The base model, or a part of it, is not where it should be, or cannot be read."""


class VerifyError(NightschoolError):
    """`verify` found something that is not as it should be."""

    exit_code = 10


class TrainingError(NightschoolError):
    """Training cannot go on without the user."""

    exit_code = 11


class FileError(TrainingError):
    """Training on one data file cannot go on. `nightschool run` sets the file aside and goes on with the next."""

    exit_code = 12


class DeviceError(NightschoolError):
    """The GPU failed, is not there, or others hold its memory. `nightschool run` tries again by itself."""

    exit_code = 13
