"""`assign build|gate|grade`: homework from the command line."""

from pathlib import Path

from lab import assign as homework


def assign(step: str, name: str, folder: Path | None = None, grades: Path | None = None, seconds: float = 0) -> None:
    """Run one step for the assignment `name`, and print what came of it."""
    if step == "build":
        print(homework.build(name))
    elif step == "gate":
        print(f"{name}: the reference scores {sum(homework.gate(name).values()):g}, nothing leaks")
    else:
        for row in homework.grade(name, folder, grades, seconds=seconds):
            print(f"{row['submission']}: {row['score']:g} {row['note']}".rstrip())
        print(grades)
