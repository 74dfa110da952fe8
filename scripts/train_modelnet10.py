"""Train, test and use point-cloud classifiers on ModelNet10 or shapes10.

``python -m scripts.train_modelnet10 fit --config scripts/configs/demo.yaml``, then ``test`` or
``predict chair.off`` with ``--run_dir`` of that run.
"""

import sys
from functools import partial

from scripts.training import cli
from scripts.training.points import PointClassifier, PointClouds

main = partial(cli.main, PointClassifier, PointClouds, "python -m scripts.train_modelnet10")

if __name__ == "__main__":
    sys.exit(main())
