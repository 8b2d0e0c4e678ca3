"""Processes that have only imported `lab`: every run in one of its own."""

import multiprocessing

fresh = multiprocessing.get_context("forkserver")  # every run in a process of its own, from one that only imported
fresh.set_forkserver_preload(["lab.train", "lab.data"])


def ended(process):
    process.join(120)
    return process.exitcode
