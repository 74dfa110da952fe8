"""All comparisons, by the name of their command and page."""

from typing import Any

from scripts.experiments.additive import Additive
from scripts.experiments.controls import (
    DIFFERENTIAL_CAD,
    DIFFERENTIAL_CYCLES,
    EDGE_CAD,
    EDGE_CYCLES,
    FASHION,
    FASHION_WIDE,
    PROTOCOL,
)
from scripts.experiments.conversion import Counted, FineTuned
from scripts.experiments.networks import IMAGES, PARTS_OF_POINTS, POINTS, SEGMENTATION
from scripts.experiments.rivals.comparison import Rivals

COMPARISONS: dict[str, Any] = {
    comparison.name: comparison
    for comparison in (
        *(POINTS, EDGE_CYCLES, EDGE_CAD, DIFFERENTIAL_CYCLES, DIFFERENTIAL_CAD),
        *(PROTOCOL, PARTS_OF_POINTS),
        *(IMAGES, FASHION, FASHION_WIDE, SEGMENTATION),
        *(Additive(), Rivals(), Counted(), FineTuned()),
    )
}
