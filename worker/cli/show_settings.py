"""``worker settings``: what is in effect, and where each value comes from."""

import json
from typing import Annotated, Any

import typer
from pydantic import SecretStr

from worker.cli.console import Rows
from worker.cli.context import out
from worker.masking import mask
from worker.settings import Settings, load_settings, variable_name


def show_settings(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, for scripts.")] = False,
) -> None:
    """Show every setting in effect, secrets masked. A malformed variable is named and ends with status 2."""
    settings = load_settings()
    shown = {variable_name(name): _shown(getattr(settings, name)) for name in Settings.model_fields}
    if as_json:
        out.out(json.dumps(shown), highlight=False)
        return
    table = Rows(box=None, pad_edge=False, header_style="dim")
    for column in ("variable", "value", "from", "meaning"):
        table.add_column(column, overflow="fold")
    for name, field in Settings.model_fields.items():
        origin = "set" if name in settings.model_fields_set else "default"
        variable = variable_name(name)
        table.add_row(variable, str(shown[variable] if shown[variable] is not None else ""), origin, field.description)
    out.print(table)


def _shown(value: Any) -> Any:
    if isinstance(value, SecretStr):
        secret = value.get_secret_value()
        return mask(secret) if "://" in secret else "***"  # of a URL, where it leads is no secret
    if value is None or isinstance(value, bool | int | float):
        return value
    return mask(str(value))
