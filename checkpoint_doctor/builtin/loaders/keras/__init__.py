"""Reads models of Keras: ``.keras`` archives and HDF5 files. Needs h5py, which is imported when such a file is opened.

May import the private folders of ``loaders`` and what they may import.
"""
