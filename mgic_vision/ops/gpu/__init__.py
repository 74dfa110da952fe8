"""Kernels for images in Triton, one a file; each is imported when it runs first."""
