"""What `clipcheck.run` puts on the path of the Python processes that it starts."""
