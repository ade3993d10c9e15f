"""The callback for the Trainer of Hugging Face transformers."""
