"""The way back: dated copies of the training state, and going back to one of them. Imports no torch."""
