"""From files to findings: which files, what the rules find in them, which comments suppress findings, and the fixes."""
