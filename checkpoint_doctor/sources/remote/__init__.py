"""Files in object stores and on servers, read by ranges. Needs the extra ``[remote]``, imported when first used.

May import the rest of ``sources``, ``errors`` and ``text``.
"""
