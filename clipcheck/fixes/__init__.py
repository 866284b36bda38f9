"""How a place is rewritten: text edits, the verbs to write them with, and the rewrites that several rules share."""
