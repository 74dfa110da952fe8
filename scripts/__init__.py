"""One file a job, run from the root of a checkout: ``python -m scripts.NAME --help``."""

import warnings

# PyG 2.8 decorates functions for TorchScript when it is imported, which torch 2.14 deprecates
warnings.filterwarnings("ignore", message="`torch.jit", category=FutureWarning)
