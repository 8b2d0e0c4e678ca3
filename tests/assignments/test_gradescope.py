"""Gradescope's autograder: a folder like the one there, our zip in it, and what its scripts make of a submission."""

import json
import os
import re
import shutil
import subprocess
import zipfile

import pytest

from lab.assign import build, gradescope, places


@pytest.fixture(scope="module")
def root(elsewhere, tmp_path_factory):
    """/autograder as Gradescope has it after `setup.sh`; `.grading` stands in for the environment that it makes."""
    folder = tmp_path_factory.mktemp("autograder")
    build("hw01", elsewhere[1])
    zipfile.ZipFile(elsewhere[0] / "hw01/autograder.zip").extractall(folder / "source")
    for name in ("results", "submission/answer", "submission/.ipynb_checkpoints"):
        folder.joinpath(name).mkdir(parents=True)
    folder.joinpath("env").symlink_to(places.ROOT / ".grading", target_is_directory=True)
    shutil.copy(folder / "source/run_autograder", folder)
    shutil.copy(elsewhere[0] / "hw01/reference.ipynb", folder / "submission/answer/hw01.ipynb")
    shutil.copy(elsewhere[0] / "hw01/dist/student/hw01.ipynb", folder / "submission/.ipynb_checkpoints")
    return folder


def test_the_zip_holds_what_gradescope_runs_and_this_package(root):
    source = root / "source"
    assert {"setup.sh", "run_autograder", "tests", "package", "constraints.txt"} <= {p.name for p in source.iterdir()}
    for script in ("setup.sh", "run_autograder"):
        assert subprocess.run(["bash", "-n", source / script], capture_output=True, text=True).stderr == ""
    there = {p.relative_to(source / "package") for p in source.glob("package/lab/**/*") if p.is_file()}
    ours = [p for p in places.ROOT.glob("lab/**/*") if p.is_file() and "__pycache__" not in p.parts]
    assert there == {p.relative_to(places.ROOT) for p in ours} and (source / "package/pyproject.toml").exists()
    assert not [p for p in source.glob("package/**/*") if "hw01.md" in p.name]


def test_versions_are_the_lock_s_but_for_what_otter_asks():
    pins = dict(line.split("==") for line in gradescope.constraints().splitlines())
    assert {"torch", "scanpy", "otter-grader", "ipykernel"} <= pins.keys() and pins["wrapt"].startswith("1.")


def _marked(root):
    """What Gradescope would show after `run_autograder`, with the package that is in the zip."""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    env |= {"AUTOGRADER": str(root), "PYTHONPATH": str(root / "source/package"), "HOME": str(root)}
    subprocess.run(["bash", "run_autograder"], cwd=root, env=env, capture_output=True, text=True)
    return json.loads(root.joinpath("results/results.json").read_text())


def test_a_reference_without_its_result_file_scores_all_else_and_trains_nothing(root):
    said = _marked(root)
    marks = {re.search(r"q\d", t["name"])[0]: t["score"] for t in said["tests"] if "score" in t}
    assert marks == {"q1": 3, "q2": 2, "q3": 3, "q4": 3, "q5": 3, "q6": 0}, said
    assert "No hw01_cells.npz" in said["output"] and all(
        t.get("visibility") != "visible" for t in said["tests"] if "score" in t
    )


def test_two_notebooks_are_a_sentence_and_no_mark(root):
    shutil.copy(root / "submission/hw01.ipynb", root / "submission/other.ipynb")
    assert _marked(root) == {"score": 0, "output": "2 notebooks where there is one to mark"}
