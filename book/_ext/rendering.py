"""MyST as Markdown that Colab, JupyterLab and GitHub show alike."""

from labels import targets
from myst import ADMONITIONS, DIRECTIVES, blocks
from roles import links, prose


def markdown(page, text):
    """All blocks of the text, in order."""
    return "\n\n".join(filter(None, (render(page, block) for block in blocks(text))))


def quote(text):
    """A Markdown quotation, which is what a box becomes."""
    return "\n".join(f"> {line}".rstrip() for line in text.split("\n"))


def details(summary, body):
    """A fold: HTML that all three show."""
    return f"<details>\n<summary>{summary}</summary>\n\n{body}\n\n</details>"


def render(page, block):
    """One block as Markdown."""
    name, title = block.name, prose(page, block.title)
    number = targets()[block.label].number if block.label in targets() else ""
    match name:
        case "text":
            return prose(page, block.body)
        case "code":
            return block.body
        case "code-block":
            return f"```{block.title}\n{block.body}\n```"
        case "equation" | "math":
            tag = f" \\tag{{{number}}}" if number else ""
            return f"$$\n{block.body}{tag}\n$$"
        case "exercise-end" | "solution-end":
            return ""
        case "exercise-start":
            return f"### Exercise {number}{f': {title}' if title else ''}"
        case "solution-start":
            return f"#### Solution of exercise {targets()[block.title].number}"
        case "image" | "figure":
            picture = links(page, f"![{block.options.get('alt', '')}]({block.title})")
            caption = f"\n\n**Figure {number}.** {markdown(page, block.body)}" if name == "figure" else ""
            return picture + caption
        case "table":
            return f"**Table {number}.** {title}\n\n{markdown(page, block.body)}"
    if name not in DIRECTIVES:
        known = sorted(DIRECTIVES)
        raise ValueError(f"{page}: the directive {{{name}}} has no form in a reader notebook: use one of {known}")
    return box(block, number, title, markdown(page, block.body))


def box(block, number, title, body):
    """An admonition, a theorem or a dropdown, under its heading."""
    kind = block.name.removeprefix("prf:").capitalize()
    if block.name in ADMONITIONS:
        heading = title or ("" if block.name in {"margin", "sidebar"} else kind)
    elif block.name == "dropdown":
        heading = title
    else:
        heading = f"{kind}{f' {number}' if number else ''}{f' ({title})' if title else ''}"
    return details(heading, body) if block.dropdown else quote(f"**{heading}**\n\n{body}" if heading else body)
