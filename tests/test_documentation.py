"""README.md and the manual describe everything that users can call, and what they describe works.

Names come from the code, so that a command, pragma, setting, URI parameter or error that is added
without a line in the manual's reference fails here; so does a line about something that is gone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import inspect
import json
import os
import re
import shlex
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

import graft_vfs
from graft_vfs import Graft, errors, metrics, reports
from graft_vfs.engine import config
from graft_vfs.errors import NotFoundError
from graft_vfs.plain import transfer
from graft_vfs.store import s3
from graft_vfs.sync import fetch, pull, push
from graft_vfs.vfs import file_system
from tests.support import reference
from tests.support.extras import absence
from tests.support.left_open import CONNECTIONS_LEFT_OPEN

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
README_LINES_MAX = 180
MANUAL = ROOT / "graft_vfs" / "docs"
PAGES = {path.stem: path.read_text(encoding="utf-8") for path in sorted(MANUAL.rglob("*.md"))}
TEXTS = {"README": README, **PAGES}
DEMO = "python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/graft demo"
TESTS = "python3 -m venv .venv && .venv/bin/pip install -e '.[test]' && .venv/bin/pytest"
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
INTEGRATED = {"datasette", "django", "fastapi", "pandas", "sqlalchemy", "sqlite_utils"}
"""What some examples import from the extra `integrations`."""


def blocks(language: str, text: str) -> list[str]:
    """Return the code blocks of a language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def all_blocks(language: str) -> dict[str, str]:
    """Return the code blocks of README.md and the manual, by page and number."""
    return {
        f"{page}-{number}": block
        for page, text in TEXTS.items()
        for number, block in enumerate(blocks(language, text), 1)
    }


PYTHON_BLOCKS = all_blocks("python")
SHELL_BLOCKS = {
    name: block for name, block in all_blocks("sh").items() if "python3 -m venv" not in block
}
"""Those of the set-up install packages; .ci/run does that, and a test compares the two."""
CONSOLE_BLOCKS = all_blocks("console")


def section(page: str, title: str) -> str:
    """Return the text below a heading, down to the next one of its level or above."""
    found = re.search(rf"^(##+) {re.escape(title)}\n(.*)", TEXTS[page], re.DOTALL | re.MULTILINE)
    assert found, f"{page} has no section {title!r}"
    level = len(found[1])
    return re.split(rf"^#{{2,{level}}} ", found[2], maxsplit=1, flags=re.MULTILINE)[0]


def first_cells(page: str) -> list[str]:
    """Return the first cell of every row of the tables in a page."""
    lines = [line for line in PAGES[page].splitlines() if line.startswith("| `")]
    return [line.split("|")[1].strip() for line in lines]


def names(page: str, pattern: str) -> list[str]:
    """Return what `pattern` finds in the first cells of a page, in order."""
    return [name for cell in first_cells(page) for name in re.findall(pattern, cell)]


# Names ------------------------------------------------------------------------------------------


def test_generated_pages_are_up_to_date():
    for name, text in reference.documents().items():
        written = (MANUAL / name).read_text(encoding="utf-8")
        assert written == text, f"{name}: run `python -m tests.support.reference`"


@pytest.mark.parametrize("page", ["pragmas", "settings", "uri", "python", "exit-codes"])
def test_the_reference_explains_each_name(page):
    entries = re.findall(r"^(?:- (.*?`): |\| (\d+) \| )(.*)$", PAGES[page], re.MULTILINE)
    assert len(entries) >= 5
    assert all(len(text) >= 4 for *_, text in entries)


def test_every_variable_that_is_mentioned_exists():
    documents = [*TEXTS.values(), (ROOT / "examples" / "s3.py").read_text(encoding="utf-8")]
    mentioned = set(re.findall(r"\bGRAFT_[A-Z_]+[A-Z]\b", "".join(documents)))
    known = {f"GRAFT_{key.upper()}" for key in (*config._CHECKS, *config._LATER, "config")}
    known |= {f"GRAFT_REMOTE_{key.upper()}" for key in config._REMOTE_KEYS}
    assert mentioned <= known


def test_every_uri_parameter_has_a_row():
    asked = []
    engine = mock.Mock(writable=True)
    engine.open.side_effect = NotFoundError("it ends here")
    with pytest.raises(NotFoundError):
        file_system.FileSystem._open_volume(mock.Mock(engine=engine), "main", [0, 0], asked.append)
    assert asked
    # The other two are SQLite's own.
    explained = re.findall(r"^- `(\w+)`: ", PAGES["uri"], re.MULTILINE)
    assert sorted(explained) == sorted({*asked, "vfs", "mode"})


def test_every_public_name_of_the_package_has_a_row():
    assert sorted(names("python", r"`(\w+)`")) == sorted(graft_vfs.__all__)


def anchors(text: str) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


DOCUMENTS = [
    *sorted(ROOT.glob("*.md")),
    *(ROOT / name / "README.md" for name in ("tests", "graft_vfs")),
    *sorted(MANUAL.rglob("*.md")),
]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_inside_the_repository_works(document):
    text = document.read_text(encoding="utf-8")
    for target, anchor in re.findall(r"\]\(([^)#:\s]*)(?:#([^)]*))?\)", text):
        path = (document.parent / target) if target else document
        assert path.exists(), target
        if anchor:
            assert anchor in anchors(path.read_text(encoding="utf-8")), f"{target}#{anchor}"


def test_readme_is_short():
    assert len(README.splitlines()) <= README_LINES_MAX


def test_every_page_has_a_title_and_one_paragraph_that_says_what_it_is_about():
    assert len(PAGES) == len(list(MANUAL.rglob("*.md"))), "two pages have one name"
    for page, text in PAGES.items():
        title, paragraph = text.split("\n\n")[:2]
        assert title.startswith("# "), page
        assert paragraph[0].isupper() or paragraph[0] == "`", page


# Docstrings --------------------------------------------------------------------------------------


def public_objects() -> dict[str, Any]:
    """Return what a program may use, by its full name: functions, classes, methods, properties."""
    roots = {name: getattr(graft_vfs, name) for name in graft_vfs.__all__ if name != "__version__"}
    for module in (errors, reports, metrics, fetch, pull, push, transfer):
        roots |= {
            f"{module.__name__}.{name}": found
            for name, found in vars(module).items()
            if getattr(found, "__module__", "") == module.__name__ and not name.startswith("_")
        }
    found = {}
    for name, root in roots.items():
        if not callable(root):
            continue
        found[name] = root
        members = vars(root).items() if inspect.isclass(root) else ()
        for member, stored in members:
            value = getattr(stored, "__func__", stored)
            if not member.startswith("_") and (inspect.isfunction(value) or is_property(value)):
                found[f"{name}.{member}"] = value
    return found


def is_property(value: object) -> bool:
    return isinstance(value, property)


PUBLIC = public_objects()
VERBS = sorted(
    name
    for name in PUBLIC
    if name.startswith("Graft.") and name.removeprefix("Graft.") not in reference.NOT_VERBS
)
REPORTS = [
    name
    for name, kind in PUBLIC.items()
    if dataclasses.is_dataclass(kind) and name not in {"Config", "RemoteConfig"}
]
UNIT = re.compile(r"(^|_)(ms|seconds|bytes|lsn)$")


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_has_a_docstring_and_types(name):
    thing = PUBLIC[name]
    text = inspect.cleandoc(vars(thing)["__doc__"] if inspect.isclass(thing) else thing.__doc__)
    first = text.split("\n\n")[0]
    # A dataclass without one gets its signature, which tells nothing that the code does not.
    assert len(first.split()) >= 3, text
    assert first[0].isupper() or first.startswith(("graft.toml", "`"))
    assert first.endswith((".", ":"))
    function = thing.fget if is_property(thing) else thing
    if inspect.isfunction(function):
        signature = inspect.signature(function)
        parameters = [
            one for key, one in signature.parameters.items() if key not in {"self", "cls"}
        ]
        assert all(one.annotation is not one.empty for one in parameters)
        assert signature.return_annotation is not signature.empty


@pytest.mark.parametrize("name", VERBS)
def test_a_verb_documents_its_requests_and_names_only_existing_errors(name):
    text = PUBLIC[name].__doc__
    assert re.search(r"\b[Rr]equests?\b", text), text
    for error in re.findall(r"\b[A-Z]\w+Error\b", text):
        assert error in vars(errors), error


def test_the_engine_documents_the_errors_of_every_verb():
    for error in ("NotFoundError", "InvalidTagError", "NoRemoteError", "StoreError"):
        assert error in (Graft.__doc__ or "")


@pytest.mark.parametrize("name", REPORTS)
def test_a_report_explains_its_numbers(name):
    kind = PUBLIC[name]
    for entry in dataclasses.fields(kind):
        is_number = re.match(r"(int|float)\b", str(entry.type))
        if is_number and not UNIT.search(entry.name):
            assert f"`{entry.name}`" in kind.__doc__, entry.name


# What is told works -----------------------------------------------------------------------------


def test_the_set_up_commands_are_verbatim():
    assert blocks("sh", section("README", "Set-up")) == [f"{DEMO}\n{TESTS}\n"]


def test_ci_does_what_the_commands_do():
    script = ROOT / ".ci" / "run"
    lines = [line.strip() for line in script.read_text(encoding="utf-8").splitlines()]
    steps = TESTS.split(" && ")
    at = [
        next(number for number, line in enumerate(lines) if line.startswith(step)) for step in steps
    ]
    assert at == sorted(at)
    demo = [line for line in lines if line.endswith(('bin/pip" install .', 'bin/graft" demo'))]
    assert len(demo) == 2
    assert os.access(script, os.X_OK)


@pytest.fixture
def environment(tmp_path):
    """Variables of a machine that has a directory as its remote and nothing else."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("GRAFT_", "AWS_", "XDG_", "PYTHON"))
    }
    (tmp_path / "home").mkdir()
    return {
        **kept,
        "HOME": str(tmp_path / "home"),
        "TMPDIR": str(tmp_path),
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "error",
        "AWS_EC2_METADATA_DISABLED": "true",
        "GRAFT_DATA_DIR": str(tmp_path / "data"),
        "GRAFT_REMOTE_TYPE": "fs",
        "GRAFT_REMOTE_ROOT": str(tmp_path / "remote"),
    }


def run(arguments, environment, tmp_path):
    """Run Python in an empty directory and return what it prints."""
    directory = tmp_path / "work"
    directory.mkdir()
    done = subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        cwd=directory,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_there_are_blocks_of_each_kind():
    assert len(PYTHON_BLOCKS) >= 6
    assert len(SHELL_BLOCKS) >= 5
    assert len(all_blocks("sh")) == len(SHELL_BLOCKS) + 1
    assert len(CONSOLE_BLOCKS) == 1


def agrees(printed: list[str], expected: list[str]) -> None:
    """Assert that lines are what a document shows; an ellipsis stands for what differs."""
    for line, wanted in zip(printed, expected, strict=True):
        pattern = wanted.replace("[", "[[]").replace("…", "*")
        assert fnmatch.fnmatchcase(line, pattern), (line, wanted)


@pytest.mark.parametrize("name", PYTHON_BLOCKS)
def test_a_python_block_runs_and_prints_what_its_comments_say(name, environment, tmp_path):
    block = PYTHON_BLOCKS[name]
    printed = run(["-c", block], environment, tmp_path).splitlines()
    assert printed
    expected = re.findall(r"^ *print\(.*\)  # (.*)$", block, re.MULTILINE)
    if expected:
        agrees(printed, expected)


@pytest.fixture
def shell(environment, tmp_path, ministack):
    """Run scripts that find the command `graft`, a server, and a SQLite file `shop.db`."""
    bucket, work, programs = ministack.fresh_bucket(), tmp_path / "work", tmp_path / "bin"
    work.mkdir()
    programs.mkdir()
    command = programs / "graft"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m graft_vfs.cli "$@"\n')
    command.chmod(0o755)
    with contextlib.closing(sqlite3.connect(work / "shop.db")) as shop:
        shop.execute("CREATE TABLE prices(item, price)")

    def run_script(script: str, **remote: str) -> str:
        # What a reader puts into the place of the examples' values.
        script = script.replace("/srv/graft", str(tmp_path / "elsewhere"))
        script = script.replace("my-bucket", bucket).replace("/tmp/other", str(tmp_path / "other"))
        script = re.sub(r" (AWS_\w+)=…", "", script)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            env={
                **{name: value for name, value in environment.items() if "REMOTE" not in name},
                **ministack.environment(),
                **{name: value.replace("my-bucket", bucket) for name, value in remote.items()},
                "AWS_ENDPOINT_URL": ministack.url,
                "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            },
            cwd=work,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run_script


ON_S3 = {"GRAFT_REMOTE_TYPE": "s3_compatible", "GRAFT_REMOTE_BUCKET": "my-bucket"}


@pytest.mark.parametrize("name", SHELL_BLOCKS)
def test_a_shell_block_runs(name, shell, tmp_path):
    block = SHELL_BLOCKS[name]
    prepare = "" if "graft import" in block else "graft import shop.db main\n"
    # A recipe that names no remote follows one that does.
    remote = {} if "GRAFT_REMOTE_TYPE" in block else ON_S3
    printed = shell(prepare + block, **remote)
    assert "Pushed 1 commit as remote LSN 1" in printed or "event=pushed" in printed
    if "backup.db" in block:
        with contextlib.closing(sqlite3.connect(tmp_path / "work" / "backup.db")) as backup:
            assert backup.execute("SELECT count(*) FROM prices").fetchone() == (0,)


@pytest.mark.parametrize("name", CONSOLE_BLOCKS)
def test_a_console_block_prints_what_it_shows(name, shell):
    lines = CONSOLE_BLOCKS[name].splitlines()
    commands = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    marked = [f"echo {shlex.quote(f'$ {command}')}\n{command}" for command in commands]
    shown = [line if not line.startswith("$ ") else f"$ {line[2:]}" for line in lines]
    printed = shell("\n".join(marked)).splitlines()
    expected = [line.replace("my-bucket", "…").replace("/tmp/other", "…") for line in shown]
    agrees(printed, expected)


ACTIONS = {
    "get_object": "s3:GetObject",
    "put_object": "s3:PutObject",
    "create_multipart_upload": "s3:PutObject",
    "upload_part": "s3:PutObject",
    "complete_multipart_upload": "s3:PutObject",
    "abort_multipart_upload": "s3:AbortMultipartUpload",
    "delete_object": "s3:DeleteObject",
    "list_objects_v2": "s3:ListBucket",
}
"""Which permission each request of S3's needs, as Amazon documents it."""


def test_the_policy_grants_exactly_what_the_store_needs():
    policy = json.loads(blocks("json", section("s3", "Permissions"))[0])
    granted = set()
    for statement in policy["Statement"]:
        actions = statement["Action"]
        granted |= {actions} if isinstance(actions, str) else set(actions)
    source = "".join(inspect.getsource(module) for module in (s3.store, s3.reading, s3.upload))
    asked = set(re.findall(r"_client\.([a-z]+_\w+)\(", source))
    # The store can delete; but for the tests that ship, only removing a name or a pin has it do so,
    # and the sweep of a log with retention, which only some machine does.
    assert sorted(
        path.name
        for path in (ROOT / "graft_vfs").rglob("*.py")
        if re.search(r"store\.delete(_many)?\(", path.read_text(encoding="utf-8"))
        and path.parent.name != "testing"
    ) == ["names.py", "pins.py", "sweep.py"]
    assert {ACTIONS[call] for call in asked if not call.startswith("delete_")} == granted


def test_a_server_accepts_the_lifecycle_rules(ministack):
    rules = json.loads(blocks("json", section("s3", "Lifecycle rules"))[0])
    bucket = ministack.fresh_bucket()
    with ministack.client() as client:
        client.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration=rules)
        stored = client.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    assert [rule["ID"] for rule in stored] == [rule["ID"] for rule in rules["Rules"]]
    # An expiration would remove commits.
    assert not any("Expiration" in rule for rule in rules["Rules"])


def test_the_costs_are_requests_times_prices():
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in section("costs", "Prices").splitlines()
        if line.startswith("| a ") or re.match(r"\| .* \| [\d ]+ \| [\d ]+ \|", line)
    ]
    assert len(rows) >= 6
    puts, gets = [
        [float(price) for price in next(row for row in rows if row[0].startswith(start))[3:]]
        for start in ("a million PUT", "a million GET")
    ]
    for row in rows:
        count_of_puts, count_of_gets = (int(cell.replace(" ", "")) for cell in row[1:3])
        for provider, told in enumerate(row[3:]):
            cost = (count_of_puts * puts[provider] + count_of_gets * gets[provider]) / 1e6
            assert float(told) == pytest.approx(cost, abs=0.00501), row


TOML_BLOCKS = all_blocks("toml")


@pytest.mark.parametrize("name", TOML_BLOCKS)
def test_a_toml_block_is_a_configuration(name, tmp_path):
    file = tmp_path / "graft.toml"
    file.write_text(TOML_BLOCKS[name], encoding="utf-8")
    loaded = config.Config.load({"GRAFT_CONFIG": str(file)})
    assert loaded.remote.type == "s3_compatible"


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_runs(example, environment, tmp_path):
    needed = re.findall(r"^(?:from|import) (\w+)", example.read_text("utf-8"), re.MULTILINE)
    if (reason := absence("integrations")) and not INTEGRATED.isdisjoint(needed):
        pytest.skip(reason)
    if "datasette" in example.name:
        environment["PYTHONWARNINGS"] += f",{CONNECTIONS_LEFT_OPEN}"
    assert run([str(example)], environment, tmp_path)


def test_the_s3_example_explains_what_is_missing(environment, tmp_path):
    printed = run([str(ROOT / "examples" / "s3.py")], environment, tmp_path)
    assert "GRAFT_REMOTE_BUCKET" in printed


def test_the_s3_example_runs_on_a_server(environment, tmp_path, ministack):
    del environment["GRAFT_REMOTE_ROOT"]
    settings = {
        **environment,
        **ministack.environment(),
        "GRAFT_REMOTE_TYPE": "s3_compatible",
        "GRAFT_REMOTE_BUCKET": ministack.fresh_bucket(),
        "GRAFT_REMOTE_ENDPOINT": ministack.url,
    }
    printed = run([str(ROOT / "examples" / "s3.py")], settings, tmp_path)
    assert "hello from S3" in printed


def test_the_examples_are_all_that_is_in_their_directory():
    assert len(EXAMPLES) >= 4
    for example in EXAMPLES:
        assert "def main()" in example.read_text(encoding="utf-8")


def test_test_modules_have_unique_names() -> None:
    """The command in README collects all of them: pytest refuses a second module of one name."""
    names = []
    for path in sorted(ROOT.glob("tests/**/test_*.py")):
        top = path.parent
        while (top / "__init__.py").exists():
            top = top.parent
        names.append(path.relative_to(top))
    assert sorted(set(names)) == sorted(names)
