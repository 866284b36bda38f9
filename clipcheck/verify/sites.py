"""Verifies fixes of the user's files: each becomes an experiment that runs in a worker and ends in a verdict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TypeAlias

from clipcheck.rule import Fix, Safety, Target, Verdict
from clipcheck.verify.allowed import NotVerifiable
from clipcheck.verify.changes import Change
from clipcheck.verify.claims import Answer
from clipcheck.verify.exchange import exchanges
from clipcheck.verify.import_blocks import Imports, import_blocks
from clipcheck.verify.lift import Experiment, lift, lift_more
from clipcheck.verify.pieces import is_clipped
from clipcheck.verify.training import Training, rehearsal
from clipcheck.verify.worker import Lost, Worker

SECONDS_A_CASE = 10.0
Trial: TypeAlias = "Experiment | Training | Imports"


class Verifier:
    """Returns verdicts on fixes; keeps one worker, and its results, while it is open."""

    def __init__(self) -> None:
        self._worker = Worker("sites", SECONDS_A_CASE)
        self._known: dict[str, Verdict] = {}

    def __enter__(self) -> Verifier:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._worker.stop()

    def __call__(self, text: str, fix: Fix, target: Target = "clipcheck") -> Verdict:
        """The verdict on `fix`, whose edits apply to `text`. Raises NoTorch.

        If the target is a module of the user's, the runtime's functions are used for it: no user code is imported.
        """
        change = Change(text, fix, target)
        found = self._judged(change)
        loaded = self._tried(change, _imports) if found.kind == "verified" else found
        return loaded if loaded.kind == "refuted" else found

    def _judged(self, change: Change) -> Verdict:
        """The verdict on the changed statements, apart from the module's imports."""
        safe = change.fix.safety is Safety.SAFE
        shown: list[Verdict] = []
        for way in _WAYS:
            found = self._tried(change, way)
            if found.kind == "verified" and way is _trained and safe and not found.exceptions:
                found = Verdict(
                    "not verified", found.cases, reason="its steps are the same, its values are not compared"
                )
            if found.kind == "refuted" and way in (lift, lift_more) and is_clipped(change.old, change.edits):
                found = Verdict("not verified", reason="what is clipped changes, and the clip is not tried")
            shown.append(found)
            if found.kind == "verified" or (found.kind == "refuted" and safe):
                break
        return _judgment(shown, safe)

    def _tried(self, change: Change, taken_apart: Callable[[Change], Sequence[Trial]]) -> Verdict:
        try:
            experiments = taken_apart(change)
        except NotVerifiable as error:
            return Verdict("not verified", reason=str(error))
        except _UNREADABLE as error:
            return Verdict("not verified", reason=f"it cannot be analyzed ({type(error).__name__})")
        return together([self._try(experiment) for experiment in experiments])

    def _try(self, experiment: Trial) -> Verdict:
        key = repr(experiment)
        if key not in self._known:
            self._known[key] = self._run(experiment)
        return self._known[key]

    def _run(self, experiment: Trial) -> Verdict:
        way = "values" if isinstance(experiment, Experiment) else "training"
        way = "imports" if isinstance(experiment, Imports) else way
        match self._worker.ask({"way": way, "experiment": experiment._asdict()}):
            case Lost(at, how, harmless):
                refuted = at.endswith(", after") and not harmless
                return Verdict("refuted" if refuted else "not verified", reason=f"{at}: it {how}")
            case [int(), [*exceptions], str(), str(), str(), str()] as answer if _are_strings(exceptions):
                return verdict(Answer(*answer))
        return Verdict("not verified", reason="the worker sent an invalid answer")


def _trained(change: Change) -> list[Training]:
    return [rehearsal(change)]


# The ways to verify a fix, those closest to the code first.
_WAYS: tuple[Callable[[Change], Sequence[Trial]], ...] = (lift, _trained, lift_more, exchanges)
# Exceptions for files that Python cannot parse or unparse.
_UNREADABLE = (SyntaxError, ValueError, RecursionError, MemoryError)


def _judgment(shown: list[Verdict], safe: bool) -> Verdict:
    """One verdict from those of all ways; if none verifies the fix, the most informative one."""
    last = shown[-1]
    refuted = next((one for one in shown if one.kind == "refuted"), None)
    if last.kind == "verified":  # the notes about values are still needed
        return last._replace(reason="; ".join(filter(None, (last.reason, refuted.reason if refuted else ""))))
    if refuted is None:
        return next((one for one in shown if one.cases), shown[0])
    return refuted if safe else Verdict("not verified", refuted.cases, reason=f"an unsafe fix: {refuted.reason}")


def _imports(change: Change) -> list[Imports]:
    found = import_blocks(change)
    return [found] if found else []


def _are_strings(values: list[object]) -> bool:
    return all(isinstance(value, str) for value in values)


def verdict(answer: Answer) -> Verdict:
    if answer.refuted == "every case":
        return Verdict("not verified", answer.cases, reason=answer.why)
    if answer.refuted:
        sides = f" (before {answer.before}, after {answer.after})" if answer.before or answer.after else ""
        return Verdict("refuted", answer.cases, reason=f"{answer.refuted}: {answer.why}{sides}")
    return Verdict("verified", answer.cases, tuple(answer.exceptions), answer.why)


def together(verdicts: list[Verdict]) -> Verdict:
    """One verdict on a fix that changes several places: the worst one decides."""
    for kind in ("refuted", "not verified"):
        for one in verdicts:
            if one.kind == kind:
                return one
    exceptions = dict.fromkeys(note for one in verdicts for note in one.exceptions)
    changed = dict.fromkeys(one.reason for one in verdicts if one.reason)
    return Verdict("verified", sum(one.cases for one in verdicts), tuple(exceptions), "; ".join(changed))
