"""Networks for images, their registry and their registration with other libraries."""
