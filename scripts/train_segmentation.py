"""Train, test and use segmentation networks on digit_scenes or Cityscapes.

``python -m scripts.train_segmentation fit --config scripts/configs/digit_scenes.yaml``, then
``test`` or ``predict photo.png`` with ``--run_dir`` of that run. ``scripts.predict_image`` writes
the masks of image files.
"""

import sys

from scripts.training.start import Script

main = Script(
    "scripts.train_segmentation",
    model="scripts.training.segmenter:Segmenter",
    data="scripts.training.scenes:SegmentationData",
    names=("digit_scenes", "lraspp_mgic_large"),
)

if __name__ == "__main__":
    sys.exit(main())
