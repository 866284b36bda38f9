"""The output formats by name, and where each is made: a module of `clipcheck.report` and its function."""

MAKERS = {
    "full": ("text", "full"),
    "concise": ("text", "concise"),
    "grouped": ("text", "grouped"),
    "pylint": ("text", "pylint"),
    "json": ("json", "report"),
    "json-lines": ("json", "lines"),
    "github": ("commands", "github"),
    "azure": ("commands", "azure"),
    "gitlab": ("gitlab", "report"),
    "rdjson": ("rdjson", "report"),
    "junit": ("junit", "report"),
    "sarif": ("sarif", "report"),
}
FORMATS = tuple(MAKERS)
