"""`python -m data`: ask the tables, look at a reward, check the lake, take a copy of it.

Reads the lake. Writes only what `export`, `push`, `pull`, `gc`, `card`, `pairs`, `ratings`, `report` and `sql --out` are
asked to. A mistake its user can repair is one sentence on stderr with the next command, and exit code 2; `--debug` shows
the traceback."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Annotated

import typer
from typer.exceptions import TyperException

from data.refusal import Refusal, nearest

EXAMPLES = """Ask the lake's tables and look after them.

\b
Examples:
  python -m data tables
  python -m data describe reward_table
  python -m data sql "SELECT * FROM leaderboard" --format csv
  python -m data inspect "agreement + 0.5*language"
  python -m data doctor
"""
SCRIPT = "grpo-kd-data"  # the same command in one word: a shell completes no other
app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
LakeOption = Annotated[str, typer.Option("--lake", help="Folder of the lake, or s3://bucket/prefix.")]
DEFAULT_LAKE = "data/lake"


@app.callback(help=EXAMPLES)
def options(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of a refusal; may stand anywhere.")
    ] = False,
) -> None:
    """What stands before a command's name."""


@app.command()
def sql(
    query: Annotated[str, typer.Argument(help="One SELECT over tables and views (see `tables`).")],
    lake: LakeOption = DEFAULT_LAKE,
    format: Annotated[str, typer.Option("--format", help="table, csv, json or parquet.")] = "table",
    out: Annotated[Path | None, typer.Option("--out", help="Write to this file instead of the terminal.")] = None,
) -> None:
    """Answer one read-only SELECT."""
    from data import show
    from data.lake import Lake

    if format not in show.FORMATS:
        raise Refusal(f"no format {format}: {nearest(format, show.FORMATS)}", 'python -m data sql "…" --format json')
    if out is None and format == "parquet" and sys.stdout.isatty():
        raise Refusal("Parquet is no text for a terminal", 'python -m data sql "…" --format parquet --out FILE')
    rows = Lake.open(lake, must_exist=True).sql(query)
    content = show.FORMATS[format](rows)
    if out is None:
        sys.stdout.buffer.write(content)
        return
    new = not out.exists()
    try:
        out.write_bytes(content)
    except OSError as error:
        if new:
            with contextlib.suppress(OSError):
                out.unlink(missing_ok=True)
        raise Refusal(f"{out} cannot be written: {error.strerror}", "name a file in a folder that exists") from error


@app.command()
def tables(lake: LakeOption = DEFAULT_LAKE) -> None:
    """List tables with their rows, slices and bytes; the views; the labels of slices, pools first."""
    from data.lake import Lake
    from data.overview import labels, overview
    from data.show import as_text

    opened = Lake.open(lake, must_exist=True)
    held, views = overview(opened)
    parts = (
        as_text(held, "tables"),
        as_text(views, "views"),
        as_text(labels(opened), "labels; those with samples are pools"),
    )
    typer.echo("\n".join(parts), nl=False)


@app.command()
def describe(
    table: Annotated[str, typer.Argument(help="A table or a view.")],
    lake: LakeOption = DEFAULT_LAKE,
) -> None:
    """Show a table's columns: type, unit, meaning."""
    from data.lake import Lake
    from data.overview import described
    from data.show import as_text

    title, columns = described(table, Lake.open(lake))
    typer.echo(as_text(columns, title), nl=False)


@app.command()
def inspect(
    expression: Annotated[str, typer.Argument(help='A reward expression, e.g. "zscore_group(chrf) + 0.5*language".')],
    lake: LakeOption = DEFAULT_LAKE,
    against: Annotated[
        str | None, typer.Option(help="Another expression: show groups whose order it reverses.")
    ] = None,
    pool: Annotated[
        str | None, typer.Option(help="Label of the pool; the newest that has what is named unless given.")
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="Samples and groups shown.")] = 5,
) -> None:
    """Look at a reward before training with it."""
    from data.inspection import as_text
    from data.inspection import inspect as look
    from data.lake import Lake

    typer.echo(
        as_text(look(Lake.open(lake, must_exist=True), expression, against=against, pool=pool, rows=rows)), nl=False
    )


@app.command()
def report(
    lake: LakeOption = DEFAULT_LAKE,
    runs: Annotated[
        Path, typer.Option("--runs", help="Folder of the training runs: curves of unfinished ones, tokenizers.")
    ] = Path("runs"),
    out: Annotated[Path, typer.Option("--out", help="The page, to be opened in a browser.")] = Path("report.html"),
    pool: Annotated[str | None, typer.Option(help="Label of the pool; the newest unless given.")] = None,
    reward: Annotated[
        str | None, typer.Option(help="Reward expression that judges the pool; that of its newest run unless given.")
    ] = None,
) -> None:
    """Write one HTML page about the lake: costs, evaluations, runs, the pool with its samples, lineage."""
    from data.lake import Lake
    from data.report.page import write
    from data.report.source import Source

    size = write(Source(Lake.open(lake, must_exist=True), runs, pool, reward), out)
    typer.echo(f"report: {out} ({size / 1e6:.1f} MB)")


@app.command()
def verify(lake: LakeOption = DEFAULT_LAKE) -> None:
    """Check every slice: files, sha256, rows, keys, parents. Every fault is a line."""
    from data.lake import Lake
    from data.verify import verify as check

    opened = Lake.open(lake, must_exist=True)
    result = check(opened)
    typer.echo(", ".join(f"{name} {count}" for name, count in result.counts.items()) or "nothing to verify")
    if result.faults:
        one = len(result.faults) == 1
        for fault in () if one else result.faults:
            typer.echo(f"fault: {fault}")
        counted = "1 fault" if one else f"{len(result.faults)} faults, all in the list above, the first"
        raise Refusal(f"{counted}: {result.faults[0]}", result.next_step(opened))
    typer.echo("no faults")


@app.command()
def doctor(
    lake: LakeOption = DEFAULT_LAKE,
    runs: Annotated[str, typer.Option("--runs", help="Folder of training runs.")] = "runs",
) -> None:
    """Look at versions, devices, disk, the lake and optional parts; exit code 1 where something is broken."""
    from data.doctor import as_text, examine

    findings = examine(lake, runs)
    typer.echo(as_text(findings), nl=False)
    if any(finding.state == "broken" for finding in findings):
        raise typer.Exit(1)


@app.command()
def export(
    file: Annotated[Path, typer.Argument(help="The DuckDB file to write.")],
    lake: LakeOption = DEFAULT_LAKE,
    replace: Annotated[bool, typer.Option("--replace", help="Replace the file if it exists.")] = False,
) -> None:
    """Copy every table and view into one DuckDB file."""
    from data.export import export as copy
    from data.lake import Lake

    rows = copy(Lake.open(lake, must_exist=True), file, replace=replace)
    for name, count in rows.items():
        typer.echo(f"{name}: " + ("no data yet" if count is None else f"{count} rows"))


@app.command()
def card(
    lake: LakeOption = DEFAULT_LAKE,
    replace: Annotated[bool, typer.Option("--replace", help="Replace a README.md of another hand.")] = False,
) -> None:
    """Write README.md into the lake: it is then a data set that `datasets` loads by table, and a hub shows."""
    from data.card import write
    from data.lake import Lake

    typer.echo(f"card: {write(Lake.open(lake, must_exist=True), replace=replace)}")


LabelOption = Annotated[
    list[str] | None,
    typer.Option(
        "--label",
        help="Only slices of this label, what was computed of them (scores, rewards), and what all that was made from; repeatable.",
    ),
]
SliceOption = Annotated[
    list[str] | None,
    typer.Option("--slice", help="Only this slice (table/name), and what it was made from; repeatable."),
]
ReplaceOption = Annotated[
    bool, typer.Option("--replace", help="Replace journal files (runs, metrics, costs) that differ there.")
]


@app.command()
def push(
    place: Annotated[str, typer.Argument(help="Where to: a folder, or s3://bucket/prefix.")],
    lake: LakeOption = DEFAULT_LAKE,
    label: LabelOption = None,
    slice: SliceOption = None,
    replace: ReplaceOption = False,
) -> None:
    """Copy the lake, or a part of it, to another place; what is there already is not copied again."""
    _copy(lake, place, label, slice, replace)


@app.command()
def pull(
    place: Annotated[str, typer.Argument(help="Where from: a folder, or s3://bucket/prefix.")],
    lake: LakeOption = DEFAULT_LAKE,
    label: LabelOption = None,
    slice: SliceOption = None,
    replace: ReplaceOption = False,
) -> None:
    """Copy a lake, or a part of it, from another place into this one."""
    _copy(place, lake, label, slice, replace)


def _copy(source: str, target: str, labels: list[str] | None, slices: list[str] | None, replace: bool) -> None:
    from data.lake import Lake
    from data.transfer import summary, transfer

    lakes = Lake.open(source, must_exist=True), Lake.open(target)
    if lakes[0].uri == lakes[1].uri:
        raise Refusal(f"{source} and {target} are one lake", "python -m data push ANOTHER_PLACE")
    copied = transfer(*lakes, labels=labels or (), slices=slices or (), replace=replace, say=typer.echo)
    typer.echo(summary(copied, (lakes[0].uri, lakes[1].uri)))


@app.command()
def gc(
    lake: LakeOption = DEFAULT_LAKE,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be removed.")] = False,
    hours: Annotated[
        float,
        typer.Option(
            min=0, help="Where no lock tells (object storage, journals): leave alone what was written to since then."
        ),
    ] = 24,
) -> None:
    """Remove files that no manifest names: unfinished slices, temporary files, what the loser of two writers wrote."""
    from data.lake import Lake
    from data.verify import collect, garbage

    opened = Lake.open(lake, must_exist=True)
    files = garbage(opened, hours=hours)
    for path in files:
        typer.echo(str(path.relative_to(opened.root)))
    names = [path.relative_to(opened.root).as_posix() for path in files]
    size = sum(map(opened.place.size, names)) if dry_run else collect(opened, files)
    typer.echo(f"{len(files)} files, {size} bytes " + ("would be removed" if dry_run else "removed"))


@app.command()
def pairs(
    policies: Annotated[
        list[str], typer.Argument(help="Two policies that were evaluated, or more: each two are compared.")
    ],
    benchmark: Annotated[str, typer.Option(help="The benchmark whose items they answered.")],
    lake: LakeOption = DEFAULT_LAKE,
    n: Annotated[
        int, typer.Option("--n", min=1, help="Pairs for each two policies; as many as differ where there are fewer.")
    ] = 50,
    seed: Annotated[int, typer.Option(help="Draws items, order and sides.")] = 0,
    repeats: Annotated[float, typer.Option(min=0, max=0.5, help="Share of pairs shown again, sides changed.")] = 0.1,
    label: Annotated[
        str | None, typer.Option(help="Only evaluations of this recipe; the one that has all policies unless given.")
    ] = None,
    question: Annotated[
        str | None, typer.Option(help="What raters are asked, e.g. 'Which answer is better Faroese?'")
    ] = None,
    language: Annotated[str, typer.Option(help="Language of the page's own words: en or fo.")] = "en",
    out: Annotated[Path, typer.Option("--out", help="The page, to be opened in a browser.")] = Path("pairs.html"),
) -> None:
    """Make a page on which people judge blinded pairs of answers; `ratings` reads what it gives them."""
    from data.human.page import make
    from data.human.pairs import Plan, told
    from data.lake import Lake

    plan = Plan(benchmark, question, language, n, seed, repeats)
    page, html, shown = make(Lake.open(lake, must_exist=True), policies, plan, label)
    try:
        out.write_text(html, encoding="utf-8")
    except OSError as error:
        raise Refusal(
            f"{out} cannot be written: {error.strerror}", "--out, with a file in a folder that exists"
        ) from error
    typer.echo("\n".join([*told(shown), f"page {page}: {out}", f"next: python -m data ratings FILE.csv --lake {lake}"]))


@app.command()
def ratings(
    files: Annotated[list[Path], typer.Argument(help="Tables that raters downloaded from a page of `pairs`.")],
    lake: LakeOption = DEFAULT_LAKE,
    replace: Annotated[
        bool, typer.Option("--replace", help="A rater's later verdict takes the place of the earlier.")
    ] = False,
) -> None:
    """Read raters' tables into the lake; `win_rates` and `rater_agreement` are views of them."""
    from data.human.ratings import read_ratings
    from data.lake import Lake

    added = read_ratings(Lake.open(lake, must_exist=True), files, replace=replace)
    typer.echo(f"{added.new} judgements added, {added.changed} changed, {added.known} known already")
    typer.echo(f"next: python -m data sql 'SELECT * FROM win_rates' --lake {lake}")


def main(arguments: list[str] | None = None) -> None:
    """Run one command; a Refusal becomes its two lines and exit code 2."""
    given = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in given
    program = SCRIPT if Path(sys.argv[0]).name == SCRIPT else "python -m data"
    try:
        if program != SCRIPT and {"--install-completion", "--show-completion"} & set(given):
            raise Refusal("a shell completes commands of one word", f"{SCRIPT} --install-completion")
        code = app([a for a in given if a != "--debug"], prog_name=program, standalone_mode=False)
    except typer.Abort as error:
        raise SystemExit(130) from error
    except TyperException as error:
        if debug:
            raise
        subcommand = "".join(
            f" {c.callback.__name__}"
            for c in app.registered_commands
            if c.callback and c.callback.__name__ in given[:1]
        )
        refusal = Refusal(error.format_message(), f"python -m data{subcommand} --help")
        print(
            refusal if given else error.format_message(), file=sys.stderr
        )  # without arguments the message is the help
        raise SystemExit(2) from error
    except Refusal as error:
        if debug:
            raise
        print(error, file=sys.stderr)
        raise SystemExit(2) from error
    raise SystemExit(code or 0)


if __name__ == "__main__":
    main()
