"""The formats for people: `full` with the source around each finding and its fix as a small diff, and one-line formats."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from textwrap import wrap

from clipcheck.documents.program import MARKDOWN, NOTEBOOK, RST
from clipcheck.engine.results import Outcome
from clipcheck.report.paint import Paint
from clipcheck.report.view import Looked, Row, View, by_file, lines_of, rows, shown, where, with_copies
from clipcheck.report.visible import visible
from clipcheck.rule import BETTER, CHANGED, Safety, Verdict


def full(outcome: Outcome, view: View) -> str:
    paint = Paint(view.color)
    blocks = ["".join([*_block(row, paint), *_copies(copies, paint)]) for row, copies in with_copies(rows(outcome))]
    return "\n".join([*blocks, summary(outcome, view)]) if view.summary else "\n".join(blocks)


def concise(outcome: Outcome, view: View) -> str:
    paint = Paint(view.color)
    lines = [_line(row, paint) for row in rows(outcome)]
    return "".join([*lines, summary(outcome, view)])


def grouped(outcome: Outcome, view: View) -> str:
    paint = Paint(view.color)
    groups = []
    for path, group in by_file(outcome):
        lines = [
            f"  {_at(row)} {paint(row.finding.code, 'bold', 'red')} {_mark(row, paint)}{row.finding.message}\n"
            for row in group
        ]
        groups.append(f"{paint(shown(path), 'bold')}{paint(':', 'cyan')}\n" + "".join(lines))
    return "\n".join([*groups, summary(outcome, view)]) if view.summary else "\n".join(groups)


def pylint(outcome: Outcome, view: View) -> str:
    return "".join(
        f"{where(row.finding).rpartition(':')[0]}: [{row.finding.code}] {row.finding.message}\n"
        for row in rows(outcome)
    )


# --- the closing lines ----------------------------------------------------------------------------------------------


def summary(outcome: Outcome, view: View) -> str:
    """How many problems there are, and how many of them a fix would remove."""
    found = rows(outcome)
    left, fixed = len(found), len(outcome.fixed)
    if not view.summary:
        return ""
    if not left + fixed:
        return _nothing_found(outcome, view.looked)
    if view.fixing:
        return f"Found {_problems(left + fixed)} ({fixed} fixed, {left} remaining).\n{_fixable(found, 0)}"
    copied = left - len(with_copies(found))
    copies = f" ({copied} in copies)" if copied else ""
    return f"Found {_problems(left)}{copies}.\n{_fixable(found, sum(row.fixable for row in found))}"


def _fixable(found: list[Row], count: int) -> str:
    """The line on what `--fix` would do: of `count` findings with the options given, of more with unsafe fixes."""
    more = _only_unsafe(found)
    if not count:
        return f"{more} fixable with `--fix --unsafe-fixes`.\n" if more else ""
    unsafe = any(row.fixable and row.report.threshold <= Safety.UNSAFE for row in found)
    return f"[*] {count} fixable with `--fix{' --unsafe-fixes' if unsafe else ''}`{_and_more(more)}.\n"


def _nothing_found(outcome: Outcome, looked: Looked | None) -> str:
    """Says what was checked, which tells a clean run from one over the wrong folder; nothing after an error."""
    if outcome.errors or (looked is not None and not looked.paths):
        return ""
    if looked is None:
        return "No problems found.\n"
    kinds = Counter(_kind(path) for path in looked.paths)
    named = [_counted(kinds[kind], kind) for kind in ("notebook", "document") if kinds[kind]]
    named.append(f"{outcome.candidates or 'none'} with gradient-clipping code")
    return f"No problems found in {_counted(len(looked.paths), 'file')} ({', '.join(named)}), {looked.seconds:.2f} s.\n"


def _kind(path: str) -> str:
    if path.endswith(NOTEBOOK):
        return "notebook"
    return "document" if path.endswith((*MARKDOWN, *RST)) else "program"


def would_fix(outcome: Outcome) -> str:
    """The closing line of `--diff`."""
    return f"Would fix {_problems(len(outcome.fixed))}{_more(outcome)}.\n"


def did_fix(outcome: Outcome) -> str:
    """The closing line of `--fix-only`."""
    return f"Fixed {_problems(len(outcome.fixed))}{_more(outcome)}.\n"


def fixes(outcome: Outcome) -> str:
    """What `--show-fixes` adds: the fixes that were applied, by file and rule."""
    by_path: dict[str, dict[tuple[str, str], int]] = {}
    for finding in outcome.fixed:
        counts = by_path.setdefault(shown(finding.path), {})
        counts[finding.code, finding.name] = counts.get((finding.code, finding.name), 0) + 1
    if not by_path:
        return ""
    lines = [f"Fixed {_problems(len(outcome.fixed))}:"]
    for path, counts in by_path.items():
        lines.append(f"- {path}:")
        lines += [f"    {count} × {code} ({name})" for (code, name), count in sorted(counts.items())]
    return "".join(line + "\n" for line in lines)


def verified(outcome: Outcome) -> str:
    """The verdicts on the fixes that were applied."""
    tried = (finding for finding in outcome.fixed if finding.verdict)
    return "".join(f"{where(f)}: {f.code} {''.join(_verdict(f.verdict))}" for f in tried)


def verdicts(outcome: Outcome) -> str:
    """The verdicts on all fixes that were run, and a summary."""
    tried = [finding for finding in outcome.findings if finding.verdict]
    lines = [f"{where(f)}: {f.code} {''.join(_verdict(f.verdict))}" for f in tried]
    counts = Counter(f.verdict.kind for f in tried if f.verdict)
    closing = ", ".join(f"{counts[kind]} {kind}" for kind in ("verified", "refuted", "not verified"))
    without = sum(f.fix is None for f in outcome.findings)
    more = f"; {_counted(without, 'finding')} without a fix" if without else ""
    summary = f"Ran {_fixes(len(tried))}: {closing}" if tried else "No fixes to verify"
    return "".join([*lines, f"{summary}{more}.\n"])


def _verdict(verdict: Verdict | None) -> Iterator[str]:
    """A verdict in lines: what it is, and the cases in which only the old code is wrong."""
    if verdict is None:
        return
    if verdict.kind != "verified":
        yield f"{visible(str(verdict))}\n"
        return
    yield f"{verdict._replace(exceptions=(), reason='')}\n"
    for title, lines in ((BETTER, verdict.exceptions), (CHANGED, [verdict.reason] if verdict.reason else [])):
        yield f"    {title}:\n" if lines else ""
        for text in map(visible, lines):
            yield from (line + "\n" for line in wrap(text, 100, initial_indent="      ", subsequent_indent="        "))


def _fixes(count: int) -> str:
    return f"{count} fix{'' if count == 1 else 'es'}"


def _more(outcome: Outcome) -> str:
    return _and_more(_only_unsafe(rows(outcome)))


def _and_more(unsafe: int) -> str:
    return f" ({unsafe} more with `--unsafe-fixes`)" if unsafe else ""


def _only_unsafe(found: list[Row]) -> int:
    return sum(
        row.finding.fix is not None and row.finding.fix.safety is Safety.UNSAFE and not row.fixable for row in found
    )


def _problems(count: int) -> str:
    return _counted(count, "problem")


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


# --- one finding ----------------------------------------------------------------------------------------------------


def _line(row: Row, paint: Paint) -> str:
    colon = paint(":", "cyan")
    path, rest = shown(row.finding.path), where(row.finding)[len(shown(row.finding.path)) :]
    position = rest[1:].replace(":", colon)
    code = paint(row.finding.code, "bold", "red")
    return f"{paint(path, 'bold')}{colon}{position}{colon} {code} {_mark(row, paint)}{row.finding.message}\n"


def _at(row: Row) -> str:
    place = row.finding.place
    return f"{'' if place.cell is None else f'cell {place.cell}:'}{place.line}:{place.column}"


def _mark(row: Row, paint: Paint) -> str:
    return f"[{paint('*', 'cyan')}] " if row.fixable else ""


def _block(row: Row, paint: Paint) -> Iterator[str]:
    finding = row.finding
    yield f"{paint(finding.code, 'bold', 'red')} {_mark(row, paint)}{paint(finding.message, 'bold')}\n"
    from clipcheck.report.frame import fix_as_diff, source_frame

    lines = lines_of(row)
    if not lines:
        yield f" {paint('-->', 'bold', 'blue')} {where(finding)}\n"
        return
    yield from source_frame(finding, lines, paint)
    if finding.fix is not None:
        yield f"{paint('help', 'bold', 'cyan')}: {finding.fix.title}\n"
        yield from fix_as_diff(row, paint)
    if finding.help:
        yield f"{paint('help', 'bold', 'cyan')}: {finding.help}\n"
    if finding.verdict is not None:
        yield f"{paint('verify', 'bold', 'cyan')}: {''.join(_verdict(finding.verdict))}"
    if finding.fix is not None and finding.fix.safety is Safety.UNSAFE:
        yield f"{paint('note', 'bold', 'yellow')}: this fix is unsafe: it changes training\n"


def _copies(copies: list[Row], paint: Paint) -> Iterator[str]:
    """The same findings in copies of the code."""
    if copies:
        count = "a copy" if len(copies) == 1 else f"{len(copies)} copies"
        yield f"{paint('note', 'bold', 'yellow')}: the same in {count} of this code:\n"
        yield from (f"    {where(row.finding)}\n" for row in copies)
