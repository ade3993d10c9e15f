"""Measurements of what the doctor finds and what it costs; each module prints one table."""
