"""Train, test and use networks that tell the parts of shapes apart.

``python -m scripts.train_parts fit --config scripts/configs/parts.yaml``, then ``test`` or
``predict chair.off --labels FOLDER`` with ``--run_dir`` of that run.
"""

import sys

from scripts.training.start import Script

main = Script(
    "scripts.train_parts",
    model="scripts.training.parts:PartSegmenter",
    data="scripts.training.parts:PartClouds",
    names=("shapes10_parts", "mgic_diffgcn"),
)

if __name__ == "__main__":
    sys.exit(main())
