"""Networks that many people have, by library, built without weights."""

import warnings

import timm
import torch
import torchvision
from torch import nn

#: Of each library, its own names; Hugging Face's are those of its configurations.
NAMES = {
    "torchvision": """
        resnet18 resnet50 resnext50_32x4d wide_resnet50_2 mobilenet_v2 mobilenet_v3_small
        mobilenet_v3_large efficientnet_b0 efficientnet_v2_s regnet_y_400mf regnet_x_400mf
        convnext_tiny convnext_base vit_b_16 swin_t swin_v2_t mnasnet1_0 shufflenet_v2_x1_0
        densenet121 vgg16_bn deeplabv3_resnet50 lraspp_mobilenet_v3_large
    """,
    "timm": """
        resnet152 seresnet50 resnest50d resnetv2_50 regnety_004 mobilenetv3_large_100
        mobilenetv4_conv_small mobileone_s1 fastvit_t8 poolformer_s12 caformer_s18 convformer_s18
        eva02_tiny_patch14_224 vit_small_patch16_224 deit_tiny_patch16_224 beit_base_patch16_224
        convnext_atto convnextv2_atto mixer_s32_224 swin_tiny_patch4_window7_224 tinynet_a
        ghostnet_100
    """,
    "segmentation_models_pytorch": "unet_resnet34 fpn_mobilenet_v2",
    "transformers": "bert vit gpt2 llama convnext dinov2 distilbert resnet",
}
NETWORKS = tuple((library, name) for library, names in NAMES.items() for name in names.split())
SEGMENTERS = ("deeplabv3_resnet50", "lraspp_mobilenet_v3_large")
#: Libraries whose networks take images of 3x224x224.
OF_IMAGES = tuple(library for library in NAMES if library != "transformers")


def make(library: str, name: str) -> nn.Module:
    """Build a network on the device of the moment.

    Raises:
        ImportError: The library is missing.

    Example:
        >>> with torch.device("meta"):
        ...     make("torchvision", "resnet18").fc.out_features
        1000
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries about themselves
        if library == "timm":
            return timm.create_model(name)
        if library == "torchvision":
            # networks for segmentation would load their backbone; RegNet computes with tensors
            options = {"weights_backbone": None} if name in SEGMENTERS else {}
            with torch.device("cpu" if name.startswith("regnet") else torch.get_default_device()):
                return torchvision.models.get_model(name, weights=None, **options)
        if library == "transformers":
            import transformers

            config = transformers.AutoConfig.for_model(name)
            return transformers.AutoModel.from_config(config)
        import segmentation_models_pytorch

        head, _, encoder = name.partition("_")
        return segmentation_models_pytorch.create_model(head, encoder, encoder_weights=None)
