"""Errors and warnings for users, which the command line shows without code around them.

This file imports nothing, so that they can be raised before torch is there.
"""


class TrainingWarning(UserWarning):
    """Something went wrong, and the run goes on."""


class TrainingError(Exception):
    """Something about the run, its files or its numbers that the message explains."""

    exit_code = 1


class CheckpointError(TrainingError):
    """A checkpoint that is missing, damaged, or not one of ours."""


class RunFolderError(TrainingError):
    """A run folder that already holds a run, or one with another configuration."""


class NonFiniteError(TrainingError):
    """A number that is not finite, in the input, the loss or the weights.

    Args:
        message: What to tell.
        place: Epoch and batch, from 0, that a run can do without; None where it is the input.
    """

    def __init__(self, message: str, place: tuple[int, int] | None = None):
        super().__init__(message)
        self.place = place


class MemoryShortage(TrainingError):
    """A batch that does not fit into memory."""


class StartAgain(TrainingError):
    """Something has been changed about the run, which is to continue from its last checkpoint."""

    exit_code = 75


class LoaderError(TrainingError):
    """A data-loading process that died."""


class Interrupted(TrainingError):
    """A signal asked the run to stop, and it did."""

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code
