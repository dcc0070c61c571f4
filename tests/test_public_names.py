"""What `import kvcatalog` offers: everything that is promised, and nothing that has to be guessed."""

import ast
import pkgutil
from pathlib import Path

import pytest

import kvcatalog
from kvcatalog import errors


@pytest.mark.parametrize("name", kvcatalog.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(kvcatalog, name) is not None


def test_no_public_name_is_a_module_of_the_package() -> None:
    """Importing the module would put it in the place of what bears its name."""
    modules = {module.name for module in pkgutil.iter_modules(kvcatalog.__path__)}
    assert len(modules) > 20
    assert modules & set(kvcatalog.__all__) == set()


def test_every_error_is_public() -> None:
    defined = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert defined <= set(kvcatalog.__all__)


def test_type_checkers_see_the_names_that_are_imported_on_use() -> None:
    tree = ast.parse(Path(kvcatalog.__file__).read_text("utf-8"))
    seen = {
        (node.module, alias.name)
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == {(module, name) for name, module in kvcatalog._ON_USE.items()}


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        getattr(kvcatalog, "no_such_name")  # noqa: B009
