"""Kernels in C, and how they are compiled, found, loaded and called."""
