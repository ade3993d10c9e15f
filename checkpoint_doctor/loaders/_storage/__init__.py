"""Element types and strided views of bytes. May import ``checkpoint``, ``sources`` and what lies below them."""
