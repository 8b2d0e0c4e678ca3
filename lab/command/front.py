"""click, as this command line uses it: commands in groups, options in groups, and the kinds of value they take."""

import difflib
import math
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path

import click

HOW = {"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 100}


class Group(click.Group):
    """Commands by name, all of one kind, `what`. Without a name the help is the answer, and exit status 2."""

    def __init__(self, name: str, what: str, **how):
        super().__init__(name, no_args_is_help=False, context_settings=HOW, **how)
        self.what, self.subcommand_metavar = what, f"{what.upper()} ..."

    def list_commands(self, ctx):
        """The names, in the order in which they were given."""
        return list(self.commands)

    def parse_args(self, ctx, args):
        """As click does."""
        if not args:
            click.echo(ctx.get_help(), err=True)
            ctx.exit(2)
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx, args):
        """The command that the first word names, or a UsageError that says which is near."""
        if args[0] not in self.commands:
            near = difflib.get_close_matches(args[0], self.commands, 1)
            instead = f"did you mean {near[0]}?" if near else "choose " + " or ".join(self.commands)
            raise click.UsageError(f"{ctx.command_path} has no {self.what} {args[0]!r}; {instead}", ctx)
        return super().resolve_command(ctx, args)


class Command(click.Command):
    """A command whose options stand in its help under the titles of `groups`, after the `arguments`."""

    def __init__(
        self,
        name: str,
        callback: Callable,
        groups: dict[str, tuple[click.Option, ...]],
        help: str,
        *arguments: click.Argument,
    ):
        params = [*arguments, *(option for group in groups.values() for option in group)]
        how = HOW | {"allow_extra_args": True}
        first = help.split("\n\n")[0]
        super().__init__(name, params=params, callback=callback, help=help, short_help=first, context_settings=how)
        self.groups = {title: group for title, group in groups.items() if group}

    def parse_args(self, ctx, args):
        """As click does; to the option that took several words, the answer is the one that takes one."""
        if "--conditions" in args and self.takes("--condition"):
            named = takewhile(lambda word: not word.startswith("-"), args[args.index("--conditions") + 1 :])
            again = " ".join(f"--condition {name}" for name in named) or "--condition NAME"
            raise click.UsageError(f"an option takes one value and is repeated for more: {again}", ctx)
        return super().parse_args(ctx, args)

    def takes(self, option: str) -> bool:
        """Whether the command has this option."""
        return any(option in param.opts for param in self.params)

    def format_options(self, ctx, formatter):
        """A section for each group."""
        for title, group in self.groups.items():
            with formatter.section(title):
                formatter.write_dl([option.get_help_record(ctx) for option in group])
        with formatter.section("Help"):
            formatter.write_dl([self.get_help_option(ctx).get_help_record(ctx)])

    def invoke(self, ctx):
        """Run the command, unless words are left over."""
        if ctx.args:
            more = f" and is repeated for more: --condition {ctx.args[0]}" if self.takes("--condition") else ""
            raise click.UsageError(f"{ctx.args[0]!r} belongs to no option; an option takes one value{more}", ctx)
        return super().invoke(ctx)


class Whole(click.IntRange):
    """A whole number within a range."""

    name = "whole number"


class Real(click.FloatRange):
    """A finite number within a range."""

    name = "number"

    def convert(self, value, param, ctx):
        """The float; nan and infinities are refused too."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{number} is not a finite number.", param, ctx)
        return number


class Genes(Whole):
    """A number of genes, or "all"."""

    name = "whole number, nor the word all"

    def convert(self, value, param, ctx):
        """The int, or "all"."""
        return value if value == "all" else super().convert(value, param, ctx)


class Column(click.ParamType):
    """The name of an obs column."""

    name = "column"

    def get_missing_message(self, param, ctx=None):
        """What to do where no column is named."""
        return "Name one or more obs columns, or train vae, which needs none"


class Level(click.ParamType):
    """NAME=LEVEL, such as an obs column and one of its labels."""

    name = "level"

    def convert(self, value, param, ctx):
        """(NAME, LEVEL); a label may itself hold a =."""
        if isinstance(value, tuple):
            return value
        name, _, label = value.partition("=")
        if not (name and label):
            self.fail(f"{value!r} names no level; give a name and its level, such as tissue=lung", param, ctx)
        return name, label


class NewFile(click.ParamType):
    """An .h5ad that is not there yet, in a folder that is."""

    name = "file"

    def convert(self, value, param, ctx):
        """The Path; nothing that exists is ever overwritten."""
        path = Path(value)
        if path.suffix != ".h5ad":
            self.fail(f"{path} is not named .h5ad; give the file to write such a name", param, ctx)
        if path.exists():
            self.fail(f"{path} exists already; name another file, or remove that one", param, ctx)
        if not path.parent.is_dir():
            self.fail(f"there is no folder {path.parent} in which to write {path.name}; create it first", param, ctx)
        return path
