"""What :func:`mgic_vision.convert` is made of: the blocks it knows, and their narrow copies."""
