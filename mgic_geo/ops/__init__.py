"""Operations: one a file, with its reference in plain PyTorch and the kernels that replace it."""
