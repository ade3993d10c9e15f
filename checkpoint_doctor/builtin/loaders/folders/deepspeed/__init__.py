"""Reads DeepSpeed's folders: the files of all ranks, whose flat partitions are put together to whole tensors.

May import ``rank_files`` and what ``loaders.folders`` may import, but nothing else of it.
"""
