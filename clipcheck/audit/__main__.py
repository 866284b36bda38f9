"""`clipcheck audit`: runs a program as Python would, watches its first steps, and reports after its end."""

from __future__ import annotations

import argparse
import importlib.util
import os
import runpy
import sys
import traceback
from pathlib import Path
from typing import NoReturn

from clipcheck.audit import plot, ranks
from clipcheck.audit.report import as_json, report
from clipcheck.audit.watch import Watch


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; `{self.prog} --help` shows how\n")


def _options(arguments: list[str]) -> argparse.Namespace:
    """Raises a SystemExit where they are wrong."""
    parser = _Parser(
        prog="clipcheck audit",
        usage="clipcheck audit [OPTION]... (FILE | -m MODULE) [ARGUMENT]...",
        description="Run a training script, watch what clipping does in its first steps, and report when it ends. "
        "Exit code: 0 for no faults, 1 for faults, 2 if the program failed or no step was seen.",
        allow_abbrev=False,
    )
    parser.add_argument("--steps", type=int, default=50, metavar="N", help="optimizer steps to watch (default: 50)")
    parser.add_argument("--stop", action="store_true", help="end the program after these steps")
    parser.add_argument("--output-format", choices=["text", "json"], default="text", help="default: text")
    parser.add_argument("--output-file", type=Path, metavar="FILE", help="write the report there, not to stdout")
    drawing = "draw the norms as .svg or .png, and again for dark pages, with `-dark` in the name; needs matplotlib"
    parser.add_argument("--plot", type=Path, metavar="FILE", help=drawing)
    rest = argparse.REMAINDER
    parser.add_argument("-m", dest="module", nargs=rest, help="run a module, with its arguments")
    parser.add_argument("program", nargs=rest, metavar="FILE", help="run a file, with its arguments")
    options = parser.parse_args(arguments)
    if not (options.module or options.program):
        parser.error("what to run is missing")
    if not options.module and not Path(options.program[0]).exists():
        parser.error(f"{options.program[0]}: no such file")
    if options.steps < 1:
        parser.error("`--steps` must be at least 1")
    if options.plot and options.plot.suffix not in (".svg", ".png"):
        parser.error("`--plot` must end in .svg or .png")
    if options.plot and importlib.util.find_spec("matplotlib") is None:
        parser.error("`--plot` needs matplotlib: pip install 'clipcheck[bench]'")
    return options


def main(arguments: list[str]) -> int:
    """Runs the program; returns the exit code."""
    options = _options(arguments)
    watch = Watch(options.steps, options.stop).begin()
    leave, this = os._exit, os.getpid()

    def exit_now(status: int) -> NoReturn:
        """Programs may end in this way, without any cleanup: the report comes first."""
        os._exit = leave
        leave(_conclude(watch, options, status) if os.getpid() == this else status)

    os._exit = exit_now
    try:
        code = _run(options)
    finally:
        os._exit = leave
    return _conclude(watch, options, code)


def _run(options: argparse.Namespace) -> int:
    """Runs the program as Python would; returns its exit code."""
    if sys.path[0] == os.path.dirname(sys.argv[0]):
        del sys.path[0]  # of the command `clipcheck`
    sys.argv = options.module or options.program
    if not getattr(sys.flags, "safe_path", False):
        sys.path.insert(0, os.getcwd() if options.module else str(Path(sys.argv[0]).resolve().parent))
    try:
        if options.module:
            runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, int) or end.code is None:
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException as error:
        trace, ours = error.__traceback__, (__file__, runpy.__file__, "<frozen runpy>")
        while trace and trace.tb_next and trace.tb_frame.f_code.co_filename in ours:
            trace = trace.tb_next
        traceback.print_exception(type(error), error, trace)
        return 130 if isinstance(error, KeyboardInterrupt) else 1
    return 0


def _conclude(watch: Watch, options: argparse.Namespace, code: int) -> int:
    """Shows the report, and how the program failed if it did; returns the exit code."""
    failed = f"the program ended with exit code {code}" if code else ""
    try:
        shown = _show(watch, options)
    except OSError as error:
        failed = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)
    except Exception as error:
        failed = f"{type(error).__name__}: {error}. This is a bug in clipcheck, please report it"
    if failed:
        print(f"clipcheck audit: {failed}", file=sys.stderr)
    return 2 if failed else shown


def _show(watch: Watch, options: argparse.Namespace) -> int:
    """Shows the report on the first rank of a host; a launcher ends all ranks when another one has a code that is not 0."""
    log, found, unseen = ranks.compared(watch.end())
    if ranks.number("LOCAL_RANK"):
        return 0
    seen = report(log, found, unseen)
    content = as_json(seen) if options.output_format == "json" else str(seen)
    if options.output_file:
        options.output_file.write_text(content, encoding="utf-8")
    else:
        sys.stdout.flush()
        print(content, end="", file=sys.__stdout__, flush=True)
    if options.plot:
        plot.plot(seen, options.plot)
    return seen.exit_code


if __name__ == "__main__":
    if not getattr(sys.flags, "safe_path", False):
        del sys.path[0]  # the current folder, which `python -m` puts there
    sys.exit(main(sys.argv[1:]))
