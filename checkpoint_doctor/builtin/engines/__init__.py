"""The engines: where the tasks of a scan run. Threads of this process, processes of this machine, a Ray cluster.

They are loaded through entry points only. They may import ``plugins`` and the layers below it. No engine knows another
one, nor what a task is: what they share stands in modules that begin with an underscore.
"""
