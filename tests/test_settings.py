"""Which settings apply to a file: patterns as in git, layers from the widest to the nearest, selections."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from clipcheck.catalogue import RULES
from clipcheck.rule import Safety
from clipcheck.settings.files import parse_toml
from clipcheck.settings.globs import Globs
from clipcheck.settings.keys import DEFAULT, ConfigError, Layer, Settings, checked, matching, select
from clipcheck.settings.projects import Project, Projects
from clipcheck.settings.table import KEYS, in_pyproject


@pytest.mark.parametrize(
    ("pattern", "path", "taken"),
    [
        # a plain name, wherever it is
        ("build", "build", True),
        ("build", "a/build", True),
        ("build", "build/a.py", True),
        ("build", "a/build/b.py", True),
        ("build", "rebuild/a.py", False),
        ("a.py", "b/a.py", True),
        ("a.py", "a.pyi", False),
        ("a.py", "aXpy", False),
        # patterns
        ("*.pyi", "a/b.pyi", True),
        ("*.pyi", "a/b.py", False),
        ("a/*.py", "a/b.py", True),
        ("a/*.py", "a/b/c.py", False),
        ("a/**/c.py", "a/b/c.py", True),
        ("a/**", "a/b/c.py", True),
        ("a/b", "a/b/c.py", True),
        ("a/b", "x/a/b/c.py", False),
        ("/a.py", "a.py", True),
        ("/a.py", "b/a.py", False),
        ("test_*", "b/test_a.py", True),
        ("[ab].py", "b.py", True),
        ("?.py", "ab.py", False),
        ("a/", "a/b.py", True),
        ("a/", "b/a", False),  # a file
        # elsewhere
        ("*.py", "../a.py", False),
        ("a.py", "../a.py", True),
        ("*.py", "..a/b.py", True),
    ],
)
def test_a_pattern_matches_a_file(pattern: str, path: str, taken: bool) -> None:
    globs = Globs((pattern,), os.path.join(os.sep, "project"))
    assert globs.match(os.path.normpath(os.path.join(os.sep, "project", path))) is taken


def test_a_pattern_that_ends_with_a_slash_matches_only_folders() -> None:
    globs = Globs(("a/",), os.path.join(os.sep, "project"))
    path = os.path.join(os.sep, "project", "a")
    assert globs.match(path, is_folder=True)
    assert not globs.match(path)
    assert globs.decides_entry(os.path.dirname(path), "a", is_folder=True)
    assert not globs.decides_entry(os.path.dirname(path), "a", is_folder=False)


def test_the_last_matching_pattern_decides() -> None:
    globs = Globs(("*.py", "!a.py"), os.path.join(os.sep, "project"))

    def decides(name: str) -> bool | None:
        return globs.decides(os.path.join(os.sep, "project", name), False)

    assert (decides("b.py"), decides("a.py"), decides("b.md")) == (True, False, None)


def test_only_the_name_of_a_walked_entry_counts() -> None:
    globs = Globs(("build",), os.path.join(os.sep, "project"))
    assert globs.decides_entry(os.path.join(os.sep, "project"), "build", True)
    assert not globs.decides_entry(os.path.join(os.sep, "project", "build"), "a.py", False)


def test_patterns_count_from_their_folder_for_the_entries_of_each_folder_in_turn() -> None:
    globs = Globs(("/a.py", "sub/b.py"), os.path.join(os.sep, "project"))
    top, sub = os.path.join(os.sep, "project"), os.path.join(os.sep, "project", "sub")
    entries = ((top, "a.py"), (sub, "a.py"), (top, "b.py"), (sub, "b.py"), (os.sep, "a.py"))
    assert [globs.decides_entry(folder, name, False) for folder, name in entries] == [True, None, None, True, None]


# --- selection --------------------------------------------------------------------------------------------------------


FAMILY = frozenset(code for code in RULES if code.startswith("CLIP1"))


@pytest.mark.parametrize(
    ("chosen", "extra", "ignored", "expected"),
    [
        ([], [], [], DEFAULT),
        (["ALL"], [], [], frozenset(RULES)),
        (["CLIP1"], [], [], FAMILY),
        (["CLIP101", "CLIP002"], [], [], frozenset({"CLIP101", "CLIP002"})),
        (["CLIP101,CLIP002 ", ""], [], [], frozenset({"CLIP101", "CLIP002"})),
        (["CLIP1"], [], ["CLIP101"], FAMILY - {"CLIP101"}),
        (["CLIP101"], [], ["CLIP1"], frozenset({"CLIP101"})),  # the longer one wins
        (["CLIP101"], [], ["CLIP101"], frozenset()),  # a tie
        (["CLIP1"], [], ["CLIP1"], frozenset()),
        (["ALL"], [], ["ALL"], frozenset()),
        (["ALL"], [], ["CLIP1"], frozenset(RULES) - FAMILY),
        (["CLIP002"], ["CLIP101"], [], frozenset({"CLIP002", "CLIP101"})),
        ([], ["CLIP011"], [], DEFAULT | {"CLIP011"}),
        ([], [], ["CLIP1"], DEFAULT - FAMILY),
        ([], ["CLIP101"], ["CLIP1"], (DEFAULT - FAMILY) | {"CLIP101"}),
        ([], [], ["ALL"], frozenset()),
    ],
)
def test_what_runs(chosen: list[str], extra: list[str], ignored: list[str], expected: frozenset[str]) -> None:
    assert select(chosen, extra, ignored) == expected


@pytest.mark.parametrize("word", ["CLIP9", "E501", "CLIP0011", "clip-after-steps"])
def test_an_unknown_rule_is_an_error(word: str) -> None:
    for words in (([word], [], []), ([], [word], []), ([], [], [word])):
        with pytest.raises(ConfigError, match=word):
            select(*words)


@pytest.mark.parametrize("word", ["CLIP002", "clip002", "deprecated-clip-grad-norm", "Deprecated-Clip-Grad-Norm"])
def test_a_rule_is_selected_by_code_or_name_in_any_case(word: str) -> None:
    assert select([word], [], []) == {"CLIP002"}
    assert select(["all"], [], [f"clip1,{word}"]) == frozenset(RULES) - FAMILY - {"CLIP002"}
    layer = checked(Layer({"select": [word], "per-file-ignores": {"a.py": [word, "Unused-Suppression"]}}, ROOT))
    assert layer.values == {"select": ["CLIP002"], "per-file-ignores": {"a.py": ["CLIP002", "unused-suppression"]}}


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("clip-after-steps", "clip-after-step"),
        ("CLP001", "CLIP001"),
        ("CLIP1001", "CLIP101"),
        ("CLIP999", None),
        ("E501", None),
    ],
)
def test_a_mistyped_rule_gets_a_suggestion(word: str, meant: str | None) -> None:
    with pytest.raises(ConfigError) as raised:
        select([word], [], [])
    hint = f"did you mean `{meant}`?" if meant else "(`clipcheck rules` lists them)"
    assert str(raised.value).endswith(hint)


@pytest.mark.parametrize("name", KEYS)
def test_the_reference_of_a_key_is_correct(name: str) -> None:
    """Its example is accepted and changes something; its default is accepted and changes nothing."""
    key = KEYS[name]
    example = parse_toml(key.example)
    assert list(checked(Layer(example, ROOT)).values) == [name]
    assert parse_toml(in_pyproject(key)) == {"tool": {"clipcheck": example}}
    if key.default.startswith(('"', "[", "{", "true", "false")):
        default = parse_toml(f"{name} = {key.default}")
        assert project(checked(Layer(default, ROOT)).values).settings == Settings()
        assert default != example
    else:
        assert key.default in ("none", "any version", "every rule that is not opt-in")


def test_prefixes_name_rules() -> None:
    assert matching(["CLIP1", "CLIP002"]) == FAMILY | {"CLIP002"}
    assert matching([]) == frozenset()
    assert matching(["ALL"]) == frozenset(RULES)


# --- layers -----------------------------------------------------------------------------------------------------------


ROOT = os.path.join(os.sep, "project")


def project(*layers: dict[str, Any]) -> Project:
    return Project(tuple(Layer(values, ROOT) for values in layers))


def test_the_nearest_layer_that_sets_a_key_wins() -> None:
    found = project({"target": "torch", "select": ["CLIP1"]}, {"unsafe-fixes": True}, {"target": "clipcheck"}).settings
    assert (found.target, found.safety, found.codes) == ("clipcheck", Safety.UNSAFE, FAMILY)
    assert project({}, {}).settings == Settings()


def test_selections_of_layers_build_on_each_other() -> None:
    assert project({"select": ["CLIP1"]}, {"extend-select": ["CLIP002"]}).settings.codes == FAMILY | {"CLIP002"}
    assert project({"select": ["CLIP1"]}, {"ignore": ["CLIP101"]}).settings.codes == FAMILY - {"CLIP101"}
    assert project({"select": ["CLIP1"]}, {"select": ["CLIP002"]}).settings.codes == {"CLIP002"}
    assert project({"ignore": ["CLIP101"]}, {"select": ["CLIP1"]}).settings.codes == FAMILY


def test_whose_fixes_are_trusted() -> None:
    found = project(
        {"extend-safe-fixes": ["CLIP1"], "unfixable": ["CLIP101"]}, {"extend-unsafe-fixes": ["CLIP002"]}
    ).settings
    assert found.trusted == FAMILY
    assert found.distrusted == {"CLIP002"}
    assert found.unfixable == {"CLIP101"}
    assert found.trust("CLIP102", Safety.UNSAFE) is Safety.SAFE
    assert found.trust("CLIP101", Safety.SAFE) is Safety.MANUAL
    assert found.trust("CLIP002", Safety.SAFE) is Safety.UNSAFE
    assert found.trust("CLIP003", Safety.UNSAFE) is Safety.UNSAFE
    assert found.trust("CLIP102", Safety.MANUAL) is Safety.MANUAL
    assert project({"fixable": ["CLIP1"]}).settings.unfixable == frozenset(RULES) - FAMILY
    assert project({"fixable": []}).settings.unfixable == frozenset(RULES)
    assert [found.applies(safety) for safety in Safety] == [False, False, True]


@pytest.mark.parametrize(
    ("layers", "path", "gone"),
    [
        ([{"per-file-ignores": {"tests/*": ["CLIP1"]}}], "tests/a.py", FAMILY),
        ([{"per-file-ignores": {"tests/*": ["CLIP1"]}}], "a.py", frozenset()),
        ([{"per-file-ignores": {"a.py": ["CLIP1"], "*.py": ["CLIP002"]}}], "a.py", FAMILY | {"CLIP002"}),
        ([{"per-file-ignores": {"a.py": ["CLIP1"]}}, {"per-file-ignores": {"b.py": ["CLIP1"]}}], "a.py", frozenset()),
        ([{"per-file-ignores": {"a.py": ["CLIP1"]}}, {"extend-per-file-ignores": {"a.py": ["CLIP002"]}}], "a.py", FAMILY | {"CLIP002"}),
        ([{"extend-per-file-ignores": {"a.py": ["CLIP1"]}}, {"per-file-ignores": {"a.py": ["CLIP002"]}}], "a.py", frozenset({"CLIP002"})),
    ],
)  # fmt: skip
def test_rules_that_are_off_in_some_files(layers: list[dict[str, Any]], path: str, gone: frozenset[str]) -> None:
    found = project(*layers).for_file(os.path.join(ROOT, path))
    assert found.codes == DEFAULT - gone
    assert found.report_unused


def test_unused_suppressions_are_switched_off_like_a_rule() -> None:
    assert not project({"ignore": ["unused-suppression"]}).settings.report_unused
    off = project({"per-file-ignores": {"a.py": ["unused-suppression"]}})
    assert not off.for_file(os.path.join(ROOT, "a.py")).report_unused
    assert off.for_file(os.path.join(ROOT, "b.py")).report_unused
    assert off.for_file(os.path.join(ROOT, "a.py")).codes == DEFAULT


def test_what_is_left_out() -> None:
    def left_out(path: str, *layers: dict[str, Any]) -> bool:
        return project(*layers).excludes(os.path.join(ROOT, path))

    usual = os.path.relpath(os.path.join(os.getcwd(), "node_modules", "a.py"), ROOT)
    assert left_out(usual)
    assert not left_out(usual, {"exclude": ["mine"]})
    assert left_out("mine/a.py", {"exclude": ["mine"]})
    assert not left_out("mine/a.py", {"exclude": ["mine"]}, {"exclude": ["other"]})
    assert left_out("mine/a.py", {"extend-exclude": ["mine"]}, {"exclude": ["other"]})
    assert left_out("other/a.py", {"extend-exclude": ["mine"]}, {"exclude": ["other"]})
    assert left_out(usual, {"extend-exclude": ["mine"]})
    assert not left_out("src/a.py")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"selct": []}, "did you mean `select`"),
        ({"per_file_ignores": {}}, "did you mean `per-file-ignores`"),
        ({"zzz": 1}, "unknown key `zzz`"),
        ({"select": "CLIP1"}, "`select` must be"),
        ({"select": [1]}, "`select` must be"),
        ({"exclude": {"a": 1}}, "`exclude` must be"),
        ({"unsafe-fixes": "yes"}, "`unsafe-fixes` must be"),
        ({"unsafe-fixes": 1}, "`unsafe-fixes` must be"),
        ({"cache-dir": True}, "`cache-dir` must be"),
        ({"per-file-ignores": ["a"]}, "`per-file-ignores` must be"),
        ({"per-file-ignores": {"a.py": "CLIP1"}}, "`per-file-ignores` must be"),
        ({"per-file-ignores": {"a.py": ["CLIP9"]}}, "CLIP9"),
        ({"ignore": ["CLIP9"]}, "CLIP9"),
        ({"target": "pytorch"}, "pytorch"),
        ({"target": "research.my-clip"}, "research.my-clip"),
        ({"target": "research..clip"}, "research..clip"),
        ({"target": "research.class"}, "research.class"),
        ({"output-format": "xml"}, "xml"),
    ],
)
def test_an_invalid_setting_is_one_clear_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        checked(Layer(values, ROOT))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("target", ["clipcheck", "torch", "lab.clips", "lab", "my_training_tools", "lab.torch"])
def test_targets(target: str) -> None:
    assert checked(Layer({"target": target}, ROOT)).values == {"target": target}


@pytest.mark.parametrize("target", ["Torch", "pytorch", "torhc", "Clipcheck", "clipchek", "clip-check", "", 1])
def test_targets_that_are_misspelled(target: object) -> None:
    with pytest.raises(ConfigError) as raised:
        checked(Layer({"target": target}, ROOT))
    assert str(raised.value) == f"`target` must be clipcheck, torch or the dotted name of a module, not {target!r}"


@pytest.mark.parametrize(
    ("values", "error"),
    [
        (
            {"output-format": "xml"},
            "invalid value 'xml' for `output-format` (expected full, concise, grouped, pylint, json, json-lines, github, "
            "azure, gitlab, rdjson, junit or sarif)",
        ),
        ({"select": "x" * 100}, f"`select` must be a list of rules, not '{'x' * 76}..."),
        ({"select": "x" * 78}, f"`select` must be a list of rules, not '{'x' * 78}'"),
        ({"select": ["CLIP1", "x" * 81]}, f"unknown rule `{'x' * 77}...` in `select` (`clipcheck rules` lists them)"),
        ({"per-file-ignores": {"a": ["X"]}}, "unknown rule `X` in `per-file-ignores` (`clipcheck rules` lists them)"),
        ({"y" * 90: 1}, f"unknown key `{'y' * 77}...`"),
        ({"exclude": "a"}, "`exclude` must be a list of patterns, not 'a'"),
        ({"exclude": ["a", 1]}, "`exclude` must be a list of patterns, not ['a', 1]"),
        ({"cache-dir": ["a"]}, "`cache-dir` must be a string, not ['a']"),
        ({"force-exclude": "true"}, "`force-exclude` must be true or false, not 'true'"),
        (
            {"per-file-ignores": {"a": ["CLIP1"], "b": 1}},
            "`per-file-ignores` must be a table of patterns to lists of rules, not {'a': ['CLIP1'], 'b': 1}",
        ),
    ],
)
def test_what_is_wrong_with_a_setting(values: dict[str, Any], error: str) -> None:
    with pytest.raises(ConfigError) as raised:
        checked(Layer(values, ROOT))
    assert str(raised.value) == error


@pytest.mark.parametrize(
    ("text", "key", "line"),
    [
        ("a = 1\nb = 2\n", "b", 2),
        ("ab = 1\nb = 2\n", "b", 2),
        ("  'b' = 1\n", "b", 1),
        ("x = 1\n'b'.c = 1\n", "b", 2),
        ("x = 1\n[ b ]\n", "b", 2),
        ('x = 1\n["b".c]\n', "b", 2),
        ("x = 1\n[[b]]\n", "b", 2),
        ("[a]\nb = 1\n[b]\n", "b", 3),
        ("[a.b]\n[bc]\n[b]\n", "b", 3),
        ("x = 1\nb.c = 1", "b", 2),
        ("x = 1\n# b = 1\n", "b", 0),
        ("a.b = 1\nx = 1\n", "b", 0),
        ("", "b", 0),  # cannot be told
    ],
)
def test_the_line_that_sets_a_key(text: str, key: str, line: int, tmp_path: Path) -> None:
    path = tmp_path / "clipcheck.toml"
    path.write_text(text, encoding="utf-8")
    fault = Layer({}, str(tmp_path), str(path)).fault(key, "wrong")
    assert str(fault) == f"{path}:{line or 1}: wrong"
    path = tmp_path / "pyproject.toml"
    within = re.sub(r"^(\s*\[+)\s*", r"\1tool.clipcheck.", text, flags=re.MULTILINE)
    path.write_text(f"[project]\n{key} = 1\n[tool.clipcheck]\n{within}", encoding="utf-8")
    found = line + 3 if line else 1
    assert str(Layer({}, str(tmp_path), str(path)).fault(key, "wrong")) == f"{path}:{found}: wrong"


def test_valid_settings_are_accepted() -> None:
    values: dict[str, Any] = {
        "select": ["ALL"], "ignore": ["unused-suppression"], "per-file-ignores": {"a.py": ["CLIP1"]}, "exclude": ["x"],
        "unsafe-fixes": True, "target": "torch", "cache-dir": "here", "output-format": "json",
    }  # fmt: skip
    assert checked(Layer(values, ROOT)).values == values


def test_isolated_projects_read_no_file() -> None:
    projects = Projects(Layer({"select": ["CLIP1"]}, ROOT), Settings(), isolated=True)
    assert projects.of("anywhere").settings.codes == FAMILY
    assert projects.of("anywhere").origin == ""
    assert projects.of_file("a.py") is projects.of("b")
