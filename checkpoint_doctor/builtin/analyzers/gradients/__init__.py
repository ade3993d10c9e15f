"""Rules about the gradients of a running training loop (GRD). They are silent on files, which hold no gradients."""
