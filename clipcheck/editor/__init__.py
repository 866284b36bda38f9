"""The server that editors talk to."""
