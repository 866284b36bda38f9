"""A parsed program, and questions about it: names, positions, which values reach which uses."""
