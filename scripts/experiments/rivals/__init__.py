"""MGIC beside what a user would pick instead: maps, units of equal cost, tasks, the page."""
