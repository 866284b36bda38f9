"""clipcheck finds gradient-clipping mistakes in PyTorch code, fixes them, and verifies each fix on torch."""

__version__ = "0.1.0"
