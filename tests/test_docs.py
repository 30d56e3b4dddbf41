"""What README, pages and notebook say must be true of the code."""

from __future__ import annotations

import ast
import importlib
import json
import re
import runpy
import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from xland import cli, errors
from xland.accessor import DataArrayAccessor, DatasetAccessor
from xland.datasets import SOURCES
from xland.vocabulary import CLASS_NAMES, HILDA_FOREST, IGBP, LUH3_STATES

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
NOTEBOOKS = sorted(ROOT.glob("examples/*.ipynb"))
API = sorted(DOCS.glob("api/*.md"))
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.glob("*.md")), *API]
by_notebook = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
by_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)

FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
MACHINE_PATH = re.compile(r"(?<![\w.:/-])/(?:home|root|tmp|work|Users|opt|mnt|var)/")


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> list[str]:
    return [body for name, body in FENCE.findall(text_of(page)) if name.strip() == language]


def prose(page: Path) -> str:
    return FENCE.sub("", text_of(page))


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def cells(notebook: Path) -> list[dict]:
    return [cell for cell in json.loads(text_of(notebook))["cells"] if cell["cell_type"] == "code"]


@pytest.fixture(scope="module")
def conf() -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(DOCS / "conf.py")))


@by_page
def test_commands_flags_and_make_targets_exist(page):
    options = {command: each.options() for command, each in cli.COMMANDS.items()}
    known = {command: {f"--{name.replace('_', '-')}" for name in names} for command, names in options.items()}
    known = {command: {*flags, *(f"--no-{flag[2:]}" for flag in flags), "--help"} for command, flags in known.items()}
    targets = set(re.findall(r"^([a-z]+):", text_of(ROOT / "Makefile"), re.MULTILINE))
    for span in re.findall(r"`([^`\n]+)`", prose(page)):
        words = span.split()
        if words[0] == "xland" and len(words) > 1:
            command = " ".join(words[1:3]) if words[1] in cli.GROUPS else words[1]
            assert command in {*known, *cli.GROUPS}, span
            assert {word for word in words[2:] if word.startswith("--")} <= known.get(command, set()), span
        elif re.fullmatch(r"--[a-z-]+", span):
            assert span in set().union({"--bbox", "--version"}, *known.values()), span
        elif words[0] == "make":
            assert words[1] in targets, span
    for line in "\n".join(blocks(page, "console")).splitlines():
        words = shlex.split(line.removeprefix("$ ").partition(" > ")[0])
        if line.startswith("$ xland ") and "--help" not in words:
            command = " ".join(words[1:3]) if words[1] in cli.GROUPS else words[1]
            cli.application(command).parse_args(words[1:], exit_on_error=False)


@by_page
def test_names_of_the_package_exist(page):
    for block in blocks(page, "python"):
        ast.parse(block)
    for dotted in set(re.findall(r"(?<![\w/.-])xland(?:\.[A-Za-z_]\w*)+", text_of(page))):
        module, *rest = dotted.split(".")
        found = importlib.import_module(module)
        for name in rest:
            module = f"{module}.{name}"
            if not hasattr(found, name):
                importlib.import_module(module)
            found = getattr(found, name)
    methods = set(dir(DatasetAccessor)) | set(dir(DataArrayAccessor))
    assert set(re.findall(r"\.ai4land\.(\w+)", text_of(page))) <= methods


@by_page
def test_links_and_files_exist(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        name, _, anchor = target.partition("#")
        if "://" in target or name.startswith("generated/"):
            continue
        linked = page.parent / name if name else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target
    for path in re.findall(r"`((?:[a-z_]+/)+[a-z_]+\.(?:py|toml))`", prose(page)):
        assert (ROOT / path).exists() or (ROOT / "xland" / path).exists(), path


def test_every_page_is_in_the_table_of_contents():
    def listed(page: Path) -> list[str]:
        return re.findall(r"^[a-z_\-/]+$", "\n".join(blocks(page, "{toctree}")), re.MULTILINE)

    pages = {page.stem for page in DOCS.glob("*.md")} - {"index"}
    assert set(listed(DOCS / "index.md")) == pages | {f"generated/{notebook.stem}" for notebook in NOTEBOOKS}
    assert set(listed(DOCS / "api.md")) == {f"api/{page.stem}" for page in API}


def test_tables_and_reference_are_written_from_the_code(conf):
    text = conf.commands()
    for command in cli.COMMANDS:
        assert f"## xland {command}\n" in text
        assert all(name.replace("_", "-") in text for name in cli.COMMANDS[command].options())
    for table, entries in ((conf.classes, CLASS_NAMES), (conf.states, LUH3_STATES)):
        assert all(f"| `{name}` |" in table() for name in entries)
    for table, codes in ((conf.hilda, HILDA_FOREST), (conf.igbp, IGBP)):
        assert all(f"| {code} |" in table() for code in codes)


def test_the_docstring_of_each_name_follows_its_list(conf):
    for page in API:
        content = [text_of(page)]
        conf.document_listed(None, f"api/{page.stem}", content)
        names = re.findall(r"^   ~(\S+)$", content[0], re.MULTILINE)
        assert re.findall(r"^\.\. auto(?:class|function|data):: (\S+)$", content[0], re.MULTILINE) == names


def test_every_named_error_is_explained():
    named = set(re.findall(r"`(\w+Error)`", text_of(DOCS / "errors.md"))) - {"ValueError", "TypeError"}
    assert named == {name for name in vars(errors) if name.endswith("Error")}


def test_no_page_and_no_message_says_to_install_an_extra_of_a_package_that_pip_does_not_find():
    for place in (*PAGES, *sorted((ROOT / "xland").rglob("*.py"))):
        assert not re.search(r"pip install +['\"]?xland", text_of(place)), place


def test_the_readme_names_every_source_of_data():
    assert all(f"`{source.distribution}`" in text_of(ROOT / "README.md") for source in SOURCES.values())


def test_the_pictures_of_the_pages_are_small():
    assert all(picture.stat().st_size < 400_000 for picture in (DOCS / "images").glob("*"))


@by_notebook
def test_a_notebook_was_run_from_top_to_bottom_and_does_not_show_the_machine(notebook):
    code = cells(notebook)
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    for cell in code:
        assert cell["outputs"]
        for output in cell["outputs"]:
            assert output["output_type"] != "error"
            assert output.get("name") != "stderr"
            data = {kind: text for kind, text in output.get("data", {}).items() if not kind.startswith("image/")}
            assert not MACHINE_PATH.search(json.dumps([data, output.get("text", "")])), cell["source"]
        assert not MACHINE_PATH.search("".join(cell["source"]))


@pytest.mark.pip_data
@pytest.mark.usefixtures("reference_data")
def test_the_python_of_the_readme_runs_as_it_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number, block in enumerate(blocks(ROOT / "README.md", "python")):
        exec(compile(block, f"README.md, {number}", "exec"), {})  # noqa: S102 - our own page
    assert {path.name for path in tmp_path.iterdir()} >= {"land_use.zarr", "catalog.yaml"}


@pytest.mark.pip_data
@pytest.mark.usefixtures("reference_data")
@by_notebook
def test_a_notebook_still_runs(notebook, tmp_path, monkeypatch):
    for beside in notebook.parent.glob("*.nc"):
        shutil.copy(beside, tmp_path)
    monkeypatch.chdir(tmp_path)
    space: dict[str, object] = {}
    for cell in cells(notebook):
        exec(compile("".join(cell["source"]), notebook.name, "exec"), space)  # noqa: S102 - our own notebook
    assert notebook.stem != "first_map" or list(tmp_path.rglob("catalog.yaml"))


@pytest.mark.pip_data
@pytest.mark.usefixtures("reference_data")
def test_the_page_on_own_scenarios_runs_as_it_stands():
    space: dict[str, object] = {}
    for block in blocks(DOCS / "own-scenario.md", "python"):
        exec(compile(block, "own-scenario.md", "exec"), space)  # noqa: S102 - our own page
    found, states, maps = space["found"], space["states"], space["hr"]
    assert [error.variable for error in found.findings][1:2] == ["grid"]
    assert states.ai4land.check(progress=False).ok
    assert {1, 2, 3} <= set(maps["land_use"].values.ravel().tolist())
