"""Rules of the code base that a machine can check."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_no_file_is_longer_than_a_sitting() -> None:
    long = {str(f.relative_to(ROOT)): n for f in SOURCES if (n := len(f.read_text().splitlines())) > 350}
    assert long == {}


def test_every_package_has_a_floor() -> None:
    floors = next(c for c in PROJECT["tool"]["importlinter"]["contracts"] if c["id"] == "floors")
    named = {name.strip() for layer in floors["layers"] for name in layer.split(":")}
    found = {
        p.stem for p in (ROOT / "src" / "segproto").iterdir() if p.suffix == ".py" or (p / "__init__.py").is_file()
    }
    assert found - {"__init__"} == named
    assert floors["exhaustive"]


def test_no_head_is_asked_for_its_type() -> None:
    """Heads speak for themselves; a method may ask for its own, and a plain classifier gives way to prototypes."""
    package = ROOT / "src" / "segproto"
    asking = [f.relative_to(package) for f in SOURCES if re.search(r"isinstance\([^()]*\w*Head\b", f.read_text())]
    others = {str(name) for name in asking if name.parts[0] != "methods"}
    assert others == {"training/procedures/seeding.py"}
    assert not [f for f in SOURCES if re.search(r"(getattr|hasattr)\(\w*\.?head\b", f.read_text())]


METHODS_NAMED = {  # outside its own folder, and why
    ("api/quickstart.py", "blackbox/scenes"): "the two recipes that a newcomer sees",
    ("api/quickstart.py", "scaleproto/scenes"): "the two recipes that a newcomer sees",
    ("api/__init__.py", "posthoc"): "the verb of that method",
    ("api/posthoc.py", "posthoc/folder"): "the verb of that method",
    ("api/posthoc.py", "posthoc/images"): "the verb of that method",
    ("interop/backbones.py", "blackbox"): "what a published plain classifier is here, for its card",
    ("methods/nonparametric/convert.py", "blackbox"): "what the parametric twins of its release are here, likewise",
    ("methods/pixelcontrast/convert.py", "blackbox"): "what the DeepLabs of its release are here, likewise",
    ("api/doctor.py", "memory"): "of the machine",
    ("model/memory_head.py", "memory"): "the kind of head",
}


def test_nothing_but_its_own_folder_names_a_method() -> None:
    from segproto.methods import METHODS

    package = ROOT / "src" / "segproto"
    found = set()
    for file in SOURCES:
        place = file.relative_to(package)
        own = place.parts[1] if place.parts[0] == "methods" else None
        if place == Path("methods/__init__.py"):
            continue
        texts = [node.value for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Constant)]
        for text in texts:
            name = text.partition("/")[0] if isinstance(text, str) else ""
            if name in METHODS and name != own and " " not in text:
                found.add((str(place), text))
    assert found == METHODS_NAMED.keys()


def calls(tree: ast.AST) -> list[tuple[str, ast.Call]]:
    """Dotted name and node of every call."""
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def test_nothing_is_unpickled() -> None:
    for file in SOURCES:
        tree = ast.parse(file.read_text())
        for name, call in calls(tree):
            assert name not in {"pickle.load", "pickle.loads", "torch.jit.load", "eval", "exec"}, file
            if name.endswith("torch.load"):
                safe = [k for k in call.keywords if k.arg == "weights_only" and ast.unparse(k.value) == "True"]
                assert safe, f"{file}:{call.lineno} torch.load without weights_only=True"
            if name in {"np.load", "numpy.load"}:
                assert not [k for k in call.keywords if k.arg == "allow_pickle" and ast.unparse(k.value) != "False"], (
                    file
                )


READERS = {  # what opens files of others, and the one file that may
    "Image.open": "data/images.py",
    "tifffile.TiffFile": "data/tiff.py",
    "tifffile.imread": None,
    "np.load": "data/cams.py",
    "loadmat": "data/matlab.py",
    "torch.load": None,
    "yaml.load": "files/yaml_text.py",
    "yaml.safe_load": None,
}


def test_what_a_terminal_shows_goes_through_one_place() -> None:
    """Names may hold escape codes; ``say``, ``print_table``, ``Reporter`` and ``fail`` show them as text."""
    allowed = {"cli/show.py", "cli/main.py", "training/progress.py"}
    for file in SOURCES:
        place = str(file.relative_to(ROOT / "src/segproto"))
        for name, call in calls(ast.parse(file.read_text())):
            shows = name in {"print", "typer.echo", "sys.stderr.write", "sys.stdout.write"} or name.endswith(".secho")
            shipped = place == "cli/info.py" and "recipe_text" in ast.unparse(call)
            version = place == "cli/app.py" and "__version__" in ast.unparse(call)
            assert not shows or shipped or version or place in allowed, f"{file}:{call.lineno}"


def test_what_others_wrote_is_opened_in_one_place_each() -> None:
    for file in SOURCES:
        for name, call in calls(ast.parse(file.read_text())):
            where = READERS.get(name, "")
            assert where is not None, f"{file}:{call.lineno} {name}"
            assert not where or file == ROOT / "src/segproto" / where, f"{file}:{call.lineno} {name}"


WRITES = {"write_text", "write_bytes", "unlink", "rmtree", "rmdir", "rename", "touch", "symlink_to", "hardlink_to"}
WRITING = {"os.replace", "os.remove", "os.truncate", "save_file", "mkdtemp"} | {
    f"shutil.{name}" for name in ("move", "copy", "copy2", "copyfile", "copytree")
}
ALLOWED = {
    "training/journal.py self.path.open",  # a run's journal grows line by line
    "training/journal.py os.truncate",
    "model/outputs.py archive.open",  # an entry of an archive in a file that ``fresh`` gave
}


def writes(name: str, call: ast.Call) -> bool:
    """Whether a call writes, moves or removes a file by its name, or a picture or arrays into anything but a file."""
    attribute = name.rpartition(".")[2]
    if (
        (attribute in WRITES and attribute != name)
        or name in WRITING
        or (attribute == "replace" and len(call.args) == 1 and not call.keywords)
    ):
        return True
    texts = [a.value for a in [*call.args, *(k.value for k in call.keywords)] if isinstance(a, ast.Constant)]
    if attribute == "open" and "fileobj" not in {k.arg for k in call.keywords}:
        return any(isinstance(t, str) and re.fullmatch("[rwxabt+]{1,3}", t) and set(t) & set("wxa+") for t in texts)
    drawn = attribute in {"savefig", "savez", "savez_compressed"}
    drawn = drawn or (attribute == "save" and bool({"PNG", "JPEG"} & {*texts}))
    return drawn and ast.unparse(call.args[0]) not in {"file", "buffer"}


def test_only_one_room_writes_files() -> None:
    """All writing goes through ``segproto.files``, which refuses to harm what is not ours."""
    found = set()
    for file in SOURCES:
        place = file.relative_to(ROOT / "src" / "segproto").as_posix()
        if not place.startswith("files/"):
            found |= {f"{place} {name}" for name, call in calls(ast.parse(file.read_text())) if writes(name, call)}
    assert found == ALLOWED


def test_importing_segproto_costs_nothing() -> None:
    code = "import sys, segproto; dir(segproto); assert not {'torch', 'numpy', 'pydantic'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_all_names_of_the_front_door_exist() -> None:
    import segproto

    assert all(callable(getattr(segproto, name)) for name in segproto.__all__)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = segproto.nonsense


def test_a_model_loads_where_training_never_was(blackbox_run: Path) -> None:
    code = f"""
import sys
for name in ("segproto.training", "segproto.methods", "lightning_fabric", "lightning", "yaml", "typer"):
    sys.modules[name] = None
import numpy as np
import segproto
model = segproto.load({str(blackbox_run)!r})
image = np.zeros((40, 50, 3), np.uint8)
assert tuple(model.predict(image).shape) == (40, 50)
assert model.explain(image).pixel(3, 4).class_name
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_ci_runs_what_the_readme_says() -> None:
    readme, script = (ROOT / "README.md").read_text(), (ROOT / ".ci" / "run").read_text()
    install = readme.split("<!-- ci: install -->\n```bash\n")[1].split("```")[0]
    test = readme.split("<!-- ci: test -->\n```bash\n")[1].split("```")[0]
    assert test.strip() in [line.strip() for line in script.splitlines()]
    assert "pip install" + install.split("pip install")[1].splitlines()[0] in script
    assert install.splitlines()[1].split(" --out")[0] in script
    first_screen = "\n".join(readme.splitlines()[:30])
    assert install in first_screen
    assert test in first_screen
    assert "![" in first_screen


def test_constraints_are_names_and_versions_only() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(line.count("==") == 1 and " " not in line and "/" not in line for line in lines)
    pinned = {line.split("==")[0] for line in lines}
    for requirement in PROJECT["project"]["dependencies"]:
        assert requirement.split(">=")[0].strip().lower() in pinned


# What ``Segmenter`` offers as methods lives in modules that know it: it imports them when a method is called.
LAZY = {
    ("segproto.model.segmenter", "segproto.model.artefact"),  # save and load
    ("segproto.model.segmenter", "segproto.model.explain"),
    ("segproto.model.segmenter", "segproto.model.many"),  # predict
}


def circles(imports: dict[str, set[str]]) -> list[list[str]]:
    """Modules that import one another, directly or round about: what is left when all that lead nowhere are taken."""
    left = {module: set(names) for module, names in imports.items()}
    while True:
        ends = {m for m, names in left.items() if not names} | (set(left) - set().union(*left.values()))
        if not ends:
            return [sorted(left)] if left else []
        left = {m: names - ends for m, names in left.items() if m not in ends}


def test_no_circle_of_imports_but_the_lazy_ones_of_a_segmenter() -> None:
    import grimp

    graph = grimp.build_graph("segproto", exclude_type_checking_imports=True, cache_dir=None)
    imports = {module: set(graph.find_modules_directly_imported_by(module)) for module in graph.modules}
    for package, door in (("segproto", "segproto.api"),):  # the front door fetches a verb when it is first used
        imports[package].discard(door)
    assert all(end in imports[start] for start, end in LAZY), "take from LAZY what is no import any more"
    assert circles(imports) != []
    assert circles({m: names - {end for start, end in LAZY if start == m} for m, names in imports.items()}) == []


def test_circles_are_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == [["b", "c"]]
