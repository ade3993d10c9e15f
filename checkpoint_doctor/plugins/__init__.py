"""The doors: how rules, loaders and reporters are declared, found and explained.

May import ``results`` and what lies below it.
"""
