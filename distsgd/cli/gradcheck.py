"""`distsgd gradcheck`."""

from __future__ import annotations

from pathlib import Path

import click

from distsgd.errors import counted


@click.command(short_help="Compare the gradients with central differences.")
@click.argument("config", required=False, type=click.Path(path_type=Path))
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Set a key, such as model.hidden=5.")
@click.option("--data", metavar="PATH", help="Training rows (data.train).")
@click.option(
    "--samples", type=click.IntRange(min=1), default=500, show_default=True, help="Largest number per array to compare."
)
def gradcheck(config: Path | None, assignments: tuple[str, ...], data: str | None, samples: int) -> None:
    """Compare the gradients of a configuration's first mini-batch with central differences, in float64.

    There is a line for each array of parameters; the exit code is 1 if one of them is wrong.
    """
    from distsgd.config import Config, parse_assignments, read_toml
    from distsgd.core.gradcheck import EPSILONS, all_agree
    from distsgd.run.gradcheck import check

    given = {} if data is None else {"data.train": data}
    requested = Config.build(read_toml(config) if config else {}, parse_assignments(assignments), given)
    spec, rows, found = check(requested, samples, lambda _: None)
    net = spec.net
    activation = f"{net.activation}, " if net.hidden else ""
    click.echo(
        f"{net.widths}, {activation}{net.loss} loss, L2 {requested.optim.l2:g}: the gradients of "
        f"{counted(rows, 'row')} of {spec.data.source} and central differences of ±{EPSILONS[0]:g}, in float64"
    )
    form = "{:<9}  {:>14}  {:>13}  {:>16}  {:>18}  {:>9}  {}"
    click.echo(
        form.format("parameter", "shape", "compared", "largest gradient", "largest difference", "relative", "at")
    )
    for line in found:
        shape, place = (", ".join(map(str, numbers)) for numbers in (line.shape, line.place))
        compared = f"{line.checked:,}"
        click.echo(
            form.format(
                *(line.name, f"({shape})", compared, f"{line.largest:.2e}", f"{line.difference:.1e}"),
                *(f"{line.relative:.1e}", f"[{place}]" + ("" if line.agrees else "  WRONG")),
            )
        )
    if not all_agree(found):
        raise click.exceptions.Exit(1)
