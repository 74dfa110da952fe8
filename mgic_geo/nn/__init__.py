"""Layers on graphs and on plain vectors."""
