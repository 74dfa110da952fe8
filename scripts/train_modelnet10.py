"""Train, test and use point-cloud classifiers on ModelNet10 or shapes10.

``python -m scripts.train_modelnet10 fit --config scripts/configs/demo.yaml``, then ``test`` or
``predict chair.off`` with ``--run_dir`` of that run.
"""

import sys

from scripts.training.start import Script

main = Script(
    "scripts.train_modelnet10",
    model="scripts.training.points:PointClassifier",
    data="scripts.training.points:PointClouds",
    names=("shapes10", "mgic_diffgcn"),
)

if __name__ == "__main__":
    sys.exit(main())
