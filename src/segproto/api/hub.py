"""Models shared on the Hugging Face hub, only when asked for by name."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segproto.api.load import load
from segproto.errors import ConfigError, SegprotoError
from segproto.files import disk_errors, fill, place, scratch

if TYPE_CHECKING:
    from segproto.model.segmenter import Segmenter

PathLike = str | Path
PICTURES = ["prototypes/*.png", "prototypes/*.jpg"]
FILES = ["model.json", "model.safetensors", "prototypes.json", *PICTURES, "README.md", "SHA256SUMS"]


def hub_push(target: PathLike, *, repo: str, stage: str | None = None, private: bool = True, client: Any = None) -> str:
    """Uploads a model folder with a generated card to the Hugging Face hub; the only thing here that sends anything.

    Args:
        target: a run or model folder.
        repo: ``user/name`` on the hub; made if it is not there.
        stage: of a run: the model this stage left.
        private: whether a new repository is private.
        client: stands in for ``huggingface_hub.HfApi()``.

    Returns:
        The repository's address.

    Raises:
        ConfigError: no such repository name, the extra ``hub`` is missing, or the hub refuses.
        WeightsError: no model there.
    """
    check_repo(repo)
    model = load(target, stage=stage)
    hub = client or hub_client()
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "model")
        fill(Path(folder) / "model" / "README.md", model_card(model, repo))
        with hub_errors(repo):
            hub.create_repo(repo, private=private, exist_ok=True)
            hub.upload_folder(repo_id=repo, folder_path=str(Path(folder) / "model"), allow_patterns=FILES)
    return f"https://huggingface.co/{repo}"


def hub_pull(repo: str, *, out: PathLike, revision: str | None = None, client: Any = None) -> Path:
    """Downloads a model folder that :func:`hub_push` uploaded; nothing in it is run.

    Args:
        repo: ``user/name`` on the hub.
        out: the model folder to write; must be free.
        revision: branch, tag or commit.
        client: stands in for the module ``huggingface_hub``.

    Returns:
        ``out``.

    Raises:
        ConfigError: ``out`` is taken, the extra ``hub`` is missing, or the hub refuses.
        WeightsError: the repository holds no model of segproto.
    """
    out = place(out)
    check_repo(repo)
    if out.exists():
        raise ConfigError(f"--out {out}: already there; name a new folder")
    with disk_errors(out), scratch(out.parent) as folder:
        hub = client or hub_client()
        with hub_errors(repo):
            hub.snapshot_download(repo_id=repo, revision=revision, local_dir=folder, allow_patterns=FILES)
        load(folder).save(out)
    return out


def check_repo(repo: str) -> None:
    """``user/name``."""
    if repo.count("/") != 1 or not all(repo.split("/")):
        raise ConfigError(f"repository {repo!r}: expected USER/NAME")


@contextmanager
def hub_errors(repo: str) -> Iterator[None]:
    """What the hub's client raises (no network, no such repository, not logged in) as one line.

    Raises:
        ConfigError: with the client's first words.
    """
    try:
        yield
    except (SegprotoError, MemoryError):
        raise
    except Exception as error:
        words = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ConfigError(f"hub, {repo}: {words[:200]} (to log in: hf auth login)") from error


def hub_client() -> Any:
    """The hub's client.

    Raises:
        ConfigError: the extra is missing.
    """
    try:
        import huggingface_hub
    except ImportError as error:
        raise ConfigError("the hub needs an extra: pip install 'segproto[hub]'") from error
    return huggingface_hub.HfApi()


def model_card(model: Segmenter, repo: str) -> str:
    """A README for the hub: what the model is, where it came from, how to use it, its licence as far as known."""
    from segproto.evaluation.float32 import agreement_words

    card = model.card
    converted = card.get("converted", {})
    bank = model.head.bank
    count = "" if bank is None else f", {bank.num_prototypes} prototypes"
    entries = {"method": card.get("method"), "stage": card.get("stage"), "trained on": card.get("data")}
    entries |= {"trained in": "; ".join(filter(None, (card.get("precision"), agreement_words(card))))}
    entries |= {"mIoU on validation": f"{100 * card['miou']:.2f} %" if "miou" in card else None}
    entries |= {key: converted.get(key) for key in ("title", "paper", "where", "license")}
    entries["edited by hand"] = "; ".join(card.get("edits", [])) or None
    facts = [f"- {name}: {value}" for name, value in entries.items() if value]
    facts += [f"- note: {note}" for note in converted.get("notes", [])]
    head = "---\nlibrary_name: segproto\npipeline_tag: image-segmentation\ntags: [interpretability, prototypes]\n---\n"
    classes = ", ".join(model.classes.names)
    use = f"```bash\nsegproto hub pull {repo} --out model\nsegproto explain model IMAGE --out why\n```"
    title = f"# {repo}\n\nA segmentation model that explains itself, of {model.classes.num_classes} classes{count}."
    return "\n\n".join([head + title, "\n".join(facts), f"Classes: {classes}.", use]) + "\n"
