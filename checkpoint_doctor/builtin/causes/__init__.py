"""The causes that ckdoc knows, a file for each subject. Found through entry points.

May import ``plugins`` and everything below, no other shelf; each file is blind to the others.
"""
