"""What torch and Lightning raise, turned into advice."""

from collections.abc import Iterator
from contextlib import contextmanager

from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.distributed import DistError

from scripts.training.reliability.errors import LoaderError, MemoryShortage, TrainingError


@contextmanager
def explained(batch_size: int) -> Iterator[None]:
    """Turn errors of the stage that runs inside into advice, where there is some.

    Raises:
        TrainingError: Memory was short, also in /dev/shm, another process died, or the settings
            contradict each other.
    """
    try:
        yield
    except MisconfigurationException as error:
        raise TrainingError(str(error)) from error
    except (MemoryError, RuntimeError) as error:
        if advice := _advice(error, batch_size):
            raise advice from error
        raise


def _advice(error: BaseException, batch_size: int) -> TrainingError | None:
    text = str(error)
    if isinstance(error, MemoryError) or "out of memory" in text or "can't allocate" in text:
        return MemoryShortage(
            f"out of memory with batches of {batch_size}: try a smaller --data.batch_size, with "
            "--trainer.accumulate_grad_batches to make up for it, or --auto_batch true"
        )
    if "shared memory" in text:  # of a data-loading process, in which this was raised
        return LoaderError(
            f"a data-loading process has no room in /dev/shm: {text.strip().splitlines()[-1]}. "
            "The checkpoints are kept: continue with --resume and fewer --data.num_workers, or 0"
        )
    if isinstance(error, DistError) or "gloo" in text:
        return TrainingError(
            "lost contact with another process, which has died or hangs: continue from the last "
            f"checkpoint with --resume ({text.splitlines()[0]})"
        )
    return None
