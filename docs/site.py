"""Write what the documentation site takes from the program itself, as hooks of mkdocs and griffe.

A page may hold `[[cli]]` (the help of every command) or `[[api hf_cap.priors]]` (the public names of a
package). The links that leave the site are listed in `site/external-links.txt`.
"""

import contextlib
import io
import os
import re
import textwrap
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import griffe

from hf_cap.cli import COMMANDS, main

_external: set[str] = set()


def on_config(config: Any) -> None:
    """Link the site to the repository, where `pyproject.toml` names one."""
    project = tomllib.loads((Path(config["docs_dir"]).parent / "pyproject.toml").read_text("utf-8"))
    if address := project["project"]["urls"].get("Repository"):
        config["repo_url"], config["repo_name"] = address, "hf_cap"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill in the placeholders of a page."""
    markdown = re.sub(r"^\[\[cli\]\]$", lambda _: _commands(), markdown, flags=re.MULTILINE)
    return re.sub(r"^\[\[api ([\w.]+)\]\]$", lambda m: _names(m[1]), markdown, flags=re.MULTILINE)


def on_page_content(html: str, **_: Any) -> None:
    """Note the links of a page that leave the site."""
    _external.update(re.findall(r'href="(https?://[^"]+)"', html))


def on_post_build(config: Any) -> None:
    """List the links that leave the site, and fail where a page would load something from elsewhere."""
    folder = Path(config["site_dir"])
    (folder / "external-links.txt").write_text("\n".join([*sorted(_external), ""]))
    loads = re.compile(r'<(?:link|script|img|iframe)[^>]*(?:src|href)="https?://[^"]+')
    found = {hit for page in folder.rglob("*.html") for hit in loads.findall(page.read_text())}
    if found:
        raise SystemExit(f"The site must work offline, but loads {sorted(found)}.")


def _commands() -> str:
    os.environ["COLUMNS"] = "80"
    return "\n\n".join(f"## {name}\n\n```text\n{_help(name)}\n```" for name in COMMANDS)


def _help(name: str) -> str:
    """What `hf-cap NAME --help` prints, without the frames that it draws around groups."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        main([name, "--help"])
    text = re.sub(r"^╭─ (.*?) ─+╮$", r"\1:", printed.getvalue(), flags=re.MULTILINE)
    text = re.sub(r"^╰─+╯$\n?", "", text, flags=re.MULTILINE)
    text = re.sub(r"^│ (.*?) *│$", r"  \1", text, flags=re.MULTILINE)
    text = re.sub(r"^ *-{9,} *$\n?", "", text, flags=re.MULTILINE)
    return "\n".join(textwrap.fill(line, 80) for line in text.rstrip().splitlines())


def _names(package: str) -> str:
    """One entry for each name that a package exports."""
    exports = import_module(package)._EXPORTS
    return "\n\n".join(f"::: {place}.{name}" for name, place in exports.items() if place != package)


class HelpTexts(griffe.Extension):
    """Documents the settings of a dataclass by the help texts of `option(default, help)`."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Set the default of each setting, and list the settings of each class in its docstring."""
        helps: dict[str, str] = {}
        classes = list(_classes(pkg))
        # griffe itself knows a dataclass by the decorator of the standard library
        plain = griffe.ExprName("dataclass", parent=pkg["utils"])
        by_name = griffe.ExprCall(plain, [griffe.ExprKeyword("kw_only", "True")])
        for decorator in (each for cls in classes for each in cls.decorators):
            if str(decorator.value).endswith("settings_class"):
                decorator.value = by_name
        for attribute in (each for cls in classes for each in cls.attributes.values()):
            call = attribute.value
            if isinstance(call, griffe.ExprCall) and str(call.function) in {"option", "required"}:
                attribute.value, text = _default_and_help(attribute, call)
                helps |= {attribute.path: text} if text else {}
        for cls in classes:
            family = [*reversed(cls.mro()), cls]
            own = {name: a.path for each in family for name, a in each.attributes.items()}
            lines = [f"    {name}: {helps[path]}" for name, path in own.items() if path in helps]
            if lines:
                text = cls.docstring.value if cls.docstring else ""
                text = "\n".join([text, "", "Args:", *lines])
                cls.docstring = griffe.Docstring(text, parent=cls, parser="google")


def _classes(module: griffe.Module) -> Iterator[griffe.Class]:
    for member in module.members.values():
        if isinstance(member, griffe.Class):
            yield member
        elif isinstance(member, griffe.Module):
            yield from _classes(member)


def _default_and_help(attribute: griffe.Attribute, call: griffe.ExprCall) -> tuple[Any, str]:
    """The default as it is written (`None`: there is none) and the help text of a setting."""
    cls: Any = attribute.parent
    found = getattr(import_module(cls.parent.path), cls.name).__dataclass_fields__[attribute.name]
    named = {e.name: e.value for e in call.arguments if isinstance(e, griffe.ExprKeyword)}
    first = None if str(call.function) == "required" else call.arguments[0]
    default = named.get("factory") or named.get("default") or first
    return default, found.metadata["help"]
