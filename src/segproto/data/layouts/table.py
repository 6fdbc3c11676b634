"""The layouts, a line each."""

from __future__ import annotations

from segproto.data.layouts.coco import COCO
from segproto.data.layouts.cvat import CVAT
from segproto.data.layouts.finding import Layout
from segproto.data.layouts.label_studio import LABEL_STUDIO
from segproto.data.layouts.labelme import LABELME
from segproto.data.layouts.pictures import PICTURES
from segproto.data.layouts.supervisely import SUPERVISELY
from segproto.data.layouts.yolo import YOLO
from segproto.table import Table

AS_SET = Layout(name="folder", title="as data.images and data.labels say, without recognition", looks=lambda _: None)

LAYOUTS: Table[Layout] = Table(
    "layout", (AS_SET, PICTURES, COCO, CVAT, LABEL_STUDIO, LABELME, YOLO, SUPERVISELY), "segproto.layouts"
)
