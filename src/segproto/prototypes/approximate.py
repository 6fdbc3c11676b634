"""Nearest patches among very many, nearly always the right ones: an inverted file of faiss, an extra."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from segproto.errors import ConfigError
from segproto.prototypes.retrieval import Neighbours, nearest_patches

BLOCK = 1 << 16  # keys that are float32 at once
PROBES = 32  # lists that are searched
PER_LIST = 64  # keys per list from which the lists' centres are found


class ApproximateIndex:
    """M keys in about ``2 sqrt(M)`` lists by their nearest centre; a query looks into the :data:`PROBES` nearest lists.

    Keys are kept in 16 bits, cosines are those of the exact search (J. Johnson, M. Douze, H. Jegou, *Billion-scale
    similarity search with GPUs*, 2017, https://github.com/facebookresearch/faiss).

    Args:
        keys: (M, D) unit vectors.

    Raises:
        ConfigError: faiss is not installed.
    """

    def __init__(self, keys: Tensor) -> None:
        self.keys = keys
        self.faiss = require_faiss()
        count, dim = keys.shape
        lists = max(1, min(count // PER_LIST, int(2 * math.sqrt(count))))
        self.faiss.omp_set_num_threads(torch.get_num_threads())
        kind, inner = self.faiss.ScalarQuantizer.QT_fp16, self.faiss.METRIC_INNER_PRODUCT
        self.index = self.faiss.IndexIVFScalarQuantizer(self.faiss.IndexFlatIP(dim), dim, lists, kind, inner, False)
        self.index.cp.niter, self.index.cp.min_points_per_centroid = 10, 1
        seen = torch.randperm(count, generator=torch.Generator().manual_seed(0))[: lists * PER_LIST].sort().values
        self.index.train(keys[seen.to(keys.device)].float().cpu().numpy())
        for part in torch.split(keys, BLOCK):
            self.index.add(part.float().cpu().numpy())
        self.index.nprobe = min(PROBES, lists)

    def nearest(self, queries: Tensor, k: int) -> Neighbours:
        """As :func:`segproto.prototypes.retrieval.nearest_patches`, but now and then a near one is missed."""
        cosines, patch = self.index.search(queries.float().cpu().numpy(), k)
        cosines, patch = torch.from_numpy(cosines), torch.from_numpy(patch)
        missing = patch < 0  # fewer than k keys in the lists: a vote without weight
        cosines, patch = cosines.masked_fill(missing, -torch.inf), patch.masked_fill(missing, 0)
        return Neighbours(cosines.to(queries.device), patch.to(queries.device))


def require_faiss() -> Any:
    """The package.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise ConfigError(
            "model.search = faiss: needs an extra: pip install 'segproto[faiss]'; model.search=exact does without"
        ) from error
    return faiss


def search_recall(index: ApproximateIndex, k: int, count: int = 500) -> float:
    """The share of the k true neighbours that the index finds, over keys that are looked up, themselves left out.

    Args:
        index: of M keys.
        k: neighbours, less than M.
        count: keys that are looked up, spread over all.
    """
    picked = torch.arange(0, len(index.keys), max(1, len(index.keys) // count), device=index.keys.device)[:count]
    queries = index.keys[picked].float()
    exact, found = nearest_patches(queries, index.keys, k + 1).patch, index.nearest(queries, k + 1).patch
    hits = (exact[:, :, None] == found[:, None, :]).any(2) & (exact != picked[:, None])
    return float(hits.sum(1).clamp_max(k).sum()) / (len(picked) * k)
