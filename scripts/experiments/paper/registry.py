"""All tables and figures, in the order of the paper."""

from scripts.experiments.paper import (
    accuracy_cost,
    figure4,
    levels_study,
    open_questions,
    section34,
    table1,
    table8,
)
from scripts.experiments.paper.counts import ITEMS as COUNTED
from scripts.experiments.paper.item import Item

# what the paper has besides, and where it is here
WITHOUT_NUMBERS: dict[str, str] = {
    "table2": "the network of figure4: mgic_vision.function_mgic and its two rivals",
    "table4": "MGIC-ResNet-50, of table5: mgic_vision.models.resnet",
    "table6": "MGIC-MobileNetV3, of table7: mgic_vision.models.mobilenetv3",
    "table10": "the network of table11: mgic_geo.PointCloudClassifier",
    "figure1": "an illustration of grouped convolutions, without numbers",
    "figure2": "an illustration of the levels: python -m scripts.draw_levels FILE.png",
}

ITEMS: dict[str, Item] = {
    item.name: item
    for item in (
        section34.ITEM,
        table1.ITEM,
        table1.FIGURE,
        figure4.ITEM,
        COUNTED["table3"],
        COUNTED["table5"],
        COUNTED["table7"],
        table8.ITEM,
        accuracy_cost.FIGURE5,
        COUNTED["table9"],
        COUNTED["table11"],
        COUNTED["table12"],
        levels_study.ITEM,
        COUNTED["table13"],
        accuracy_cost.FIGURE6,
        open_questions.ITEM,
    )
}
