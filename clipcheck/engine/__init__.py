"""Files in, findings out: which files, what the rules find in them, which comments suppress them, and the fixes."""
