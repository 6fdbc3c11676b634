"""The typer application and its commands."""

from __future__ import annotations

import typer

from segproto.cli import analyse, convert, edit, explain, export, info, predict, propose, results, review, runs, studio
from segproto.cli import data as data_sets

# Plain help: importing rich for panels would take half of the 0.5 s that --help may last.
app = typer.Typer(
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    help="Interpretable semantic segmentation with prototypes: train, evaluate, and see why.",
    epilog="Settings are key=value, as in a recipe: segproto train scaleproto/scenes train.seed=1 --out runs/a",
)
analyses = typer.Typer(no_args_is_help=True, help="Look into a trained model.", rich_markup_mode=None)
ablate = typer.Typer(no_args_is_help=True, help="What one ingredient does.", rich_markup_mode=None)
data = typer.Typer(no_args_is_help=True, help="Look at data sets.", rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def root(version: bool = typer.Option(False, "--version", help="Print the version and leave.")) -> None:
    """Shows the version."""
    if version:
        from segproto.version import __version__

        typer.echo(f"segproto {__version__}")
        raise typer.Exit


for command in (runs.quickstart, runs.train, results.evaluate, predict.predict, explain.explain, results.report):
    app.command()(command)
app.command()(results.compare)
app.command()(propose.propose)
app.command()(edit.edit)
app.command()(studio.studio)
app.command()(review.review)
app.command()(convert.convert)
app.command()(export.export)
app.add_typer(analyses, name="analyse")
for analysis in (analyse.patches, analyse.pixels, analyse.groups, analyse.samples, analyse.assignments):
    analyses.command()(analysis)
analyses.command()(analyse.failures)
app.add_typer(ablate, name="ablate")
for ablation in (edit.thresholds, edit.entropy, edit.scales, edit.starts):
    ablate.command()(ablation)
app.command()(info.recipes)
hub = typer.Typer(no_args_is_help=True, help="Share models on the Hugging Face hub.", rich_markup_mode=None)
app.add_typer(hub, name="hub")
hub.command()(export.push)
hub.command()(export.pull)
app.add_typer(data, name="data")
data.command("list")(data_sets.data_list)
data.command("init")(data_sets.data_init)
data.command("prepare")(data_sets.data_prepare)
data.command("submit")(data_sets.data_submit)
data.command("verify")(info.data_verify)
app.command()(info.doctor)
