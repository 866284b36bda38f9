"""What an expression is to gradients: a gradient, a power of one, a norm summed by hand, a clip made by hand."""
