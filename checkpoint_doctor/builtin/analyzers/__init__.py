"""The rules, one subject per file, in a folder for each family.

They are loaded through entry points only. They may import ``plugins`` and the layers below it, but no loader and no
reporter. No rule file knows another one: what rules share stands in the folders that begin with an underscore.
"""
