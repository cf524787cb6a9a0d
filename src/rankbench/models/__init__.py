"""Backbones: a model's settings enter, the model on its device in its precision leaves, with its tokenizer."""
