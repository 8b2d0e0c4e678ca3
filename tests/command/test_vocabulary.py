"""One vocabulary over all commands: a word is one option, and means one thing."""

import click
import pytest
from command_line import MODELS

from lab.command import dispatch, options
from lab.command.front import NewFile
from lab.command.recipes import found


def commands(group=None, path=()):
    """(the words that name it, the command) for every command that does something."""
    for name, command in (group or dispatch.root()).commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


COMMANDS = dict(commands())
SHARED = [one for one in vars(options).values() if isinstance(one, click.Option)]
PLACES = {  # a word whose object depends on where it stands, and why that is one meaning
    "--out": "where results go: a folder for train and, of other files, for judges, else one new file",
    "--train": "the model's training cells: report looks for copies of them, evaluate lets baselines learn from them",
    "--control": "control cells: their label for train, their file for evaluate",
    "--condition": "what the model is told; an obs column's NAME for train, NAME=LEVEL for sample, for predict several",
}


def meaning(option):
    return option.help, option.metavar, repr(option.type), option.multiple, option.is_flag, option.default


def test_the_commands_are_these():
    trained, homework = (("train", name) for name in found()), (("assign", step) for step in ("build", "gate", "grade"))
    assert set(COMMANDS) == {
        ("doctor",),
        ("data",),
        ("sample",),
        ("embed",),
        ("predict",),
        ("report",),
        ("evaluate",),
        *trained,
        *homework,
    }


def test_every_recipe_has_its_row_in_the_table_of_models():
    assert set(MODELS) == set(found())


def test_a_word_means_the_same_wherever_it_stands():
    known = {}
    for path, command in COMMANDS.items():
        for option in command.params:
            if isinstance(option, click.Option):
                for word in option.opts:
                    known.setdefault(word, {}).setdefault(meaning(option), []).append(" ".join(path))
    assert {word for word, meanings in known.items() if len(meanings) > 1} == set(PLACES)
    assert {word: len(known[word]) for word in PLACES} == {"--out": 4, "--train": 2, "--control": 2, "--condition": 3}


def test_a_word_of_the_shared_vocabulary_is_no_recipe_s_own():
    shared = {word: [meaning(one) for one in SHARED if word in one.opts] for one in SHARED for word in one.opts}
    for name, recipe in found().items():
        for option in recipe.options:
            for word in option.opts:
                assert meaning(option) in shared.get(word, [meaning(option)]), f"{name}: {word} is another option's"


def test_the_words_that_all_commands_share_are_those_of_the_plan():
    words = {word for one in SHARED for word in one.opts}
    assert {"--data", "--out", "--condition", "--layer", "--size", "--seed", "--samples"} <= words


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_out_is_a_folder_for_train_and_judges_and_a_new_file_elsewhere(path):
    out = [option for option in COMMANDS[path].params if "--out" in option.opts]
    if path[0] in ("doctor", "data", "assign"):
        assert not out
    else:
        assert isinstance(out[0].type, NewFile) == (path[0] not in ("train", "report", "evaluate")) and out[0].required


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_option_says_what_it_is(path):
    for option in COMMANDS[path].params:
        if isinstance(option, click.Option):
            assert option.help[0].isupper() and option.help.endswith("."), option.opts
            assert option.is_flag or option.metavar, option.opts
