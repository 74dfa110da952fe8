"""All tables and figures, in the order of the paper."""

from scripts.paper_tables import table3, table5, table7, table9, table11, table12, table13
from scripts.paper_tables.item import Item

# what the paper has besides, and where it is here
WITHOUT_NUMBERS: dict[str, str] = {}

ITEMS: dict[str, Item] = {
    module.ITEM.name: module.ITEM
    for module in (table3, table5, table7, table9, table11, table12, table13)
}
