"""Where the documentation is published, and the address of a rule's page there."""

from __future__ import annotations

import os

from clipcheck.catalogue import RULES

PUBLISHED = "https://clipcheck.github.io/clipcheck"  # as in pyproject.toml


def address() -> str:
    """The site's address; those who publish their own copy set CLIPCHECK_DOCS_URL."""
    return (os.environ.get("CLIPCHECK_DOCS_URL") or PUBLISHED).rstrip("/")


def page(code: str, name: str) -> str | None:
    """The address of a rule's page; None for findings that no rule makes."""
    return f"{address()}/rules/{name}/" if code in RULES else None
