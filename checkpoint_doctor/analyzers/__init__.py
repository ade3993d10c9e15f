"""Reached through entry points only; nothing imports these modules by name."""
