"""How code is rewritten: text edits, functions that make them, and the rewrites that several rules share."""
