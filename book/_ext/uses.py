"""What Python source uses of `lab`, as dotted names without that word: `vae.loss(model, b)` uses ("vae", "loss").

`()` is the package whole. Nothing is imported or run: the source is read.
"""

import ast
import functools
import re
from collections import defaultdict

# imports of which only the running program knows what they are of
DYNAMIC = {"__import__", "import_module", "iter_modules", "resolve_name", "run_module", "walk_packages"}
OWN = re.compile(r"__(name|package|path)__")
PROGRAM = re.compile(r"(-m|from|import)\s+lab\b")  # in a text: a process of its own


@functools.cache
def parsed(source):
    """The source's syntax tree."""
    return ast.parse(source)


def is_text(node):
    """Whether it is a literal string."""
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def defined(statement):
    """The names that a statement defines: a function's, a class's, those it assigns to."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {statement.name}
    if not isinstance(statement, ast.Assign | ast.AnnAssign | ast.AugAssign):
        return set()
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    names = (n for target in targets for n in ast.walk(target) if isinstance(n, ast.Name))
    return {n.id for n in names if isinstance(n.ctx, ast.Store)}


def imported(tree, package=()):
    """Local name -> the dotted names that it stands for, "*" -> those taken whole; relative imports are `package`'s."""
    bound = defaultdict(set)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for path, alias in [(a.name.split("."), a.asname) for a in node.names if a.name.split(".")[0] == "lab"]:
                bound[alias or "lab"].add(tuple(path[1:]) if alias else ())
        elif isinstance(node, ast.ImportFrom):
            above = ("lab", *package)[: len(package) + 2 - node.level] if node.level else ()
            base = (*above, *node.module.split(".")) if node.module else above
            for a in node.names if base[0] == "lab" else ():
                bound[a.asname or a.name].add(base[1:] if a.name == "*" else (*base[1:], a.name))
    return bound


def dotted(node):
    """(a, b, c) of the expression a.b.c; () of any other."""
    if isinstance(node, ast.Attribute):
        return (*head, node.attr) if (head := dotted(node.value)) else ()
    return (node.id,) if isinstance(node, ast.Name) else ()


def chains(node):
    """Every dotted name below a node; the name of a call is followed by its first argument, if that is a text."""
    if name := dotted(node):
        yield name
        return
    children = list(ast.iter_child_nodes(node))
    if isinstance(node, ast.Call) and dotted(node.func) and node.args and is_text(node.args[0]):
        yield (*dotted(node.func), node.args[0].value)
        children.remove(node.func)
    for child in children:
        yield from chains(child)


def references(statements, bound, unused=True, package=(), dynamic=True):
    """The dotted names that statements use, given what local names stand for; those that are only imported as well.

    An import that only the running program knows may be of anything, or of anything in `package` if it says so.
    """
    used = {chain for node in statements for chain in chains(node)}
    found = {(*origin, *rest) for head, *rest in used for origin in bound.get(head, ())}
    others = bound.keys() - {head for head, *_ in used} if unused else bound.keys() & {"*"}
    calls = [n for s in statements if dynamic for n in ast.walk(s) if isinstance(n, ast.Call)]
    unknown = [ast.unparse(call) for call in calls if DYNAMIC.intersection(dotted(call.func))]
    found |= {package if OWN.search(call) else () for call in unknown}
    return found.union(*(bound[name] for name in others))


def used_by(source, unused=True):
    """The dotted names that a page's code uses, where IPython's commands have become calls of `get_ipython()`; those
    that it only imports as well, unless `unused` is False."""
    tree = parsed(source)
    texts = {n.value for n in ast.walk(tree) if is_text(n)}
    if texts >= {"-m", "lab"} or any(map(PROGRAM.search, texts)):
        return {()}
    bound = imported(tree)
    commands = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and "get_ipython" in ast.unparse(n.func)]
    words = {w for c in commands for n in ast.walk(c) if is_text(n) for w in re.findall(r"\w+", n.value)}
    return references(tree.body, bound, unused).union(*(bound[word] for word in words & bound.keys()))


def needed(sources, expression):
    """Those of `sources` that an expression needs: they bind a name that it uses, or that these use in turn, or do
    something with such a name."""
    asked, chosen = names(parsed(expression)), set()
    while more := {i for i, source in enumerate(sources) if i not in chosen and touched(parsed(source)) & asked}:
        chosen |= more
        asked = asked.union(*(names(parsed(sources[i])) for i in more))
    return [source for i, source in enumerate(sources) if i in chosen]


def names(tree):
    """Every bare name in a tree."""
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


def touched(tree):
    """The names that a source's statements bind, or mention where they bind none: `model.eval()` does something to
    `model`."""
    found = set()
    for statement in tree.body:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            found |= {(a.asname or a.name).split(".")[0] for a in statement.names}
        else:
            found |= defined(statement) or names(statement)
    return found


def code(text):
    """Python as it runs: without comments, docstrings and layout."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)
