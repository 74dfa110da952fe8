"""Train, test and use networks that tell the parts of generated furniture apart.

``python -m scripts.train_parts fit --config scripts/configs/parts.yaml``, then ``test`` or
``predict chair.off`` with ``--run_dir`` of that run.
"""

import sys
from functools import partial

from scripts.training import cli
from scripts.training.parts import PartClouds, PartSegmenter

main = partial(cli.main, PartSegmenter, PartClouds, "python -m scripts.train_parts")

if __name__ == "__main__":
    sys.exit(main())
