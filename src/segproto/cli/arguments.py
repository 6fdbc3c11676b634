"""Arguments and options that several commands take, each declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Target = Annotated[Path, typer.Argument(help="A run folder or a model folder.")]
Recipe = Annotated[str, typer.Argument(help="Name (see: segproto recipes) or a YAML file.")]
Values = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...")]
DataValues = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="data.root=DIR ...")]
Stage = Annotated[str | None, typer.Option(help="The model a stage left, as in project; default: the last.")]
Device = Annotated[str | None, typer.Option(help="cpu or cuda; default: cuda if there is one.")]
Devices = Annotated[
    int | None,
    typer.Option(min=1, help="Processes that share the images, one per GPU; torchrun and srun say it themselves."),
]
Processes = Annotated[
    int | None,
    typer.Option(
        "--devices", min=1, help="Processes on the CPU that share the images; torchrun and srun say it themselves."
    ),
]
Window = Annotated[int | None, typer.Option(min=32, help="Side of the sliding window in pixels; bounds memory.")]
Scales = Annotated[str, typer.Option(help="Input scales averaged, as in 0.75,1,1.25.")]
SeenScales = Annotated[
    str | None,
    typer.Option(
        "--scales", help="Input scales averaged; default: 1, or as a converted model was published to see images."
    ),
]
Flip = Annotated[bool, typer.Option("--flip", help="Average with the mirrored image.")]
MaxPixels = Annotated[int | None, typer.Option(help="Allow larger images than 2^28 pixels.")]
Seeds = Annotated[str, typer.Option(help="One run a seed and variant, as in 1,2,3.")]
RunsFolder = Annotated[Path, typer.Option("--out", help="Folder of all runs.")]
ArraysFolder = Annotated[Path, typer.Option("--out", help="Folder for arrays, pictures and JSON.")]
Image = Annotated[str | None, typer.Option(help="A file, or the name of a validation image; default: the first.")]
Nearest = Annotated[int, typer.Option("--nearest", min=1, help="How many for each.")]
Precision = Annotated[
    str, typer.Option(help="32-true, bf16-mixed, 16-mixed, or auto: as trained on a GPU, 32-true on a CPU.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]
Bands = Annotated[
    str | None,
    typer.Option(
        help="Where the file has the model's bands, if elsewhere than in training: numbers or names of its bands in "
        "the model's order, as in 4,1,2, or names: those called as in training."
    ),
]
Form = Annotated[
    str, typer.Option("--format", help="png, tif (GeoTIFF; extra geo), or auto: tif for georeferenced images.")
]
Probabilities = Annotated[
    Path | None,
    typer.Option(help="Folder for probabilities: npz, float16 (H, W, classes); beside GeoTIFFs, one band per class."),
]
Ood = Annotated[Path | None, typer.Option(help="Folder for how unlike everything known each pixel is, as gray.")]
