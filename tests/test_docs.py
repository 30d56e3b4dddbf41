"""What README, pages and notebook say must be true of the code."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import json
import re
import shlex
from pathlib import Path
from types import ModuleType

import pytest

from xland import cli, errors
from xland.accessor import DataArrayAccessor, DatasetAccessor
from xland.datasets import SOURCES
from xland.vocabulary import CLASS_NAMES, HILDA_FOREST, IGBP, LUH3_STATES

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
NOTEBOOK = ROOT / "examples" / "first_map.ipynb"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
by_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)

FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
MACHINE_PATH = re.compile(r"(?<![\w.:/-])/(?:home|root|tmp|work|Users|opt|mnt|var)/")


def flags(command: str) -> set[str]:
    options = {f"--{name.replace('_', '-')}" for name in cli.COMMANDS[command].options()}
    return options | {f"--no-{flag.removeprefix('--')}" for flag in options} | {"--help", "--bbox"}


def blocks(page: Path, language: str) -> list[str]:
    return [body for name, body in FENCE.findall(page.read_text(encoding="utf-8")) if name.strip() == language]


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def spans(page: Path) -> list[str]:
    return re.findall(r"`([^`\n]+)`", prose(page))


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def conf() -> ModuleType:
    spec = importlib.util.spec_from_file_location("xland_docs_conf", DOCS / "conf.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@by_page
def test_commands_in_console_blocks_are_accepted_by_the_parser(page):
    for block in blocks(page, "console"):
        for line in block.splitlines():
            if line.startswith("$ xland "):
                words = shlex.split(line.removeprefix("$ xland "))
                if "--help" not in words:
                    cli.application(words[0]).parse_args(words, exit_on_error=False)


@by_page
def test_commands_and_flags_in_the_text_exist(page):
    known = {command: flags(command) for command in cli.COMMANDS}
    every = set().union(*known.values())
    for span in spans(page):
        words = span.split()
        if words[0] == "xland" and len(words) > 1:
            assert words[1] in known, span
            assert {word for word in words[2:] if word.startswith("--")} <= known[words[1]], span
        elif re.fullmatch(r"--[a-z-]+", span):
            assert span in every, span


@by_page
def test_make_targets_in_the_text_exist(page):
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {match for span in spans(page) for match in re.findall(r"^make ([a-z]+)", span)}
    assert named <= targets


@by_page
def test_python_blocks_compile(page):
    for block in blocks(page, "python"):
        ast.parse(block)


@by_page
def test_names_of_the_package_exist(page):
    text = page.read_text(encoding="utf-8")
    for dotted in set(re.findall(r"(?<![\w/.-])xland(?:\.[A-Za-z_]\w*)+", text)):
        module, *rest = dotted.split(".")
        found = importlib.import_module(module)
        for name in rest:
            module = f"{module}.{name}"
            if not hasattr(found, name):
                importlib.import_module(module)
            found = getattr(found, name)


@by_page
def test_accessor_methods_in_the_text_exist(page):
    methods = set(dir(DatasetAccessor)) | set(dir(DataArrayAccessor))
    assert set(re.findall(r"\.ai4land\.(\w+)", page.read_text(encoding="utf-8"))) <= methods


@by_page
def test_internal_links_resolve(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        if name == "generated/first_map":
            assert NOTEBOOK.exists()
            continue
        linked = page.parent / name if name else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


def test_every_page_stands_in_the_table_of_contents():
    listed = re.search(
        r"```{toctree}\n(?::\w+:\n)*\n(.*?)```", (DOCS / "index.md").read_text(encoding="utf-8"), re.DOTALL
    )
    assert listed is not None
    pages = {page.stem for page in DOCS.glob("*.md")} - {"index"}
    assert set(listed[1].split()) == pages | {"generated/first_map"}


def test_the_command_line_reference_holds_every_command_with_its_flags():
    text = conf().commands()
    for command in cli.COMMANDS:
        assert f"## xland {command}\n" in text
        assert all(name.replace("_", "-") in text for name in cli.COMMANDS[command].options())


def test_the_code_tables_of_the_site_come_from_the_vocabulary():
    module = conf()
    assert all(f"| `{name}` |" in module.classes() for name in CLASS_NAMES)
    assert all(f"| `{state}` |" in module.states() for state in LUH3_STATES)
    assert all(f"| {code} |" in module.hilda() for code in HILDA_FOREST)
    assert all(f"| {code} |" in module.igbp() for code in IGBP)


def test_every_named_error_is_explained():
    text = (DOCS / "errors.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(\w+Error)`", text)) - {"ValueError", "TypeError"}
    assert named == {name for name in vars(errors) if name.endswith("Error")}


def test_the_readme_names_every_source_of_data():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(f"`{source.distribution}`" in text for source in SOURCES.values())


def test_the_pictures_of_the_pages_are_small():
    assert all(picture.stat().st_size < 400_000 for picture in (DOCS / "images").glob("*"))


def test_the_notebook_was_run_from_top_to_bottom():
    cells = [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert all(cell["outputs"] for cell in cells)
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert all(output["output_type"] != "error" for output in outputs)
    assert all(output.get("name") != "stderr" for output in outputs)


@pytest.mark.pip_data
@pytest.mark.usefixtures("reference_data")
def test_the_notebook_still_runs(tmp_path, monkeypatch):
    """Its cells, one after the other, as the code is today."""
    monkeypatch.chdir(tmp_path)
    space: dict[str, object] = {}
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            source = "".join(line for line in cell["source"] if not line.startswith("%"))
            exec(compile(source, NOTEBOOK.name, "exec"), space)  # noqa: S102 - our own notebook
    assert list(tmp_path.rglob("catalog.yaml"))


def test_the_notebook_says_nothing_of_the_machine_it_ran_on():
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            data = {kind: text for kind, text in output.get("data", {}).items() if not kind.startswith("image/")}
            shown = json.dumps([data, output.get("text", "")])
            assert not MACHINE_PATH.search(shown), cell["source"]
        assert not MACHINE_PATH.search("".join(cell["source"]))


def test_the_notebook_uses_a_shipped_configuration_and_ends_with_its_catalog():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert any('model="fractions-0p05"' in source for source in code)
    assert [i for i, source in enumerate(code) if "intake.open_catalog" in source]
    assert "list_entries" in code[-1]
