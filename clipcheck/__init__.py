"""clipcheck finds gradient-clipping mistakes in PyTorch code, rewrites them and proves each rewrite on torch."""

__version__ = "0.1.0"
