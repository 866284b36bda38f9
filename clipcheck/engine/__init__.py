"""Files in, findings out: which files, what the rules find in them, which comments silence it, and the fixes."""
