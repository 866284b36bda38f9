"""From a file's bytes to the program texts in it, and back: Python, notebooks, Markdown, reStructuredText."""
