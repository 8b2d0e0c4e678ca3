"""What runs inside the marking process: otter on one submission. Its limits are set by `grade`, which starts it.

Not a sandbox: the student's code and the tests share a kernel. Use a throwaway container where that matters.
"""

import json
import os
import sys

SENT = 1_000_000  # bytes that the cells may print


def main(submission: str, autograder: str, answer: str) -> None:
    """Mark, and write score, possible, marks by question and a note of the first error as JSON."""
    from nbclient import NotebookClient
    from otter.api import grade_submission

    said, handle = [0], NotebookClient.process_message

    def counted(self, msg, cell, index):
        said[0] += len(str(msg["content"])) if msg["msg_type"] in {"stream", "display_data", "execute_result"} else 0
        if said[0] > SENT:
            os._exit(3)
        return handle(self, msg, cell, index)

    NotebookClient.process_message = counted
    if os.environ.get("LAB_ASSIGN_GUARD"):
        guard()
    results = grade_submission(submission, autograder, quiet=True)
    marks = {name: test.score for name, test in sorted(results.results.items())}
    errors = [
        f"{out.ename}: {out.evalue}".splitlines()[0][:120]
        for cell in (results.notebook.cells if results.notebook else [])
        for out in cell.get("outputs", [])
        if out.output_type == "error"
    ]
    short = any("MemoryError" in e or "allocate memory" in e for e in errors)
    note = f"stopped: memory, 2 GB ({errors[0]})" if short else f"a cell failed: {errors[0]}" if errors else ""
    row = {"score": sum(marks.values()), "possible": results.possible, "marks": marks, "note": note}
    with open(answer, "w", encoding="utf-8") as file:
        json.dump(row, file)


def guard() -> None:
    """Where no namespace can be had: kernels refuse to connect to any other machine."""
    folder = os.path.join(os.getcwd(), "guard")
    os.makedirs(folder)
    with open(os.path.join(folder, "sitecustomize.py"), "w", encoding="utf-8") as file:
        file.write(
            "import socket\n"
            "def guarded(call):\n"
            "    def wrapped(self, *words):\n"
            "        if isinstance(words[-1], tuple) and words[-1][0] not in ('127.0.0.1', '::1', 'localhost'):\n"
            "            raise OSError('there is no network while homework is marked')\n"
            "        return call(self, *words)\n"
            "    return wrapped\n"
            "for name in ('connect', 'connect_ex', 'sendto'):\n"
            "    setattr(socket.socket, name, guarded(getattr(socket.socket, name)))\n"
        )
    os.environ["PYTHONPATH"] = os.pathsep.join([folder, os.environ.get("PYTHONPATH", "")])


if __name__ == "__main__":
    main(*sys.argv[1:])
