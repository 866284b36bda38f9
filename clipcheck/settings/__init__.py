"""What the user asked for: the keys, the files that set them, and the patterns of paths."""
