"""One parsed program text, and what can be asked of it: names, places, which values reach where."""
