"""The plugins that come with ckdoc: a folder, or shelf, for each entry-point group.

Found through entry points, like those of other packages, and imported by nobody. A shelf may import ``plugins`` and
everything below, no other shelf.
"""
