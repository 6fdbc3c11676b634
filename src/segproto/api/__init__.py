"""One keyword-only function per verb: what the command line, the page and ``import segproto`` call.

This is the one list of public names; :mod:`segproto` takes its own from it. Nothing heavy is imported before it is
used, and :func:`load` needs neither ``segproto.training`` nor ``segproto.methods``.
"""

from __future__ import annotations

from segproto.api.ablate import ablate_entropy, ablate_scales, ablate_starts, ablate_thresholds
from segproto.api.analyse import analyse
from segproto.api.compare import compare
from segproto.api.convert import conversion_sources, convert
from segproto.api.data import data_init, data_prepare, data_sets, data_submit, data_verify
from segproto.api.doctor import doctor
from segproto.api.edit import edit
from segproto.api.evaluate import evaluate
from segproto.api.explain import explain, explain_folder
from segproto.api.export import export
from segproto.api.hub import hub_pull, hub_push
from segproto.api.load import load
from segproto.api.next_images import next_to_label
from segproto.api.posthoc import given, posthoc
from segproto.api.predict import predict
from segproto.api.propose import propose
from segproto.api.quickstart import quickstart
from segproto.api.recipes import recipe_text, recipes
from segproto.api.report import write_report
from segproto.api.review import apply_decisions, review
from segproto.api.score import score_cams, score_masks
from segproto.api.show import show
from segproto.api.train import train, train_seeds
from segproto.errors import SegprotoError

__all__ = [
    "SegprotoError",
    "ablate_entropy",
    "ablate_scales",
    "ablate_starts",
    "ablate_thresholds",
    "analyse",
    "apply_decisions",
    "compare",
    "conversion_sources",
    "convert",
    "data_init",
    "data_prepare",
    "data_sets",
    "data_submit",
    "data_verify",
    "doctor",
    "edit",
    "evaluate",
    "explain",
    "explain_folder",
    "export",
    "given",
    "hub_pull",
    "hub_push",
    "load",
    "next_to_label",
    "posthoc",
    "predict",
    "propose",
    "quickstart",
    "recipe_text",
    "recipes",
    "review",
    "score_cams",
    "score_masks",
    "show",
    "train",
    "train_seeds",
    "write_report",
]
