"""Train, test and use image classifiers on mnist5k, CIFAR-10, ImageNet or folders of images.

``python -m scripts.train_image fit --config scripts/configs/mnist5k.yaml``, then ``test`` or
``predict digit.png`` with ``--run_dir`` of that run.
"""

import sys

from scripts.training.start import Script

main = Script(
    "scripts.train_image",
    model="scripts.training.images:ImageClassifier",
    data="scripts.training.images:ImageData",
    names=("mnist5k", "mgic_resnet56"),
)

if __name__ == "__main__":
    sys.exit(main())
