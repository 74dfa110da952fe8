"""Train, test and use point-cloud classifiers on ModelNet10 or shapes10.

``python -m scripts.train_modelnet10 fit --config scripts/configs/demo.yaml``, then ``test`` or
``predict chair.off`` with ``--run_dir`` of that run.
"""

import sys
from collections.abc import Sequence

from scripts.training import cli
from scripts.training.points import PointClassifier, PointClouds


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    return cli.main(PointClassifier, PointClouds, "python -m scripts.train_modelnet10", args)


if __name__ == "__main__":
    sys.exit(main())
