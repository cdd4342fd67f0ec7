"""The quoted lines, links and commands of the documentation exist."""
import re

import pytest

from tests.helpers import HOME

PAGES = [HOME / "README.md", *sorted((HOME / "docs").glob("*.md"))]


def test_every_formula_stands_beside_a_line_that_is_there():
    code = {line.strip() for name in ("model", "heads", "autoencoders", "engine/alignment")
            for line in (HOME / f"{name}.py").read_text(encoding="utf-8").splitlines()}
    quoted = re.findall(r"^    (.+)$", (HOME / "docs" / "maths.md").read_text(encoding="utf-8"),
                        re.MULTILINE)
    assert len(quoted) > 15
    missing = [line for line in quoted if line.strip() not in code]
    assert not missing, missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)|<img[^>]* src=\"([^\"]+)\"", text)
    for link in (a or b for a, b in links):
        if not link.startswith("http"):
            assert (page.parent / link).exists(), f"{page.name} links {link}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_name_files_that_are_there(page):
    for block in re.findall(r"```\w*\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        for module in re.findall(r"python -m ((?:lab|paper|engine)[\w.]*)", block):
            assert (HOME / (module.replace(".", "/") + ".py")).exists(), module
        for script in re.findall(r"python (\w+\.py)", block):
            assert (HOME / script).exists(), script
