"""What is installed and promised outside the pages: lock, ranges, repository address, licence, workflows, contents."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import metadata, version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK_FILE = ROOT / ".binder/requirements.txt"
LOCK = [Requirement(line) for line in LOCK_FILE.read_text().splitlines() if line and not line.startswith("#")]
PINNED = {canonicalize_name(r.name): r for r in LOCK}
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text())
PLACEHOLDER_FILES = ["README.md", "CITATION.cff"]


def test_the_lock_names_exact_public_versions():
    for requirement in LOCK:
        assert re.fullmatch(r"==[\w.]+", str(requirement.specifier)), (
            f"{requirement}: one version, without a local part such as +cpu"
        )
        assert not requirement.url
    assert not re.search(r"^\s*-|://|file:", LOCK_FILE.read_text(), re.M), "no option, index or path in the lock"


@pytest.mark.parametrize("group", ["", "book", "test", "chem"])
def test_the_lock_satisfies_what_the_package_and_its_extras_ask(group):
    asked = PROJECT["optional-dependencies"][group] if group else PROJECT["dependencies"]
    for requirement in map(Requirement, asked):
        locked = PINNED.get(canonicalize_name(requirement.name))
        assert locked, f"{requirement.name} is not in the lock"
        assert str(locked.specifier).removeprefix("==") in requirement.specifier


def test_the_lock_serves_every_python_that_the_package_promises():
    """Debian 12 ships 3.11.2: a pin that asks for a later patch release shuts such readers out."""
    lowest = PROJECT["requires-python"].removeprefix(">=") + ".0"
    asks = {r.name: metadata(r.name).get("Requires-Python") for r in LOCK}
    assert {name: a for name, a in asks.items() if a and lowest not in SpecifierSet(a)} == {}


def test_this_environment_is_the_lock():
    """So what was built and tested is what Binder and a fresh clone get; torch may carry a local part (+cpu)."""
    differing = {
        r.name: version(r.name) for r in LOCK if version(r.name).split("+")[0] != str(r.specifier).removeprefix("==")
    }
    assert not differing
    check = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True)
    assert check.returncode == 0, check.stdout


def test_every_locked_version_is_on_the_public_index():
    """Without any pip configuration. Torch's default build is gigabytes, and whatever depends on it would bring it in:
    so torch is left out and dependencies are not followed; that the versions fit one another, `pip check` says."""
    rest = "\n".join(str(r) for r in LOCK if r.name != "torch")
    env = {k: v for k, v in os.environ.items() if not k.upper().startswith("PIP_")} | {"PIP_CONFIG_FILE": os.devnull}
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--dry-run",
        "--no-deps",
        "--ignore-installed",
        "--quiet",
        "-r",
        "/dev/stdin",
    ]
    result = subprocess.run(command, input=rest, env=env, capture_output=True, text=True)
    if "NewConnectionError" in result.stderr and not os.environ.get("CI"):
        pytest.skip("no package index can be reached")
    assert result.returncode == 0, result.stderr[-2000:]


def test_the_lowest_versions_allowed_fit_one_another():
    """Resolved, not installed; torch, gigabytes, stays as it is. The weekly job installs and tests them."""
    floors = subprocess.run([ROOT / ".ci/floors", "torch"], capture_output=True, text=True, check=True).stdout.split()
    assert len(floors) == len(PROJECT["dependencies"]) - 1 and all(re.fullmatch(r"[\w-]+==[\d.]+", f) for f in floors)
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", *floors]
    result = subprocess.run(command, capture_output=True, text=True)
    if "NewConnectionError" in result.stderr and not os.environ.get("CI"):
        pytest.skip("no package index can be reached")
    assert result.returncode == 0, result.stderr[-2000:]


def test_the_package_imports_only_what_it_declares():
    allowed = {canonicalize_name(Requirement(d).name) for d in PROJECT["dependencies"]} | {"lab", "tqdm"}
    alias = {"sklearn": "scikit-learn", "ot": "pot", "otter": "otter-grader"}
    optional = {
        canonicalize_name(Requirement(d).name)
        for e in ("embed", "cuda", "chem", "grading")
        for d in PROJECT["optional-dependencies"][e]
    }
    for file in (ROOT / "lab").rglob("*.py"):
        for node in ast.walk(tree := ast.parse(file.read_text())):
            names = (
                [a.name for a in node.names]
                if isinstance(node, ast.Import)
                else [node.module]
                if isinstance(node, ast.ImportFrom) and not node.level
                else []
            )
            for name in {n.split(".")[0] for n in names} - sys.stdlib_module_names:
                declared = canonicalize_name(alias.get(name, name))
                lazily = node not in tree.body
                assert declared in allowed or lazily and declared in optional | {"ipython"}, (
                    f"{file.name} imports {name}"
                )


@pytest.mark.parametrize(
    "entry", ["torch", "numpy", "scipy", "scikit-learn", "pandas", "matplotlib", "anndata", "scanpy"]
)
def test_what_colab_has_is_asked_for_in_a_range(entry):
    """A pin would make pip replace the torch or numpy of a running Colab."""
    requirement = next(Requirement(d) for d in PROJECT["dependencies"] if Requirement(d).name == entry)
    assert {s.operator for s in requirement.specifier} == {">="}


def test_the_repository_address_stands_once_and_the_others_agree():
    url = CONFIG["repository"]["url"]
    assert re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+", url)
    for name in PLACEHOLDER_FILES:
        assert url in (ROOT / name).read_text(), f"{name} does not name {url}"
    for file in subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    ).stdout.split():
        if Path(file).suffix in {".md", ".ipynb", ".yml", ".toml", ".cff", ".py"} and (ROOT / file).exists():
            for other in re.findall(r"https://github\.com/[\w.-]+/generating-cells", (ROOT / file).read_text()):
                assert other == url, f"{file} names {other}"


def test_nothing_says_to_install_the_other_project_called_lab():
    for file in [
        ROOT / "README.md",
        *(ROOT / "book").rglob("*.md"),
        *(ROOT / "book").rglob("*.ipynb"),
        *(ROOT / "lab").rglob("*.py"),
    ]:
        assert not re.search(r"pip install (-\S+ )*lab\b", file.read_text()), file


def test_the_version_is_one():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert str(citation["version"]) == PROJECT["version"] == version(PROJECT["name"])
    assert citation["title"].split(":")[0] == CONFIG["title"]


def test_the_licences_are_said_once_and_alike():
    licence, readme = (ROOT / "LICENSE").read_text(), (ROOT / "README.md").read_text()
    for text in (licence, readme):
        assert re.search(r"BSD[- ]3-Clause", text) and "CC BY 4.0" in text
    assert readme.count("CC BY 4.0") == 1
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["license"] == ["BSD-3-Clause", "CC-BY-4.0"]


def test_every_page_of_the_book_is_in_its_table_of_contents():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text())
    listed = {toc["root"], *(c["file"] for part in toc["parts"] for c in part["chapters"])}
    pages = {
        p.relative_to(ROOT).with_suffix("").as_posix()
        for p in (ROOT / "book").rglob("*.md")
        if ".ipynb_checkpoints" not in p.parts
    }
    assert pages == listed


def test_the_top_level_holds_nothing_else():
    top = {
        "README.md",
        "Makefile",
        "pyproject.toml",
        "_config.yml",
        "_toc.yml",
        "references.bib",
        "book",
        "lab",
        "tests",
        "LICENSE",
        "CITATION.cff",
    }
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split("\n")
    assert {t.split("/")[0] for t in tracked if t and not t.startswith(".")} <= top


WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda f: f.stem)
def test_a_workflow_pins_its_actions_and_asks_for_no_more_than_it_needs(file):
    workflow = yaml.safe_load(file.read_text())
    assert workflow["permissions"] in ({}, {"contents": "read"}), "each job asks for what it needs itself"
    for use in re.findall(r"uses: (\S+)", file.read_text()):
        assert re.fullmatch(r"[\w.-]+/[\w./-]+@[0-9a-f]{40}", use), use
    for use, comment in re.findall(r"uses: (\S+)(.*)", file.read_text()):
        assert re.search(r"# v\d+\.\d+\.\d+", comment), f"{use}: name the version beside its hash"


@pytest.mark.skipif(not shutil.which("bash"), reason="bash is not installed")
@pytest.mark.parametrize("script", [".ci/run", ".ci/colab", ".binder/postBuild"])
def test_a_script_stops_at_the_first_failure(script):
    assert "set -eo pipefail" in (ROOT / script).read_text()
    assert os.access(ROOT / script, os.X_OK)
    assert subprocess.run(["bash", "-n", script], cwd=ROOT).returncode == 0


def test_the_line_that_installs_the_extra_for_cuda_stands_where_the_extra_does():
    from lab.ssm.backends import INSTALL

    assert f"# Built from source beside a CUDA torch: {INSTALL}\ncuda = [" in (ROOT / "pyproject.toml").read_text()
    names = {Requirement(d).name for d in PROJECT["optional-dependencies"]["cuda"]}
    assert names == set(INSTALL.split()[-2:]) and not names & {Requirement(d).name for d in PROJECT["dependencies"]}
