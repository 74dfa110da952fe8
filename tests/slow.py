"""Cases of which only some run by default."""

from collections.abc import Iterable

import pytest


def some(cases: Iterable[str], *names: str) -> list:
    """All cases, those that are not named only with ``-m slow``, as each takes seconds."""
    return [case if case in names else pytest.param(case, marks=pytest.mark.slow) for case in cases]
