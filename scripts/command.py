"""What commands share: how their help begins, and one message where something is wrong."""

import argparse
import functools
import sys
from collections.abc import Callable, Sequence

from scripts.training.reliability.errors import TrainingError

Main = Callable[[Sequence[str] | None], int | None]


def command_parser(name: str, about: str | None) -> argparse.ArgumentParser:
    """Make the parser of ``scripts.NAME``, whose help begins with the first line of ``about``."""
    return argparse.ArgumentParser(
        prog=f"python -m scripts.{name}", description=(about or "").split("\n")[0]
    )


def told(main: Main) -> Callable[..., int]:
    """Let a command return its exit code; 1: an error, told in one message.

    Example:
        >>> told(lambda args: None)()
        0
    """

    @functools.wraps(main)
    def run(args: Sequence[str] | None = None) -> int:
        try:
            return main(args) or 0
        except (OSError, ValueError, TrainingError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1

    return run
