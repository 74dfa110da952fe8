"""Train, test and use image classifiers on mnist5k, CIFAR-10, ImageNet or folders of images.

``python -m scripts.train_image fit --config scripts/configs/mnist5k.yaml``, then ``test`` or
``predict digit.png`` with ``--run_dir`` of that run.
"""

import sys
from functools import partial

from scripts.training import cli
from scripts.training.images import ImageClassifier, ImageData

main = partial(cli.main, ImageClassifier, ImageData, "python -m scripts.train_image")

if __name__ == "__main__":
    sys.exit(main())
