"""Callbacks: the same rules and causes on the live tensors, optimizers and gradients of a running training loop.

``callbacks.torch.Monitor`` works with any loop of PyTorch, ``callbacks.sb3``, ``callbacks.lightning`` and
``callbacks.transformers`` have one for each library. Each imports its library, and nothing else of ckdoc imports them.
May import everything except ``cli``, ``testing`` and the shelves.
"""
