"""Errors and warnings for users: the command line shows them without code around them."""


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
    """A number that is not finite, in the input or in the loss."""


class LoaderError(TrainingError):
    """A data-loading process that died."""


class Interrupted(TrainingError):
    """A signal asked the run to stop, and it did."""

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code
