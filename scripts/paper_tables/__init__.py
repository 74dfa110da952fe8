"""The paper's tables and figures, one file each; :mod:`scripts.paper` runs them."""
