"""The verification: the only part of clipcheck that executes code, in a separate process and within limits."""
