"""The layouts, a line each."""

from __future__ import annotations

from segproto.data.layouts.finding import Layout
from segproto.data.layouts.pictures import PICTURES
from segproto.table import Table

AS_SET = Layout(name="folder", title="as data.images and data.labels say, without recognition", looks=lambda _: None)

LAYOUTS: Table[Layout] = Table("layout", (AS_SET, PICTURES), "segproto.layouts")
