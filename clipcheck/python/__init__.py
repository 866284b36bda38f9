"""One parsed program text, and what can be asked about it: names, places, which values reach where."""
