"""The output formats, one module each: a function from an outcome to text."""
