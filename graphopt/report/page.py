"""Templates become pages, and pages files.

A page needs no network and no script. Node and file names come from models nobody vouches for: the
template escapes everything it is given, and the page forbids itself to load or run anything.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from graphopt import processes
from graphopt.errors import SaveError

# What HTML does not allow, however it is written, and what turns the reading direction around, with
# which a name could pass for another.
_CONTROLS = (*range(0x09), 0x0B, *range(0x0E, 0x20), *range(0x7F, 0xA0), *range(0xD800, 0xE000))
_BIDI_CONTROLS = (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_UNPRINTABLE = dict.fromkeys((*_CONTROLS, *_BIDI_CONTROLS), "\N{REPLACEMENT CHARACTER}")


def filled(template: str, filters: Mapping[str, Callable[..., Any]], **values: Any) -> str:
    """A page of a template of this folder, with the common style.

    Args:
        template: the file's name.
        filters: what the template may call, by name.
        values: what it is given; text is escaped unless it is `markupsafe.Markup`.
    """
    import jinja2
    from markupsafe import Markup

    own = files("graphopt.report")
    text, style = (own.joinpath(name).read_text("utf-8") for name in (template, "report.css"))
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printable,
    )
    environment.filters |= filters
    return environment.from_string(text).render(style=Markup(style), **values)


def write_texts(texts: Mapping[str, str], folder: Path) -> None:
    """Writes files by name into a folder, all or none; of processes that train together the first does.

    Raises:
        SaveError: they cannot be written; what was there before is left as it was.
    """
    if not processes.is_first():
        return
    with _save_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name in texts:
            if (folder / name).is_dir():
                raise SaveError(f"{folder / name} is a folder; move it away or report elsewhere")
        with tempfile.TemporaryDirectory(prefix=".report.", dir=folder) as drafts:
            for name, text in texts.items():
                _write(Path(drafts) / name, text)
            for name in texts:
                os.replace(Path(drafts) / name, folder / name)


def _printable(value: Any) -> Any:
    return value.translate(_UNPRINTABLE) if isinstance(value, str) else value


def _write(path: Path, text: str) -> None:
    # A file name that is no UTF-8 reaches Python as lone surrogates, which no encoding takes.
    with path.open("wb") as file:
        file.write(text.encode("utf-8", "backslashreplace"))
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def _save_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except FileExistsError as error:
        raise SaveError(f"cannot write the report: {folder} is a file, not a folder") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise SaveError(f"cannot write the report in {folder}: {reason}") from error
