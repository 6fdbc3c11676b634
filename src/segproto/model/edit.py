"""What if a prototype were not there: edits of a trained head that need no training, noted in the model itself."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from segproto.errors import ConfigError
from segproto.model.evidence import bank_of
from segproto.model.heads import GroupedHead, NearestHead, PrototypeHead
from segproto.model.segmenter import Segmenter
from segproto.prototypes.bank import PrototypeBank
from segproto.prototypes.cosine_bank import CosineBank
from segproto.prototypes.grouping import Grouping

WITHIN = 1e-4  # squared distance: where the activation ln((d + 1) / (d + 1e-4)) is within a factor of two of its top


def edited(
    model: Segmenter,
    *,
    drop: Sequence[int] = (),
    forbid: Sequence[tuple[int, int]] = (),
    merge_within: float | None = None,
    renormalise: bool = False,
) -> tuple[Segmenter, list[int]]:
    """A copy of the model without some of its prototypes; the encoder is shared, the original untouched.

    Numbers are those of the model given. Forbidding comes first, then dropping, then merging.

    Args:
        model: with prototypes.
        drop: prototypes to remove.
        forbid: (group, prototype): the group does without it, other groups keep it.
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
    bank = bank_of(model.head)
    if bank is None:
        raise ConfigError("a black box has no prototypes to edit")
    if not drop and not forbid and merge_within is None:
        raise ConfigError("nothing to edit: name prototypes to drop or to forbid in a group, or merge duplicates")
    out = Segmenter(
        model.encoder,
        copy.deepcopy(model.head),
        model.classes,
        model.provenance,
        dict(model.patches),
        copy.deepcopy(model.card),
    )
    words = []
    if forbid:
        forbid_in_groups(out, forbid, renormalise)
        words.append("forbade " + ", ".join(f"prototype {p} in group {g}" for g, p in forbid))
    keep = list(range(bank.num_prototypes))
    if drop:
        check_prototypes(drop, bank.num_prototypes)
        keep = [p for p in keep if p not in set(drop)]
        if not keep:
            raise ConfigError(f"dropping all {bank.num_prototypes} prototypes leaves nothing to decide by")
        keep = keep_prototypes(out, keep, renormalise)
        words.append("dropped prototypes " + ", ".join(map(str, sorted(set(drop)))))
    if merge_within is not None:
        leaders = merge_leaders(out, merge_within)
        words.append(merge_words(leaders, keep))
        add_to_leaders(out, leaders)
        first = keep_prototypes(out, sorted(set(leaders.tolist())), False)
        keep = [keep[p] for p in first]
    if renormalise and (drop or forbid):
        words[-1] += " (weights of the groups made up)"
    note(out, words)
    return out.train(model.training), keep


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
    head = model.head
    if not isinstance(head, GroupedHead):
        raise ConfigError(f"a {head.kind} head has no groups to forbid a prototype in; drop it instead")
    check_prototypes([p for _, p in pairs], head.bank.num_prototypes)
    dense = head.grouping.dense()
    for group, prototype in pairs:
        if not 0 <= group < len(dense):
            raise ConfigError(f"group {group}: there is none; this model's are 0..{len(dense) - 1}")
        if dense[group, prototype] == 0:
            members = ", ".join(map(str, dense[group].nonzero()[:, 0].tolist())) or "none"
            raise ConfigError(f"prototype {prototype} is not in group {group}; its members are {members}")
    index = torch.tensor(pairs, device=dense.device)
    kept = dense.clone()
    kept[index[:, 0], index[:, 1]] = 0
    if renormalise:
        kept = made_up(kept, dense)
    set_group_weights(head.grouping, kept)


def keep_prototypes(model: Segmenter, keep: Sequence[int], renormalise: bool) -> list[int]:
    """Keeps these prototypes (ascending) with their weights, sources and pictures, in place.

    Returns:
        The old number of each prototype the head has now.
    """
    head, index = model.head, torch.tensor(list(keep))
    kept = list(keep)
    if isinstance(head, PrototypeHead):
        head.select(index.to(head.readout.device))
    elif isinstance(head, GroupedHead):
        model.head = select_grouped(head, index.to(head.readout.device), renormalise)
    elif isinstance(head, NearestHead):
        kept = select_nearest(model, head, index)
    else:
        raise ConfigError(f"a {head.kind} head has one prototype per class and cannot do without any")
    if model.provenance is not None:
        model.provenance = model.provenance.select(kept)
        named = {source.patch for source in model.provenance.sources if source is not None}
        model.patches = {name: picture for name, picture in model.patches.items() if name in named}
    return kept


@torch.no_grad()
def select_grouped(head: GroupedHead, keep: Tensor, renormalise: bool) -> GroupedHead:
    """The head with these prototypes; a class without any loses its groups and their readout columns."""
    bank, dense = head.bank.select(keep), head.grouping.dense()
    out = GroupedHead(bank, head.groups).to(head.readout.device)
    classes = out.grouping.class_of_group[:: head.groups]
    rows = (head.grouping.class_of_group[:, None] == classes).any(1)
    kept = dense[rows][:, keep]
    if renormalise:
        kept = made_up(kept, dense[rows])
    set_group_weights(out.grouping, kept)
    out.readout.copy_(head.readout[:, rows])
    return out


def made_up(kept: Tensor, before: Tensor) -> Tensor:
    """Rows of weights scaled to the sums they had before; rows that lost everything stay 0."""
    left = kept.sum(1, keepdim=True)
    return torch.where(left > 0, kept * before.sum(1, keepdim=True) / left.clamp_min(1e-12), kept)


@torch.no_grad()
def set_group_weights(grouping: Grouping, dense: Tensor) -> None:
    """Sets the padded weights from a dense (K*G, P) matrix."""
    classes, groups, _ = grouping.weights.shape
    rows = dense.view(classes, groups, -1)
    columns = grouping.members[:, None].expand(-1, groups, -1)
    grouping.weights.copy_(rows.gather(2, columns) * grouping.mask[:, None])


@torch.no_grad()
def select_nearest(model: Segmenter, head: NearestHead, keep: Tensor) -> list[int]:
    """Keeps prototypes of a rectangular bank: a class with fewer than others repeats its first one.

    A class scores by its nearest prototype, so a repetition changes no score.

    Raises:
        ConfigError: a class would have none.
    """
    old, class_of = head.bank.vectors, head.bank.class_of.cpu()
    rows = [keep[class_of[keep] == c].tolist() for c in range(head.num_classes)]
    for name, row in zip(model.classes.names, rows, strict=True):
        if not row:
            raise ConfigError(f"class {name} would have no prototype left; a nearest head needs one of every class")
    width = max(map(len, rows))
    kept = [p for row in rows for p in row + row[:1] * (width - len(row))]
    vectors = old.flatten(0, 1)[torch.tensor(kept, device=old.device)]
    head.bank = CosineBank(vectors.view(head.num_classes, width, -1)).to(old.device)
    return kept


def merge_leaders(model: Segmenter, within: float) -> Tensor:
    """(P,) int64: the earliest prototype of the same class and scale that each one is, or is chained to, a copy of."""
    if within < 0:
        raise ConfigError(f"within {within}: expected a squared distance, 0 or more")
    bank = bank_of(model.head)
    assert bank is not None
    if isinstance(bank, PrototypeBank):
        vectors = bank.vectors.detach().double()
    else:
        vectors = F.normalize(bank.vectors.detach().double().reshape(bank.num_prototypes, -1), dim=1)
    alike = (bank.class_of[:, None] == bank.class_of) & (bank.scale_of[:, None] == bank.scale_of)
    near = alike & (torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist").square() <= within)
    leader = near.int().argmax(1)  # the first True of each row; the diagonal has one
    while not torch.equal(leader, leader[leader]):
        leader = leader[leader]
    return leader.cpu()


@torch.no_grad()
def add_to_leaders(model: Segmenter, leaders: Tensor) -> None:
    """Adds the weights of merged prototypes to those of their leaders, in place."""
    head = model.head
    if isinstance(head, PrototypeHead):
        index = leaders.to(head.readout.device)
        head.readout.copy_(torch.zeros_like(head.readout).index_add_(1, index, head.readout.detach()))
    elif isinstance(head, GroupedHead):
        dense = head.grouping.dense().detach()
        set_group_weights(head.grouping, torch.zeros_like(dense).index_add_(1, leaders.to(dense.device), dense))


def merge_words(leaders: Tensor, names: Sequence[int]) -> str:
    """``merged prototypes 5 into 2, 9 into 2``, with the numbers of the model before all edits."""
    pairs = [f"{names[p]} into {names[q]}" for p, q in enumerate(leaders.tolist()) if p != q]
    return "merged prototypes " + ", ".join(pairs) if pairs else "found no duplicates to merge"
