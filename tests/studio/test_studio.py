"""The studio without a browser: who may talk to it, what is refused, what edits of a session are."""

from __future__ import annotations

import http.client
import io
import json
import re
import shutil
import socket
import struct
import sys
import threading
import time
import urllib.parse
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import ExifTags, Image
from studio_server import studio

from segproto.data.picture import look_at
from segproto.data.pixels import PixelRule
from segproto.errors import ConfigError, DataError
from segproto.studio import state
from segproto.studio.earlier import Earlier
from segproto.studio.images import UPLOAD_BYTES, Recent, Uploads
from segproto.studio.jobs import batches
from segproto.studio.page import ASSETS, asset, names, page
from segproto.studio.security import listen
from segproto.studio.serve import serve
from segproto.studio.session import Edits, Session, Sessions, changed
from segproto.studio.state import Side
from segproto.studio.tell import probe_json

SESSION = "s=0123456789abcdef"
OURS = {"X-Segproto": "studio"}


def ask(url: str, path: str, method: str = "GET", body: Any = None, **headers: str) -> tuple[int, Any]:
    """Status and answer of a request to the studio."""
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
    sent = json.dumps(body).encode() if isinstance(body, dict) else body
    connection.request(method, path, sent, {name.replace("_", "-"): value for name, value in headers.items()})
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response.status, json.loads(
        content
    ) if response.headers.get_content_type() == "application/json" else content


@pytest.fixture(scope="module")
def address(scaleproto_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    short = ["stages.forget.steps=2", "stages.forget.retune_steps=2"]
    with studio(scaleproto_run, "--out", str(tmp_path_factory.mktemp("out")), *short) as url:
        yield url


def get(url: str, path: str, method: str = "GET", body: Any = None) -> Any:
    """As the page asks."""
    more = {"X_Segproto": "studio"} if method == "POST" else {}
    status, value = ask(url, f"{urllib.parse.urlsplit(url).path}{path}", method, body, **more)
    assert status == 200, value
    return value


def ready(url: str) -> None:
    """Waits until all validation images were looked at."""
    for _ in range(300):
        if all(one["done"] == one["total"] for one in get(url, f"state?{SESSION}")["looked"]):
            return
        time.sleep(0.1)
    raise AssertionError("the validation images are still being looked at")


def test_only_the_page_may_ask(address: str) -> None:
    path, port = urllib.parse.urlsplit(address).path, urllib.parse.urlsplit(address).port
    assert ask(address, path)[0] == 200
    assert ask(address, "/")[0] == 404
    assert ask(address, f"/wrong-token-0123456789/state?{SESSION}")[0] == 404
    assert ask(address, path, Host="evil.example")[0] == 403
    assert ask(address, path, Host=f"localhost:{port}")[0] == 200
    state = f"{path}state?{SESSION}"
    assert ask(address, state, Origin="https://evil.example")[0] == 403
    assert ask(address, state, Sec_Fetch_Site="cross-site")[0] == 403
    assert ask(address, path, Sec_Fetch_Site="none")[0] == 200  # typed into the address bar
    edit = f"{path}edit?{SESSION}"
    assert ask(address, edit, "POST", {"kind": "drop", "prototype": 0})[0] == 403  # as a form of another page
    assert get(address, f"state?{SESSION}")["at"] == 0


def test_what_is_sent_is_bounded_and_what_is_wrong_is_said(address: str) -> None:
    path = urllib.parse.urlsplit(address).path
    wrong = {
        f"edit?{SESSION}": ({"kind": "drop", "prototype": 9999}, "prototype 9999: there is none"),
        f"edit?{SESSION}&x": ({"kind": "fly"}, "'fly' is no edit"),
        "edit?s=1": ({"kind": "drop", "prototype": 1}, "load the page again"),
        f"apply?{SESSION}": ({}, "nothing to apply"),
        f"go?{SESSION}": ({"to": 7}, "edit 7"),
        f"upload?{SESSION}&name=a.png": (b"no picture", "a.png: is no picture"),
    }
    for route, (body, words) in wrong.items():
        status, value = ask(address, path + route, "POST", body, X_Segproto="studio")
        assert status == 400
        assert words in value["error"]
    status, value = ask(address, f"{path}edit?{SESSION}", "POST", b"x" * 2**21, X_Segproto="studio")
    assert status == 413
    for route, words in {
        "probe/77": "none of that number",
        "probe/u9": "drop it again",
        "probe/0?region=0,0,0,9": "region",
    }.items():
        mark = "&" if "?" in route else "?"
        status, value = ask(address, f"{path}{route}{mark}{SESSION}")
        assert status == 400
        assert words in value["error"]
    assert UPLOAD_BYTES < 2**30


def test_labels_have_a_page_of_their_own(address: str) -> None:
    assert b"Suspicious labels" in get(address, "review")
    assert get(address, f"review/list?{SESSION}")["images"] == 24
    state = get(address, f"review/state?{SESSION}")
    assert (state["decisions"], state["undo"], state["stamp"]) == ({}, False, None)
    path = urllib.parse.urlsplit(address).path
    assert ask(address, f"{path}review", Sec_Fetch_Site="none")[0] == 200  # typed into the address bar
    for route in ("review/undo", "review/decide", "review/write", "review/find"):
        assert ask(address, f"{path}{route}?{SESSION}", "POST", {})[0] == 403  # as a form of another page
    status, value = ask(address, f"{path}review/undo?{SESSION}", "POST", {}, X_Segproto="studio")
    assert (status, value["error"]) == (400, "revision None: expected a number")


def test_each_browser_has_its_own_edits_and_they_can_be_taken_up_again(address: str) -> None:
    ready(address)
    first, second = "s=aaaaaaaaaaaa", "s=bbbbbbbbbbbb"
    one = get(address, f"edit?{first}", "POST", {"kind": "drop", "prototype": 2})
    assert one["edits"]["drop"] == [2]
    two = get(address, f"edit?{second}", "POST", {"kind": "reweight", "group": 1, "factor": 0.5})
    assert two["edits"] == {"drop": [], "forbid": [], "merge": [], "reweight": [[1, 0.5]]}
    assert get(address, f"state?{first}")["edits"]["drop"] == [2]
    assert get(address, f"edit?{first}", "POST", {"kind": "drop", "prototype": 2}) == one  # off already: no edit
    place = get(address, f"restore?{first}", "POST", {})["model"]
    taken = get(address, "restore?s=cccccccccccc", "POST", {"model": place, "at": 1, "steps": one["steps"][1:]})
    assert taken["edits"] == one["edits"]
    assert taken["steps"][1]["miou"] == get(address, f"scores?{first}")["after"]["miou"]
    assert (
        get(address, "restore?s=dddddddddddd", "POST", {"model": "/other", "at": 1, "steps": one["steps"]})["at"] == 0
    )


def test_forgetting_is_trained_beside_the_page_and_a_model_is_written(address: str, scaleproto_run: Path) -> None:
    ready(address)
    model = get(address, f"model?{SESSION}")
    prototype = next(p for p, known in enumerate(model["prototypes"]) if known["source"])
    get(address, f"forget?{SESSION}", "POST", {"prototype": prototype})
    status, value = ask(
        address,
        urllib.parse.urlsplit(address).path + f"forget?{SESSION}",
        "POST",
        {"prototype": 1},
        X_Segproto="studio",
    )
    assert (status, "something else is being written" in value["error"]) == (400, True)
    stopped = get(address, f"stop?{SESSION}", "POST", {})
    assert stopped["state"] == "stopped"
    assert "--resume" in stopped["words"]
    get(address, f"forget?{SESSION}", "POST", {"prototype": prototype, "name": "without"})
    while (job := get(address, f"state?{SESSION}")["job"])["state"] == "running":
        time.sleep(0.2)
    assert job["state"] == "done", job
    assert (job["total"], job["out"].endswith("/without")) == (4, True)
    assert job["miou"]["after"] == json.loads((Path(job["out"]) / "edit.json").read_text())["miou"]["after"]


def test_a_run_whose_images_moved_still_opens(scaleproto_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(scaleproto_run, run)
    recipe = run / "recipe.yaml"
    moved = re.sub(r"^data:\n(  .*\n)+", "data:\n  name: camvid\n  root: /nowhere\n", recipe.read_text(), flags=re.M)
    recipe.write_text(moved)
    with studio(run) as url:
        model = get(url, f"model?{SESSION}")
        assert "/nowhere" in model["validation"]
        picture = f"upload?{SESSION}&name=mine.png"
        key = get(url, picture, "POST", next(iter((run / "model" / "prototypes").glob("*.png"))).read_bytes())["key"]
        assert len(get(url, f"probe/{key}?{SESSION}")["best"]) > 100
        assert get(url, f"edit?{SESSION}", "POST", {"kind": "drop", "prototype": 0})["at"] == 1


def test_a_studio_that_is_killed_while_it_applies_leaves_nothing_half_and_its_edits(
    scaleproto_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(scaleproto_run, run)
    first = "s=aaaaaaaaaaaa"
    with studio(run) as url:
        ready(url)
        assert get(url, f"restore?{first}", "POST", {})["earlier"] == 0
        steps = get(url, f"edit?{first}", "POST", {"kind": "drop", "prototype": 2})["steps"]
        assert get(url, "restore?s=bbbbbbbbbbbb", "POST", {})["earlier"] == 0  # the edits of a window that is open
        get(url, f"apply?{first}", "POST", {"name": "mine"})
        url.process.kill()
        url.process.wait(20)
    left = {path.name for path in (run / "studio").iterdir() if not path.name.startswith(".segproto-")}
    assert left == {"edits.json"} or (run / "studio" / "mine" / "edit.json").is_file()
    with studio(run) as url:
        assert get(url, "restore?s=cccccccccccc", "POST", {})["earlier"] == 1
        taken = get(url, "restore?s=cccccccccccc", "POST", {"earlier": True})
        assert (taken["earlier"], taken["at"]) == (0, 1)
        assert [step["edits"] for step in taken["steps"]] == [step["edits"] for step in steps]
    (run / "studio" / "edits.json").write_text("{")
    assert Earlier(run / "studio", str(run)).content is None


def test_pictures_that_are_too_large_are_refused_before_they_are_read(address: str) -> None:
    huge = io.BytesIO()
    Image.new("1", (1, 1)).save(huge, "PNG")
    header = bytearray(huge.getvalue())
    header[16:24] = struct.pack(">II", 20_000, 20_000)
    header[29:33] = struct.pack(">I", zlib.crc32(header[12:29]))
    path = urllib.parse.urlsplit(address).path
    for content, status, words in (
        (bytes(header), 400, "400000000 pixels, more than the 100 megapixels that are looked at"),
        (b"", 400, "a.png: is empty"),
        (b"0" * (UPLOAD_BYTES + 1), 413, "more than 64 MiB"),
    ):
        answer = ask(address, f"{path}upload?{SESSION}&name=a.png", "POST", content, X_Segproto="studio")
        assert answer[0] == status
        assert words in answer[1]["error"]


def test_an_own_image_is_read_as_a_file_is(address: str, tmp_path: Path) -> None:
    """Not by another reader, which took three of four bands or multiplied them by the fourth without a word."""
    rng, path = np.random.default_rng(0), urllib.parse.urlsplit(address).path
    four = rng.integers(0, 60_000, (8, 9, 4), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "four.tif", four, photometric="rgb", extrasamples=["unassalpha"])
    tifffile.imwrite(tmp_path / "eight.tif", np.repeat(four, 2, 2), photometric="minisblack", planarconfig="contig")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.effect_noise((24, 16), 80).convert("RGB").save(tmp_path / "turned.jpg", exif=exif)
    for name in ("four.tif", "eight.tif"):
        content = (tmp_path / name).read_bytes()
        rule = PixelRule(bands=(4, 1, 2))
        uploads = Uploads()
        given = uploads.picture(uploads.add(content, name, rule), rule)
        assert torch.equal(given.read(0, 0, 8, 9), look_at(tmp_path / name, rule=rule).read(0, 0, 8, 9))
        with pytest.raises(DataError) as refused:
            look_at(tmp_path / name)
        answer = ask(address, f"{path}upload?{SESSION}&name={name}", "POST", content, X_Segproto="studio")
        assert answer == (400, {"error": str(refused.value).replace(f"{tmp_path}/", "")})
    content = (tmp_path / "turned.jpg").read_bytes()
    status, told = ask(address, f"{path}upload?{SESSION}&name=turned.jpg", "POST", content, X_Segproto="studio")
    assert (status, told["size"]) == (200, [16, 24])
    assert "as it is stored" in told["note"]


def test_of_a_large_image_a_part_is_explained_and_looked_at_once(
    scaleproto_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "whole_pixels", lambda model: 5000)
    monkeypatch.setattr(state, "PART", 2000)
    buffer = io.BytesIO()
    Image.effect_noise((120, 90), 80).convert("RGB").save(buffer, "PNG")
    uploads = Uploads()
    side, key = Side(scaleproto_run, uploads), uploads.add(buffer.getvalue(), "large.png")
    assert probe_json(side, key, (0, 0, 90, 120), Edits())["large"]
    part = (20, 30, 60, 80)
    told = probe_json(side, key, part, Edits())
    assert len(told["best"]) == told["grid"][0] * told["grid"][1]
    assert side.seen(key, (30, 40, 50, 60)) is side.seen(key, part)
    assert side.seen(key, (0, 0, 40, 50)) is not side.seen(key, part)


def test_an_encoder_sees_one_image_at_a_time(scaleproto_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    side, busy, most = Side(scaleproto_run, Uploads()), [0], [0]
    encode = side.model.encoder.forward_scales

    def watched(images: Any) -> Any:
        busy[0] += 1
        most[0] = max(most[0], busy[0])
        time.sleep(0.02)
        try:
            return encode(images)
        finally:
            busy[0] -= 1

    monkeypatch.setattr(side.model.encoder, "forward_scales", watched)
    threads = [threading.Thread(target=side.look)]
    threads += [threading.Thread(target=side.seen, args=(str(i), (0, 0, 64, 64))) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert side.ready
    assert most == [1]


def test_a_port_that_is_taken_is_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match=r"in use; give another --port, or --port 0"):
            listen(taken.getsockname()[1])


def test_places_that_cannot_be_written_or_hold_no_list_are_told_before_anything_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match=r"--out .*file: is a file; name a folder"):
        serve(tmp_path / "run", out=tmp_path / "file")
    with pytest.raises(DataError, match=r"labels\.json: there is no such file; name a folder"):
        serve(tmp_path / "run", review=tmp_path)


def test_without_starlette_a_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from segproto.studio.serve import serve

    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(ConfigError, match=r'pip install "segproto\[studio\]"'):
        serve(tmp_path)


def test_the_page_is_small() -> None:
    assert sum(len(asset(name)) for name in ASSETS) < 300_000


def test_runs_whose_folders_are_called_alike_are_told_apart() -> None:
    for given, called in (
        (["/x/run"], ["run"]),
        (["/x/run", "/y/box"], ["run", "box"]),
        (["/x/a/run", "/x/b/run"], ["a/run", "b/run"]),
        (["/a/x/run", "/b/x/run"], ["a/x/run", "b/x/run"]),
        (["/run", "/x/run"], ["/run", "x/run"]),
        (["/x/run", "/x/run"], ["run (1)", "run (2)"]),
    ):
        assert names([Path(one) for one in given]) == called


def test_what_is_warned_of_does_not_depend_on_what_the_encoder_sees(scaleproto_run: Path) -> None:
    side = Side(scaleproto_run, Uploads())
    with torch.no_grad():
        next(side.model.encoder.parameters()).add_(1)  # as positions of an image of another size take their place
    assert side.warnings == []
    assert "Project them again" not in page([side])


def test_edits_follow_one_another_and_can_be_taken_back() -> None:
    def then(edits: Edits, **action: Any) -> Edits:
        return changed(edits, action, str).edits

    edits = then(then(Edits(), kind="drop", prototype=5), kind="drop", prototype=2)
    assert edits.drop == (2, 5)
    edits = then(edits, kind="merge", prototype=7, into=8)
    assert then(edits, kind="drop", prototype=8).merge == ()
    assert then(edits, kind="part", prototype=7).merge == ()
    merged = then(edits, kind="merge", prototype=5, into=8)  # one that was switched off: what was done last counts
    assert (merged.drop, merged.merge) == ((2,), ((5, 8), (7, 8)))
    with pytest.raises(ConfigError, match="prototype 2 is switched off: switch it on again to merge another into it"):
        then(edits, kind="merge", prototype=5, into=2)
    edits = then(edits, kind="forbid", group=1, prototype=3)
    assert then(edits, kind="allow", group=1, prototype=3).forbid == ()
    edits = then(edits, kind="reweight", group=4, factor=2)
    assert edits.reweight == ((4, 2.0),)
    assert then(edits, kind="reweight", group=4, factor=1).reweight == ()
    assert Edits.from_json(json.loads(json.dumps(edits.to_json()))) == edits
    with pytest.raises(ConfigError, match="another form"):
        Edits.from_json({"drop": ["x"]})
    session = Session()
    session.do(Edits(drop=(1,)), "one")
    session.do(Edits(drop=(1, 2)), "two")
    session.go(1)
    assert session.edits == Edits(drop=(1,))
    session.do(Edits(drop=(1, 3)), "three")
    assert [step.words for step in session.steps[1:]] == ["one", "three"]
    sessions = Sessions()
    assert sessions.get("abcdefgh") is sessions.get("abcdefgh") is not sessions.get("abcdefgi")


def test_what_was_made_last_is_kept() -> None:
    made: list[int] = []
    recent: Recent[int] = Recent(2)
    for key in (1, 2, 1, 3, 1, 2):
        recent.get(key, lambda k=key: made.append(k) or k)  # type: ignore[misc, func-returns-value]
    assert made == [1, 2, 3, 2]


def test_batches_are_counted_while_a_line_is_being_written(tmp_path: Path) -> None:
    assert batches(tmp_path) == 0
    lines = [
        '{"stage": "forget", "step": 7}',
        '{"stage": "forget", "step": 9}',
        '{"stage": "retune", "step": 2}',
        '{"sta',
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    assert batches(tmp_path) == 11
