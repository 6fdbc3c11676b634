"""The kinds of data set, in the order they are listed in: a line each; the published ones are listed where they are."""

from __future__ import annotations

from segproto.data.camvid import CAMVID
from segproto.data.em import EM
from segproto.data.kind import DataKind
from segproto.data.look import FOLDER
from segproto.data.published_sets import PUBLISHED_KINDS
from segproto.data.scenes import SCENES
from segproto.data.unlabelled import IMAGES
from segproto.table import Table

DATASETS: Table[DataKind] = Table("data set", (FOLDER, IMAGES, SCENES, EM, CAMVID, *PUBLISHED_KINDS), "segproto.data")
