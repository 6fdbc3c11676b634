"""Unpacking the archives of a published data set, and checking that everything is there."""

from __future__ import annotations

import hashlib
import lzma
import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext
from itertools import starmap
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

from segproto.data.archives import BROKEN_ZIP, Tree
from segproto.data.published import Archive, Published
from segproto.errors import DataError
from segproto.files import fresh
from segproto.orphans import end_with_parent

Tell = Callable[[str], None]
CHUNK = 1 << 20
BROKEN = (*BROKEN_ZIP, tarfile.TarError, lzma.LZMAError)
PROGRESS_EVERY = 500  # files between two lines of progress


def prepare(published: Published, sources: list[Path], root: Path, jobs: int, tell: Tell) -> dict[str, Any]:
    """Unpacks the archives found in ``sources`` into ``root``; whatever is there already is left alone.

    Args:
        published: the data set.
        sources: archives, or folders that hold some.
        root: the data root to make.
        jobs: processes for zip archives.
        tell: prints a line.

    Returns:
        :func:`completeness` of the root.

    Raises:
        DataError: an archive that is missing, damaged or not the published one, or that would write outside the root;
            or a file is there that is not the archive's.
    """
    if gone := [source for source in sources if not source.exists()]:
        raise DataError(f"--from {gone[0]}: no such file or folder")
    archives = {archive: find_archive(archive, sources) for archive in published.archives}
    missing = [
        a.name for a, path in archives.items() if path is None and not a.optional and not (root / a.holds).is_dir()
    ]
    if not any(archives.values()) and not any((root / a.holds).is_dir() for a in published.archives):
        missing = [a.name for a in published.archives if not a.optional] or [a.name for a in published.archives]
    if missing:
        raise DataError(
            f"{published.name}: {', '.join(missing)} not found; get it from {published.where} and name it by --from"
        )
    unlike: list[Path] = []
    targets = [(path, root / archive.into) for archive, path in archives.items() if path is not None]
    for archive, path in archives.items():
        if path is not None:
            check_digest(archive, path, tell)
            done = unpack(path, root / archive.into, published.inner, jobs, tell)
            tell(f"{path.name}: {done.written} files unpacked, {done.kept} were there")
            unlike += done.unlike
    refuse_foreign(unlike, targets, published.inner)
    return completeness(published, root)


class Unpacked(NamedTuple):
    """What became of the members of an archive.

    Attributes:
        written: how many were unpacked.
        kept: how many were there in full size.
        unlike: files that are there with another size.
    """

    written: int = 0
    kept: int = 0
    unlike: tuple[Path, ...] = ()

    def plus(self, other: Unpacked) -> Unpacked:
        return Unpacked(self.written + other.written, self.kept + other.kept, self.unlike + other.unlike)


def refuse_foreign(unlike: list[Path], targets: list[tuple[Path, Path]], inner: str) -> None:
    """Sees that every file that was there with another size is one of another archive (each has its own README).

    Args:
        unlike: these files.
        targets: each archive, and the folder it is unpacked into.
        inner: see :func:`inside`.

    Raises:
        DataError: one is none of theirs.
    """
    if not unlike:
        return
    members = {member for path, root in targets for member in contents(path, root, inner)}
    foreign = [target for target in unlike if not target.is_file() or (target, target.stat().st_size) not in members]
    if foreign:
        more = f" ({len(foreign) - 1} others too)" if foreign[1:] else ""
        raise DataError(
            f"{foreign[0]}: is there, and is not what the archive has of this name{more}; it was left as it is: "
            "move it away and repeat the command"
        )


def contents(path: Path, root: Path, inner: str) -> Iterator[tuple[Path, int]]:
    """Where each file of an archive goes, and its size."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            members = [(info.filename, info.file_size) for info in archive.infolist() if not info.is_dir()]
    else:
        with tarfile.open(path) as packed:
            members = [(info.name, info.size) for info in packed if info.isfile()]
    for member, size in members:
        yield inside(root, member, inner, path), size


def stands(target: Path, size: int) -> Unpacked | None:
    """Whether a file is there, in full size or not; None if there is nothing."""
    if target.is_file() and target.stat().st_size == size:
        return Unpacked(kept=1)
    return Unpacked(unlike=(target,)) if os.path.lexists(target) else None


def find_archive(archive: Archive, sources: list[Path]) -> Path | None:
    """The archive among files and folders, by its name."""
    candidates = [s if s.is_file() else s / archive.name for s in sources]
    return next((path for path in candidates if path.is_file() and path.name == archive.name), None)


def check_digest(archive: Archive, path: Path, tell: Tell) -> None:
    """Compares the checksum where it is known.

    Raises:
        DataError: another one: the download is damaged or of another release.
    """
    if archive.digest is None:
        return
    kind, _, expected = archive.digest.partition(":")
    tell(f"{path.name}: checking {kind}")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, kind).hexdigest()
    if digest != expected:
        raise DataError(f"{path}: {kind} is {digest}, expected {expected}; download it again")


def unpack(path: Path, root: Path, inner: str, jobs: int, tell: Tell) -> Unpacked:
    """Writes what is not there; safe to interrupt and repeat.

    ``tell`` gets a line every now and then.

    Raises:
        DataError: damaged, or a member that would lie outside the root.
    """
    root.mkdir(parents=True, exist_ok=True)
    try:
        if not zipfile.is_zipfile(path):
            return unpack_tar(path, root, inner, tell)
        with zipfile.ZipFile(path) as archive:
            members = [info.filename for info in archive.infolist() if not info.is_dir()]
    except BROKEN as error:
        raise DataError(f"{path}: cannot be unpacked ({error}); download it again") from error
    for member in members:
        inside(root, member, inner, path)
    size = max(1, min(PROGRESS_EVERY, -(-len(members) // jobs)))
    parts = [(path, root, inner, members[i : i + size]) for i in range(0, len(members), size)]
    done = Unpacked()
    with workers(path, jobs) if min(jobs, len(parts)) > 1 else nullcontext() as pool:
        results = (
            starmap(unpack_members, parts) if pool is None else pool.map(unpack_members, *zip(*parts, strict=True))
        )
        for part in results:
            done = done.plus(part)
            count = done.written + done.kept
            if len(members) > PROGRESS_EVERY and count < len(members):
                tell(f"{path.name}: {count:,} of {len(members):,} files")
    return done


@contextmanager
def workers(path: Path, jobs: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that unpack an archive, gone at the end of the block and when this process is.

    Raises:
        DataError: one of them was killed.
    """
    pool = ProcessPoolExecutor(jobs, initializer=end_with_parent)
    try:
        yield pool
    except BrokenProcessPool:
        raise DataError(f"{path}: a process was ended (out of memory?); run the command again to go on") from None
    except BaseException:
        for process in list((pool._processes or {}).values()):
            process.kill()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def unpack_members(path: Path, root: Path, inner: str, members: list[str]) -> Unpacked:
    """Some members of a zip archive."""
    done = Unpacked()
    with zipfile.ZipFile(path) as archive:
        for member in members:
            target = inside(root, member, inner, path)
            unpacked = stands(target, archive.getinfo(member).file_size)
            if unpacked is not None:
                done = done.plus(unpacked)
                continue
            try:
                with archive.open(member) as source:
                    write(source, target)
            except BROKEN as error:
                raise DataError(f"{path}: {member} cannot be unpacked ({error}); download it again") from error
            done = done.plus(Unpacked(1))
    return done


def unpack_tar(path: Path, root: Path, inner: str, tell: Tell) -> Unpacked:
    """All regular files of a tar archive, in its order; links and devices are left out."""
    done = Unpacked()
    with tarfile.open(path) as archive:
        for member in archive:
            if not member.isfile():
                continue
            target = inside(root, member.name, inner, path)
            unpacked = stands(target, member.size)
            if unpacked is not None:
                done = done.plus(unpacked)
                continue
            source = archive.extractfile(member)
            assert source is not None
            write(source, target)
            done = done.plus(Unpacked(1))
            if (done.written + done.kept) % PROGRESS_EVERY == 0:
                tell(f"{path.name}: {done.written + done.kept:,} files")
    return done


def inside(root: Path, member: str, inner: str, path: Path) -> Path:
    """Where a member goes: below the root, without the folder that the archive puts everything in.

    Raises:
        DataError: it would lie outside the root.
    """
    parts = PurePosixPath(member.replace("\\", "/")).parts
    if ".." in parts or member.startswith("/") or (parts and ":" in parts[0]):
        raise DataError(f"{path}: its member {member!r} would be written outside {root}; nothing of it was")
    below = PurePosixPath(*parts)
    if inner and below.is_relative_to(inner):
        below = below.relative_to(inner)
    return root / below


def write(source: IO[bytes], target: Path) -> None:
    """A file under its name only once it is complete."""
    with fresh(target, "unpacked file") as file:
        shutil.copyfileobj(source, file, CHUNK)


def completeness(published: Published, root: Path, variant: str | None = None) -> dict[str, Any]:
    """Images and masks per split, and what is missing of the published counts, one line each; nothing is read.

    Returns:
        ``counts`` by split, ``problems``.
    """
    variant = published.variant(variant)
    counts: dict[str, int] = {}
    problems: list[str] = []
    base = root / published.inner if published.inner and (root / published.inner).is_dir() else root
    for split in ("train", "val"):
        try:
            files = published.find(Tree(base), split, variant)
        except DataError as error:
            problems.append(str(error))
            continue
        names = list(files.images) if files.names is None else files.names
        complete = [name for name in names if name in files.images and name in files.masks]
        counts[split] = len(complete)
        expected = published.count(variant, split)
        if len(complete) < len(names):
            lost = next(name for name in names if name not in files.images or name not in files.masks)
            problems.append(f"{split}: {len(names) - len(complete)} images or masks are missing, as {lost}")
        if expected is not None and len(names) != expected:
            problems.append(f"{split}: {len(names)} images, the published set has {expected}")
    return {"counts": counts, "problems": problems}
