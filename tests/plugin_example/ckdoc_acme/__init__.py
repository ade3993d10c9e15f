"""An example plugin: see the page about plugins in the documentation of checkpoint-doctor."""
