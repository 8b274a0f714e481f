"""How it is run: the training loop."""
