"""Randomness as a function of where it is drawn, not of what was drawn before."""

import hashlib


def derive_seed(*place: int | str) -> int:
    """Turn a place, such as (run seed, "batch", epoch, number, rank), into a seed.

    Nothing has to be stored to continue a killed run with the numbers it would have drawn.

    Example:
        >>> derive_seed(0, "batch", 3) == derive_seed(0, "batch", 3) != derive_seed(0, "batch", 4)
        True
    """
    digest = hashlib.blake2b(repr(place).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1  # non-negative also as a signed number
