"""What if a prototype were not there: edits of a trained head that need no training, noted in the model itself."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from segproto.errors import ConfigError
from segproto.model.heads import made_up
from segproto.model.segmenter import Segmenter

WITHIN = 1e-4  # squared distance: where the activation ln((d + 1) / (d + 1e-4)) is within a factor of two of its top
MOST_WEIGHT = 1000.0  # factor of a group


def edited(
    model: Segmenter,
    *,
    drop: Sequence[int] = (),
    forbid: Sequence[tuple[int, int]] = (),
    merge: Sequence[tuple[int, int]] = (),
    reweight: Sequence[tuple[int, float]] = (),
    merge_within: float | None = None,
    renormalise: bool = False,
) -> tuple[Segmenter, list[int]]:
    """A copy of the model without some of its prototypes; the encoder is shared, the original untouched.

    Numbers are those of the model given. Forbidding comes first, then re-weighting, dropping and merging.

    Args:
        model: with prototypes.
        drop: prototypes to remove.
        forbid: (group, prototype): the group does without it, other groups keep it.
        merge: (prototype, other) of one class and scale: the first becomes the second, its weights added to that one's.
        reweight: (group, factor): what the group adds to every class's logit, times the factor, 0 or more.
        merge_within: prototypes of one class and scale within this squared distance of an earlier one become that one,
            their weights added: at distance 0 nothing changes but the count. None = no merging.
        renormalise: what a group lost by ``drop`` and ``forbid`` goes to its other members in proportion; without it
            a lost weight is 0, as after thresholding. A group that lost all is the constant 1 either way.

    Returns:
        The edited model, and the old number of each of its prototypes. A slot of a ``nearest`` head that repeats
        another prototype because its class has fewer than others has that one's number.

    Raises:
        ConfigError: nothing to do, no such prototype or group, a prototype its group does not hold, or nothing left.
    """
    bank = model.head.bank
    if bank is None:
        raise ConfigError("a black box has no prototypes to edit")
    if not (drop or forbid or merge or reweight) and merge_within is None:
        raise ConfigError("nothing to edit: name prototypes to drop or to forbid in a group, or merge duplicates")
    out = copy_to_edit(model)
    words = []
    if forbid:
        forbid_in_groups(out, forbid, renormalise)
        words.append("forbade " + ", ".join(f"prototype {p} in group {g}" for g, p in forbid))
    if reweight:
        reweight_groups(out, reweight)
        words.append("weighted " + ", ".join(f"group {g} by {factor:g}" for g, factor in reweight))
    keep = list(range(bank.num_prototypes))
    if drop:
        check_prototypes(drop, bank.num_prototypes)
        keep = [p for p in keep if p not in set(drop)]
        if not keep:
            raise ConfigError(f"dropping all {bank.num_prototypes} prototypes leaves nothing to decide by")
        keep = keep_prototypes(out, torch.tensor(keep), renormalise=renormalise)
        words.append("dropped prototypes " + ", ".join(map(str, sorted(set(drop)))))
    if merge:
        leaders = chosen_leaders(out, merge, keep)
        words.append(merge_words(leaders, keep))
        keep = [keep[p] for p in keep_prototypes(out, torch.unique(leaders), into=leaders)]
    if merge_within is not None:
        leaders = merge_leaders(out, merge_within)
        words.append(merge_words(leaders, keep))
        keep = [keep[p] for p in keep_prototypes(out, torch.unique(leaders), into=leaders)]
    if renormalise and (drop or forbid):
        words[-1] += " (weights of the groups made up)"
    note(out, words)
    return out.train(model.training), keep


def copy_to_edit(model: Segmenter) -> Segmenter:
    """A copy whose head, pictures and card may change; the encoder is shared."""
    return Segmenter(
        model.encoder,
        copy.deepcopy(model.head),
        model.classes,
        model.provenance,
        dict(model.patches),
        copy.deepcopy(model.card),
        model.forgotten,
        model.input_size,
    )


def check_prototypes(numbers: Sequence[int], count: int) -> None:
    """Sees that each number is a prototype's.

    Raises:
        ConfigError: naming the first that is not.
    """
    for number in numbers:
        if not 0 <= number < count:
            raise ConfigError(f"prototype {number}: there is none; this model's are 0..{count - 1}")


def note(model: Segmenter, words: Sequence[str]) -> None:
    """Adds lines to what the model says was changed by hand: in its card and, where it has one, its provenance."""
    model.card["edits"] = [*model.card.get("edits", []), *words]
    if model.provenance is not None:
        model.provenance = replace(model.provenance, edits=(*model.provenance.edits, *words))


@torch.no_grad()
def forbid_in_groups(model: Segmenter, pairs: Sequence[tuple[int, int]], renormalise: bool) -> None:
    """Takes prototypes out of single groups, in place."""
    grouping = model.head.grouping
    if grouping is None:
        raise ConfigError(f"a {model.head.kind} head has no groups to forbid a prototype in; drop it instead")
    check_prototypes([p for _, p in pairs], grouping.num_prototypes)
    dense = grouping.dense()
    for group, prototype in pairs:
        if not 0 <= group < len(dense):
            raise ConfigError(f"group {group}: there is none; this model's are 0..{len(dense) - 1}")
        if dense[group, prototype] == 0:
            members = ", ".join(map(str, dense[group].nonzero()[:, 0].tolist())) or "none"
            raise ConfigError(f"prototype {prototype} is not in group {group}; its members are {members}")
    index = torch.tensor(pairs, device=dense.device)
    weights = dense.clone()
    weights[index[:, 0], index[:, 1]] = 0
    if renormalise:
        weights = made_up(weights, dense)
    grouping.set_dense_(weights)


@torch.no_grad()
def reweight_groups(model: Segmenter, pairs: Sequence[tuple[int, float]]) -> None:
    """Multiplies the readout of single groups, in place."""
    grouping, readout = model.head.grouping, model.head.unit_weights()
    if grouping is None or readout is None:
        raise ConfigError(f"a {model.head.kind} head has no groups to weigh; drop a prototype instead")
    for group, factor in pairs:
        if not 0 <= group < grouping.num_groups:
            raise ConfigError(f"group {group}: there is none; this model's are 0..{grouping.num_groups - 1}")
        if not 0 <= factor <= MOST_WEIGHT:
            raise ConfigError(f"group {group}: factor {factor:g}; expected 0..{MOST_WEIGHT:g}")
        readout[:, group] *= factor


def keep_prototypes(
    model: Segmenter, keep: Tensor, *, into: Tensor | None = None, renormalise: bool = False
) -> list[int]:
    """Keeps some prototypes with their weights, sources and pictures, in place.

    Args: as :meth:`segproto.model.head.Head.select`.

    Returns:
        The old number of each prototype the head has now.

    Raises:
        ConfigError: the head cannot do without any, or a class would have none where each needs one.
    """
    head, bank = model.head, model.head.bank
    assert bank is not None
    device = bank.class_of.device
    keep, into = keep.to(device), None if into is None else into.to(device)
    if head.decides == "nearest":
        require_every_class(model, bank.class_of[keep])
    kept = head.select(keep, into=into, renormalise=renormalise)
    if model.provenance is not None:
        model.provenance = model.provenance.select(kept)
        model.drop_unnamed_patches()
    return kept


def require_every_class(model: Segmenter, classes: Tensor) -> None:
    """Refuses to leave a class without a prototype."""
    for c, name in enumerate(model.classes.names):
        if not bool((classes == c).any()):
            line = f"class {name} would have no prototype left"
            raise ConfigError(f"{line}; a {model.head.kind} head needs one of every class")


def merge_leaders(model: Segmenter, within: float) -> Tensor:
    """(P,) int64: the earliest prototype of the same class and scale that each one is, or is chained to, a copy of."""
    if within < 0:
        raise ConfigError(f"within {within}: expected a squared distance, 0 or more")
    bank = model.head.bank
    assert bank is not None
    vectors = bank.vectors.detach().double().flatten(0, -2)
    if bank.compares == "cosine":
        vectors = F.normalize(vectors, dim=1)
    alike = (bank.class_of[:, None] == bank.class_of) & (bank.scale_of[:, None] == bank.scale_of)
    near = alike & (torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist").square() <= within)
    leader = near.int().argmax(1)  # the first True of each row; the diagonal has one
    while not torch.equal(leader, leader[leader]):
        leader = leader[leader]
    return leader.cpu()


def chosen_leaders(model: Segmenter, pairs: Sequence[tuple[int, int]], names: Sequence[int]) -> Tensor:
    """(P,) int64: for each prototype the one it becomes, as a person chose; chains are followed to their end.

    Args:
        model: whose prototypes they are.
        pairs: (prototype, other), by the numbers of the model before all edits.
        names: those numbers of the prototypes there are now.

    Raises:
        ConfigError: one that is not there (any more), another class or scale, or a circle.
    """
    bank = model.head.bank
    assert bank is not None
    place = {name: index for index, name in reversed(list(enumerate(names)))}
    leader = list(range(bank.num_prototypes))
    for pair in pairs:
        for number in pair:
            if number not in place:
                raise ConfigError(f"merge {pair[0]} into {pair[1]}: there is no prototype {number} (any more)")
        p, q = place[pair[0]], place[pair[1]]
        if bank.class_of[p] != bank.class_of[q] or bank.scale_of[p] != bank.scale_of[q]:
            raise ConfigError(f"merge {pair[0]} into {pair[1]}: they are of different classes or scales")
        leader[p] = q
    for p, first in enumerate(leader):
        seen, end = {p}, first
        while leader[end] != end:
            if end in seen:
                raise ConfigError(f"merge {names[p]} into {names[first]}: each would become the other")
            seen.add(end)
            end = leader[end]
        leader[p] = end
    return torch.tensor(leader)


def merge_words(leaders: Tensor, names: Sequence[int]) -> str:
    """``merged prototypes 5 into 2, 9 into 2``, with the numbers of the model before all edits."""
    pairs = [f"{names[p]} into {names[q]}" for p, q in enumerate(leaders.tolist()) if p != q]
    return "merged prototypes " + ", ".join(pairs) if pairs else "found no duplicates to merge"
