"""The runtime inside training frameworks, where `runtime.install()` is not wanted; none is imported here."""
