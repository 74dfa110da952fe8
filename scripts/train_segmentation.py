"""Train, test and use segmentation networks on digit_scenes or Cityscapes.

``python -m scripts.train_segmentation fit --config scripts/configs/digit_scenes.yaml``, then
``test`` or ``predict photo.png`` with ``--run_dir`` of that run. ``scripts.predict_image`` writes
the masks of image files.
"""

import sys
from functools import partial

from scripts.training import cli
from scripts.training.scenes import SegmentationData
from scripts.training.segmenter import Segmenter

main = partial(cli.main, Segmenter, SegmentationData, "python -m scripts.train_segmentation")

if __name__ == "__main__":
    sys.exit(main())
