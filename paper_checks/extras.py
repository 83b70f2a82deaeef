"""What the audit needs beyond torch, and the sentence that says so where it is missing."""

from importlib.util import find_spec

NEEDED = ("jinja2", "joblib", "matplotlib", "pandas", "pyarrow", "rich", "sklearn", "typer")


def absence(what: str, packages: tuple[str, ...] = NEEDED) -> str | None:
    """The sentence for what is not installed, and nothing where all is.

    >>> absence("an audit")
    >>> absence("an audit", ("no_such_package", "math"))
    "an audit needs no_such_package, which is not installed; pip install 'cblr[audit]'"
    """
    absent = [package for package in packages if find_spec(package) is None]
    if not absent:
        return None
    verb = "is" if len(absent) == 1 else "are"
    names = " and ".join(filter(None, (", ".join(absent[:-1]), absent[-1])))
    return f"{what} needs {names}, which {verb} not installed; pip install 'cblr[audit]'"
