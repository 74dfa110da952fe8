"""The paper's tables and figures; :mod:`scripts.paper` runs them."""
