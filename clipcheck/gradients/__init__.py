"""Recognizes expressions of gradients: a gradient, a power of its norm, a handwritten norm, a handwritten clip."""
